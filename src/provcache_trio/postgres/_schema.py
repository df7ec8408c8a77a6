"""The schema: what each version of it added, and which version is there.

Statements name ``{schema}``, which stands for the quoted name of the schema.
"""

from __future__ import annotations

from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Final

from provcache_trio._vocabulary.columns import hashes_as_text
from provcache_trio._vocabulary.errors import StoreMisconfiguredError
from provcache_trio._vocabulary.fields import check_name

from ._catalogue import quoted
from ._rows import entries_plan

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

    from asyncpg import Connection

    from provcache_trio._vocabulary.entries import ProvcacheEntry

    from ._plan import Plan

_MOST_NAME_BYTES: Final = 63  # a longer one would be cut, silently
# Others can't hold every text. SQL_ASCII takes what it is given.
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

# What turns version 0, nothing, into 1; 1 into 2; and so on. Only ever added to.
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
# Two keys of 32 bits, so that no lock of an application that uses one of 64 is meant.
_LOCK: Final = "SELECT pg_advisory_xact_lock(x'70766373'::int, hashtext($1))"  # "pvcs"


def check_length(argument: str, name: str) -> None:
    """Raise unless PostgreSQL would keep all of ``name``."""
    if len(name.encode()) > _MOST_NAME_BYTES:
        raise ValueError(f"{argument} must be 1 to {_MOST_NAME_BYTES} bytes long")


def check_encoding(connection: Connection) -> None:
    """Raise unless the database can hold every text."""
    encoding = connection.get_settings().server_encoding
    if encoding not in _ENCODINGS:
        raise StoreMisconfiguredError(f"the database's encoding must be UTF8, not {encoding}")


@asynccontextmanager
async def making(connection: Connection, schema: str | None) -> AsyncGenerator[None]:
    """Begin a transaction in which ``schema`` is there, and what it holds can be made.

    Programs that open it at once take turns; the second sees what the first made.
    """
    async with connection.transaction(isolation="read_committed"):
        await connection.execute(_LOCK, schema or "")
        # Not CREATE SCHEMA IF NOT EXISTS, which demands the right to make it even if it exists.
        if schema is not None and not await connection.fetchval(_SCHEMA_EXISTS, schema):
            await connection.execute(f"CREATE SCHEMA {quoted(schema)}")
        yield


class Schema:
    """A schema of the database, by name, with the table of ``ProvcacheEntry``.

    Args:
        name: the name, as it is; it is quoted here.
        create: make it if it is not there, and bring an older one up to date.

    Raises:
        TypeError: ``name`` is not a str.
        ValueError: it is empty, longer than 63 bytes of UTF-8, holds NUL or a lone surrogate,
            or begins with ``pg_``, which PostgreSQL keeps for itself.

    Attributes:
        plan: how entries are stored there.
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
        """Return ``statement`` with the name where it says ``{schema}``."""
        return statement.replace("{schema}", self._quoted)

    async def look(self, connection: Connection) -> Plan[ProvcacheEntry]:
        """Return how entries are stored, if the schema is there in the version that we know.

        Args:
            connection: outside of a transaction.

        Raises:
            StoreMisconfiguredError: it is not there, or another version.
            asyncpg.PostgresError: it can't be looked at, or made.
        """
        check_encoding(connection)
        version = await self._version(connection)
        if self._create and version < len(MIGRATIONS):
            async with making(connection, self._name):
                version = await self._migrate(connection)
        if version == 0:
            raise StoreMisconfiguredError("the database has no provcache schema; see create=True")
        if version != len(MIGRATIONS):
            raise StoreMisconfiguredError(
                f"the schema has version {version}, and this program knows {len(MIGRATIONS)}"
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
        # Asked first: a failed statement would end the transaction.
        table = self.fill_in("{schema}.schema_version")
        if await connection.fetchval("SELECT to_regclass($1) IS NULL", table):
            return 0
        version: int = await connection.fetchval(self.fill_in(_VERSION))
        return version
