"""``password=``: a str, or an async function that is asked at each connect."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
import trio

from provcache_trio import StoreMisconfiguredError, StoreUnavailableError
from provcache_trio.postgres import open_postgres_repository

from tests.support.bridges import Client, each_bridge, somebody
from tests.support.entries import entry
from tests.support.postgres import SECRET, raises, role, schema, store
from tests.support.servers import postgres

if TYPE_CHECKING:
    from collections.abc import Callable

    from trio.testing import MockClock

    from provcache_trio._asyncio.bridge import BridgeKind

__all__ = ["role", "schema", "somebody", "store"]  # fixtures


class Tokens:
    """An application's source of passwords."""

    def __init__(self) -> None:
        self.asked = 0
        self.fail: Exception | None = None

    async def __call__(self) -> str:
        await trio.lowlevel.checkpoint()
        self.asked += 1
        if self.fail is not None:
            raise self.fail
        return f"{SECRET} {self.asked}"


@each_bridge
async def test_an_async_function_is_asked_for_the_password_at_each_connect(
    schema: str, bridge: BridgeKind, somebody: Client
) -> None:
    tokens = Tokens()
    async with open_postgres_repository(
        postgres().dsn,
        schema=schema,
        create=True,
        bridge=bridge,
        password=tokens,
        server_settings={"application_name": schema},
    ) as repository:
        assert await repository.upsert_many([entry(1)]) == 1
        assert tokens.asked == 1
        assert await repository.upsert_many([entry(2)]) == 1
        assert tokens.asked == 1  # there was a connection
        await somebody.fetch(
            "SELECT pg_terminate_backend(pid, 10000) FROM pg_stat_activity"
            " WHERE application_name = $1",
            schema,
        )
        tokens.fail = ConnectionError(SECRET)
        while tokens.asked == 1:  # whoever notices first that the connection is lost
            with raises(StoreUnavailableError):
                await repository.upsert_many([entry(3)])
        with raises(StoreUnavailableError, error_class="ConnectionError"):
            await repository.upsert_many([entry(3)])
        tokens.fail = None
        assert await repository.upsert_many([entry(3)]) == 1


async def test_the_password_wins_over_that_of_the_url(
    monkeypatch: pytest.MonkeyPatch, schema: str
) -> None:
    used: list[object] = []

    async def connect(*_: object, **options: object) -> None:  # noqa: ASYNC124  # asyncpg's stand-in
        used.append(options["password"])
        raise ConnectionRefusedError

    monkeypatch.setattr("asyncpg.connect", connect)
    for password, expected in ((None, "of the url"), ("mine", "mine"), (Tokens(), f"{SECRET} 1")):
        async with open_postgres_repository(
            "postgresql://me:of%20the%20url@127.0.0.1/x", schema=schema, password=password
        ) as repository:
            with pytest.raises(StoreUnavailableError):
                await repository.check()
        assert used.pop() == expected


async def _hang() -> str:
    await trio.sleep_forever()
    raise AssertionError("unreachable")


async def _number() -> str:
    await trio.lowlevel.checkpoint()
    return 5  # type: ignore[return-value]  # that is it


@pytest.mark.parametrize(
    ("password", "error", "text"),
    [
        (_hang, StoreUnavailableError, r"password\(\) did not return within 5 s"),
        (_number, StoreMisconfiguredError, r"password\(\) must return a str, not int"),
        (lambda: SECRET, StoreMisconfiguredError, "must be an async function; it returned str"),
    ],
)
async def test_a_function_that_gives_no_password_is_named(
    autojump_clock: MockClock, password: Callable[[], Any], error: type[Exception], text: str
) -> None:
    opening = open_postgres_repository("postgresql://x", password=password, bridge="thread")
    async with opening as repository:
        with pytest.raises(error, match=text) as caught:
            await repository.check()
        assert SECRET not in str(caught.value)


def test_a_password_is_a_str_or_a_function() -> None:
    opening: Any = open_postgres_repository
    with pytest.raises(TypeError, match="password must be a str or an async function, not bytes"):
        opening("postgresql://x", password=b"x")
