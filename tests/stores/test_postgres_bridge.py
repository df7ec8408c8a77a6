"""How the Postgres repository calls asyncpg, over either bridge: unseen, and soon cancelled."""

from __future__ import annotations

import asyncio
import contextvars
import errno
import gc
import os
import signal
import socket
import subprocess
import sys
import threading
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn, TypeVar
from uuid import uuid4

import pytest
import trio

from provcache_trio import StoreUnavailableError
from provcache_trio._asyncio.bridge import DEFAULT_KIND, make_bridge
from provcache_trio.postgres import _repository as postgres_module, open_postgres_repository

from tests.support.bridges import Client, each_bridge, silent_server, somebody, threads_left
from tests.support.entries import by_key, entry, key_of
from tests.support.postgres import connections, quoted
from tests.support.programs import run_python
from tests.support.servers import postgres, unused_schema
from tests.support.waiting import HANG_SECONDS, until, without_a_hang

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Generator

    import asyncpg

    from provcache_trio._asyncio.bridge import BridgeKind
    from provcache_trio.postgres import PostgresRepository

__all__ = ["somebody"]  # a fixture

T = TypeVar("T")

ROOT = Path(__file__).parent.parent.parent
LATER_SECONDS = 30  # in half of that, the server would end a call that was not cut short
VARIABLE = contextvars.ContextVar("VARIABLE", default="unset")

_names = map("repository {}".format, count(1))


class Opened:
    """A repository with a schema and an application name that no other has."""

    def __init__(self, bridge: BridgeKind) -> None:
        self.schema = unused_schema()
        self.table = f"{quoted(self.schema)}.entries"
        self.name = next(_names)
        self.opening = open_postgres_repository(
            postgres().dsn,
            schema=self.schema,
            create=True,
            command_timeout_seconds=LATER_SECONDS,
            server_settings={"application_name": self.name},
            bridge=bridge,
        )

    async def connections(self, somebody: Client, condition: str = "true") -> int:
        """Return how many connections the repository has that meet ``condition``."""
        return await connections(somebody, self.name, condition)


def tasks() -> set[trio.lowlevel.Task]:
    """Return every task there is."""
    root = trio.lowlevel.current_root_task()
    assert root is not None
    found = {root}
    todo = [root]
    while todo:
        nurseries = todo.pop().child_nurseries
        children = {child for nursery in nurseries for child in nursery.child_tasks}
        found |= children
        todo += children
    return found


# Unseen


def surroundings() -> tuple[dict[contextvars.ContextVar[object], object], object]:
    """Return what a library could recognise an asyncio loop by."""
    return dict(contextvars.copy_context().items()), asyncio._get_running_loop()


@each_bridge
async def test_neither_the_body_nor_its_siblings_see_the_loop(bridge: BridgeKind) -> None:
    seen = {"before": surroundings()}
    asked = trio.Event()

    async def sibling(name: str, *, task_status: trio.TaskStatus[None]) -> None:  # noqa: ASYNC114
        seen[f"{name} at first"] = surroundings()
        task_status.started()
        await asked.wait()
        seen[f"{name} later"] = surroundings()

    async with trio.open_nursery() as nursery:
        await nursery.start(sibling, "an older task")
        async with Opened(bridge).opening as store:
            seen["body"] = surroundings()
            await nursery.start(sibling, "a newer task")
            await store.check()
            seen["body after a call"] = surroundings()
            async with trio.open_nursery() as calls:
                calls.start_soon(store.count)
                await trio.lowlevel.checkpoint()
                seen["body during a call"] = surroundings()
            asked.set()
        seen["afterwards"] = surroundings()
    assert len(seen) == 9
    assert [name for name, what in seen.items() if what != seen["before"]] == []


RAISED = [
    ValueError("plain"),
    ExceptionGroup("group", [ValueError("one"), ExceptionGroup("inner", [KeyError("two")])]),
    BaseExceptionGroup("group", [SystemExit(3)]),
    KeyboardInterrupt(),
    SystemExit(3),
]


@each_bridge
@pytest.mark.parametrize("raised", RAISED, ids=repr)
async def test_what_the_body_raises_comes_out_as_the_same_object(
    bridge: BridgeKind, raised: BaseException
) -> None:
    with pytest.raises(type(raised)) as caught:
        async with Opened(bridge).opening as store:
            await store.check()
            raise raised
    assert caught.value is raised
    assert raised.__cause__ is None
    assert raised.__context__ is None


@each_bridge
async def test_a_shielded_block_still_writes_when_the_surroundings_are_cancelled(
    bridge: BridgeKind,
) -> None:
    with trio.CancelScope() as scope:
        async with Opened(bridge).opening as store:
            scope.cancel()
            with trio.CancelScope(shield=True):
                for _ in range(3):
                    await trio.sleep(0.01)
                    await store.upsert_many([entry()])
                assert await store.get_many([key_of(0)]) == by_key([entry()])
            await trio.sleep_forever()
    assert scope.cancelled_caught


@each_bridge
async def test_leaving_ends_tasks_threads_and_connections(
    bridge: BridgeKind, somebody: Client
) -> None:
    before = tasks()
    opened = Opened(bridge)
    async with opened.opening as store:
        async with trio.open_nursery() as nursery:
            for number in range(8):
                nursery.start_soon(store.upsert_many, [entry(number)])
                nursery.start_soon(store.count)
        assert await opened.connections(somebody) == 5
    assert tasks() == before
    assert threads_left() == []
    # Each has said goodbye; the server's process takes a moment to hear it.
    await until(lambda: _none(opened, somebody))


async def _none(opened: Opened, somebody: Client, condition: str = "true") -> bool:
    return await opened.connections(somebody, condition) == 0


@each_bridge
async def test_leaving_ends_the_calls_that_other_tasks_have_under_way(
    bridge: BridgeKind, somebody: Client
) -> None:
    opened = Opened(bridge)
    ended: list[BaseException] = []

    async def call(store: PostgresRepository) -> None:
        with pytest.raises(trio.ClosedResourceError) as caught:
            await store.upsert_many([entry()])
        ended.append(caught.value)

    async with trio.open_nursery() as nursery:  # noqa: SIM117  # its tasks outlive the block
        async with opened.opening as store:
            await store.check()
            await somebody.execute(f"BEGIN; LOCK TABLE {opened.table}")
            for _ in range(6):  # four wait for the lock, and two for a connection
                nursery.start_soon(call, store)  # noqa: ASYNC111  # closing while it is used
            await until(lambda: _waiting(opened, somebody, 4))
    assert len(ended) == 6
    # The lock is held: only a call that was cancelled there ends.
    await until(lambda: _none(opened, somebody, "state = 'active'"))
    await somebody.execute("ROLLBACK")
    assert await somebody.value(f"SELECT count(*) FROM {opened.table}") == 0


async def _waiting(opened: Opened, somebody: Client, number: int = 1) -> bool:
    return await opened.connections(somebody, "wait_event_type = 'Lock'") == number


@each_bridge
async def test_the_loop_ends_also_when_closing_the_connections_fails(
    bridge: BridgeKind, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def fail(_: object) -> None:  # noqa: ASYNC124
        raise RuntimeError("not closed")

    monkeypatch.setattr(postgres_module, "close_all", fail)
    before = tasks()
    with pytest.raises(RuntimeError, match="not closed"):
        async with Opened(bridge).opening:
            pass
    assert tasks() == before
    assert threads_left() == []


GUEST = """
import asyncio, sys, trio
from provcache_trio.postgres import open_postgres_repository

async def guest():
    try:
        async with open_postgres_repository(sys.argv[2], bridge=sys.argv[1], create=True) as store:
            return await store.count()
    except RuntimeError as error:
        return error

async def host():
    loop = asyncio.get_running_loop()
    ended = loop.create_future()
    trio.lowlevel.start_guest_run(
        guest,
        run_sync_soon_threadsafe=loop.call_soon_threadsafe,
        done_callback=ended.set_result,
    )
    return (await ended).unwrap()

print(asyncio.run(host()))
"""


@pytest.mark.whole_process
@each_bridge
def test_as_a_guest_of_asyncio_the_thread_works_and_the_other_bridge_names_it(
    bridge: BridgeKind,
) -> None:
    done = fresh(GUEST, bridge, postgres().create_database(str(uuid4())))
    assert done.stderr == ""
    assert done.stdout.endswith("open the repository with bridge='thread'\n") or (
        bridge == "thread" and done.stdout == "0\n"
    )


# Importing


def fresh(program: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run ``program`` in an interpreter of its own, where every warning is an error."""
    command = [sys.executable, "-W", "error", "-c", program, *arguments]
    return subprocess.run(
        command, capture_output=True, text=True, timeout=60, check=False, cwd=ROOT
    )


@pytest.mark.whole_process
@pytest.mark.parametrize(
    ("module", "not_imported"),
    [
        ("provcache_trio", {"asyncpg", "trio_asyncio"}),
        ("provcache_trio.postgres", {"trio_asyncio"}),
    ],
)
def test_importing_imports_no_driver_and_no_loop_that_is_not_needed(
    module: str, not_imported: set[str]
) -> None:
    done = fresh(f"import sys, {module}; print(*sys.modules)")
    assert done.stderr == ""
    imported = set(done.stdout.split())
    assert module in imported
    assert imported & not_imported == set()


ROUND_TRIP = """
import sys, trio
from provcache_trio.postgres import open_postgres_repository
async def main():
    dsn, schema, bridge = sys.argv[1:]
    async with open_postgres_repository(dsn, schema=schema, create=True, bridge=bridge) as store:
        await store.check()
    print("trio_asyncio" in sys.modules)
trio.run(main)
"""


@pytest.mark.whole_process
@each_bridge
async def test_no_warning_escapes_and_only_its_own_bridge_imports_trio_asyncio(
    bridge: BridgeKind,
) -> None:
    done = await trio.to_thread.run_sync(fresh, ROUND_TRIP, postgres().dsn, unused_schema(), bridge)
    assert done.stderr == ""
    assert done.stdout == f"{bridge == 'trio-asyncio'}\n"


@each_bridge
def test_what_is_never_entered_holds_nothing(bridge: BridgeKind) -> None:
    descriptors = len(os.listdir("/proc/self/fd"))  # noqa: PTH208
    openings = [open_postgres_repository("postgresql://", bridge=bridge) for _ in range(3)]
    assert len(os.listdir("/proc/self/fd")) == descriptors  # noqa: PTH208
    del openings
    gc.collect()  # a warning would be an error


# Ctrl-C. trio delivers it to its main task, so these call ``trio.run`` themselves.


def press() -> None:
    signal.raise_signal(signal.SIGINT)


async def press_in_the_call(connection: asyncpg.Connection, _: object) -> object:
    press()
    return await connection.fetchval("SELECT 1")


async def press_in_a_callback(connection: asyncpg.Connection, _: object) -> object:
    asyncio.get_running_loop().call_soon(press)
    return await connection.fetchval("SELECT pg_sleep(0.05)")


async def press_in_another_task(connection: asyncpg.Connection, _: object) -> object:
    async def other() -> None:
        await asyncio.sleep(0)
        press()

    task = asyncio.create_task(other())
    await connection.fetchval("SELECT pg_sleep(0.05)")
    await task
    return None


async def press_during_the_cleanup(connection: asyncpg.Connection, _: object) -> object:
    try:
        return await connection.fetchval("SELECT 1")
    finally:
        press()


@each_bridge
@pytest.mark.parametrize(
    "statement",
    [
        press_in_the_call,
        press_in_a_callback,
        press_in_another_task,
        press_during_the_cleanup,
    ],
)
def test_an_interrupt_of_the_loop_arrives_in_the_main_task(
    bridge: BridgeKind, statement: Callable[[asyncpg.Connection, object], Awaitable[object]]
) -> None:
    reached: list[str] = []

    async def main() -> None:
        async with Opened(bridge).opening as store:
            await store.check()
            try:
                await store._run(store._writers, statement)
                await trio.sleep(HANG_SECONDS)
            except KeyboardInterrupt:
                reached.append("the main task")
                with trio.CancelScope(shield=True):
                    await store.upsert_many([entry()])  # the loop goes on
                    assert await store.count() == 1
                raise

    with pytest.raises(KeyboardInterrupt):
        trio.run(main)
    assert reached == ["the main task"]
    assert threads_left() == []

    async def afterwards() -> None:
        async with Opened(bridge).opening as store:
            await store.check()

    trio.run(afterwards)


@each_bridge
def test_an_interrupt_while_it_closes_comes_out_when_it_is_closed(bridge: BridgeKind) -> None:
    opened = Opened(bridge)
    left: list[int] = []

    async def main() -> None:
        async with Client(postgres().dsn) as somebody:
            try:
                async with opened.opening as store:
                    await store.check()
                    trio.lowlevel.spawn_system_task(_press_soon)
            finally:
                with trio.CancelScope(shield=True):
                    await until(lambda: _none(opened, somebody))
                    left.append(await opened.connections(somebody))

    @trio.lowlevel.enable_ki_protection
    async def _press_soon() -> None:  # noqa: ASYNC124
        press()

    with pytest.raises(KeyboardInterrupt):
        trio.run(main)
    assert left == [0]
    assert threads_left() == []


@each_bridge
@pytest.mark.parametrize("steps", range(8))
def test_an_interrupt_while_it_opens_leaves_nothing_open(bridge: BridgeKind, steps: int) -> None:
    left: list[set[trio.lowlevel.Task]] = []

    async def main() -> None:
        trio.lowlevel.spawn_system_task(_press_later)
        before = tasks()
        try:
            async with Opened(bridge).opening as store:
                await store.check()
                await trio.sleep(HANG_SECONDS)
        finally:
            left.append(tasks() - before)

    @trio.lowlevel.enable_ki_protection
    async def _press_later() -> None:
        for _ in range(steps):
            await trio.lowlevel.checkpoint()
        press()

    for seed in range(4):  # of the order in which trio runs tasks
        trio._core._run._r.seed(seed)
        with pytest.raises(KeyboardInterrupt):
            trio.run(main)
    assert left == [set()] * 4
    assert threads_left() == []


@each_bridge
def test_an_interrupt_while_the_loop_ends_comes_out_when_it_has_ended(bridge: BridgeKind) -> None:
    loops: list[asyncio.AbstractEventLoop] = []
    pressed = threading.Event()

    async def main() -> None:
        opened = make_bridge(bridge)
        await opened.open()
        loops.append(await opened.run(_loop))
        if bridge == "thread":  # which might be quicker
            loops[0].call_soon_threadsafe(pressed.wait, HANG_SECONDS)
        trio.lowlevel.spawn_system_task(_press_soon)
        try:
            await opened.close()
        finally:
            assert loops[0].is_closed()

    async def _loop() -> asyncio.AbstractEventLoop:  # noqa: ASYNC124
        return asyncio.get_running_loop()

    @trio.lowlevel.enable_ki_protection
    async def _press_soon() -> None:  # noqa: ASYNC124
        press()
        pressed.set()

    with pytest.raises(KeyboardInterrupt):
        trio.run(main)
    assert threads_left() == []


FULL = """
import os, resource, sys, trio
from provcache_trio.postgres import open_postgres_repository

opening = open_postgres_repository("postgresql://", bridge=sys.argv[1])

async def main():
    held = []
    resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64))
    try:
        while True:
            held.append(os.open("/dev/null", os.O_RDONLY))
    except OSError:
        os.close(held.pop())
    try:
        async with opening:
            print("opened")
    except OSError as error:
        print(error.errno, len(trio.lowlevel.current_task().child_nurseries))
    for one in held:
        os.close(one)

trio.run(main)
"""


@pytest.mark.whole_process
@each_bridge
def test_opening_without_a_descriptor_left_raises(bridge: BridgeKind) -> None:
    # Not `fresh`: the loop that asyncio could not make complains when it is collected.
    command = [sys.executable, "-c", FULL, bridge]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.stdout == f"{errno.EMFILE} 0\n"
    assert done.returncode == 0


@pytest.mark.skipif(DEFAULT_KIND == "thread", reason="trio-asyncio can't be imported here")
async def test_what_trio_asyncio_raises_when_it_opens_comes_out_without_its_groups(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    error = OSError(errno.EMFILE, "too many")

    def open_loop() -> NoReturn:
        raise ExceptionGroup("outer", [ExceptionGroup("inner", [error])])

    monkeypatch.setattr("trio_asyncio.open_loop", open_loop)
    before = tasks()
    with pytest.raises(OSError, match="too many") as caught:
        async with Opened("trio-asyncio").opening:
            raise AssertionError("unreachable")
    assert caught.value is error
    assert tasks() == before


# Each round ends soon and leaves one whole batch, the last that was stored, or the next.
INTERRUPTED = """
import faulthandler, os, random, signal, sys, threading, time, trio
from provcache_trio.postgres import open_postgres_repository
from tests.support.bridges import threads_left
from tests.support.entries import entry, key_of

dsn, schema, bridge, rounds = sys.argv[1:]
keys = [key_of(number) for number in range(20)]

def opening():
    return open_postgres_repository(dsn, schema=schema, create=True, bridge=bridge)

async def write():
    global hits, stored
    async with opening() as store:
        while True:
            hits += 1
            await store.upsert_many([entry(number, hit_count=hits) for number in range(20)])
            stored = hits

async def look():
    async with opening() as store:
        return {one.hit_count for one in (await store.get_many(keys)).values()}

def press_after(calls, seconds):
    while hits < calls:
        time.sleep(0.0005)
    time.sleep(seconds)
    os.kill(os.getpid(), signal.SIGINT)

hits = stored = 0
chance = random.Random(4)
signal.signal(signal.SIGINT, signal.default_int_handler)
for turn in range(int(rounds)):
    faulthandler.dump_traceback_later(60, exit=True)
    # While it opens, or in a later call than the first, which then has stored something.
    moment = (hits + 2 * (turn % 2), chance.uniform(0, 0.1))
    presser = threading.Thread(target=press_after, args=moment)
    try:
        presser.start()
        trio.run(write)
    except KeyboardInterrupt:
        pass
    presser.join()
    assert threads_left() == []
    seen = trio.run(look)
    assert len(seen) <= 1, seen
    assert all(stored <= one <= hits for one in seen), (stored, seen, hits)
print(rounds, stored > 0)
"""


@pytest.mark.heavy
@each_bridge
def test_an_interrupt_at_any_time_ends_the_program_with_a_consistent_store(
    bridge: BridgeKind, counts: Callable[[int, int], int]
) -> None:
    rounds = str(counts(25, 200))
    command = [sys.executable, "-c", INTERRUPTED, postgres().dsn, unused_schema(), bridge, rounds]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT)
    assert done.stderr == ""
    assert done.stdout == f"{rounds} True\n"


INTERRUPTED_IMPORT = """
import signal, sys, trio
from provcache_trio.postgres import open_postgres_repository

class Presser:
    def find_spec(self, name, *_):
        if name == "trio_asyncio._loop":
            signal.raise_signal(signal.SIGINT)

async def main():
    async with open_postgres_repository("postgresql://127.0.0.1:1/x", bridge="trio-asyncio"):
        await trio.sleep(0)
    return "opened"

sys.meta_path.insert(0, Presser())
signal.signal(signal.SIGINT, signal.default_int_handler)
try:
    trio.run(main)
except KeyboardInterrupt:
    print("interrupted")
print(trio.run(main))
"""


@pytest.mark.skipif(DEFAULT_KIND == "thread", reason="trio-asyncio can't be imported here")
@pytest.mark.whole_process
def test_an_interrupt_in_the_middle_of_the_import_leaves_trio_asyncio_whole() -> None:
    command = [sys.executable, "-c", INTERRUPTED_IMPORT]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT)
    assert (done.stdout, done.stderr) == ("interrupted\nopened\n", "")


AFTERWARDS = """
import asyncio, sys, threading, trio
if sys.argv[1] == "theirs":
    import trio_asyncio
from provcache_trio.postgres import open_postgres_repository

async def main():
    async with open_postgres_repository("postgresql://127.0.0.1:1/x", bridge="trio-asyncio"):
        await trio.sleep(0)

async def other():
    print(type(asyncio.get_running_loop()).__module__.partition(".")[0])
    try:
        async with open_postgres_repository("postgresql://127.0.0.1:1/x"):
            pass
    except RuntimeError as error:
        print(error)

trio.run(main)
if sys.argv[1] == "theirs":
    asyncio.new_event_loop().close()
    print(type(asyncio.new_event_loop()).__module__.partition(".")[0])
else:
    asyncio.run(other())
    thread = threading.Thread(target=asyncio.run, args=(other(),))
    thread.start()
    thread.join()
    trio.run(main)
"""


@pytest.mark.skipif(DEFAULT_KIND == "thread", reason="trio-asyncio can't be imported here")
@pytest.mark.whole_process
async def test_after_trio_a_program_of_asyncio_has_a_loop_of_asyncio_s_own() -> None:
    needs = (
        "open_postgres_repository needs trio, and this is not a task of trio's: begin the program "
        "by trio.run(main), not by asyncio.run"
    )
    said = (await run_python(AFTERWARDS, "ours")).decode()
    assert said.splitlines() == ["asyncio", needs] * 2


@pytest.mark.skipif(DEFAULT_KIND == "thread", reason="trio-asyncio can't be imported here")
@pytest.mark.whole_process
@pytest.mark.filterwarnings("ignore")
async def test_who_imports_trio_asyncio_before_keeps_what_it_does_to_asyncio() -> None:
    assert (await run_python(AFTERWARDS, "theirs")).decode().splitlines() == ["trio_asyncio"]


# Cancelling


@each_bridge
async def test_a_cancelled_call_that_waits_for_a_lock_leaves_nothing_on_the_server(
    bridge: BridgeKind, somebody: Client
) -> None:
    opened = Opened(bridge)
    async with opened.opening as store:
        await store.check()
        await somebody.execute(f"BEGIN; LOCK TABLE {opened.table}")
        calls: list[Callable[[], Awaitable[object]]] = [
            lambda: store.upsert_many([entry()]),
            lambda: store.delete_many([key_of(0)]),
            lambda: store.get_many([key_of(0)]),
        ]
        for call in calls:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(call)
                await until(lambda: _waiting(opened, somebody))
                nursery.cancel_scope.cancel()
            # The lock is held: only a call that was cancelled there ends.
            await until(lambda: _none(opened, somebody, "state = 'active'"))
        await somebody.execute("ROLLBACK")
        assert await store.count() == 0
        assert await store.upsert_many([entry()]) == 1


@each_bridge
async def test_a_call_that_ends_although_it_was_cancelled_returns_its_result(
    bridge: BridgeKind,
) -> None:
    async def stubborn(connection: asyncpg.Connection, _: object) -> str:
        started.set()
        try:
            await asyncio.sleep(HANG_SECONDS)
        except asyncio.CancelledError:  # noqa: ASYNC103
            return "done all the same"  # noqa: ASYNC104
        return "never cancelled"

    started = threading.Event()
    results: list[str] = []
    async with Opened(bridge).opening as store:

        async def call() -> None:
            results.append(await store._run(store._writers, stubborn))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(call)
            await until(started.is_set)
            nursery.cancel_scope.cancel()
    assert results == ["done all the same"]


# Names of hosts


class NameServer:
    """Answers for known.invalid at once, and for stuck.invalid when it is let.

    Attributes:
        asked: somebody waits for stuck.invalid.
        answer: lets it be answered.
    """

    def __init__(self) -> None:
        self.asked = threading.Event()
        self.answer = threading.Event()

    def getaddrinfo(self, host: str | None, *arguments: int, **options: int) -> object:
        """Do what ``socket.getaddrinfo`` does."""
        if host == "stuck.invalid":
            self.asked.set()
            self.answer.wait(LATER_SECONDS)  # who waits for this fails, and does not hang
        if host in {"known.invalid", "stuck.invalid"}:
            return _getaddrinfo("127.0.0.1", *arguments, **options)
        raise socket.gaierror(socket.EAI_NONAME, "no such name")


_getaddrinfo = socket.getaddrinfo


@pytest.fixture
def names(monkeypatch: pytest.MonkeyPatch) -> Generator[NameServer]:
    server = NameServer()
    monkeypatch.setattr(socket, "getaddrinfo", server.getaddrinfo)
    yield server
    server.answer.set()


def dsn_at(host: str) -> str:
    server = postgres()
    assert f"@{server.host}:" in server.dsn
    return server.dsn.replace(f"@{server.host}:", f"@{host}:")


@each_bridge
async def test_the_host_may_be_a_name(bridge: BridgeKind, names: NameServer) -> None:
    async with open_postgres_repository(
        dsn_at("known.invalid"), schema=unused_schema(), create=True, bridge=bridge
    ) as store:
        await store.check()


@each_bridge
async def test_a_name_that_nobody_knows_is_unavailable(
    bridge: BridgeKind, names: NameServer
) -> None:
    async with open_postgres_repository(dsn_at("unknown.invalid"), bridge=bridge) as store:
        with pytest.raises(StoreUnavailableError) as caught:
            await store.check()
    assert caught.value.error_class == "gaierror"


@each_bridge
async def test_a_name_lookup_that_does_not_end_is_left_behind_by_a_cancelled_call(
    bridge: BridgeKind, names: NameServer
) -> None:
    async with open_postgres_repository(
        dsn_at("stuck.invalid"),
        schema=unused_schema(),
        create=True,
        connect_timeout_seconds=LATER_SECONDS,
        bridge=bridge,
    ) as store:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(store.check)
            await until(names.asked.is_set)
            nursery.cancel_scope.cancel()
        names.answer.set()  # to nobody
        lookups = [one for one in threading.enumerate() if one.name.endswith("name lookup")]
        for one in lookups:
            one.join(HANG_SECONDS)
        await store.check()


@each_bridge
async def test_a_name_lookup_that_does_not_end_is_left_behind_by_the_connect_timeout(
    bridge: BridgeKind, names: NameServer
) -> None:
    with without_a_hang():
        async with open_postgres_repository(
            dsn_at("stuck.invalid"), connect_timeout_seconds=0.2, bridge=bridge
        ) as store:
            with pytest.raises(StoreUnavailableError) as caught:
                await store.check()
    assert caught.value.error_class == "TimeoutError"


# Servers that do not answer


@each_bridge
async def test_a_server_that_accepts_and_says_nothing_is_unavailable(bridge: BridgeKind) -> None:
    with silent_server() as dsn:
        async with open_postgres_repository(
            dsn, connect_timeout_seconds=0.2, bridge=bridge
        ) as store:
            with pytest.raises(StoreUnavailableError) as caught:
                await store.check()
        assert caught.value.error_class == "TimeoutError"


@each_bridge
async def test_a_call_to_a_server_that_says_nothing_is_cancelled_at_once(
    bridge: BridgeKind,
) -> None:
    with silent_server() as dsn:
        async with open_postgres_repository(
            dsn, connect_timeout_seconds=LATER_SECONDS, bridge=bridge
        ) as store:
            for _ in range(2):
                with trio.move_on_after(0.2) as scope:
                    await store.check()
                assert scope.cancelled_caught


# Context variables


@each_bridge
async def test_the_callers_context_variables_are_seen_and_not_changed(bridge: BridgeKind) -> None:
    async def look(connection: asyncpg.Connection, _: object) -> str:  # noqa: ASYNC124
        seen = VARIABLE.get()
        VARIABLE.set("of the callee")
        return seen

    async with Opened(bridge).opening as store:
        for mine in ("first", "second"):  # which makes the connection, and which finds it
            VARIABLE.set(mine)
            assert await store._run(store._writers, look) == mine
            assert VARIABLE.get() == mine


async def test_in_a_task_of_asyncio_s_the_default_bridge_names_the_other(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """As in trio's guest mode, of which a program of its own is made above."""
    bridge = make_bridge("trio-asyncio")
    with monkeypatch.context() as patched:
        patched.setattr("_asyncio._get_running_loop", object)
        with pytest.raises(RuntimeError, match="bridge='thread'"):
            await bridge.open()
