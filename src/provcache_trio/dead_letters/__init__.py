"""Dead letters in one SQLite file, until they are sent again or removed.

::

    async with (
        open_sqlite_repository("cache.db") as repository,
        open_dead_letters("/var/lib/my-service/dead.db") as dead_letters,
        open_write_behind_queue(repository, dead_letters=dead_letters) as queue,
    ):
        ...

The file is in WAL mode with ``synchronous=FULL``: when ``put_many`` returns, its letters are on the
disk. It has **one owner at a time**, the one that has it open for writing; a crash ends that, with
nothing to clean up. Others may read meanwhile, as ``provcache dead-letters list`` and ``show`` do.
It must not be on a network file system.

The command ``provcache dead-letters retry`` sends letters through a queue again. An old version
does not overwrite a newer one, as stores keep the newer ``created_at`` of a ``ProvcacheEntry``. A
store of your own needs a similar rule.

For POSIX systems. Calls run in a worker thread, one at a time; a cancelled call is interrupted and
then waited for.
"""

# The file of dead letters lives here: its table, and how letters become rows and are read again.
# It may import the vocabulary and ``_disk``.
# It must never import a store, or the core, which knows it only by the protocol ``DeadLetterSink``.

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
