"""Fixtures and questions about a repository in a schema of its own."""

from __future__ import annotations

import traceback
from contextlib import contextmanager
from typing import TYPE_CHECKING, TypeVar

import asyncpg
import pytest

from provcache_trio.postgres import PostgresRepository, open_postgres_repository

from tests.support.entries import entry, key_of
from tests.support.servers import postgres, unused_schema
from tests.support.waiting import until

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Generator

    from provcache_trio import ProvcacheEntry

    from tests.support.bridges import Client

F = TypeVar("F", bound=Exception)
SECRET = "s3cr3t"  # noqa: S105  # in rows and passwords; what no message may quote


def quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


def row(number: object, **changes: object) -> ProvcacheEntry:
    """Return an entry that holds the secret."""
    return entry(number, **{"feed_epoch": SECRET, **changes})


@pytest.fixture
def schema() -> str:
    return unused_schema()


@pytest.fixture
def table(schema: str) -> str:
    return f"{quoted(schema)}.entries"


@pytest.fixture
async def store(schema: str) -> AsyncGenerator[PostgresRepository]:
    """A repository whose schema is there, and whose connections can be told by its name."""
    async with open_postgres_repository(
        postgres().dsn,
        schema=schema,
        create=True,
        server_settings={"application_name": schema},
    ) as repository:
        await repository.check()
        yield repository


@pytest.fixture
def role(schema: str) -> str:
    return f"role of {schema}"


@contextmanager
def raises(kind: type[F], **expected: object) -> Generator[None]:
    """Expect an error of this very class, with these attributes, that quotes no secret."""
    with pytest.raises(kind) as caught:
        yield
    error = caught.value
    assert type(error) is kind
    assert {name: getattr(error, name) for name in expected} == expected
    assert error.__cause__ is None
    assert not isinstance(error.__context__, asyncpg.PostgresError)
    told = [str(error), repr(error), repr(vars(error)), *traceback.format_exception(error)]
    assert SECRET not in "".join(told)
    assert key_of(0)[7:] not in "".join(told)


async def settings_of(
    store: PostgresRepository, *names: str, reading: bool = False
) -> dict[str, str]:
    async def look(connection: asyncpg.Connection, _: object) -> dict[str, str]:
        return {
            name: await connection.fetchval("SELECT current_setting($1)", name) for name in names
        }

    return await store._run(store._reader if reading else store._writers, look)


async def connections(somebody: Client, name: str, condition: str = "true") -> int:
    await somebody.execute("SELECT pg_stat_clear_snapshot()")  # a transaction keeps one
    number = await somebody.value(
        f"SELECT count(*) FROM pg_stat_activity WHERE application_name = $1 AND {condition}",
        name,
    )
    assert isinstance(number, int)
    return number


async def until_locked_out(somebody: Client, name: str) -> None:
    """Wait until a connection of that name waits for a lock."""

    async def waits() -> bool:
        return await connections(somebody, name, "wait_event_type = 'Lock'") > 0

    await until(waits)
