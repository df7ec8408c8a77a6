"""Dead letters in one SQLite file, until somebody sends them again or throws them away.

::

    async with (
        open_sqlite_repository("cache.db") as repository,
        open_dead_letters("/var/lib/my-service/dead.db") as dead_letters,
        open_write_behind_queue(repository, dead_letters=dead_letters) as queue,
    ):
        ...

The file is in WAL mode with ``synchronous=FULL``: what ``put_many`` returned for has reached
the disk. It has **one owner at a time**, the one that has it open for writing; a crash ends
that, with nothing to clean up. Others may read meanwhile, as ``provcache
dead-letters list`` and ``show`` do. A network file system is no place for it.

The command ``provcache dead-letters retry`` sends letters through a queue again. An old
version can't go back in time there: stores keep the newer ``created_at`` of a
``ProvcacheEntry``. A store of your own needs a rule like it.

For POSIX systems. Calls run in a worker thread, one at a time; one that is cancelled is
interrupted and then waited for.
"""

# The file of dead letters lives here: its table, and how a letter becomes a row, and is read again.
# It may import the vocabulary and ``_disk``.
# It must never import the core, which knows it by the protocol ``DeadLetterSink`` only, or a store.

from provcache_trio._vocabulary.faces import show_public_names

from ._dead_letters import (
    DeadLetters as DeadLetters,
    StoredLetter as StoredLetter,
    UnreadableLetter as UnreadableLetter,
    open_dead_letters as open_dead_letters,
)
from ._file import DeadLettersFullError as DeadLettersFullError

__all__ = [
    "DeadLetters",
    "DeadLettersFullError",
    "StoredLetter",
    "UnreadableLetter",
    "open_dead_letters",
]

show_public_names(globals())
