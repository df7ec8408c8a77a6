"""A repository in one SQLite file, for one machine.

The file holds the table ``provcache_entries`` and, for people, the view
``provcache_readable``, which shows hashes and times as text. It is written in WAL mode with
``synchronous=FULL``: when ``upsert_many`` returns, its entries are on the disk. Several processes
of one machine may use the file at once; it must not be on a network file system.

Calls run in a worker thread, one at a time. A cancelled call is interrupted and then waited for,
so that its thread has finished with the file before the call returns. A disk that never answers
therefore blocks even a cancelled call, and the exit.
"""

# The store in one SQLite file lives here: its statements, its rows, and the calls of its repository.
# It may import the vocabulary and ``_disk``, which runs and interrupts the calls.
# It must never import the core or another store.

from provcache_trio._vocabulary.faces import show_public_names

from ._repository import (
    SQLiteRepository as SQLiteRepository,
    open_sqlite_repository as open_sqlite_repository,
)

__all__ = ["SQLiteRepository", "open_sqlite_repository"]

show_public_names(globals())
