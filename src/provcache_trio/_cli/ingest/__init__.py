"""``provcache ingest``: writes entries from lines of JSON to a store.

::

    job         reads, enqueues, and accounts for every line
    lines       makes an entry of a line
"""
