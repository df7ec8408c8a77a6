"""provcache_trio: a write-behind queue for trio applications.

Reading order is the order in which an entry travels::

    _open        the exits       open_write_behind_queue: the nursery and the drain
    _queue       accept          WriteBehindQueue: one synchronous step per entry
    _recorder    on disk         the journal's task, and the replay of what a dead process left
    _waiting     no room         producers that wait, first come, first served
    _supervisor  crashes         restarts the tasks below, or gives up
    _batcher     full or due     hands the head of the line to the writer
    _writer      retry, isolate  the supervised loop around one upsert_many
    _letters     dead letters    what the store refused, on its way to the sink
    _journaled_line              what the recorder has to know of a line
    _lanes       keys            the lines of all writers, and which of them a key belongs to
    _line        batches         the open batch, the batches in line, the one being written
    _store_watch trouble         whether the store is there, and whether it refuses everything
    _lifetime    life            beginning and end of a queue, and the waits that the end cuts
    _telemetry   told            what is told of each batch to whoever exports it
    _verdict     classify        what a repository's exception means
    _repository  protocols       what the queue asks of the outside

Vocabulary: ``_entries``, ``_options``, ``_metrics``, ``_errors``. Imports point down this
list, never up. ``sqlite``, ``postgres``, ``dead_letters``, ``journal`` (which share ``_stored``,
``_owner_lock`` and ``_private_files``), ``otel``, ``prometheus``, ``status`` and ``testing`` stand
beside the core, which never imports them.
"""

from msgspec import Struct as _Struct

from ._entries import (
    DecisionDigest as DecisionDigest,
    ProvcacheEntry as ProvcacheEntry,
    ReplaySeed as ReplaySeed,
    build_veri_key as build_veri_key,
    merge_entries as merge_entries,
)
from ._errors import (
    DrainTimeoutError as DrainTimeoutError,
    EntryRejectedError as EntryRejectedError,
    JournalError as JournalError,
    ProvcacheError as ProvcacheError,
    QueueClosedError as QueueClosedError,
    StoreError as StoreError,
    StoreMisconfiguredError as StoreMisconfiguredError,
    StoreUnavailableError as StoreUnavailableError,
    TransientStoreError as TransientStoreError,
    WriteBehindCrashedError as WriteBehindCrashedError,
)
from ._metrics import (
    Histogram as Histogram,
    LastError as LastError,
    QueueState as QueueState,
    WriteBehindMetrics as WriteBehindMetrics,
)
from ._open import HasVeriKey as HasVeriKey, open_write_behind_queue as open_write_behind_queue
from ._options import WriteBehindOptions as WriteBehindOptions
from ._queue import WriteBehindQueue as WriteBehindQueue
from ._repository import (
    DeadLetter as DeadLetter,
    DeadLetterSink as DeadLetterSink,
    EntryQueue as EntryQueue,
    Journal as Journal,
    Repository as Repository,
)
from ._telemetry import Telemetry as Telemetry

__all__ = [
    "DeadLetter",
    "DeadLetterSink",
    "DecisionDigest",
    "DrainTimeoutError",
    "EntryQueue",
    "EntryRejectedError",
    "HasVeriKey",
    "Histogram",
    "Journal",
    "JournalError",
    "LastError",
    "ProvcacheEntry",
    "ProvcacheError",
    "QueueClosedError",
    "QueueState",
    "ReplaySeed",
    "Repository",
    "StoreError",
    "StoreMisconfiguredError",
    "StoreUnavailableError",
    "Telemetry",
    "TransientStoreError",
    "WriteBehindCrashedError",
    "WriteBehindMetrics",
    "WriteBehindOptions",
    "WriteBehindQueue",
    "__version__",
    "build_veri_key",
    "merge_entries",
    "open_write_behind_queue",
]

__version__ = "0.1.0"

# Tracebacks show public names. Structs keep theirs: msgspec resolves annotations through it.
for _offered in map(globals().__getitem__, __all__):
    if isinstance(_offered, type) and not issubclass(_offered, _Struct):
        _offered.__module__ = __name__
