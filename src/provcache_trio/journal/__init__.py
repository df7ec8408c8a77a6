"""A journal on local disk, so that accepted entries survive a crash of the process.

::

    async with (
        open_sqlite_repository("cache.db") as repository,
        open_journal("/var/lib/my-service/journal") as journal,
        open_write_behind_queue(repository, journal=journal) as queue,
    ):
        ...

- ``durability="interval"``: entries are accepted in memory, as without a journal, and are on
  disk within ``sync_interval_seconds`` plus the time that the disk takes. **A crash loses what
  was accepted in the last interval.** An entry that reaches the store before that is never
  written to the journal.
- ``durability="always"``: an entry is accepted once it is on disk. Many producers share one
  write, so it suits services with many tasks; ``enqueue_nowait`` raises ``RuntimeError``. After a
  ``JournalError`` the entry was not accepted, though it may reappear after a crash. If a call is
  cancelled while it waits for the disk, the entry may be accepted or not.

The next queue replays the entries that a dead process left, before it accepts new ones. Each is
written at least once: an entry that was being settled when the process died may be written again,
and with ``"interval"`` in an older version than the stored one. So a store has to keep the newer of
two versions, as those of this package do.

The file holds entries as JSON, unencrypted. It must be on a local disk, as ``fdatasync`` promises
nothing on a network file system. For POSIX systems.
"""

# The journal on local disk lives here: its format, its file, and the calls of the queue's recorder.
# It may import the vocabulary and ``_disk``.
# It must never import a store, or the core, which knows it only by the protocol ``Journal``.

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
