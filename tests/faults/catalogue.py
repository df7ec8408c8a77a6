"""The faults: each is made, and mended.

``python -m pytest tests/test_faults.py -k NAME`` goes through one. docs/operating/faults.md tells what each
looks like to an application and to its operator.
"""

from __future__ import annotations

import os
import signal
import socket
import threading
from contextlib import asynccontextmanager, suppress
from datetime import timedelta
from typing import TYPE_CHECKING, Final, NamedTuple, Protocol
from unittest.mock import patch

import asyncpg
import trio

from provcache_trio._pgserver.binaries import PostgresServerError

from tests.faults.proxy import Do, Said
from tests.faults.site import POISON, REWRITTEN, SECRET, UNANSWERED
from tests.support.bridges import Client
from tests.support.entries import key_of

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable, Mapping
    from contextlib import AbstractAsyncContextManager
    from pathlib import Path

    from provcache_trio import WriteBehindMetrics

    from tests.faults.site import Site

# What a broken connection may be called, by asyncpg or by asyncio below it.
BROKEN: Final = frozenset(
    {"ConnectionDoesNotExistError", "ConnectionResetError", "InterfaceError", "08003", "08006"}
    | {"InternalClientError", "ConnectionError", "BrokenPipeError", "ConnectionRefusedError"}
)
BUSY: Final = frozenset({"55P03", "57014"})
SILENT: Final = frozenset({"TimeoutError"})


class Make(Protocol):
    """Makes a fault, and mends it at the end of the block."""

    __name__: str

    def __call__(self, site: Site, /) -> AbstractAsyncContextManager[None]: ...


class Fault(NamedTuple):
    """A fault, and what a queue has to say of it.

    Attributes:
        name: what it is.
        make: makes it, and at the end of the block mends it.
        told: SQLSTATEs, and classes where there is none, of which ``last_error`` has to tell one.
        errors: those that it may tell.
        state: the state that it puts a queue in; None if the queue goes on.
        logged: how the log line begins that tells of it.
        effect: the counter of ``metrics()`` that it raises, if it puts a queue in no state.
        least: to what it raises it, before it is felt.
        lasts_seconds: how long it lasts after it was felt.
        most_letters: dead letters of good entries that there may be.
        poison: the share of entries that are to be refused.
        settings: of the queue's sessions.
        host: by what name the queue knows the server; for a name, it is our process that has
            the fault.
        line: it is about the connection, so each bridge has to go through it.
        by_proxy: the proxy alone makes it.
        alone: it needs a server of its own, set up for it.
    """

    name: str
    make: Make
    told: frozenset[str]
    errors: frozenset[str]
    state: str | None
    logged: str
    effect: str | None
    least: int
    lasts_seconds: float
    most_letters: int
    poison: float
    settings: Mapping[str, str] | None
    host: str
    line: bool
    by_proxy: bool
    alone: bool

    def is_felt(self, metrics: WriteBehindMetrics) -> bool:
        """Tell whether ``metrics`` shows the fault."""
        if self.state is not None:
            return metrics.state == self.state
        return self.effect is None or getattr(metrics, self.effect) >= self.least


ALL: Final[dict[str, Fault]] = {}


def fault(
    *told: str,
    allowed: frozenset[str] = frozenset(),
    state: str | None = "waiting",
    logged: str = "store lost",
    effect: str | None = None,
    least: int = 20,
    lasts_seconds: float = 0.3,
    most_letters: int = 0,
    poison: float = 0,
    settings: Mapping[str, str] | None = None,
    host: str = "127.0.0.1",
    line: bool = False,
    by_proxy: bool = False,
    alone: bool = False,
) -> Callable[[Make], Fault]:
    """Add the decorated function, an asynccontextmanager, to ``ALL``; see ``Fault``."""

    def add(make: Make) -> Fault:
        ALL[make.__name__] = one = Fault(
            name=make.__name__,
            make=make,
            told=frozenset(told),
            errors=allowed.union(told),
            state=None if effect else state,
            logged=logged,
            effect=effect,
            least=least,
            lasts_seconds=lasts_seconds,
            most_letters=most_letters,
            poison=poison,
            settings=settings,
            host=host,
            line=line,
            by_proxy=by_proxy,
            alone=alone,
        )
        return one

    return add


# The line


@fault(allowed=BROKEN | SILENT, line=True, by_proxy=True)
@asynccontextmanager
async def the_server_refuses_connections(site: Site) -> AsyncGenerator[None]:
    site.proxy.refuse()
    yield
    await site.proxy.heal()


@fault(allowed=BROKEN, line=True, by_proxy=True)
@asynccontextmanager
async def connections_are_reset_in_the_middle_of_a_batch(site: Site) -> AsyncGenerator[None]:
    site.proxy.when(Said.BATCH, Do.PART)
    yield
    await site.proxy.heal()


@fault(allowed=BROKEN, effect="total_unchanged", line=True, by_proxy=True)
@asynccontextmanager
async def a_batch_is_stored_and_the_reply_is_lost(site: Site) -> AsyncGenerator[None]:
    site.proxy.when(Said.STORED, Do.RESET)
    yield
    await site.proxy.heal()


@fault(allowed=SILENT | BROKEN, line=True, by_proxy=True)
@asynccontextmanager
async def new_connections_are_not_answered(site: Site) -> AsyncGenerator[None]:
    site.proxy.when(Said.CONNECT, Do.HOLD)
    site.proxy.cut()
    yield
    await site.proxy.heal()


@fault(allowed=SILENT, line=True, by_proxy=True)
@asynccontextmanager
async def the_network_swallows_everything(site: Site) -> AsyncGenerator[None]:
    site.proxy.silence()
    yield
    await site.proxy.heal()


@fault(allowed=SILENT, line=True, by_proxy=True)
@asynccontextmanager
async def a_batch_and_its_cancellation_are_swallowed(site: Site) -> AsyncGenerator[None]:
    site.proxy.when(Said.BATCH, Do.HOLD)
    site.proxy.when(Said.CANCEL, Do.HOLD)
    await site.proxy.happened()
    site.proxy.silence()
    yield
    await site.proxy.heal()


@fault(allowed=SILENT, line=True, by_proxy=True)
@asynccontextmanager
async def goodbyes_are_swallowed(site: Site) -> AsyncGenerator[None]:
    site.proxy.when(Said.BATCH, Do.HOLD, times=3)
    site.proxy.when(Said.CLOSE, Do.HOLD)
    yield
    await site.proxy.heal()


@fault(allowed=SILENT, effect="total_retries", least=1, lasts_seconds=1, line=True, by_proxy=True)
@asynccontextmanager
async def requests_arrive_after_their_retries(site: Site) -> AsyncGenerator[None]:
    site.proxy.when(Said.BATCH, Do.HOLD, times=2)
    yield
    await site.proxy.heal()


@fault(state=None, lasts_seconds=1, line=True, by_proxy=True)
@asynccontextmanager
async def the_line_is_slow(site: Site) -> AsyncGenerator[None]:
    site.proxy.delay_seconds = 0.03
    site.proxy.bytes_per_second = 100_000
    yield
    await site.proxy.heal()


@fault(allowed=SILENT | BROKEN, host="localhost", line=True, by_proxy=True)
@asynccontextmanager
async def the_name_server_does_not_answer(site: Site) -> AsyncGenerator[None]:  # noqa: ASYNC124
    let = threading.Event()
    known = socket.getaddrinfo

    def stuck(host: str | None, *arguments: int, **options: int) -> object:
        if host == "localhost":
            let.wait()
        return known(host, *arguments, **options)

    with patch("socket.getaddrinfo", stuck):
        site.proxy.cut()
        yield
        let.set()


# Sessions


@fault(allowed=BROKEN | {"57P01"}, effect="total_retries", lasts_seconds=0.5, line=True)
@asynccontextmanager
async def busy_sessions_are_terminated(site: Site) -> AsyncGenerator[None]:
    async with trio.open_nursery() as nursery:
        nursery.start_soon(_terminate_again_and_again, site)
        yield
        nursery.cancel_scope.cancel()


async def _terminate_again_and_again(site: Site) -> None:
    while True:
        await site.end_connections()


@fault(allowed=SILENT | BUSY, lasts_seconds=0.8, line=True)
@asynccontextmanager
async def a_session_s_process_is_stopped(site: Site) -> AsyncGenerator[None]:
    stopped: list[int] = []
    for process in await site.processes():
        # In a storm another fault may have ended it by now.
        with suppress(ProcessLookupError):
            os.kill(process, signal.SIGSTOP)
            stopped.append(process)
    yield
    for process in stopped:
        with suppress(ProcessLookupError):
            os.kill(process, signal.SIGCONT)


@fault("53300", allowed=BROKEN | {"57P01"})
@asynccontextmanager
async def every_connection_is_taken(site: Site) -> AsyncGenerator[None]:
    await site.execute(f"ALTER ROLE {site.role} CONNECTION LIMIT 0")
    await site.end_connections()
    yield
    await site.execute(f"ALTER ROLE {site.role} CONNECTION LIMIT -1")


# The server


@fault(allowed=BROKEN | {"57P01", "57P02", "57P03"}, line=True)
@asynccontextmanager
async def the_server_crashes_and_restarts(site: Site) -> AsyncGenerator[None]:
    await trio.to_thread.run_sync(site.server.stop, "immediate")
    yield
    await trio.to_thread.run_sync(site.server.start)


@fault("25006")
@asynccontextmanager
async def the_server_is_read_only(site: Site) -> AsyncGenerator[None]:
    await site.execute("ALTER SYSTEM SET default_transaction_read_only = on")
    await site.execute("SELECT pg_reload_conf()")
    yield
    # By a session that is let write itself.
    await site.execute("SET default_transaction_read_only = off")
    async with Client(site.admin) as admin:
        await admin.execute("SET default_transaction_read_only = off")
        await admin.execute("ALTER SYSTEM RESET default_transaction_read_only")
        await admin.execute("SELECT pg_reload_conf()")


@fault("25006", allowed=BROKEN | SILENT | {"57P01", "57P02", "57P03"}, alone=True)
@asynccontextmanager
async def a_standby_takes_over(site: Site) -> AsyncGenerator[None]:
    standby = site.standby
    assert standby is not None
    site.proxy.aim_at(standby.host, standby.port)
    site.proxy.cut()
    yield
    await trio.to_thread.run_sync(site.server.stop, "immediate")
    site.server = standby
    await site.fetch("SELECT pg_promote()")


@fault("53100", allowed=BROKEN | {"57P01", "57P02", "57P03", "58030"}, alone=True)
@asynccontextmanager
async def the_disk_is_full(site: Site) -> AsyncGenerator[None]:
    filler = site.server.data_directory.parent / "filler"
    await trio.to_thread.run_sync(_fill, filler)
    yield
    filler.unlink()
    # Without room for its log of transactions it ends itself.
    with suppress(PostgresServerError):
        await trio.to_thread.run_sync(site.server.start)


def _fill(path: Path) -> None:
    with path.open("wb", buffering=0) as file, suppress(OSError):
        while True:
            file.write(bytes(4096))


@fault(state=None)
@asynccontextmanager
async def the_clock_is_set_back(site: Site) -> AsyncGenerator[None]:  # noqa: ASYNC124
    site.clock_is_behind = timedelta(hours=1)
    yield
    site.clock_is_behind = timedelta()


# Locks and conflicts


@fault(*BUSY, lasts_seconds=1)
@asynccontextmanager
async def somebody_holds_rows_for_longer_than_every_timeout(site: Site) -> AsyncGenerator[None]:
    async with Client(site.admin) as holder:
        # In the order of the writers: otherwise one of them might wait for this, and this for it.
        await holder.execute(f"BEGIN; SELECT FROM {site.table} ORDER BY veri_key FOR UPDATE")
        yield


@fault("40P01", allowed=BUSY, effect="total_retries", lasts_seconds=0)
@asynccontextmanager
async def somebody_locks_in_another_order(site: Site) -> AsyncGenerator[None]:
    async with Client(site.admin) as other, trio.open_nursery() as nursery:
        nursery.start_soon(_deadlock_again_and_again, site, other)
        yield
        nursery.cancel_scope.cancel()


async def _deadlock_again_and_again(site: Site, other: Client) -> None:
    last = site.stored_key(max(key_of(number) for number in range(REWRITTEN)))
    await other.execute("SET deadlock_timeout = '1h'")  # so it is the queue's that is the victim
    while True:
        await other.fetch("BEGIN")
        await other.fetch(f"SELECT FROM {site.table} WHERE veri_key = $1 FOR UPDATE", last)
        with trio.move_on_after(0.2):
            while not await _somebody_waits(site):
                pass
        with suppress(*UNANSWERED):
            await other.fetch(
                f"SELECT FROM {site.table} WHERE veri_key < $1 ORDER BY veri_key FOR UPDATE", last
            )
        await other.fetch("ROLLBACK")


async def _somebody_waits(site: Site) -> bool:
    [(number,)] = await site.fetch(
        f"SELECT count(*) FROM pg_stat_activity WHERE usename = '{site.role}'"
        " AND wait_event_type = 'Lock'"
    )
    return number != 0


@fault(
    "40001",
    allowed=BUSY,
    effect="total_retries",
    lasts_seconds=0,
    settings={"default_transaction_isolation": "repeatable read"},
)
@asynccontextmanager
async def somebody_writes_what_a_transaction_has_read(site: Site) -> AsyncGenerator[None]:
    async with Client(site.admin) as other, trio.open_nursery() as nursery:
        nursery.start_soon(_touch_again_and_again, site, other)
        yield
        nursery.cancel_scope.cancel()


async def _touch_again_and_again(site: Site, other: Client) -> None:
    while True:
        await other.fetch("BEGIN")
        # Of two that wait for each other's rows, the server may choose this one as well.
        with suppress(asyncpg.DeadlockDetectedError):
            await other.fetch(f"UPDATE {site.table} SET policy_hash = policy_hash")
            with trio.move_on_after(0.2):
                while not await _somebody_waits(site):
                    pass
        await other.fetch("COMMIT")


# Somebody's mistakes


MISCONFIGURED: Final = "store misconfigured"
MISFIT: Final = "StoreMisconfiguredError"  # what a table of the user's own is found to be, by us


@fault("42P01", MISFIT, logged=MISCONFIGURED)
@asynccontextmanager
async def the_table_is_gone(site: Site) -> AsyncGenerator[None]:
    await site.execute(f"ALTER TABLE {site.table} RENAME TO elsewhere")
    yield
    await site.execute(f"ALTER TABLE {site.schema}.elsewhere RENAME TO entries")


@fault("42501", logged=MISCONFIGURED)
@asynccontextmanager
async def a_grant_is_taken_away(site: Site) -> AsyncGenerator[None]:
    await site.execute(f"REVOKE INSERT ON {site.table} FROM {site.role}")
    yield
    await site.execute(f"GRANT INSERT ON {site.table} TO {site.role}")


@fault("28P01", allowed=BROKEN | {"57P01"}, logged=MISCONFIGURED)
@asynccontextmanager
async def the_password_is_wrong(site: Site) -> AsyncGenerator[None]:
    await site.execute(f"ALTER ROLE {site.role} PASSWORD 'other'")
    await site.end_connections()
    yield
    await site.execute(f"ALTER ROLE {site.role} PASSWORD '{SECRET}'")


@fault(state=None, lasts_seconds=0.3)
@asynccontextmanager
async def the_table_is_altered(site: Site) -> AsyncGenerator[None]:
    await site.execute(f"ALTER TABLE {site.table} ADD COLUMN note text")
    await site.execute(f"ALTER TABLE {site.table} ADD COLUMN number int NOT NULL DEFAULT 7")
    yield
    await site.execute(f"ALTER TABLE {site.table} DROP COLUMN note, DROP COLUMN number")
    await site.execute(f"DROP INDEX IF EXISTS {site.schema}.entries_by_expiry")
    await site.execute(f"VACUUM FULL {site.table}")


@fault("42703", MISFIT, logged=MISCONFIGURED)
@asynccontextmanager
async def a_column_is_renamed(site: Site) -> AsyncGenerator[None]:
    await site.execute(f"ALTER TABLE {site.table} RENAME COLUMN policy_hash TO policy")
    yield
    await site.execute(f"ALTER TABLE {site.table} RENAME COLUMN policy TO policy_hash")


# Entries that are refused


@fault("23514", effect="total_failed", poison=0.1)
@asynccontextmanager
async def a_constraint_refuses_many_rows(site: Site) -> AsyncGenerator[None]:
    await site.execute(f"ALTER TABLE {site.table} ADD CHECK (hit_count <> {POISON}) NOT VALID")
    yield


@fault("P0001", effect="total_failed", poison=0.05)
@asynccontextmanager
async def a_trigger_refuses_rows_and_does_not_say_which(site: Site) -> AsyncGenerator[None]:
    await site.execute(
        f"CREATE FUNCTION {site.schema}.refuse() RETURNS trigger LANGUAGE plpgsql AS $$"
        f" BEGIN RAISE 'not this: %', NEW; END $$;"
        f" CREATE TRIGGER refuse BEFORE INSERT ON {site.table} FOR EACH ROW"
        f" WHEN (NEW.hit_count = {POISON}) EXECUTE FUNCTION {site.schema}.refuse()"
    )
    yield


@fault("23514", logged=MISCONFIGURED, lasts_seconds=0.6, most_letters=19)
@asynccontextmanager
async def every_row_is_refused(site: Site) -> AsyncGenerator[None]:
    await site.execute(
        f"ALTER TABLE {site.table} ADD CONSTRAINT none CHECK (hit_count < 0) NOT VALID"
    )
    yield
    await site.execute(f"ALTER TABLE {site.table} DROP CONSTRAINT none")


FAULTS: Final = {name: one for name, one in ALL.items() if not one.alone}
