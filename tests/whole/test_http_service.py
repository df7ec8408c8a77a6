"""The example of an HTTP service keeps its word: under load, and with what fails at 3 a.m."""

from __future__ import annotations

import http.client
import json
import os
import re
import signal
import subprocess
import sys
import time
from contextlib import asynccontextmanager, suppress
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NamedTuple, cast
from uuid import uuid4

import pytest
import trio

from tests.support.disks import can_mount, fill, small_volume
from tests.support.entries import key_of
from tests.support.http_load import answers
from tests.support.pgserver import run_postgres_server
from tests.support.programs import ROOT
from tests.support.servers import QUIET, postgres, query, run_sql, unused_port
from tests.support.waiting import HANG_SECONDS, until

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

    from tests.support.http_load import Answer
    from tests.support.pgserver import PostgresServer

pytestmark = pytest.mark.heavy

PROGRAM: Final = str(ROOT / "examples" / "http_service.py")
# With limits that suit a test.
IMPATIENT: Final = f"""
import logging, msgspec, sys, trio
sys.path.insert(0, {str(ROOT / "examples")!r})
import http_service
http_service.STORE_SECONDS, http_service.REQUEST_SECONDS = 0.3, 2.0
shorter = msgspec.structs.replace(http_service.OPTIONS, drain_timeout_seconds=0.5)
http_service.OPTIONS = shorter
logging.basicConfig(level=logging.INFO)
trio.run(http_service.main, *sys.argv[1:])
"""
OLD, NEW = key_of("a policy that is invalidated"), key_of("another policy")


class Reply(NamedTuple):
    """What came back."""

    status: int
    body: bytes

    @property
    def json(self) -> Any:  # noqa: ANN401  # whatever was sent
        return json.loads(self.body)


class Service:
    """The service in a process of its own."""

    def __init__(self, process: trio.Process, port: int) -> None:
        self.process = process
        self.port = port
        self.log = ""

    async def ask(self, path: str, method: str = "GET") -> Reply:
        """Ask over a connection of its own."""
        return await trio.to_thread.run_sync(partial(self._ask, path, method))

    def _ask(self, path: str, method: str) -> Reply:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=HANG_SECONDS)
        connection.request(method, path)
        response = connection.getresponse()
        reply = Reply(response.status, response.read())
        connection.close()
        return reply

    async def decide(self, number: int) -> Reply:
        return await self.ask(f"/decision?artifact={key_of(number)}&policy={NEW}")

    async def invalidate(self, policy: str) -> Reply:
        return await self.ask(f"/decisions?policy={policy}", "DELETE")

    async def end(self, signal_number: int = signal.SIGTERM) -> int:
        """Send a signal, and return the status that it ends with."""
        self.process.send_signal(signal_number)
        return await self.process.wait()


@asynccontextmanager
async def running(dsn: str, state: Path, program: Path, *script: str) -> AsyncGenerator[Service]:
    """Run the service for the length of an ``async with``."""
    arguments = [*(script or (PROGRAM,)), dsn, str(state), str(program), "127.0.0.1:0"]
    with trio.fail_after(HANG_SECONDS):
        process = await trio.lowlevel.open_process(
            [sys.executable, "-W", "error", *arguments], stderr=subprocess.PIPE
        )
    stderr = process.stderr
    assert stderr is not None
    try:
        async with trio.open_nursery() as nursery:
            service = Service(process, 0)

            async def listen() -> None:
                async for chunk in stderr:
                    service.log += chunk.decode()

            nursery.start_soon(listen)
            running_on = re.compile(r"Running on http://127.0.0.1:(\d+)")
            await until(lambda: running_on.search(service.log) or process.poll() is not None)
            found = running_on.search(service.log)
            assert found is not None, service.log
            service.port = int(found[1])
            yield service
            nursery.cancel_scope.cancel()
    finally:
        process.kill()
        with trio.move_on_after(10, shield=True):
            await process.wait()
            await stderr.aclose()


@pytest.fixture
def program(tmp_path: Path) -> Path:
    """What decides: it looks first whether a policy was revoked, and takes its time then."""
    path = tmp_path / "verify"
    path.write_text(f'#!/bin/sh\ntest ! -e "{tmp_path}/$2"; status=$?; sleep 0.02; exit $status\n')
    path.chmod(0o700)
    return path


async def stored(dsn: str) -> dict[tuple[str, datetime], bool]:
    """Return whether it was verified, for each decision by its policy and date."""
    rows = await query(
        dsn, "SELECT policy_hash, created_at, trust_score FROM provcache.entries_readable"
    )
    return {(str(policy), cast("datetime", at)): score == 100 for policy, at, score in rows}


def decisions(given: list[Answer]) -> dict[tuple[str, datetime], bool]:
    """Return the same of what was answered."""
    return {(one.policy, datetime.fromisoformat(one.decided_at)): one.verified for one in given}


@asynccontextmanager
async def load(service: Service) -> AsyncGenerator[bytearray]:
    """Ask from another process, until the service hangs up; give what is printed."""
    printed = bytearray()
    command = [sys.executable, "-m", "tests.support.http_load", str(service.port), OLD, NEW]
    async with trio.open_nursery() as nursery:
        process = await trio.lowlevel.open_process(command, stdout=subprocess.PIPE, cwd=ROOT)
        stdout = process.stdout
        assert stdout is not None

        async def listen() -> None:
            async for chunk in stdout:
                printed.extend(chunk)

        nursery.start_soon(listen)
        try:
            yield printed
            with trio.fail_after(HANG_SECONDS):
                assert await process.wait() == 0
        finally:
            process.kill()


async def test_nothing_answered_is_missing_and_nothing_invalidated_is_served(
    tmp_path: Path, program: Path
) -> None:
    dsn = postgres().create_database(str(uuid4()))
    async with running(dsn, tmp_path / "state", program) as service:
        async with load(service) as printed:

            async def some_more() -> None:
                lines = printed.count(b"\n")
                await until(lambda: printed.count(b"\n") > lines + 200)

            await some_more()
            (tmp_path / OLD).touch()  # from now on the program refuses
            reply = await service.invalidate(OLD)
            invalidated_at = time.monotonic()
            assert reply.status == 200, reply
            assert reply.json["deleted"] > 0
            await some_more()
            assert await service.end() == 0
        log = service.log
    given = answers(bytes(printed).splitlines())
    before = [answer for answer in given if answer.began <= invalidated_at]
    after = [answer for answer in given if answer.began > invalidated_at]
    # Nothing invalidated is served ...
    assert any(answer.verified for answer in before if answer.policy == OLD)
    assert {answer.verified for answer in after if answer.policy == OLD} == {False}
    assert {answer.verified for answer in given if answer.policy == NEW} == {True}
    # ... and nothing that was answered is missing.
    found = await stored(dsn)
    kept = decisions([one for one in given if one in after or one.policy == NEW])
    assert len(kept) > 100
    assert {decision: found.get(decision) for decision in kept} == kept
    assert (OLD, True) not in {(policy, verified) for (policy, _), verified in found.items()}
    assert "WARNING" not in log


# What fails at 3 a.m.


@asynccontextmanager
async def frozen(server: PostgresServer) -> AsyncGenerator[None]:
    """Stop the server, which so answers nobody, and sends nobody away."""
    rows = await query(server.dsn, "SELECT pid FROM pg_stat_activity")
    processes = [server.process_id, *(cast("int", pid) for (pid,) in rows)]
    for process in processes:
        with suppress(ProcessLookupError):  # that of the question
            os.kill(process, signal.SIGSTOP)
    try:
        yield
    finally:
        for process in processes:
            with suppress(ProcessLookupError):
                os.kill(process, signal.SIGCONT)


@pytest.mark.stops_processes
async def test_a_database_that_is_away_or_frozen_takes_no_answer_away(
    tmp_path: Path, program: Path
) -> None:
    told = set[tuple[str, datetime]]()

    async def decide(service: Service, number: int) -> None:
        reply = await service.decide(number)
        assert reply.status == 200, reply
        told.add((NEW, datetime.fromisoformat(reply.json["decided_at"])))

    with run_postgres_server(settings=QUIET) as server:
        run = partial(running, server.dsn, tmp_path / "state", program)
        async with run("-c", IMPATIENT) as service:
            # So it has connections.
            await service.ask(f"/decision?artifact={key_of(0)}&policy={OLD}")
            async with frozen(server):
                async with trio.open_nursery() as nursery:
                    for number in range(10):
                        nursery.start_soon(decide, service, number)
                refusal = await service.invalidate(NEW)
                assert refusal == (503, b'{"error":"it took more than 2 s"}')
            await trio.to_thread.run_sync(server.stop, "immediate")
            for number in range(10, 20):
                await decide(service, number)
            assert (await service.ask("/status/livez")).status == 200
            await until(lambda: store_is_away(service))
            journal = trio.Path(tmp_path / "state" / "journal")
            await until(lambda: holds(journal, told))
            assert await service.end(signal.SIGKILL) == -signal.SIGKILL
        await trio.to_thread.run_sync(server.start)
        async with run() as service:
            await until(lambda: replayed(service))
            assert told <= (await stored(server.dsn)).keys()
            assert (await service.invalidate(NEW)).json == {"deleted": 20}
            await is_told_what_needs_a_person(service, server)
            assert await service.end() == 0
        assert {policy for policy, _ in await stored(server.dsn)} == {OLD}


async def is_told_what_needs_a_person(service: Service, server: PostgresServer) -> None:
    """Break the table, which is no reason to say that the database is away."""
    await run_sql(server.dsn, "ALTER TABLE provcache.entries RENAME policy_hash TO policy")
    refusal = await service.invalidate(NEW)
    assert refusal == (503, b'{"error":"the database needs a person"}')
    await run_sql(server.dsn, "ALTER TABLE provcache.entries RENAME policy TO policy_hash")


async def store_is_away(service: Service) -> bool:
    """Whether its readiness says that a write has failed."""
    reply = await service.ask("/status/readyz")
    return reply.status == 503 and b"the store can't be reached" in reply.body


async def metrics(service: Service) -> dict[str, Any]:
    """Return what the status page knows of the queue."""
    (queue,) = (await service.ask("/status/status.json")).json["queues"]
    return cast("dict[str, Any]", queue["metrics"])


async def holds(journal: trio.Path, told: set[tuple[str, datetime]]) -> bool:
    """Whether all that was told has been written to the file."""
    held = await journal.read_bytes()
    return all(at.isoformat().removesuffix("+00:00").encode() in held for _, at in told)


async def durable(service: Service) -> bool:
    """Whether all that waits is in the journal."""
    found = await metrics(service)
    return bool(found["durable"]) and found["oldest_pending_seconds"] > 0.1


async def replayed(service: Service) -> bool:
    """Whether all that the journal held is stored."""
    found = await metrics(service)
    is_read = found["total_recovered"] > 0 and not found["recovering"]
    return is_read and not (found["current_queue_depth"] or found["in_flight"])


@pytest.mark.skipif(not can_mount(), reason="needs leave to mount")
async def test_a_full_disk_of_the_journal_takes_no_answer_away_and_is_reported(
    tmp_path: Path, program: Path
) -> None:
    dsn = f"postgresql://nobody@127.0.0.1:{unused_port()}/nothing"
    with small_volume(tmp_path, kib=1024) as volume:
        async with running(dsn, volume / "state", program, "-c", IMPATIENT) as service:
            fill(volume)
            for number in range(20):
                assert (await service.decide(number)).status == 200
            await until(lambda: "No space left on device" in service.log)
            assert (await metrics(service))["durable"] is False
            (volume / "full").unlink()
            await until(lambda: durable(service))
            # With a database that is away until the drain ends, the journal keeps it all.
            assert await service.end() == 0
            await until(lambda: "20 entries left in the journal" in service.log)


async def test_what_can_not_be_answered_says_why(tmp_path: Path) -> None:
    dsn = f"postgresql://nobody@127.0.0.1:{unused_port()}/nothing"
    async with running(dsn, tmp_path / "state", Path("/bin/sh")) as service:  # finds no script
        assert await service.decide(0) == (502, b'{"error":"the program that decides could not"}')
        reply = await service.ask(f"/decision?artifact={NEW}")
        assert reply == (400, b'{"error":"\'policy\' is missing"}')
        for reply in (
            await service.ask(f"/decision?artifact={NEW}&policy=none"),
            await service.ask("/decisions", "DELETE"),
        ):
            assert reply.status == 400
            assert "policy_hash must be" in reply.json["error"]
        assert await service.end() == 0


async def test_a_program_that_hangs_is_ended_when_nobody_waits_any_more(tmp_path: Path) -> None:
    dsn = f"postgresql://nobody@127.0.0.1:{unused_port()}/nothing"
    hanging = trio.Path(tmp_path / "hanging")
    await hanging.write_text(f'#!/bin/sh\necho $$ > "{tmp_path}/process"\nexec sleep 1000\n')
    await hanging.chmod(0o700)
    async with running(dsn, tmp_path / "state", Path(hanging), "-c", IMPATIENT) as service:
        assert await service.decide(0) == (503, b'{"error":"it took more than 2 s"}')
        process = int(await trio.Path(tmp_path / "process").read_text())

        def is_gone() -> bool:
            try:
                os.kill(process, 0)
            except ProcessLookupError:
                return True
            return False

        await until(is_gone)
        assert await service.end() == 0
