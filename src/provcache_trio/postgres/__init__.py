"""A repository in PostgreSQL, for any number of machines. Needs the extra ``postgres``.

Without a table of your own, the schema, "provcache" unless another is named, holds the table ``entries`` and, for people, the
view ``entries_readable``, which shows hashes as text. A role that may use the schema and select,
insert and update in it can run the queue; ``delete_many``, ``delete_where`` and
``delete_expired`` also need to delete.

PostgreSQL is reached through asyncpg, which is asyncio's. So this opens an asyncio event loop
of its own; nothing of it is seen by the application. Importing this module is free of that;
opening a repository imports trio-asyncio, which changes asyncio for the whole process:
afterwards ``asyncio.run`` in other threads is slower, and ``asyncio.new_event_loop`` raises
RuntimeError in the trio thread. Where that hurts, and on Python 3.14 and later, where
trio-asyncio can't be imported, the loop runs in a thread of its own: ``bridge="thread"``.
"""

# The store in PostgreSQL lives here: schema, statements, sessions, and what asyncpg's errors mean.
# It may import the vocabulary, and ``_asyncio``, by whose bridges asyncpg is called.
# It must never import the core or another store; what it calls asyncpg with stays in this folder.

from provcache_trio._vocabulary.faces import show_public_names

from ._opening import open_postgres_repository as open_postgres_repository
from ._repository import PostgresRepository as PostgresRepository

__all__ = ["PostgresRepository", "open_postgres_repository"]

show_public_names(globals())
