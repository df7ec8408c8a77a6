"""provcache_trio: a write-behind queue for trio applications.

The folders, from below; imports point down this list, and never to a folder of the same rank::

    _vocabulary     entries, options, metrics, errors, protocols: used by everything else
    _core           the queue: from the acceptance of an entry to its settlement
    _disk           threads, locks and SQLite connections, for everything that keeps a file
    _asyncio        bridges to asyncio, for asyncio drivers
    _pgserver       a throw-away PostgreSQL server, for the demo and the tests
    sqlite          a store in one file
    postgres        a store on a server
    journal         accepted entries on disk, so that they outlive the process
    dead_letters    entries that a store refused, on disk
    testing         fakes and a contract, for the tests of an application
    otel            traces and metrics for OpenTelemetry
    prometheus      metrics for Prometheus
    status          the same over HTTP, for people and orchestrators
    nats            a stream that survives the loss of a machine, and its relay to a store
    cache           the read side: stored entries merged with those still in line
    _cli            the command ``provcache``

Each folder's ``__init__`` says what lives there and what it may import. The core is read in the
order in which an entry travels: ``_core/__init__`` lists it.
"""

from ._core.opening import (
    HasVeriKey as HasVeriKey,
    open_write_behind_queue as open_write_behind_queue,
)
from ._core.queue import WriteBehindQueue as WriteBehindQueue
from ._vocabulary.entries import (
    DecisionDigest as DecisionDigest,
    ProvcacheEntry as ProvcacheEntry,
    ReplaySeed as ReplaySeed,
    build_veri_key as build_veri_key,
    merge_entries as merge_entries,
)
from ._vocabulary.errors import (
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
from ._vocabulary.faces import show_public_names as _show_public_names
from ._vocabulary.metrics import (
    Histogram as Histogram,
    LastError as LastError,
    QueueState as QueueState,
    WriteBehindMetrics as WriteBehindMetrics,
)
from ._vocabulary.options import WriteBehindOptions as WriteBehindOptions
from ._vocabulary.protocols import (
    DeadLetter as DeadLetter,
    DeadLetterSink as DeadLetterSink,
    EntryQueue as EntryQueue,
    Journal as Journal,
    Repository as Repository,
)
from ._vocabulary.sqlstates import store_error_of as store_error_of
from ._vocabulary.table import Table as Table

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
    "Table",
    "TransientStoreError",
    "WriteBehindCrashedError",
    "WriteBehindMetrics",
    "WriteBehindOptions",
    "WriteBehindQueue",
    "__version__",
    "build_veri_key",
    "merge_entries",
    "open_write_behind_queue",
    "store_error_of",
]

__version__ = "0.2.0"

_show_public_names(globals())
