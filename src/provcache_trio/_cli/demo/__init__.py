"""``provcache demo``: every installed file, held against its RECORD, as something to store.

::

    job         verifies, enqueues, reads back
    wheels      what is installed, and files held against RECORD
    decisions   what was found becomes an entry
    account     what became of every file and entry
"""
