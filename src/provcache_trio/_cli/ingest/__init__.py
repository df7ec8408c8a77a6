"""``provcache ingest``: entries out of lines of JSON, into a store.

::

    job         reads, enqueues, and accounts for every line
    lines       a line becomes an entry
"""
