"""``provcache demo``: compares every installed file with its RECORD, to have something to store.

::

    job         verifies, enqueues, reads back
    wheels      installed distributions, and files compared with RECORD
    decisions   makes entries of what was found
    account     what happened to every file and entry
"""
