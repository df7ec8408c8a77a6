"""provcache_trio: a write-behind queue for trio applications.

Reading order is the order in which an entry travels::

    _queue      accept          WriteBehindQueue: one synchronous step per entry
    _line       batches         the open batch, the batches in line, the one being written
    _batcher    full or due     hands the head of the line to the writer
    _writer     retry, isolate  the supervised loop around one upsert_many
    _verdict    classify        what a repository's exception means
    _letters    dead letters    what the store refused, on its way to the sink
    _repository protocols       what the queue asks of the outside
    _open       the exits       open_write_behind_queue: nursery, drain, supervision

Vocabulary: ``_entries``, ``_options``, ``_metrics``, ``_errors``. Each module imports only
from modules below it. ``sqlite`` and ``testing`` stand beside the core, which never
imports them.
"""
