"""What every file of ours needs: worker threads that can be interrupted, owner locks, SQLite connections.

It may import the vocabulary.
It must never know what a file is for: that is the business of the stores, the journal and the dead letters.
"""
