"""A repository in PostgreSQL, for any number of machines. Needs the extra ``postgres``.

Without a table of your own, the schema, by default "provcache", holds the table ``entries`` and,
for people, the view ``entries_readable``, which shows hashes as text. A role that may use the
schema and select, insert and update in it can run the queue; ``delete_many``, ``delete_where`` and
``delete_expired`` also need the right to delete.

PostgreSQL is reached through asyncpg, an asyncio driver. So a repository opens an asyncio event
loop of its own, which the application does not see. Importing this module does not touch asyncio,
but opening a repository imports trio-asyncio, which changes asyncio for the whole process:
afterwards ``asyncio.run`` in other threads is slower, and ``asyncio.new_event_loop`` raises
RuntimeError in the trio thread. To avoid that, open it with ``bridge="thread"``, so that the loop
runs in a thread of its own; that is the default on Python 3.14 and later, where trio-asyncio can't
be imported.
"""

# The store in PostgreSQL lives here: schema, statements, sessions, and what asyncpg's errors mean.
# It may import the vocabulary, and ``_asyncio``, whose bridges call asyncpg.
# It must never import the core or another store; calls of asyncpg stay in this folder.

from provcache_trio._vocabulary.faces import needing_extra, show_public_names

with needing_extra("postgres", "asyncpg"):
    from ._opening import open_postgres_repository as open_postgres_repository
    from ._repository import PostgresRepository as PostgresRepository

__all__ = ["PostgresRepository", "open_postgres_repository"]

show_public_names(globals())
