"""Real NATS servers with JetStream: one, and a cluster of three, on loopback."""

from __future__ import annotations

import atexit
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import urllib.request
from contextlib import ExitStack, contextmanager, suppress
from functools import cache
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from tests.support.guards import Guard, pass_of
from tests.support.routes import Routes
from tests.support.servers import unused_port
from tests.support.waiting import HANG_SECONDS, wait_until

if TYPE_CHECKING:
    from collections.abc import Generator, Iterable, Mapping, Sequence

MEGABYTE: Final = 1024 * 1024
LOOK_SECONDS: Final = 2  # for a page of a server that may be stopped, and is asked again
BETWEEN_LOOKS: Final = 0.05  # seconds: each page takes a server and us milliseconds

_running = ExitStack()
atexit.register(_running.close)
_numbers = count(1)


def unused_stream() -> str:
    """Return a name that no other test has."""
    return f"stream_{next(_numbers)}"


class NatsServer:
    """A server, which can be killed, stopped, continued and started again.

    Args:
        folder: where it keeps what it has.
        name: what it is called.
        settings: lines of its configuration.
        guard: what it demands of its clients.
    """

    def __init__(
        self, folder: Path, name: str, settings: str = "", guard: Guard | None = None
    ) -> None:
        self.name = name
        self.port = unused_port()
        self.monitor = unused_port()
        self.settings = settings
        self.sync = "always"
        self.guard = guard
        self.most_bytes: int | None = None
        self._folder = folder
        self._process: subprocess.Popen[bytes] | None = None
        folder.mkdir(parents=True, exist_ok=True)

    @property
    def url(self) -> str:
        return f"nats://127.0.0.1:{self.port}"

    @property
    def monitor_url(self) -> str:
        return f"http://127.0.0.1:{self.monitor}"

    @property
    def _config(self) -> Path:
        return self._folder / "nats.conf"

    def _configure(self) -> None:
        self._config.write_text(
            f"server_name: {self.name}\n"
            f"listen: 127.0.0.1:{self.port}\n"
            f"http: 127.0.0.1:{self.monitor}\n"
            f'jetstream {{ store_dir: "{self._folder}/store", sync_interval: {self.sync}, '
            "max_memory_store: 64MB, max_file_store: 1TB }\n"
            # The default is two minutes, in which it sends its clients away one by one.
            'lame_duck_grace_period: "100ms"\nlame_duck_duration: "30s"\n'
            f"{'' if self.most_bytes is None else f'max_payload: {self.most_bytes}'}\n"
            f"{'' if self.guard is None else self.guard.settings}{self.settings}\n"
        )

    def start(self) -> None:
        """Start it; ``wait`` waits until it can be used."""
        self._configure()
        with (self._folder / "log").open("ab") as log:
            self._process = subprocess.Popen(
                [_program(), "-c", str(self._config)], stdout=log, stderr=log
            )

    def reload(self) -> None:
        """Have it read its configuration again, and return when it goes by it."""
        before = self.page("varz")["config_load_time"]
        self._configure()
        self.send(signal.SIGHUP)
        wait_until(lambda: self.page("varz")["config_load_time"] != before)

    def page(self, path: str, patience: float = HANG_SECONDS) -> Any:  # noqa: ANN401  # JSON
        """Return a page of its monitoring; raise OSError if there is none within ``patience``."""
        url = f"{self.monitor_url}/{path}"
        with urllib.request.urlopen(url, timeout=patience) as answer:  # noqa: S310  # http
            return json.load(answer)

    def is_ready(self) -> bool:
        with suppress(OSError):
            return bool(self.page("healthz", LOOK_SECONDS)["status"] == "ok")
        return False

    def has_ended(self) -> bool:
        return self._process is not None and self._process.poll() is not None

    def start_and_wait(self) -> None:
        """Start it, and return when it can be used; elsewhere, if somebody else was quicker."""
        for _ in range(3):
            self.start()
            wait_until(lambda: self.is_ready() or self.has_ended(), every=BETWEEN_LOOKS)
            if not self.has_ended():
                return
            self.port, self.monitor = unused_port(), unused_port()
        raise AssertionError((self._folder / "log").read_text())

    @property
    def process_id(self) -> int:
        assert self._process is not None
        return self._process.pid

    def send(self, number: signal.Signals) -> None:
        assert self._process is not None
        self._process.send_signal(number)

    def end(self, number: signal.Signals = signal.SIGKILL) -> None:
        """End it by a signal, and wait until it has ended."""
        process, self._process = self._process, None
        if process is None:
            return
        process.send_signal(number)
        if number is not signal.SIGCONT:
            with suppress(ProcessLookupError):
                process.send_signal(signal.SIGCONT)
        process.wait(HANG_SECONDS)

    def forget(self) -> None:
        """Delete what it has; it must have ended."""
        shutil.rmtree(self._folder / "store", ignore_errors=True)


def _program() -> str:
    beside = Path(sys.executable).parent / "nats-server"
    return str(beside if beside.exists() else shutil.which("nats-server"))


class Cluster:
    """Three servers, and what connects them.

    Args:
        trust: the file with the authority of those that are guarded.
    """

    def __init__(
        self, servers: Sequence[NatsServer], routes: Routes, trust: Path | None = None
    ) -> None:
        self.servers = servers
        self.routes = routes
        self.trust = trust

    @property
    def url(self) -> str:
        return self.url_of(*self.servers)

    def url_of(self, *servers: NatsServer) -> str:
        """Return the URL for clients that try these servers in this order."""
        places = ",".join(f"127.0.0.1:{one.port}" for one in servers)
        return f"nats://{places}" if self.trust is None else f"tls://{pass_of()}@{places}"

    def reload(self) -> None:
        for one in self.servers:
            one.reload()

    def wait(self) -> None:
        """Wait until every server can be used, and whoever leads them knows that."""
        wait_until(lambda: all(one.is_ready() for one in self.servers), every=BETWEEN_LOOKS)
        wait_until(lambda: any(map(self._is_complete, self.servers)), every=BETWEEN_LOOKS)

    def _is_complete(self, server: NatsServer) -> bool:
        """Return whether ``server`` leads the others, and has heard of each lately."""
        with suppress(OSError):
            meta = server.page("jsz", LOOK_SECONDS).get("meta_cluster", {})
            others = meta.get("replicas", ())
            return len(others) == len(self.servers) - 1 and not any(
                one.get("offline") or not one.get("current") for one in others
            )
        return False

    def leader(self, stream: str, *, but: NatsServer | None = None) -> NatsServer:
        """Return the server that leads ``stream``, once there is one that others agree on."""
        found: list[NatsServer] = []

        def look() -> bool:
            found[:] = [
                one
                for one in self.servers
                if one is not but and self._leader_of(one, stream) == one.name
            ]
            return bool(found)

        wait_until(look, every=BETWEEN_LOOKS)
        return found[0]

    def _leader_of(self, server: NatsServer, stream: str) -> str | None:
        detail = stream_detail(server, stream, LOOK_SECONDS)
        return None if detail is None else detail["cluster"].get("leader")


def stream_detail(
    server: NatsServer, stream: str, patience: float = HANG_SECONDS
) -> Mapping[str, Any] | None:
    """Return what ``server`` knows of ``stream``."""
    with suppress(OSError):
        page = server.page("jsz?streams=true&consumers=true&config=true", patience)
        for account in page.get("account_details", ()):
            for detail in account.get("stream_detail", ()):
                if detail["name"] == stream:
                    return detail  # type: ignore[no-any-return]  # JSON
    return None


def _folder() -> tempfile.TemporaryDirectory[str]:
    # Beside what pytest has, if somebody has said where that is: who kills us deletes it.
    where = os.environ.get("PYTEST_DEBUG_TEMPROOT")
    return tempfile.TemporaryDirectory(prefix="provcache-nats-", dir=where)


@contextmanager
def run_nats_server(settings: str = "", sync: str = "always") -> Generator[NatsServer]:
    """Run one server; give it when it can be used."""
    with _folder() as folder:
        server = NatsServer(Path(folder), "alone", settings)
        server.sync = sync
        try:
            server.start_and_wait()
            yield server
        finally:
            server.end()


@contextmanager
def run_cluster(*, guarded: bool = False) -> Generator[Cluster]:
    """Run three servers; give them when they can be used.

    Args:
        guarded: they want TLS and a password, as any should that are reached over a network.
    """
    with _folder() as folder:
        servers = [NatsServer(Path(folder) / name, name) for name in ("n1", "n2", "n3")]
        trust = _guard(servers, Path(folder)) if guarded else None
        ports = {one.name: unused_port() for one in servers}
        routes = Routes(ports)
        for one in servers:
            # What they advertise leads nowhere, or they would find each other past the proxies.
            one.settings = (
                f"cluster {{ name: c, listen: 127.0.0.1:{ports[one.name]}, "
                f'advertise: "127.0.0.1:9", routes: {json.dumps(routes.urls(one.name))} }}\n'
            )
            one.start()
        cluster = Cluster(servers, routes, trust)
        try:
            cluster.wait()
            yield cluster
        finally:
            for one in servers:
                one.end()
            routes.close()


def _guard(servers: Iterable[NatsServer], folder: Path) -> Path:
    import trustme  # noqa: PLC0415  # the benchmarks have none

    authority = trustme.CA()
    for one in servers:
        one.guard = Guard(folder / f"guard of {one.name}", authority)
    trust = folder / "trust.pem"
    authority.cert_pem.write_to_path(trust)
    return trust


@cache
def nats_server() -> NatsServer:
    """Return a server, which is started when a test first asks for it."""
    return _running.enter_context(run_nats_server())


@cache
def nats_cluster() -> Cluster:
    """Return a cluster, likewise; whatever a test breaks of it, it mends."""
    return _running.enter_context(run_cluster(guarded=True))
