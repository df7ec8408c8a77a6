"""The files to deploy with start a service that ends in order, and loses nothing in between."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Final
from urllib.error import HTTPError
from urllib.request import urlopen
from uuid import uuid4

import pytest
import trio

from provcache_trio import WriteBehindOptions

from tests.support.programs import ROOT
from tests.support.servers import postgres, query, unused_port
from tests.support.waiting import HANG_SECONDS, until

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

OPS: Final = ROOT / "ops"
DOCKERFILE: Final = (OPS / "Dockerfile").read_text("utf-8")
KUBERNETES: Final = (OPS / "kubernetes.yaml").read_text("utf-8")
SYSTEMD: Final = (OPS / "page-views.service").read_text("utf-8")
PROMETHEUS: Final = (OPS / "prometheus.yml").read_text("utf-8")
PROGRAM: Final = ROOT / "examples" / "page_views.py"

# What the program says of itself: a reply, the drain, and the closing of everything.
NEEDED_SECONDS: Final = 3 + WriteBehindOptions().drain_timeout_seconds + 5


def of_dockerfile(instruction: str) -> str:
    """Return the arguments of the one instruction of that name."""
    [found] = re.findall(rf"^{instruction} (.*)$", DOCKERFILE, re.MULTILINE)
    return str(found)


def environment_of_dockerfile() -> dict[str, str]:
    return dict(one.split("=", 1) for one in of_dockerfile("ENV").split())


# What the files say


def test_every_grace_period_is_longer_than_what_the_service_needs() -> None:
    periods = {
        "docker": re.findall(r"--stop-timeout (\d+)", DOCKERFILE),
        "kubernetes": re.findall(r"terminationGracePeriodSeconds: (\d+)", KUBERNETES),
        "systemd": re.findall(r"^TimeoutStopSec=(\d+)$", SYSTEMD, re.MULTILINE),
    }
    page = (ROOT / "docs" / "operating" / "deploy.md").read_text("utf-8")
    for name, found in periods.items():
        assert [int(one) > NEEDED_SECONDS for one in found] == [True], name
        [row] = re.findall(rf"^\| {name} \| .* \| (\d+) s \|$", page, re.MULTILINE | re.IGNORECASE)
        assert row == found[0], name


def test_the_image_runs_the_program_itself_without_rights_and_copies_what_is_there() -> None:
    assert json.loads(of_dockerfile("CMD")) == ["python", "page_views.py"]
    assert of_dockerfile("STOPSIGNAL") == "SIGTERM"
    assert int(of_dockerfile("USER")) > 0
    source, _ = of_dockerfile("COPY").split()
    assert source == PROGRAM.name
    assert f"{environment_of_dockerfile()['STATE_DIR']}\n" in DOCKERFILE.partition("install -d")[2]


def test_the_pod_has_the_ports_the_volume_and_the_user_of_the_image() -> None:
    environment = environment_of_dockerfile()
    ports = re.findall(r"name: (\w+), containerPort: (\d+)", KUBERNETES)
    assert ports == [("lines", environment["PORT"]), ("status", environment["STATUS_PORT"])]
    assert of_dockerfile("EXPOSE").split() == [port for _, port in ports]
    assert re.findall(r"mountPath: (\S+) }", KUBERNETES) == [environment["STATE_DIR"]]
    assert set(re.findall(r"(?:runAsUser|fsGroup): (\d+)", KUBERNETES)) == {of_dockerfile("USER")}
    assert f'prometheus.io/port: "{environment["STATUS_PORT"]}"' in KUBERNETES
    assert f"page-views:{environment['STATUS_PORT']}" in PROMETHEUS
    for name in ("PORT", "STATUS_PORT"):
        assert f"Environment={name}={environment[name]}\n" in SYSTEMD


def test_a_liveness_probe_never_asks_for_the_store() -> None:
    [liveness] = re.findall(r"livenessProbe:\n +httpGet: { path: (\S+), port: status }", KUBERNETES)
    [readiness] = re.findall(r"readinessProbe:\n +httpGet: { path: (\S+), ", KUBERNETES)
    assert (liveness, readiness) == ("/livez", "/readyz")


def test_systemd_gives_the_program_the_directory_that_it_is_told_of() -> None:
    [directory] = re.findall(r"^StateDirectory=(.*)$", SYSTEMD, re.MULTILINE)
    assert f"Environment=STATE_DIR=/var/lib/{directory}\n" in SYSTEMD


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="there is no systemd")
@pytest.mark.whole_process
def test_systemd_has_nothing_to_say_against_the_unit(tmp_path: Path) -> None:
    unit = tmp_path / "page-views.service"
    # It looks whether the program is there.
    unit.write_text(SYSTEMD.replace("/opt/page-views/bin/python", sys.executable), "utf-8")
    command = ["systemd-analyze", "verify", "--man=no", str(unit)]
    done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=60)
    # Of units of this machine it may say something.
    told = [line for line in done.stderr.splitlines() if unit.name in line]
    assert told == []


@pytest.mark.promtool
def test_promtool_accepts_the_configuration_with_our_rules() -> None:
    promtool = shutil.which("promtool")
    assert promtool is not None
    command = [promtool, "check", "config", str(OPS / "prometheus.yml")]
    done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert "SUCCESS: 1 rule files found" in done.stdout


def test_grafana_finds_the_dashboard_where_the_page_puts_it() -> None:
    provider = (OPS / "grafana" / "dashboards.yml").read_text("utf-8")
    [folder] = re.findall(r"^ +path: (\S+)$", provider, re.MULTILINE)
    page = (ROOT / "docs" / "operating" / "deploy.md").read_text("utf-8")
    assert f"install -D grafana-dashboard.json {folder}/grafana-dashboard.json\n" in page
    for name in ("datasources", "dashboards"):
        text = (OPS / "grafana" / f"{name}.yml").read_text("utf-8")
        [path] = re.findall(r"^# (/etc/grafana/provisioning/\S+\.yml)", text, re.MULTILINE)
        assert f"cp {name}.yml {path}\n" in page


# The service, started and stopped as they say


@asynccontextmanager
async def started(state: Path, dsn: str) -> AsyncGenerator[tuple[trio.Process, int, int]]:
    """Run the image's command with its environment, but for directory and ports."""
    port, status_port = unused_port(), unused_port()
    environment = {
        **os.environ,
        **environment_of_dockerfile(),
        "STATE_DIR": str(state),
        "DATABASE_URL": dsn,
        "PORT": str(port),
        "STATUS_PORT": str(status_port),
    }
    _, program = json.loads(of_dockerfile("CMD"))
    with trio.fail_after(HANG_SECONDS):
        process = await trio.lowlevel.open_process(
            [sys.executable, "-W", "error", program],
            cwd=PROGRAM.parent,
            env=environment,
            stdout=subprocess.PIPE,
        )
        assert process.stdout is not None
        try:
            line = b""
            while not line.endswith(b"\n"):
                line += await process.stdout.receive_some(1)
            assert line == f"listening on {port}, status on {status_port}\n".encode()
            yield process, port, status_port
        finally:
            process.kill()
            with trio.move_on_after(10, shield=True):
                await process.wait()
                await process.stdout.aclose()


async def send(port: int, *lines: str) -> list[str]:
    """Send lines to the service, and return its replies."""
    received = b""
    async with await trio.open_tcp_stream("127.0.0.1", port) as stream:
        await stream.send_all("".join(f"{line}\n" for line in lines).encode())
        while received.count(b"\n") < len(lines):
            chunk = await stream.receive_some()
            assert chunk
            received += chunk
    return received.decode().splitlines()


def view(visitor: str) -> str:
    return f'{{"visitor": "{visitor}", "page": "/", "seen_at": "2026-11-30T08:00:00Z"}}'


async def status_of(port: int, path: str) -> int:
    def ask() -> int:
        try:
            with urlopen(f"http://127.0.0.1:{port}{path}") as answer:
                return int(answer.status)
        except HTTPError as error:
            error.close()
            return error.code

    return await trio.to_thread.run_sync(ask)


@pytest.mark.whole_process
async def test_the_service_answers_its_probes_and_ends_in_order_on_the_stop_signal(
    tmp_path: Path,
) -> None:
    dsn = postgres().create_database(str(uuid4()))
    async with started(tmp_path, dsn) as (process, port, status_port):
        assert await status_of(status_port, "/livez") == 200
        await until(lambda: ready(status_port))
        assert await send(port, view("ann"), "?", view("eve").replace("Z", ""), view("bob")) == [
            "ok",
            "error: JSON is malformed: invalid character (byte 0)",
            "error: Expected `datetime` with a timezone component - at `$.seen_at`",
            "ok",
        ]
        process.send_signal(getattr(signal, of_dockerfile("STOPSIGNAL")))
        assert await process.wait() == 0
    rows = await query(dsn, "SELECT visitor FROM page_view ORDER BY visitor")
    assert [row[0] for row in rows] == ["ann", "bob"]


async def ready(status_port: int) -> bool:
    return await status_of(status_port, "/readyz") == 200


@pytest.mark.whole_process
async def test_what_the_service_accepted_without_a_database_outlives_sigkill(
    tmp_path: Path,
) -> None:
    dsn = postgres().create_database(str(uuid4()))
    away = f"postgresql://postgres@127.0.0.1:{unused_port()}/shop"
    async with started(tmp_path, away) as (process, port, status_port):
        assert await send(port, view("ann")) == ["ok"]
        # Nobody restarts it for that, and nobody sends it more.
        await until(lambda: not_ready(status_port))
        assert await status_of(status_port, "/livez") == 200
        await until(lambda: recorded(tmp_path))
        process.kill()
        await process.wait()
    # Whoever is on call can look at it with the command, by the name that the page gives.
    assert provcache("journal", "status", tmp_path / "journal") == [
        "entries                 1  of type page_views.PageView"
    ]
    async with started(tmp_path, dsn) as (process, _, status_port):
        await until(lambda: ready(status_port))
        process.send_signal(signal.SIGTERM)
        assert await process.wait() == 0
    assert [row[0] for row in await query(dsn, "SELECT visitor FROM page_view")] == ["ann"]


def provcache(*arguments: str | Path) -> list[str]:
    """Run the command beside the program, and return the lines that it printed about entries."""
    program = Path(sys.executable).with_name("provcache")
    command = [program, *arguments]
    done = subprocess.run(
        command, cwd=PROGRAM.parent, check=True, capture_output=True, text=True, timeout=60
    )
    return [line for line in done.stdout.splitlines() if line.startswith("entries")]


async def not_ready(status_port: int) -> bool:
    return await status_of(status_port, "/readyz") == 503


def recorded(state: Path) -> bool:
    return b'"ann"' in (state / "journal").read_bytes()
