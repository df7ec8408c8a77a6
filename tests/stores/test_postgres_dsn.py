"""What a PostgreSQL URL, the environment and files mean; what is wrong with them is said by name."""

from __future__ import annotations

import getpass
import os
import pathlib
from typing import TYPE_CHECKING

import pytest

from provcache_trio import StoreMisconfiguredError, StoreUnavailableError
from provcache_trio.postgres import open_postgres_repository
from provcache_trio.postgres._dsn import Dsn
from provcache_trio.postgres._dsn_files import unreadable_tls_file

from tests.support.mistakes import as_nobody
from tests.support.postgres import SECRET, raises, settings_of
from tests.support.servers import postgres, run_sql, unused_schema

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Nothing but what a test says is in the environment and at home."""
    for name in tuple(os.environ):
        if name.startswith("PG"):
            monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path))
    return tmp_path


# What is wrong with a URL is said at opening


ENCODE = "write / ? # @ % and spaces in user name and password as"


@pytest.mark.parametrize(
    ("dsn", "reason"),
    [
        (f"u:p@{SECRET}@host/db", ENCODE),
        (f"u:{SECRET}/{SECRET}@host/db", ENCODE),
        (f"u:{SECRET}?{SECRET}@host/db", ENCODE),
        (f"u:{SECRET}#{SECRET}@host/db", ENCODE),
        (f"u:{SECRET}%zz@host/db", ENCODE),
        (f"u:{SECRET} x@host/db", "white space"),
        (f"u:{SECRET}@host/db\n", "white space, perhaps at its end"),
        (f"u:{SECRET}%ff@host/db", "no UTF-8"),
        (f"u:{SECRET}@[host/db", "malformed host"),
        (f"u:{SECRET}@[host]x/db", "malformed host"),
        (f"u:{SECRET}\u2100@[host/db", "malformed host"),
        (f"u:{SECRET}/db", "a port must be a number, 1 to 65535"),
        (f"u:{SECRET}@host:99999/db", "a port must be a number, 1 to 65535"),
        (f"u:{SECRET}@host:0/db", "a port must be a number, 1 to 65535"),
        (f"u:{SECRET}@a,,b/db", "a host is missing"),
        (f"u:{SECRET}@/db?host=a,b&port=1,2,3", "there are 2 hosts and 3 ports"),
        (f"u@host/db?password={SECRET}&x", "NAME=VALUE"),
        ("host/db?sslmode=on", "sslmode must be one of: allow, disable, prefer, require"),
        ("host/db?ssl=1", "the parameter ssl must be one of: true"),
        ("host/db?target_session_attrs=writer", "target_session_attrs must be one of: any, "),
        ("host/db?channel_binding=require", "channel_binding must be one of: disable, prefer"),
        ("host/db?gssencmode=require", "gssencmode must be one of: disable, prefer"),
        ("host/db?pgbouncer=1", "pgbouncer must be one of: false, true"),
        ("host/db?connect_timeout=0", "connect_timeout must be 1 to 3600 seconds"),
        ("host/db?connect_timeout=5s", "connect_timeout must be 1 to 3600 seconds"),
        ("host/db?hostaddr=1.2.3.4", "hostaddr can't be used: asyncpg"),
        ("host/db?connection_limit=5", "connection_limit can't be used: it is no parameter of"),
        ("host/db?schema=public", "schema can't be used: give it as an argument"),
    ],
)
def test_a_url_that_can_not_be_heeded_is_refused_at_opening_and_no_password_is_told(
    dsn: str, reason: str
) -> None:
    with pytest.raises(ValueError, match=r"URL|parameter|port|host") as caught:
        open_postgres_repository(f"postgresql://{dsn}")
    assert reason in str(caught.value)
    assert SECRET not in repr(caught.value)
    assert caught.value.__cause__ is None
    assert caught.value.__suppress_context__ or caught.value.__context__ is None


# What libpq takes is taken


@pytest.mark.parametrize(
    ("query", "settings", "tls"),
    [
        ("", {}, {}),
        ("channel_binding=prefer&gssencmode=disable&client_encoding=UTF8", {}, {}),
        ("keepalives=1&keepalives_idle=9&keepalives_interval=3&keepalives_count=2", {}, {}),
        ("tcp_user_timeout=1000&sslcompression=0", {}, {}),
        ("ssl=true", {}, {"sslmode": "require"}),
        ("ssl=true&sslmode=verify-full", {}, {"sslmode": "verify-full"}),
        ("fallback_application_name=a", {"application_name": "a"}, {}),
        ("fallback_application_name=a&application_name=b", {"application_name": "b"}, {}),
        ("target_session_attrs=read-write", {}, {"target_session_attrs": "read-write"}),
        ("search_path=a%2Cb&jit=off", {"search_path": "a,b", "jit": "off"}, {}),
        ("connect_timeout=3&pgbouncer=true", {}, {}),
    ],
)
def test_parameters_of_libpq_are_mapped_or_have_no_effect(
    query: str, settings: dict[str, str], tls: dict[str, str]
) -> None:
    server = Dsn(f"postgresql://host/db?{query}").server()
    assert (dict(server.settings), dict(server.tls)) == (settings, tls)


async def test_the_url_may_say_how_long_to_connect_and_that_there_is_a_pgbouncer() -> None:
    dsn = Dsn("postgresql://host/db?connect_timeout=3&pgbouncer=true")
    assert (dsn.connect_timeout_seconds, dsn.pgbouncer) == (3, True)
    async with open_postgres_repository(
        f"{postgres().dsn}?pgbouncer=true&connect_timeout=3&channel_binding=prefer", create=True
    ) as store:
        await store.check()
        # Else it would be ours.
        assert await settings_of(store, "statement_timeout") == {"statement_timeout": "0"}


async def test_what_options_set_is_not_set_again() -> None:
    dsn = f"{postgres().dsn}?options=-c%20statement_timeout=7s%20--lock_timeout=3s"
    async with open_postgres_repository(dsn, create=True) as store:
        assert await settings_of(store, "statement_timeout", "lock_timeout") == {
            "statement_timeout": "7s",
            "lock_timeout": "3s",
        }


@pytest.mark.parametrize(
    ("query", "settings", "state"),
    [
        ("no_such_parameter=1", {}, "42704"),
        ("", {"no_such_parameter": "1"}, "42704"),
        ("lock_timeout=soon&jit=off", {}, "22023"),
    ],
)
async def test_a_run_time_parameter_that_the_server_refuses_is_named(
    query: str, settings: dict[str, str], state: str
) -> None:
    dsn = f"{postgres().dsn}?{query}" if query else postgres().dsn
    async with open_postgres_repository(dsn, server_settings=settings) as store:
        with pytest.raises(StoreMisconfiguredError) as caught:
            await store.check()
    assert caught.value.sqlstate == state
    name = "lock_timeout" if query.startswith("lock") else "no_such_parameter"
    assert str(caught.value).endswith(f"parameter {name}, of the URL or server_settings")


# What the URL leaves out


def service_file(path: Path, text: str) -> None:
    path.write_text(text, "utf-8")


def test_a_service_is_looked_up_and_what_the_url_says_wins(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    service_file(
        home / ".pg_service.conf",
        "# ours\n[ours]\nhost=a,b\nport=1,2\nuser=u\ndbname=d\nsslmode=disable\npassword=p:w\n"
        "connect_timeout=9\n[theirs]\nhost=c\n",
    )
    given = "[('a', 1), ('b', 2)] u d p:w {'sslmode': 'disable'}"
    for name in ("query", "environment"):
        if name == "environment":
            monkeypatch.setenv("PGSERVICE", "ours")
        server = Dsn(f"postgresql://{'?service=ours' if name == 'query' else ''}").server()
        shown = f"{list(server.hosts)} {server.user} {server.database} {server.password}"
        assert f"{shown} {dict(server.tls)}" == given
    server = Dsn("postgresql://x@y:3/z?sslmode=prefer").server()
    assert str(server) == "y:3, user x, database z"
    assert dict(server.tls) == {"sslmode": "prefer"}
    other = home / "other"
    service_file(other, "[theirs]\nhost=e\nport=5\n")
    server = Dsn(f"postgresql://x@/z?service=theirs&servicefile={other}").server()
    assert str(server) == "e:5, user x, database z"


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (None, "the service file {} can't be read: No such file or directory"),
        ("[theirs]\nhost=a\n", "the service file {} has no service 'ours'"),
        ("host=a\n", "the service file {} is malformed"),
        ("[ours]\nport=99999\nhost=a\n", "a port must be a number, 1 to 65535"),
        ("[ours]\nhostaddr=1.2.3.4\n", "the parameter hostaddr can't be used"),
    ],
)
async def test_what_is_wrong_with_a_service_needs_a_person(
    text: str | None, reason: str, tmp_path: Path
) -> None:
    path = tmp_path / "services"
    if text is not None:
        service_file(path, text)
    dsn = f"postgresql://?service=ours&servicefile={path}"
    async with open_postgres_repository(dsn) as store:
        with pytest.raises(StoreMisconfiguredError) as caught:
            await store.check()
    assert reason.format(path) in str(caught.value)


@pytest.mark.parametrize(
    ("line", "dsn", "password"),
    [
        ("h:5432:d:u:p", "u@h/d", "p"),
        ("*:*:*:*:p", "u@h/d", "p"),
        ("other:*:*:*:x\nh:*:*:*:p", "u@h/d", "p"),
        (r"h:*:*:*:p\:w\\x", "u@h/d", r"p:w\x"),
        (r"h:*:a\:b:u\\v:p", "u%5Cv@h/a%3Ab", "p"),
        (r"\:\:1:*:*:*:p", "u@[::1]/d", "p"),
        ("localhost:*:*:*:p", "u@/d?host=/run", "p"),
        ("localhost:*:*:*:p", "u@/d", "p"),
        ("b:2:*:*:p", "u@a:1,b:2/d", "p"),
        ("# h:*:*:*:p\nh:*:*:*", "u@h/d", None),
        ("h:1:*:*:p", "u@h/d", None),
        ("h:*:*:other:p", "u@h/d", None),
        ("h:*:*:*:p", "u:given@h/d", "given"),
    ],
)
def test_the_password_file_is_read_as_libpq_reads_it(
    line: str, dsn: str, password: str | None, home: Path
) -> None:
    file = home / ".pgpass"
    file.write_text(f"{line}\n", "utf-8")
    file.chmod(0o600)
    server = Dsn(f"postgresql://{dsn}").server()
    assert server.password == password
    if password is None:
        assert server.why_no_password() == (
            f"no password was given: not in the URL, PGPASSWORD or {file}"
        )
        file.chmod(0o644)
        assert "which is ignored, since others may read it" in server.why_no_password()
    else:
        assert server.why_no_password() == ""


def test_a_password_file_that_others_may_read_is_ignored(home: Path) -> None:
    file = home / ".pgpass"
    file.write_text(f"*:*:*:*:{SECRET}\n")
    file.chmod(0o600)
    assert Dsn("postgresql://u@h/d").server().password == SECRET
    file.chmod(0o640)
    assert Dsn("postgresql://u@h/d").server().password is None


def test_a_user_without_a_name_or_a_home_is_no_reason_to_fail(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def nobody() -> str:
        raise KeyError("no such user")

    def homeless(_: type[Path]) -> Path:
        raise RuntimeError("no home")

    monkeypatch.setattr(getpass, "getuser", nobody)
    monkeypatch.setattr(pathlib.Path, "home", classmethod(homeless))
    server = Dsn("postgresql://h").server()
    assert (server.user, server.database, server.passfile) == (None, None, None)
    assert unreadable_tls_file(server.tls, server.hosts) is None


# Where an error came from


async def test_an_error_names_host_port_user_and_database() -> None:
    running = postgres()
    for dsn, about in (
        (f"postgresql://u:{SECRET}@127.0.0.1:1/d", "127.0.0.1:1, user u, database d"),
        (f"postgresql://u:{SECRET}@[::1]:1/d", "[::1]:1, user u, database d"),
        (f"postgresql://u@/d?host=/nowhere&password={SECRET}", "/nowhere/.s.PGSQL.5432, user u, "),
    ):
        async with open_postgres_repository(dsn) as store:
            with pytest.raises(StoreUnavailableError) as caught:
                await store.check()
        assert str(caught.value).startswith(about)
        assert caught.value.reason == str(caught.value)
        assert SECRET not in str(caught.value)
    async with open_postgres_repository(running.dsn_of("nowhere")) as store:
        with raises(StoreMisconfiguredError, sqlstate="3D000"):
            await store.check()
        with pytest.raises(StoreMisconfiguredError, match='database "nowhere" does not exist'):
            await store.check()


async def test_an_error_of_the_server_says_which_table_column_or_grant() -> None:
    schema = unused_schema()
    quoted = '"' + schema.replace('"', '""') + '"'
    dsn = postgres().dsn
    async with open_postgres_repository(dsn, schema=schema, create=True) as store:
        await store.check()
        await run_sql(dsn, f"ALTER TABLE {quoted}.entries RENAME TO others")
        with pytest.raises(StoreMisconfiguredError, match="no such table") as caught:
            await store.count()
        assert f'relation "{schema}.entries" does not exist' in str(caught.value)
        await run_sql(dsn, f"ALTER TABLE {quoted}.others RENAME TO entries")
        await run_sql(dsn, f"ALTER TABLE {quoted}.entries RENAME COLUMN feed_epoch TO f")
        with pytest.raises(StoreMisconfiguredError, match=r"no such column: .*feed_epoch"):
            await store.check()


async def test_a_server_without_tls_is_no_outage_when_tls_is_demanded() -> None:
    async with open_postgres_repository(f"{postgres().dsn}?sslmode=require") as store:
        with pytest.raises(StoreMisconfiguredError, match="offers no TLS, and sslmode demands it"):
            await store.check()


async def test_a_root_certificate_that_is_missing_is_asked_for(home: Path) -> None:
    async with open_postgres_repository(f"{postgres().dsn}?sslmode=verify-full") as store:
        with pytest.raises(StoreMisconfiguredError, match="name its file by sslrootcert"):
            await store.check()


async def test_a_home_that_can_not_be_read_needs_a_person_and_its_file_is_named(home: Path) -> None:
    inside = home / "private"
    inside.mkdir()
    (inside / ".postgresql").mkdir()
    inside.chmod(0o000)
    os.environ["HOME"] = str(inside)  # which monkeypatch puts back
    file = inside / ".postgresql" / "root.crt"
    try:
        async with open_postgres_repository(f"{postgres().dsn}?sslmode=require") as store:
            with as_nobody(), pytest.raises(StoreMisconfiguredError) as caught:
                await store.check()
    finally:
        inside.chmod(0o700)
    assert str(caught.value).startswith("127.0.0.1")
    assert str(caught.value).endswith(f": a file of TLS, {file}, can't be read (PermissionError)")


def test_only_files_that_tls_needs_are_looked_at(home: Path, tmp_path: Path) -> None:
    (home / ".postgresql" / "root.crl").mkdir(parents=True)
    crl = str(home / ".postgresql" / "root.crl")
    here = tmp_path / "here.crt"
    here.write_text("something", "utf-8")
    for dsn, found in (
        ("postgresql://h/d?sslmode=disable", None),
        ("postgresql://u@/d?host=/run", None),
        ("postgresql://u@/d?host=/run&sslmode=require", crl),
        ("postgresql://h/d", crl),
        ("postgresql://h/d?sslrootcert=/nowhere", "/nowhere"),
        (f"postgresql://h/d?sslrootcert={here}&sslcrl={here}", None),
    ):
        server = Dsn(dsn).server()
        assert unreadable_tls_file(server.tls, server.hosts) == found
