"""Whatever goes wrong, no log record, error, span, metric or representation quotes an entry."""

from __future__ import annotations

import logging
import sqlite3
import traceback
from contextlib import asynccontextmanager, closing, suppress
from typing import TYPE_CHECKING

import msgspec
import pytest
import trio
from prometheus_client import CollectorRegistry, generate_latest

from provcache_trio import (
    DecisionDigest,
    DrainTimeoutError,
    EntryRejectedError,
    ReplaySeed,
    StoreMisconfiguredError,
    StoreUnavailableError,
    TransientStoreError,
    WriteBehindCrashedError,
    WriteBehindOptions,
    open_write_behind_queue,
)
from provcache_trio.postgres import open_postgres_repository
from provcache_trio.prometheus import QueueCollector
from provcache_trio.sqlite import open_sqlite_repository
from provcache_trio.testing import MemoryDeadLetters, MemoryRepository

from tests.support.entries import entry, key_of
from tests.support.sdk import Sdk, sdk
from tests.support.servers import postgres, run_sql, unused_schema

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable, Generator
    from contextlib import AbstractAsyncContextManager
    from pathlib import Path

    from trio.testing import MockClock

    from provcache_trio import ProvcacheEntry, Repository, WriteBehindQueue
    from provcache_trio.postgres import PostgresRepository
    from provcache_trio.sqlite import SQLiteRepository


__all__ = ["sdk"]  # a fixture

SECRET = "s3cr3t"  # noqa: S105  # in texts, messages and a password
HASHES = [key_of(name) for name in ("verdict", "proof", "policy", "signers")]
POISON = 77
OPTIONS = WriteBehindOptions(
    batch_size=4,
    flush_interval_seconds=0.01,
    max_retries=1,
    retry_base_seconds=0.001,
    retry_cap_seconds=0.01,
    drain_timeout_seconds=1,
)


def secret(number: int, hits: int = 0) -> ProvcacheEntry:
    """Return an entry of which nothing but the key may be told."""
    return entry(
        number,
        decision=DecisionDigest(
            verdict_hash=HASHES[0],
            proof_root=HASHES[1],
            replay_seed=ReplaySeed(feed_ids=(SECRET,), rule_ids=(f"rule {SECRET}",)),
            trust_score=1,
        ),
        policy_hash=HASHES[2],
        signer_set_hash=HASHES[3],
        feed_epoch=SECRET,
        hit_count=hits,
    )


class Told(logging.Handler):
    """Everything that was told, as text."""

    def __init__(self) -> None:
        super().__init__(logging.DEBUG)
        self.texts: list[str] = []
        self.setFormatter(logging.Formatter("%(message)s"))

    def emit(self, record: logging.LogRecord) -> None:
        self.texts += [self.format(record), repr(vars(record))]

    def note_error(self, error: BaseException) -> None:
        self.texts += [repr(error), str(error), *traceback.format_exception(error)]
        # What the caller gets back, is the caller's.
        self.texts.append(repr({k: v for k, v in vars(error).items() if k != "undelivered"}))

    def note_queue(self, queue: WriteBehindQueue[ProvcacheEntry]) -> None:
        registry = CollectorRegistry()
        registry.register(QueueCollector(queue))
        self.texts += [repr(queue), generate_latest(registry).decode()]
        self.texts.append(msgspec.json.encode(queue.metrics()).decode())

    def note_sdk(self, exported: Sdk) -> None:
        self.texts += [span.to_json() for span in exported.exporter.get_finished_spans()]
        data = exported.reader.get_metrics_data()
        assert data is not None
        self.texts.append(data.to_json())

    def check(self) -> None:
        text = "\n".join(self.texts)
        for unwanted in (SECRET, *(one.removeprefix("sha256:")[:40] for one in HASHES)):
            assert unwanted not in text


@pytest.fixture
def told() -> Generator[Told]:
    told = Told()
    logger = logging.getLogger("provcache_trio")
    logger.addHandler(told)
    logger.setLevel(logging.DEBUG)
    yield told
    # Not by monkeypatch: loggers remember what they let through, until this is called.
    logger.setLevel(logging.NOTSET)
    logger.removeHandler(told)


class Crash(BaseException):
    """Nothing that anybody handles."""


ERRORS: list[BaseException] = [
    StoreUnavailableError(SECRET),
    StoreMisconfiguredError(SECRET),
    TransientStoreError(SECRET),
    KeyError(secret(0)),
    ExceptionGroup(SECRET, [ValueError(SECRET), OSError(SECRET)]),
    EntryRejectedError(SECRET, index=0),
    Crash(secret(0)),
]


@pytest.mark.one_lane
async def test_nothing_that_a_repository_or_a_sink_raises_is_quoted(
    sdk: Sdk, told: Told, autojump_clock: MockClock
) -> None:
    for error in ERRORS:
        store, sink = MemoryRepository["ProvcacheEntry"](), MemoryDeadLetters["ProvcacheEntry"]()
        for stand_in in (store, sink):
            stand_in.fail_next(error, times=2)
        store.reject(key_of(3))
        # A letter that the sink will never take is handed back.
        with suppress(DrainTimeoutError):
            async with open_write_behind_queue(
                store, OPTIONS, dead_letters=sink, telemetry=sdk.telemetry
            ) as queue:
                await queue.enqueue_many(map(secret, range(6)))
                await trio.sleep(60)
                told.note_queue(queue)
    told.note_sdk(sdk)
    text = "\n".join(told.texts)
    assert all(type(error).__name__ in text for error in ERRORS[:4])
    assert "crashed" in text
    told.check()


@pytest.mark.one_lane
async def test_what_ends_a_queue_quotes_nothing(
    sdk: Sdk, told: Told, autojump_clock: MockClock
) -> None:
    for error in (StoreUnavailableError(SECRET), Crash(SECRET)):
        store = MemoryRepository["ProvcacheEntry"]()
        store.fail_next(error, times=1000)
        with pytest.raises((DrainTimeoutError, WriteBehindCrashedError)) as caught:
            async with open_write_behind_queue(store, OPTIONS, telemetry=sdk.telemetry) as queue:
                await queue.enqueue_many(map(secret, range(6)))
                await trio.sleep(1 if isinstance(error, Exception) else 60)
        caught.value.__cause__ = None  # the crash itself, as its class
        told.note_error(caught.value)
        told.note_queue(queue)
    told.note_sdk(sdk)
    told.check()


@asynccontextmanager
async def sqlite_that_refuses(tmp_path: Path) -> AsyncGenerator[SQLiteRepository]:
    path = tmp_path / "cache.db"
    async with open_sqlite_repository(path) as store:
        await store.check()
        with closing(sqlite3.connect(path)) as connection:
            connection.execute(
                "CREATE TRIGGER refuse BEFORE INSERT ON provcache_entries"
                f" WHEN NEW.hit_count = {POISON}"
                f" BEGIN SELECT RAISE(ABORT, 'not {SECRET}'); END"
            )
        yield store


@asynccontextmanager
async def postgres_that_refuses(_: Path) -> AsyncGenerator[PostgresRepository]:
    schema = unused_schema()
    async with open_postgres_repository(postgres().dsn, schema=schema, create=True) as store:
        await store.check()
        name = schema.replace('"', '""')
        await run_sql(
            postgres().dsn,
            f'ALTER TABLE "{name}".entries ADD CONSTRAINT few CHECK (hit_count <> {POISON})',
        )
        yield store


@pytest.mark.whole_process
@pytest.mark.parametrize("opener", [sqlite_that_refuses, postgres_that_refuses])
async def test_nothing_that_a_database_reports_is_quoted(
    opener: Callable[[Path], AbstractAsyncContextManager[Repository[ProvcacheEntry]]],
    sdk: Sdk,
    told: Told,
    tmp_path: Path,
) -> None:
    async with opener(tmp_path) as store:
        async with open_write_behind_queue(store, OPTIONS, telemetry=sdk.telemetry) as queue:
            await queue.enqueue_many(map(secret, range(3)))
            with pytest.raises(EntryRejectedError) as caught:
                await queue.persist(secret(4, POISON))
            told.note_error(caught.value)
            told.note_queue(queue)
        with pytest.raises(EntryRejectedError) as caught:
            await store.upsert_many([secret(4, POISON)])
        told.note_error(caught.value)
    told.note_sdk(sdk)
    assert "dead-lettered" in "\n".join(told.texts)
    told.check()


async def test_a_password_is_told_nowhere(sdk: Sdk, told: Told) -> None:
    # Nobody listens there; and there, the name is refused.
    for place in ("127.0.0.1:1", "nowhere.invalid"):
        async with open_postgres_repository(f"postgresql://u:{SECRET}@{place}/db") as store:
            told.texts.append(repr(store))
            with pytest.raises(DrainTimeoutError) as caught:
                async with open_write_behind_queue(
                    store, OPTIONS, telemetry=sdk.telemetry
                ) as queue:
                    await queue.enqueue(secret(0))
            told.note_error(caught.value)
            told.note_queue(queue)
            with pytest.raises(StoreUnavailableError) as refused:
                await store.check()
            told.note_error(refused.value)
    told.note_sdk(sdk)
    told.check()
