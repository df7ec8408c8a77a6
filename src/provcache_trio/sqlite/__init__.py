"""A repository in one SQLite file, for one machine.

The file holds the table ``provcache_entries`` and, for people, the view
``provcache_readable``, which shows hashes and times as text. It is written in WAL mode with
``synchronous=FULL``: what ``upsert_many`` returned for has reached the disk. Several
processes of one machine may use it at once; a network file system is no place for it.

Calls run in a worker thread, one at a time. A call that is cancelled is interrupted and then
waited for, so that its thread is done with the file before the call returns; a disk that
never answers therefore holds up even a cancelled call, and the exit.
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
