"""What every ``open_…`` function returns follows the same rules."""

from __future__ import annotations

import asyncio
import signal
from contextlib import AbstractAsyncContextManager
from typing import TYPE_CHECKING, Any, TypeAlias

import pytest
import trio

from provcache_trio import open_write_behind_queue
from provcache_trio._asyncio.bridge import DEFAULT_KIND
from provcache_trio._vocabulary.opening import Opening
from provcache_trio.dead_letters import open_dead_letters
from provcache_trio.journal import open_journal
from provcache_trio.postgres import open_postgres_repository
from provcache_trio.sqlite import open_sqlite_repository
from provcache_trio.status import open_status_server
from provcache_trio.testing import MemoryRepository

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

Manager: TypeAlias = AbstractAsyncContextManager[object]

NOWHERE = "postgresql://127.0.0.1:1/postgres"  # nothing is asked of it
OPENINGS: dict[str, Callable[[Path], Manager]] = {
    "open_sqlite_repository": lambda path: open_sqlite_repository(path / "cache.db"),
    "open_postgres_repository": lambda _: open_postgres_repository(NOWHERE),
    "open_journal": lambda path: open_journal(path / "journal"),
    "open_dead_letters": lambda path: open_dead_letters(path / "letters"),
    "open_status_server": lambda _: open_status_server(),
}
WITH_THE_QUEUE: dict[str, Callable[[Path], Manager]] = {
    **OPENINGS,
    "open_write_behind_queue": lambda _: open_write_behind_queue(MemoryRepository()),
}


class Door(Opening[str]):
    """Notes what it does, and that Ctrl-C was pressed before it did that."""

    what = "a door"
    function = "open_door"

    def __init__(self) -> None:
        self.done: list[str] = []

    async def _open(self) -> str:
        signal.raise_signal(signal.SIGINT)
        self.done.append("opened")
        return "a room"

    async def _close(self, error: BaseException | None, /) -> None:
        signal.raise_signal(signal.SIGINT)
        self.done.append(f"closed with {error!r}")


@pytest.mark.parametrize("name", WITH_THE_QUEUE)
async def test_it_is_entered_once(name: str, tmp_path: Path) -> None:
    opening = WITH_THE_QUEUE[name](tmp_path)
    async with opening:
        with pytest.raises(RuntimeError, match=r"^a [a-z ]+ can be entered once; "):
            await opening.__aenter__()
    with pytest.raises(RuntimeError, match=r"^a [a-z ]+ can be entered once; "):
        await opening.__aenter__()


@pytest.mark.parametrize("name", WITH_THE_QUEUE)
def test_who_runs_it_by_asyncio_is_told_so(name: str, tmp_path: Path) -> None:
    opening = WITH_THE_QUEUE[name](tmp_path)

    async def main() -> None:
        async with opening:
            raise AssertionError("it opened")

    loop = asyncio.SelectorEventLoop()  # trio-asyncio has another opinion of new ones
    with pytest.raises(RuntimeError, match=rf"^{name} needs trio, .* by trio\.run\(main\), not"):
        loop.run_until_complete(main())
    loop.close()


@pytest.mark.parametrize(
    ("argument", "name"),
    [
        ("repository", "open_sqlite_repository"),
        ("repository", "open_postgres_repository"),
        ("journal", "open_journal"),
        ("dead_letters", "open_dead_letters"),
    ],
)
def test_what_is_not_open_yet_is_not_taken(argument: str, name: str, tmp_path: Path) -> None:
    arguments: Any = {"repository": MemoryRepository(), argument: OPENINGS[name](tmp_path)}
    with pytest.raises(TypeError, match=rf"^{argument} is not open yet: .*'async with {name}"):
        open_write_behind_queue(**arguments)


@pytest.mark.parametrize("name", OPENINGS)
def test_who_forgets_async_with_is_told_so(name: str, tmp_path: Path) -> None:
    opening: Any = OPENINGS[name](tmp_path)
    message = (
        rf"^a [a-z ]+ is not open yet: write 'async with {name}\(\.\.\.\) as it:', .*it\.enqueue"
    )
    with pytest.raises(AttributeError, match=message) as caught:
        opening.enqueue("an entry")
    assert caught.value.name == "enqueue"
    assert caught.value.obj is opening
    assert not hasattr(opening, "upsert_many")


@pytest.mark.parametrize("name", WITH_THE_QUEUE)
async def test_with_and_await_are_answered_by_async_with(name: str, tmp_path: Path) -> None:
    opening: Any = WITH_THE_QUEUE[name](tmp_path)
    with_ = rf"^write 'async with {name}\(\.\.\.\)', not 'with'$"
    with pytest.raises(TypeError, match=with_), opening:
        raise AssertionError("it opened")
    with pytest.raises(TypeError, match=rf"^write 'async with {name}\(.*\) as it:', not 'await'$"):
        await opening
    async with opening:  # which can still be done
        pass


def test_an_interrupt_waits_until_it_is_open_and_until_it_is_closed() -> None:
    door = Door()

    async def main() -> None:
        async with door as room:
            assert room == "a room"
            await trio.lowlevel.checkpoint()
            raise AssertionError("not reached")

    with pytest.raises(KeyboardInterrupt):
        trio.run(main)
    assert door.done == ["opened", "closed with KeyboardInterrupt()"]


async def test_what_is_cancelled_before_it_opens_is_not_opened() -> None:
    door = Door()
    with trio.CancelScope() as scope:
        scope.cancel()
        async with door:
            raise AssertionError("not reached")
    assert door.done == []


async def leave_in_another_task(opening: Manager) -> None:
    """Leave it in a task of the name ``stranger``, and raise what that raises."""
    raised: list[Exception] = []

    async def leave() -> None:
        try:
            await opening.__aexit__(None, None, None)
        except Exception as error:  # noqa: BLE001  # handed on
            raised.append(error)

    async with trio.open_nursery() as nursery:  # noqa: ASYNC112  # a task of its own
        nursery.start_soon(leave, name="stranger")
    if raised:
        raise raised[0]


@pytest.mark.parametrize(
    "opening",
    [
        pytest.param(open_status_server, id="open_status_server"),
        pytest.param(
            lambda: open_postgres_repository(NOWHERE),
            id="open_postgres_repository",
            marks=pytest.mark.skipif(
                DEFAULT_KIND == "thread", reason="trio-asyncio can't be imported"
            ),
        ),
    ],
)
async def test_a_task_that_did_not_enter_a_nursery_cannot_leave_it(
    opening: Callable[[], Manager],
) -> None:
    manager = opening()
    own = trio.lowlevel.current_task().name
    async with manager:
        with pytest.raises(RuntimeError, match="by the task that entered it") as caught:
            await leave_in_another_task(manager)
    assert own in str(caught.value)
    assert str(caught.value).endswith("not by stranger")


@pytest.mark.parametrize(
    "name", ["open_sqlite_repository", "open_journal", "open_dead_letters", "in a thread"]
)
async def test_what_needs_no_nursery_is_left_by_any_task(name: str, tmp_path: Path) -> None:
    in_a_thread: Callable[[Path], Manager] = lambda _: open_postgres_repository(  # noqa: E731
        NOWHERE, bridge="thread"
    )
    opening = OPENINGS.get(name, in_a_thread)(tmp_path)
    await opening.__aenter__()
    await leave_in_another_task(opening)
    with pytest.raises(RuntimeError, match="entered once"):
        await opening.__aenter__()
