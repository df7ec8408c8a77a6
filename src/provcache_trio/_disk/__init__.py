"""What all our files need: interruptible worker threads, owner locks, SQLite connections.

It may import the vocabulary.
It must never know what a file is for; stores, journal and dead letters do.
"""
