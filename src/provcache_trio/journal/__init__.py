"""A journal on local disk: what was accepted outlives the process.

::

    async with (
        open_sqlite_repository("cache.db") as repository,
        open_journal("/var/lib/my-service/journal") as journal,
        open_write_behind_queue(repository, journal=journal) as queue,
    ):
        ...

- ``durability="interval"``: entries are accepted in memory, as without a journal, and are on
  disk within ``sync_interval_seconds`` and the time that the disk takes. **A crash loses what
  was accepted in the last interval.** An entry that reaches the store before that is never
  written to the journal.
- ``durability="always"``: an entry is accepted once it is on disk. Many producers share one
  write, so it is for services with many tasks; ``enqueue_nowait`` raises ``RuntimeError``.
  ``JournalError``: the entry was not accepted, though after a crash it may reappear. A call
  that is cancelled while it waits for the disk leaves open whether the entry is accepted.

What a dead process left is replayed by the next queue, before it takes anything new. Entries
come at least once: one that was being settled when the process died may be written again, and
with ``"interval"`` in an older version than the store has. So a store has to keep the newer of
two versions, as those of this package do.

The file holds entries as JSON, in clear. It is for one local disk, as ``fdatasync`` promises
nothing of a network file system. For POSIX systems.
"""

# The journal on local disk lives here: its format, its file, and the calls of the queue's recorder.
# It may import the vocabulary and ``_disk``.
# It must never import the core, which knows it by the protocol ``Journal`` only, or a store.

from provcache_trio._vocabulary.faces import show_public_names

from ._journal import Durability as Durability, FileJournal as FileJournal
from ._opening import open_journal as open_journal
from ._restore import (
    Restored as Restored,
    SetAside as SetAside,
    count_set_aside as count_set_aside,
    restore_set_aside as restore_set_aside,
)

__all__ = [
    "Durability",
    "FileJournal",
    "Restored",
    "SetAside",
    "count_set_aside",
    "open_journal",
    "restore_set_aside",
]

show_public_names(globals())
