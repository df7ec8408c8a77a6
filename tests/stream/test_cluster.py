"""Three real servers, producers and relays in processes of their own, and what may befall them.

Each fault alone, then several mixed by seed. When all is over the stream must be empty, everything that
a producer was told is persisted must be in the store or in the letters, and no key went back.
"""

from __future__ import annotations

import json
import random
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from contextlib import ExitStack, closing, contextmanager, suppress
from functools import partial
from typing import TYPE_CHECKING, Any, Final

import asyncpg
import msgspec
import pytest
import trio

from provcache_trio import (
    DecisionDigest,
    ReplaySeed,
    StoreMisconfiguredError,
    StoreUnavailableError,
)
from provcache_trio.nats import create_stream, open_relay, open_stream_repository
from provcache_trio.postgres import open_postgres_repository
from provcache_trio.sqlite import open_sqlite_repository
from provcache_trio.testing import MemoryRepository

from tests.support.entries import by_key, entry
from tests.support.nats import (
    BETWEEN_LOOKS,
    LOOK_SECONDS,
    MEGABYTE,
    nats_cluster,
    run_cluster,
    stream_detail,
    unused_stream,
)
from tests.support.pgserver import run_postgres_server
from tests.support.servers import QUIET
from tests.support.streaming import (
    BAD,
    DECISION,
    Found,
    Program,
    check,
    entry as sent_entry,
    read_letters,
    read_postgres,
    read_store,
)
from tests.support.streams import request
from tests.support.waiting import until, wait_until

if TYPE_CHECKING:
    from collections.abc import Generator
    from pathlib import Path

    from provcache_trio import ProvcacheEntry
    from provcache_trio.nats import StreamRepository

    from tests.support.guards import Guard
    from tests.support.nats import Cluster, NatsServer
    from tests.support.pgserver import PostgresServer

pytestmark = [pytest.mark.heavy, pytest.mark.stops_processes]

BEFORE: Final = 200  # acknowledged before the fault, and again after it
LARGE: Final = 9  # the number of an entry that is large; no producer has it
NEEDS_A_PERSON: Final = "until a person mends it"
REFUSED: Final = "access was refused"
NO_TRUST: Final = "no TLS that both sides trust"


@pytest.fixture(autouse=True)
def trusted(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have the programs, and what is run in this process, trust the cluster."""
    monkeypatch.setenv("SSL_CERT_FILE", str(nats_cluster().trust))


async def create(cluster: Cluster, stream: str, **settings: Any) -> None:  # noqa: ANN401  # of ``create_stream``
    """Make a stream, once the servers know that those which a test restarted are back."""

    async def is_made() -> bool:
        try:
            await create_stream(cluster.url, stream, **settings)
        except StoreMisconfiguredError:
            raise
        except StoreUnavailableError:
            return False
        return True

    await until(is_made)


class Site:
    """A cluster, a stream, a store, producers and relays."""

    def __init__(
        self,
        cluster: Cluster,
        folder: Path,
        *,
        max_bytes: int = 64 * MEGABYTE,
        postgres: PostgresServer | None = None,
    ) -> None:
        self.cluster = cluster
        self.folder = folder
        self.postgres = postgres  # the store, instead of a file
        self.stream = unused_stream()
        self.store = folder / "store.db"
        self.letters: list[Path] = []
        self.ours: list[tuple[int, int]] = []  # what we have sent ourselves
        self.producers: list[Program] = []
        self.relays: list[Program] = []
        self.running: list[Program] = []
        self._watching = True
        self._went_back: list[str] = []
        trio.run(self._prepare, max_bytes)

    async def _prepare(self, max_bytes: int) -> None:
        await create(self.cluster, self.stream, max_bytes=max_bytes, ack_wait_seconds=5)
        async with (
            open_sqlite_repository(self.store)
            if self.postgres is None
            else open_postgres_repository(self.postgres.dsn, create=True)
        ) as store:
            await store.check()

    def produce(self, url: str | None = None) -> Program:
        first = 1000 + 10_000_000 * len(self.producers)
        return self._run(self.producers, "produce", url or self.cluster.url, self.stream, first)

    def relay(self) -> Program:
        self.letters.append(self.folder / f"letters {len(self.letters)}.db")
        letters = self.letters[-1]
        store = self.store if self.postgres is None else self.postgres.dsn
        program = self._run(self.relays, "relay", self.cluster.url, self.stream, store, letters)
        wait_until(lambda: program.count("r"))
        return program

    def _run(self, those: list[Program], *arguments: object) -> Program:
        program = Program(self.folder, *arguments)
        those.append(program)
        self.running.append(program)
        return program

    def end(self, program: Program, number: signal.Signals = signal.SIGTERM) -> None:
        self.running.remove(program)
        program.end(number)

    def leader(self) -> NatsServer:
        return self.cluster.leader(self.stream)

    def acknowledged(self) -> list[tuple[int, int]]:
        return self.ours + [one for program in self.producers for one in program.said("a")]

    def count(self) -> int:
        """Return how many were acknowledged."""
        return sum(program.count("a") for program in self.producers)

    def until_more(self) -> None:
        """Wait until much was acknowledged that was not yet."""
        enough = self.count() + BEFORE
        wait_until(lambda: self.count() >= enough)

    def is_empty(self) -> bool:
        details = [
            stream_detail(server, self.stream, LOOK_SECONDS) for server in self.cluster.servers
        ]
        return all(detail is not None and not detail["state"]["messages"] for detail in details)

    def refuse_some(self) -> None:
        """Have the store refuse every so many-th key."""
        with closing(sqlite3.connect(self.store)) as connection:
            # The last byte of the number.
            connection.execute(
                "CREATE TRIGGER IF NOT EXISTS bad BEFORE INSERT ON provcache_entries "
                f"WHEN (instr('0123456789ABCDEF', substr(hex(NEW.veri_key), 64, 1)) - 1) % 16 = {BAD % 16} "
                "BEGIN SELECT RAISE(ABORT, 'bad'); END"
            )
            connection.commit()

    # A message that no relay here can read

    def put(self, data: bytes) -> int:
        """Put a message into the stream; return its sequence."""

        async def put() -> int:
            async with open_stream_repository(self.cluster.url, self.stream) as repository:
                await repository.check()
                answer = await request(repository, f"provcache.{self.stream}", data)
            number: int = json.loads(answer.data)["seq"]
            return number

        return trio.run(put)

    def is_in_the_way(self, number: int) -> bool:
        """Return whether a relay has stopped at this message."""
        return any(f"message {number} of" in relay.errors() for relay in self.relays)

    def take_out(self, number: int) -> bytes:
        """Take a message out as an operator does; return what was in it."""
        file = self.folder / f"message {number}"
        place = f"{self.cluster.url}/{self.stream}"
        command = ["relay", "--from", place, "--skip", str(number), "--into", str(file)]
        subprocess.run([sys.executable, "-m", "provcache_trio", *command], check=True)
        return file.read_bytes()

    # What programs log

    def how_often(self, words: str) -> int:
        return sum(one.errors().count(words) for one in self.running)

    @contextmanager
    def each_says(self, words: str) -> Generator[None]:
        """Wait at the end until every program has logged that, once more."""
        before = [(one, one.errors().count(words)) for one in self.running]
        yield
        wait_until(lambda: all(one.errors().count(words) > had for one, had in before))

    def stored(self) -> dict[int, int]:
        return read_store(self.store) if self.postgres is None else read_postgres(self.postgres.dsn)

    # No key goes back

    def watch(self) -> None:
        before: dict[int, int] = {}
        while self._watching:
            now = before
            with suppress(OSError, asyncpg.PostgresError):  # it is being restarted
                now = self.stored()
            self._went_back += [
                f"{number}: {version} to {now.get(number)}"
                for number, version in before.items()
                if now.get(number, 0) < version
            ]
            before = now
            time.sleep(0.1 if self.postgres is None else 0.4)

    @contextmanager
    def watched(self) -> Generator[None]:
        watcher = threading.Thread(target=self.watch)
        watcher.start()
        try:
            yield
        finally:
            self._watching = False
            watcher.join()
            for program in self.running:
                program.kill()

    def settle(self) -> int:
        """End the producers, wait for the relays, end them, and check; return how much there was."""
        for producer in [one for one in self.producers if one in self.running]:
            self.end(producer)
        wait_until(self.is_empty, every=BETWEEN_LOOKS)
        for relay in [one for one in self.relays if one in self.running]:
            self.end(relay)
        self._watching = False
        offered = [one for program in self.producers for one in program.said("o")] + self.ours
        found = Found(self.stored(), read_letters(self.letters))
        assert not self._went_back, self._went_back[:5]
        return check(found, offered, self.acknowledged())


Fault = Callable[[Site], None]


def leader_killed(site: Site) -> None:
    server = site.leader()
    server.end()
    site.until_more()
    server.start()


def two_of_three_killed(site: Site) -> None:
    two = site.cluster.servers[:2]
    for server in two:
        server.end()
    before = site.count()
    time.sleep(2)
    assert site.count() <= before + 20  # what was on its way; then there is no majority
    for server in two:
        server.start()


def all_killed(site: Site) -> None:
    for server in site.cluster.servers:
        server.end()
    for server in site.cluster.servers:
        server.start()


def leader_stopped(site: Site) -> None:
    server = site.leader()
    server.send(signal.SIGSTOP)
    try:
        site.until_more()
    finally:
        server.send(signal.SIGCONT)


def leader_cut_off(site: Site) -> None:
    leader = site.leader()
    site.cluster.routes.silence(leader.name)
    site.until_more()  # the others have found a leader, and clients have found them
    site.cluster.leader(site.stream, but=leader)
    site.cluster.routes.heal()


def all_routes_cut(site: Site) -> None:
    site.cluster.routes.cut()
    before = site.count()
    time.sleep(2)
    assert site.count() <= before + 20  # as where two of three are killed
    site.cluster.routes.heal()


def lame_duck(site: Site) -> None:
    server = site.leader()
    server.end(signal.SIGUSR2)
    site.until_more()
    server.start()


def relay_killed(site: Site) -> None:
    site.end(next(one for one in site.relays if one in site.running), signal.SIGKILL)
    site.until_more()
    site.relay()


def relay_terminated(site: Site) -> None:
    relay = next(one for one in site.relays if one in site.running)
    site.end(relay)
    assert "Traceback" not in relay.errors()
    site.relay()


def producer_killed(site: Site) -> None:
    site.end(next(one for one in site.producers if one in site.running), signal.SIGKILL)
    site.produce()


def store_locked(site: Site) -> None:
    with closing(sqlite3.connect(site.store, isolation_level=None, timeout=60)) as connection:
        connection.execute("BEGIN IMMEDIATE")
        site.until_more()  # the stream takes it
        connection.execute("ROLLBACK")


def relays_stopped(site: Site) -> None:
    relays = [one for one in site.relays if one in site.running]
    for relay in relays:
        relay.send(signal.SIGSTOP)
    time.sleep(6)  # longer than ack_wait: what they held belongs to others now
    for relay in relays:
        relay.send(signal.SIGCONT)


def entries_refused(site: Site) -> None:
    site.refuse_some()
    site.until_more()


def sink_failing(site: Site) -> None:
    site.refuse_some()
    with ExitStack() as locked:
        for file in site.letters:
            connection = locked.enter_context(
                closing(sqlite3.connect(file, isolation_level=None, timeout=60))
            )
            connection.execute("BEGIN EXCLUSIVE")
        site.until_more()


def messages_unreadable(site: Site) -> None:
    """A program of next year sends one, another one sends garbage: a person takes them out."""
    sent = b'{"provcache":9,"of":"what is to come","count":1}\n{}\n', b"\x00\xff\n"
    numbers = [site.put(data) for data in sent]
    site.until_more()
    for number, data in zip(numbers, sent, strict=True):
        wait_until(partial(site.is_in_the_way, number))
        assert site.take_out(number) == data


def message_too_large_for_one(site: Site) -> None:
    """A server takes only small messages: batches are divided for it, and others get what is too large."""
    one, *others = site.cluster.servers
    one.most_bytes = 16 * 1024  # fewer than 50 entries
    one.reload()  # a client that sends more is thrown out
    producer = site.produce(site.cluster.url_of(one))
    wait_until(lambda: producer.said("a"))
    site.end(producer)
    url = site.cluster.url_of(one, *others)
    large = msgspec.structs.replace(
        sent_entry(LARGE, len(site.ours) + 1), decision=large_decision()
    )

    async def send() -> None:
        async with open_stream_repository(url, site.stream) as repository:
            assert await repository.upsert_many([large]) == 1

    trio.run(send)
    site.ours.append((LARGE, large.hit_count))
    one.most_bytes = None
    one.reload()


def password_changed(site: Site) -> None:
    for server in site.cluster.servers:
        guard_of(server).password = "another"  # noqa: S105  # of a server of the test's own
    with site.each_says(REFUSED):
        site.cluster.reload()
    mend_all(site)


def user_revoked(site: Site) -> None:
    """First by one server, which stops nobody; then by all."""
    first, *others = site.cluster.servers
    guard_of(first).user = "somebody else"
    first.reload()
    producer = site.produce(site.cluster.url_of(first, *others))
    wait_until(lambda: producer.said("a"))
    assert passed_over(producer, first, REFUSED)
    site.end(producer)
    site.until_more()
    for server in others:
        guard_of(server).user = "somebody else"
    with site.each_says(REFUSED):
        site.cluster.reload()
    mend_all(site)


def certificate_of_one_expired(site: Site) -> None:
    one_has_a_bad_certificate(site, expired=True)


def certificate_of_one_is_for_another_host(site: Site) -> None:
    one_has_a_bad_certificate(site, host="n1.example")


def one_has_a_bad_certificate(site: Site, **certificate: Any) -> None:  # noqa: ANN401  # of ``certify``
    first, *others = site.cluster.servers
    guard_of(first).certify(**certificate)
    first.end()  # whoever was connected to it has to look for another one
    first.start()
    site.cluster.wait()
    producer = site.produce(site.cluster.url_of(first, *others))
    wait_until(lambda: producer.said("a"))
    assert passed_over(producer, first, NO_TRUST)
    site.end(producer)
    site.until_more()
    guard_of(first).mend()
    first.reload()


def all_certificates_expired(site: Site) -> None:
    for server in site.cluster.servers:
        guard_of(server).certify(expired=True)
        # So that everyone is thrown out, and has to look at the certificate.
        guard_of(server).password = "another"  # noqa: S105  # of a server of the test's own
    before = site.how_often("certificate has expired")
    with site.each_says(NEEDS_A_PERSON):
        site.cluster.reload()
    # Some may have seen an old certificate together with the new password.
    assert site.how_often("certificate has expired") > before
    mend_all(site)


def guard_of(server: NatsServer) -> Guard:
    assert server.guard is not None
    return server.guard


def mend_all(site: Site) -> None:
    for server in site.cluster.servers:
        guard_of(server).mend()
    site.cluster.reload()


def passed_over(program: Program, server: NatsServer, why: str) -> bool:
    """Return whether ``program`` has logged, in one line, that it left out ``server`` for that reason."""
    return any(
        f"connecting to 127.0.0.1:{server.port}: {why}" in line and "another server" in line
        for line in program.errors().splitlines()
    )


def large_decision() -> DecisionDigest:
    feeds = tuple(f"{number:0200}" for number in range(200))
    return msgspec.structs.replace(DECISION, replay_seed=ReplaySeed(feed_ids=feeds))


FAULTS: tuple[Fault, ...] = (
    leader_killed,
    two_of_three_killed,
    all_killed,
    leader_stopped,
    leader_cut_off,
    all_routes_cut,
    lame_duck,
    relay_killed,
    relay_terminated,
    producer_killed,
    store_locked,
    relays_stopped,
    entries_refused,
    sink_failing,
    messages_unreadable,
    message_too_large_for_one,
)
# One after the other: each takes a moment, so they share the programs.
OF_ACCESS: tuple[Fault, ...] = (
    password_changed,
    user_revoked,
    certificate_of_one_expired,
    certificate_of_one_is_for_another_host,
    all_certificates_expired,
)


def run(site: Site, *faults: Fault) -> None:
    with site.watched():
        site.produce()
        site.relay()
        site.relay()
        for fault in faults:
            site.until_more()
            fault(site)
            site.cluster.wait()
            site.until_more()
        assert site.settle() >= 2 * BEFORE * len(faults)


@pytest.mark.parametrize(
    "faults",
    [*((fault,) for fault in FAULTS), OF_ACCESS],
    ids=lambda faults: " ".join(fault.__name__ for fault in faults),
)
def test_nothing_acknowledged_is_lost_by_one_fault(
    faults: tuple[Fault, ...], tmp_path: Path
) -> None:
    run(Site(nats_cluster(), tmp_path), *faults)


@pytest.mark.parametrize("seed", [1, 2])
def test_nothing_acknowledged_is_lost_by_many_faults(
    seed: int, tmp_path: Path, counts: Callable[[int, int], int]
) -> None:
    dice = random.Random(seed)  # noqa: S311  # no secret
    faults = FAULTS + OF_ACCESS
    run(Site(nats_cluster(), tmp_path), *dice.sample(faults, counts(4, len(faults))))


def test_everything_can_be_restarted_under_load_one_after_the_other(tmp_path: Path) -> None:
    with run_postgres_server(settings=QUIET) as postgres:
        site = Site(nats_cluster(), tmp_path, postgres=postgres)
        with site.watched():
            site.produce()
            site.relay()
            site.relay()
            site.until_more()
            for server in site.cluster.servers:
                server.end(signal.SIGUSR2)  # lame duck
                server.start()
                site.cluster.wait()
            for relay in tuple(site.relays):
                site.relay()
                site.end(relay)
            (producer,) = site.producers
            site.produce()
            site.end(producer)
            site.until_more()
            postgres.stop()
            site.until_more()  # the stream takes it
            postgres.start()
            site.until_more()
            site.settle()
            assert "Traceback" not in "".join(one.errors() for one in site.relays + site.producers)


def test_a_full_stream_lets_producers_wait_and_loses_nothing(tmp_path: Path) -> None:
    site = Site(nats_cluster(), tmp_path, max_bytes=256 * 1024)
    with site.watched():
        site.produce()
        site.until_more()

        def is_full() -> bool:
            before = site.count()
            time.sleep(1)
            return site.count() == before

        wait_until(is_full)
        site.relay()
        site.until_more()
        site.settle()


async def is_taken(repository: StreamRepository[ProvcacheEntry], one: ProvcacheEntry) -> bool:
    try:
        await repository.upsert_many([one])
    except StoreUnavailableError:
        return False
    return True


async def test_a_minority_acknowledges_nothing_and_check_says_so() -> None:
    cluster = nats_cluster()
    stream = unused_stream()
    await create(cluster, stream, max_bytes=MEGABYTE)
    last = cluster.servers[2]
    async with open_stream_repository(cluster.url_of(last), stream) as repository:
        report = await repository.check(monitor_url=[one.monitor_url for one in cluster.servers])
        assert (report.replicas, report.current, report.sync_always) == (3, 3, True)
        partly = await repository.check(monitor_url=last.monitor_url)
        assert partly.sync_always is None
        await repository.upsert_many([entry(1)])
        for server in cluster.servers[:2]:
            server.end()
        with pytest.raises(StoreUnavailableError):
            await repository.upsert_many([entry(2)])

        async def says_so() -> bool:
            try:
                await repository.check()
            except StoreUnavailableError:
                return True
            return False

        await until(says_so)
        for server in cluster.servers[:2]:
            server.start()

        await until(lambda: is_taken(repository, entry(2)))
    cluster.wait()


async def test_a_cluster_that_has_forgotten_all_needs_a_person_and_then_goes_on() -> None:
    with ExitStack() as stack:
        cluster = await trio.to_thread.run_sync(lambda: stack.enter_context(run_cluster()))
        await create_stream(cluster.url, "mine", max_bytes=MEGABYTE)
        store: MemoryRepository[Any] = MemoryRepository()
        async with (
            open_stream_repository(cluster.url, "mine") as repository,
            open_relay(cluster.url, "mine", store) as relay,
        ):
            await repository.upsert_many([entry(1)])
            await until(lambda: store.rows)
            for server in cluster.servers:
                server.end()
                server.forget()
            for server in cluster.servers:
                server.start()
            await trio.to_thread.run_sync(cluster.wait)

            async def needs_a_person() -> bool:
                try:
                    await repository.upsert_many([entry(2)])
                except StoreMisconfiguredError:
                    return True
                except StoreUnavailableError:
                    return False
                raise AssertionError("there is no stream")

            await until(needs_a_person)
            await create(cluster, "mine", max_bytes=MEGABYTE)
            await until(lambda: is_taken(repository, entry(2)))  # its leader may not be found yet
            await until(lambda: len(store.rows) == 2)
        assert store.rows == by_key([entry(1), entry(2)])
        assert relay.undelivered == ()
