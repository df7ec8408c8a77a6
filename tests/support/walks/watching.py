"""Exporters, the status server, and what tests of users are given."""

from __future__ import annotations

import socket
from contextlib import closing
from typing import TYPE_CHECKING, Any, Self

from provcache_trio import EntryRejectedError, StoreUnavailableError
from provcache_trio.prometheus import QueueCollector
from provcache_trio.status import StatusApp, open_status_server
from provcache_trio.testing import MemoryDeadLetters, MemoryRepository, check_repository

from . import SECRET, calls, walk
from .queues import a_queue, row
from .stores import without
from .values import VISITS, WRONG
from tests.support.entries import NOW, entry, key_of
from tests.support.letters import letter

if TYPE_CHECKING:
    from pathlib import Path

SERVER = "status.open_status_server"


async def two_queues(make: Any) -> None:  # noqa: ANN401  # of any kind
    """Give ``make`` two queues of one name."""
    async with a_queue(name="jobs") as one, a_queue(name="jobs") as other:
        make(one, other)


def added(exporter: Any, *queues: Any) -> None:  # noqa: ANN401  # of any kind
    for queue in queues:
        exporter.add(queue)


def shown(one: Any, other: Any) -> None:  # noqa: ANN401  # of any kind
    collector = QueueCollector(one)
    with collector.showing(other):
        raise AssertionError("both are shown")


for name, make in {
    "prometheus.QueueCollector": QueueCollector,
    "prometheus.QueueCollector.add": lambda *queues: added(QueueCollector(), *queues),
    "prometheus.QueueCollector.showing": shown,
    "status.StatusApp": StatusApp,
    "status.StatusApp.add": lambda *queues: added(StatusApp(), *queues),
}.items():

    @walk(name, ValueError, "queue 'jobs'")
    async def of_two_queues(_: Path, make: Any = make) -> None:  # noqa: ANN401  # of any kind
        await two_queues(make)


@walk("status.StatusApp.__call__", NotImplementedError, "HTTP")
async def of_another_protocol(_: Path) -> None:
    await StatusApp()({"type": "carrier pigeon"}, WRONG, WRONG)


calls(SERVER, TypeError, "app", lambda: open_status_server(WRONG))
calls(SERVER, TypeError, "allowed_hosts", lambda: open_status_server(allowed_hosts="x"))
calls(SERVER, ValueError, "host", lambda: open_status_server(host=""))
calls(SERVER, ValueError, "port", lambda: open_status_server(port=65536))


@walk(SERVER, OSError, "127.0.0.1:", "in use")
async def at_an_address_in_use(_: Path) -> None:
    with closing(socket.create_server(("127.0.0.1", 0))) as other:
        async with open_status_server(port=other.getsockname()[1]):
            raise AssertionError("it opened")


@walk(SERVER, OSError, "no.such.host.invalid:0")
async def at_an_unknown_name(_: Path) -> None:
    async with open_status_server(host="no.such.host.invalid"):
        raise AssertionError("it opened")


@walk(SERVER, ModuleNotFoundError, "h11", "provcache-trio[status]")
def without_h11(_: Path) -> None:
    with without("h11"):
        open_status_server()


# For tests


REPOSITORY: dict[str, Any] = {
    "check": lambda it: it.check(),
    "count": lambda it: it.count(),
    "get_many": lambda it: it.get_many([key_of(1)]),
    "upsert_many": lambda it: it.upsert_many([row()]),
    "delete_many": lambda it: it.delete_many([key_of(1)]),
    "delete_where": lambda it: it.delete_where(feed_epoch="x"),
    "delete_expired": lambda it: it.delete_expired(NOW, 1),
}
for method, call in REPOSITORY.items():

    @walk(f"testing.MemoryRepository.{method}", StoreUnavailableError, "down")
    async def of_a_store_that_is_down(_: Path, call: Any = call) -> None:  # noqa: ANN401  # of any method
        store = MemoryRepository[Any]()
        store.down()
        await call(store)


@walk("testing.MemoryRepository.upsert_many", EntryRejectedError, "refused")
async def of_a_store_that_refuses(_: Path) -> None:
    store = MemoryRepository[Any]()
    store.reject(row().veri_key)
    await store.upsert_many([row()])


@walk("testing.MemoryDeadLetters.put_many", StoreUnavailableError, "down")
async def of_a_sink_that_is_down(_: Path) -> None:
    sink = MemoryDeadLetters[Any]()
    sink.down()
    await sink.put_many([letter(row())])


for method, error, about, call in (
    ("delete_where", TypeError, "field=value", lambda it: it.delete_where()),
    ("delete_where", ValueError, "'hits'", lambda it: it.delete_where(hits=1)),
    ("delete_where", TypeError, "'visits'", lambda it: it.delete_where(before=NOW, url=SECRET)),
    ("delete_expired", TypeError, "limit", lambda it: it.delete_expired(NOW, SECRET)),
    (
        "delete_expired",
        ValueError,
        "now",
        lambda it: it.delete_expired(NOW.replace(tzinfo=None), 1),
    ),
):

    @walk(f"testing.MemoryRepository.{method}", error, about)
    async def of_a_store_in_memory(_: Path, call: Any = call) -> None:  # noqa: ANN401  # of any method
        await call(MemoryRepository[Any](table=VISITS))


class Forgetful(MemoryRepository[Any]):
    """A repository that says that it stored, and does not."""

    async def upsert_many(self, entries: Any, /) -> int:  # noqa: ANN401  # whatever it is given
        await super().upsert_many(())
        return len(entries)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        pass


@walk("testing.check_repository", AssertionError, "promises", "get_many")
async def that_forgets(_: Path) -> None:
    await check_repository(Forgetful, lambda number, version: entry(number, hit_count=version))


@walk("testing.check_repository", TypeError, "open")
async def that_does_not_open(_: Path) -> None:
    await check_repository(WRONG, lambda number, version: entry(number, hit_count=version))
