"""One service, driven through everything that happens, as all who watch it see it.

On a real PostgreSQL that is stopped and started: the log, ``metrics()``, the status endpoint,
Prometheus, OpenTelemetry and ``provcache top`` are asked at each stage.
"""

from __future__ import annotations

import json
import logging
import sys
import urllib.error
import urllib.request
from typing import TYPE_CHECKING, Any

import pytest
import trio
from opentelemetry.trace import StatusCode

from provcache_trio import WriteBehindOptions, open_write_behind_queue
from provcache_trio.dead_letters import open_dead_letters
from provcache_trio.postgres import open_postgres_repository
from provcache_trio.status import open_status_server

from tests.support.entries import entry, key_of
from tests.support.pgserver import run_postgres_server
from tests.support.sdk import Sdk, sdk
from tests.support.servers import run_sql
from tests.support.waiting import HANG_SECONDS, until

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from opentelemetry.sdk.trace import ReadableSpan

    from provcache_trio import ProvcacheEntry, WriteBehindQueue
    from provcache_trio.status import StatusServer


__all__ = ["sdk"]  # a fixture

POISON = 77
OPTIONS = WriteBehindOptions(
    flush_interval_seconds=0.05,
    retry_base_seconds=0.05,
    retry_cap_seconds=0.2,
    drain_timeout_seconds=HANG_SECONDS,
)


class Seen:
    """What all who watch one queue see of it."""

    def __init__(
        self,
        queue: WriteBehindQueue[ProvcacheEntry],
        server: StatusServer,
        log: pytest.LogCaptureFixture,
        exported: Sdk,
    ) -> None:
        self.queue = queue
        self._url = server.url
        self._log = log
        self._sdk = exported

    async def get(self, path: str) -> tuple[int, str]:
        url = self._url + path

        def fetch() -> tuple[int, str]:
            try:
                with urllib.request.urlopen(url) as answer:  # noqa: S310  # our own
                    return answer.status, answer.read().decode()
            except urllib.error.HTTPError as error:
                return error.code, error.read().decode()

        return await trio.to_thread.run_sync(fetch)

    async def top(self) -> tuple[int, str]:
        command = [sys.executable, "-m", "provcache_trio", "top", self._url, "--once"]
        done = await trio.run_process(
            command, capture_stdout=True, capture_stderr=True, check=False
        )
        assert done.stderr == b""
        return done.returncode, done.stdout.decode()

    def logged(self) -> list[str]:
        """Return what was logged since the last time, from info on."""
        told = [one.getMessage() for one in self._log.records if one.levelno > logging.DEBUG]
        self._log.clear()
        return [message.removeprefix("decisions: ") for message in told]

    def last_span(self) -> ReadableSpan:
        return self._sdk.flushes()[-1]

    async def agree_on(self, state: str, *, ready: bool) -> dict[str, Any]:
        """Check that everybody sees the queue in ``state``, and return its status."""
        await until(lambda: self.queue.metrics().state == state)
        assert (await self.get("livez"))[0] == 200
        code, why = await self.get("readyz")
        assert (code == 200) == ready, why
        status: dict[str, Any]
        [status] = json.loads((await self.get("status.json"))[1])["queues"]
        assert (status["state"], status["ready"]) == (state, ready)
        _, scraped = await self.get("metrics")
        assert f'provcache_write_behind_state{{queue="decisions",state="{state}"}} 1.0' in scraped
        points = self._sdk.points("provcache.write_behind.state")
        assert points["decisions", state].value == 1
        code, shown = await self.top()
        assert (code == 0) == ready
        assert state in shown.lower() or status["summary"] in shown
        return status


async def healthy(seen: Seen) -> None:
    await seen.queue.persist(entry("first"))
    status = await seen.agree_on("running", ready=True)
    assert status["metrics"]["total_persisted"] == 1
    assert status["metrics"]["last_error"] is None
    started, *others = seen.logged()
    assert started.startswith("started: ")
    assert others == []
    assert seen.last_span().status.status_code is StatusCode.UNSET


async def down(seen: Seen, stop: Callable[[], None]) -> None:
    await trio.to_thread.run_sync(stop)
    await seen.queue.enqueue_many([entry(number) for number in range(3)])
    status = await seen.agree_on("waiting", ready=False)
    assert "3 entries wait for it" in status["summary"]
    assert status["metrics"]["in_flight"] == 3
    assert status["metrics"]["last_error"]["at"]
    # It is tried again, of which the log tells nothing.
    await until(lambda: seen.queue.metrics().total_retries > 3)
    [lost] = seen.logged()
    assert lost.startswith("store lost, entries are kept until it works: ")


async def back(seen: Seen, start: Callable[[], None]) -> None:
    await trio.to_thread.run_sync(start)
    with trio.fail_after(HANG_SECONDS):
        await seen.queue.flush()
    status = await seen.agree_on("running", ready=True)
    assert status["metrics"]["total_persisted"] == 4
    [found] = seen.logged()
    assert found.startswith("store found again")
    outage = seen.last_span()
    assert outage.status.status_code is StatusCode.UNSET
    assert {event.name for event in outage.events} == {"call failed"}


async def poison(seen: Seen) -> None:
    batch = [entry("good"), entry("bad", hit_count=POISON), entry("fine")]
    await seen.queue.enqueue_many(batch)
    await seen.queue.flush()
    status = await seen.agree_on("running", ready=True)
    assert status["metrics"]["total_failed"] == 1
    assert status["metrics"]["total_persisted"] == 6
    assert status["metrics"]["last_error"]["sqlstate"] == "23514"
    [letter] = seen.logged()
    assert (
        letter
        == f"entry dead-lettered: {key_of('bad')} (CheckViolationError, SQLSTATE 23514, constraint few)"
    )
    assert seen.last_span().status.description == "CheckViolationError 23514"
    _, scraped = await seen.get("metrics")
    assert 'provcache_write_behind_failed_total{queue="decisions"} 1.0' in scraped


async def draining(seen: Seen, start: Callable[[], None]) -> None:
    status = await seen.agree_on("draining", ready=False)
    assert status["summary"] == "No more entries are accepted; 1 entry is left to write."
    await trio.to_thread.run_sync(start)


@pytest.mark.heavy
async def test_whatever_happens_to_a_service_is_seen_rightly_and_at_once_by_all_who_watch(
    sdk: Sdk, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG, "provcache_trio")
    with run_postgres_server(settings={"fsync": "off"}) as postgres:
        async with (
            open_status_server() as server,
            open_postgres_repository(
                postgres.dsn, create=True, connect_timeout_seconds=1, command_timeout_seconds=2
            ) as store,
            open_dead_letters(tmp_path / "letters" / "letters.db") as letters,
            trio.open_nursery() as watchers,
        ):
            await store.check()
            await run_sql(
                postgres.dsn,
                f"ALTER TABLE provcache.entries ADD CONSTRAINT few CHECK (hit_count <> {POISON})",
            )
            async with open_write_behind_queue(
                store,
                OPTIONS,
                name="decisions",
                dead_letters=letters,
                telemetry=sdk.telemetry,
            ) as queue:
                server.app.add(queue)
                seen = Seen(queue, server, caplog, sdk)
                await healthy(seen)
                await down(seen, postgres.stop)
                await back(seen, postgres.start)
                await poison(seen)
                assert await letters.count() == 1
                await trio.to_thread.run_sync(postgres.stop)
                await queue.enqueue(entry("last"))
                await seen.agree_on("waiting", ready=False)
                seen.logged()
                # The block is left while the store is away, which comes back in time.
                watchers.start_soon(draining, seen, postgres.start)
            assert queue.undelivered == ()
            assert await store.get_many([key_of("last")]) == {key_of("last"): entry("last")}
            found, *end = seen.logged()
            assert found.startswith("store found again")
            assert [line.partition(":")[0] for line in end] == ["drained", "stopped"]
            assert json.loads((await seen.get("status.json"))[1])["queues"][0]["state"] == "closed"
