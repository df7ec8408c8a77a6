"""The schema: what each version of it added, and which version the database has.

In statements, ``{schema}`` stands for the quoted name of the schema.
"""

from __future__ import annotations

from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Final

from provcache_trio._vocabulary.columns import hashes_as_text
from provcache_trio._vocabulary.errors import StoreMisconfiguredError
from provcache_trio._vocabulary.fields import check_name, quoted

from ._rows import entries_plan

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

    from asyncpg import Connection

    from provcache_trio._vocabulary.entries import ProvcacheEntry

    from ._plan import Plan

# PostgreSQL cuts a longer name silently.
_MOST_NAME_BYTES: Final = 63
# Other encodings can't hold every text. SQL_ASCII stores any bytes.
_ENCODINGS: Final = frozenset({"UTF8", "SQL_ASCII"})

_HASH: Final = "bytea NOT NULL CHECK (octet_length({0}) = 32)"
_ENTRIES: Final = f"""
CREATE TABLE {{schema}}.entries (
    veri_key bytea PRIMARY KEY CHECK (octet_length(veri_key) = 32),
    verdict_hash {_HASH.format("verdict_hash")},
    proof_root {_HASH.format("proof_root")},
    policy_hash {_HASH.format("policy_hash")},
    signer_set_hash {_HASH.format("signer_set_hash")},
    digest_version text NOT NULL,
    feed_epoch text NOT NULL,
    replay_seed jsonb NOT NULL,
    trust_score smallint NOT NULL CHECK (trust_score BETWEEN 0 AND 100),
    created_at timestamptz NOT NULL CHECK (created_at >= '0001-01-01 00:00:00Z'),
    expires_at timestamptz NOT NULL
        CHECK (expires_at > created_at AND expires_at < '10000-01-01 00:00:00Z'),
    hit_count bigint NOT NULL CHECK (hit_count >= 0),
    last_accessed_at timestamptz CHECK (isfinite(last_accessed_at))
)
"""
_INDEX: Final = "CREATE INDEX entries_by_expiry ON {schema}.entries (expires_at)"


_VIEW: Final = f"""
CREATE VIEW {{schema}}.entries_readable AS SELECT
    {hashes_as_text("encode({}, 'hex')")},
    digest_version, feed_epoch, replay_seed, trust_score,
    created_at, expires_at, hit_count, last_accessed_at
FROM {{schema}}.entries
"""  # noqa: S608  # made of names from here

# The statements that turn version 0, an empty schema, into 1; 1 into 2; and so on. Only append.
MIGRATIONS: Final[tuple[tuple[str, ...], ...]] = (
    (
        "CREATE TABLE {schema}.schema_version (version int NOT NULL)",
        "INSERT INTO {schema}.schema_version VALUES (0)",
        _ENTRIES,
        _INDEX,
        _VIEW,
    ),
)

_VERSION: Final = "SELECT coalesce(max(version), 0) FROM {schema}.schema_version"
_SET_VERSION: Final = "UPDATE {schema}.schema_version SET version = $1"
_SCHEMA_EXISTS: Final = "SELECT EXISTS (SELECT FROM pg_namespace WHERE nspname = $1)"
# Two keys of 32 bits, so that it is none of an application's locks with one key of 64.
# The first key is "pvcs".
_LOCK: Final = "SELECT pg_advisory_xact_lock(x'70766373'::int, hashtext($1))"


def check_length(argument: str, name: str) -> None:
    """Raise if PostgreSQL would cut ``name``."""
    if len(name.encode()) > _MOST_NAME_BYTES:
        raise ValueError(f"{argument} must be 1 to {_MOST_NAME_BYTES} bytes long")


def check_encoding(connection: Connection) -> None:
    """Raise unless the database can hold every text."""
    encoding = connection.get_settings().server_encoding
    if encoding not in _ENCODINGS:
        raise StoreMisconfiguredError(f"the database's encoding must be UTF8, not {encoding}")


@asynccontextmanager
async def making(connection: Connection, schema: str | None) -> AsyncGenerator[None]:
    """Begin a transaction in which ``schema`` exists, and its contents can be created.

    Programs that do so at once take turns; the second one sees what the first created.
    """
    async with connection.transaction(isolation="read_committed"):
        await connection.execute(_LOCK, schema or "")
        # Not CREATE SCHEMA IF NOT EXISTS, which needs the right to create it even if it exists.
        if schema is not None and not await connection.fetchval(_SCHEMA_EXISTS, schema):
            await connection.execute(f"CREATE SCHEMA {quoted(schema)}")
        yield


class Schema:
    """A schema of the database, by name, with the table of ``ProvcacheEntry``.

    Args:
        name: the name, unquoted.
        create: create it if it is missing, and bring an older one up to date.

    Raises:
        TypeError: ``name`` is not a str.
        ValueError: it is empty, longer than 63 bytes of UTF-8, holds NUL or a lone surrogate,
            or begins with ``pg_``, which PostgreSQL reserves.

    Attributes:
        plan: the plan of its table.
    """

    def __init__(self, name: str, *, create: bool) -> None:
        check_name("schema", name)
        check_length("schema", name)
        if name.startswith("pg_"):
            raise ValueError("schema must not begin with 'pg_'")
        self._name = name
        self._create = create
        self._quoted = quoted(name)
        self.plan: Plan[ProvcacheEntry] = entries_plan(f"{self._quoted}.entries")

    def fill_in(self, statement: str) -> str:
        """Return ``statement`` with the name in place of ``{schema}``."""
        return statement.replace("{schema}", self._quoted)

    async def look(self, connection: Connection) -> Plan[ProvcacheEntry]:
        """Return the plan, if the schema exists in the version that we know.

        Args:
            connection: outside of a transaction.

        Raises:
            StoreMisconfiguredError: it does not exist, or has another version.
            asyncpg.PostgresError: it can't be read or created.
        """
        check_encoding(connection)
        version = await self._version(connection)
        if self._create and version < len(MIGRATIONS):
            async with making(connection, self._name):
                version = await self._migrate(connection)
        if version == 0:
            raise StoreMisconfiguredError(
                f"the database has no schema {self._name!r} of provcache's; with create=True it is made"
            )
        if version != len(MIGRATIONS):
            raise StoreMisconfiguredError(
                f"schema {self._name!r} has version {version}, and this program knows "
                f"{len(MIGRATIONS)}; upgrade the program"
            )
        return self.plan

    async def _migrate(self, connection: Connection) -> int:
        version = await self._version(connection)
        for number, statements in enumerate(MIGRATIONS[version:], version + 1):
            for statement in statements:
                await connection.execute(self.fill_in(statement))
            await connection.execute(self.fill_in(_SET_VERSION), number)
        return max(version, len(MIGRATIONS))

    async def _version(self, connection: Connection) -> int:
        # Asked first, as a failed statement would end the transaction.
        table = self.fill_in("{schema}.schema_version")
        if await connection.fetchval("SELECT to_regclass($1) IS NULL", table):
            return 0
        version: int = await connection.fetchval(self.fill_in(_VERSION))
        return version
