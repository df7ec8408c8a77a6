"""``--table MODULE:NAME``: the commands on entries of the user's own; and ``provcache expire``."""

from __future__ import annotations

import io
import json
import signal
import sys
from datetime import date, datetime
from enum import Enum, IntEnum
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any
from uuid import UUID, uuid4

import msgspec
import pytest
import trio

from provcache_trio import (
    DeadLetter,
    StoreUnavailableError,
    Table,
    WriteBehindOptions,
    open_write_behind_queue,
)
from provcache_trio._cli import main, stores
from provcache_trio._cli.entries import TableEntries, entries_of
from provcache_trio._cli.expiring import Expire
from provcache_trio._cli.misuse import MisuseError
from provcache_trio._cli.progress import Progress
from provcache_trio._cli.relay import RelayJob
from provcache_trio._cli.running import Status
from provcache_trio._cli.urls import stream_target, target_of
from provcache_trio.dead_letters import open_dead_letters
from provcache_trio.journal import open_journal
from provcache_trio.sqlite import SQLiteRepository
from provcache_trio.testing import MemoryRepository

from tests.cli.letters import left_in, letter, put, put_entries
from tests.cli.support import NOW, Impatient, change, entry, leave, lines, names
from tests.support.nats import nats_server, unused_stream
from tests.support.servers import postgres, run_sql
from tests.support.waiting import until

if TYPE_CHECKING:
    from collections.abc import Generator, Sequence
    from pathlib import Path

MODULE = """
from dataclasses import dataclass
from datetime import datetime
from enum import Enum

import msgspec

from provcache_trio import Table


class Kind(Enum):
    VIEW = "view"
    CLICK = "click"


class Place(msgspec.Struct, frozen=True):
    kind: Kind = Kind.VIEW


class View(msgspec.Struct, frozen=True, kw_only=True, tag_field="is", tag="view"):
    site: str
    number: int
    seen_at: datetime
    kind: Kind = Kind.VIEW
    hits: int = 0
    until: datetime | None = None
    note: str = ""
    place: Place = Place()

    def __post_init__(self) -> None:
        if self.note.startswith("s3cr3t"):
            raise {"!": KeyError, "?": ValueError}[self.note[-1]](self.note)


@dataclass
class Plain:
    name: str


VIEWS = Table(
    View,
    "view",
    key=("site", "number"),
    newer="seen_at",
    merge={"hits": "greatest"},
    expires="until",
)
PLAIN = Table(Plain, "plain", key="name")
LONG = Table(Plain, "n" * 64, key="name")
names = ["VIEWS"]


class Shop:
    views = VIEWS
    first = names


def __getattr__(name):
    if name == "lazy":
        raise OSError("s3cr3t")
    raise AttributeError(name)
"""


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Generator[Path]:
    """Return the current directory, which has a module of the user's."""
    there = tmp_path / "here"
    there.mkdir()
    (there / "shop.py").write_text(MODULE)
    monkeypatch.chdir(there)
    monkeypatch.setattr(sys, "path", [*sys.path])
    before = set(sys.modules)
    yield there
    for name in set(sys.modules) - before:
        if name.startswith(("shop", "broken")):
            del sys.modules[name]


@pytest.fixture(params=["sqlite", "postgresql"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """The URL of a store that has nothing yet."""
    if request.param == "sqlite":
        return f"sqlite:{tmp_path / 'store.db'}"
    return postgres().create_database(str(uuid4()))


@pytest.fixture
def views(store: str, capsys: pytest.CaptureFixture[str]) -> str:
    """The URL of a store with an empty table."""
    assert run("init", "--to", store) == 0
    assert capsys.readouterr().out.endswith(" is ready\n")
    return store


def run(*arguments: str, table: str = "shop:VIEWS") -> int:
    return main([*arguments, "--table", table])


def view(number: object = 1, **fields: object) -> dict[str, object]:
    common = {"is": "view", "site": "a", "number": number, "seen_at": "2026-11-25T12:00:00Z"}
    return {**common, **fields}


def write(path: Path, *objects: object) -> str:
    path.write_bytes(msgspec.json.Encoder().encode_lines(objects))
    return str(path)


def entries(*objects: dict[str, object]) -> list[Any]:
    table = entries_of("shop:VIEWS").table
    assert table is not None
    return [msgspec.convert(each, table.entry_type) for each in objects]


def got(capsys: pytest.CaptureFixture[str], *arguments: str) -> Any:  # noqa: ANN401  # JSON
    assert run(*arguments) == 0
    return json.loads(capsys.readouterr().out)


# What there is to store


def test_what_is_ingested_into_a_table_is_read_back_by_its_key(
    views: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = write(
        tmp_path / "views", view(-1, hits=3), view(2, note="ü\x1b"), view(-1, hits=2, kind="click")
    )
    assert run("ingest", source, "--to", views) == 0
    assert "3 lines read" in capsys.readouterr().out
    merged = got(capsys, "get", "a", "-1", "--from", views)
    assert merged["kind"] == "click"
    assert merged["hits"] == 3
    assert run("get", '["a", 2]', "--from", views) == 0
    out = capsys.readouterr().out
    assert out.isascii()
    assert json.loads(out)["note"] == "ü\x1b"
    write(tmp_path / "again", json.loads(out))
    assert run("ingest", str(tmp_path / "again"), "--to", views, "--strict") == 0
    assert "1 unchanged" in capsys.readouterr().out


def test_stats_of_a_table_are_its_entries_and_their_size(
    views: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("ingest", write(tmp_path / "views", view(1), view(2)), "--to", views) == 0
    capsys.readouterr()
    facts = got(capsys, "stats", "--from", views, "--json")
    assert facts == {"entries": 2, "bytes": facts["bytes"]}
    assert facts["bytes"] > 0


def test_stats_find_a_table_in_its_schema(capsys: pytest.CaptureFixture[str], here: Path) -> None:
    url = postgres().create_database(str(uuid4()))
    trio.run(run_sql, url, 'CREATE SCHEMA "Own"')
    (here / "shop_own.py").write_text(
        'from shop import Plain, Table\nOWN = Table(Plain, "p", schema="Own", key="name")\n'
    )
    assert run("init", "--to", url, table="shop_own:OWN") == 0
    capsys.readouterr()
    assert run("stats", "--from", url, "--json", table="shop_own:OWN") == 0
    assert json.loads(capsys.readouterr().out)["bytes"] > 0


def test_no_such_key_is_a_status_of_its_own(views: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("get", "a", "7", "--from", views) == 1
    assert capsys.readouterr().err.endswith(": no entry has this key\n")


@pytest.mark.parametrize(
    "command", [("get", "a", "1", "--from"), ("stats", "--from"), ("ingest", "views", "--to")]
)
def test_only_init_makes_a_table(
    command: Sequence[str], store: str, here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write(here / "views", view())
    if store.startswith("sqlite:"):
        assert main(["init", "--to", store]) == 0  # a file of ProvcacheEntry
        capsys.readouterr()
    assert run(*command, store) == 3
    errors = capsys.readouterr().err
    assert "no table 'view'" in errors
    assert errors.endswith("; provcache init --to makes it\n")


# Which table


@pytest.mark.parametrize(
    ("table", "message"),
    [
        *[
            (wrong, "--table is MODULE:NAME, such as shop.tables:ORDERS")
            for wrong in (
                "",
                "shop",
                "shop:",
                ":VIEWS",
                "shop:VIEWS:x",
                "postgresql://u:s3cr3t@h/d",
            )
        ],
        ("shops:VIEWS", "--table: there is no module 'shops' (looked in HERE, too)"),
        (
            "no.tables:VIEWS",
            "--table: there is no module 'no.tables': 'no' is not there (looked in HERE, too)",
        ),
        (
            "shop.py:VIEWS",
            "--table: there is no module 'shop.py' (looked in HERE, too)",
        ),
        (
            "shop:VIEW",
            "--table: module 'shop' has no attribute 'VIEW'; its tables are VIEWS, PLAIN, LONG",
        ),
        ("shop:Shop.no", "--table: a type in shop:Shop.no has no attribute 'no'; its tables are "),
        ("shop:lazy", "--table: attribute 'lazy' of module 'shop' raised OSError"),
        ("shop:View", "--table: shop:View is the class View, not a Table; its tables are VIEWS"),
        ("shop:Shop.first", "--table: shop:Shop.first is a list, not a Table; its tables are"),
        ("json:dumps.__defaults__", "--table: json:dumps.__defaults__ is a NoneType, not a Table "),
        ("math:inf.real.hex", "--table: math:inf.real.hex is a builtin_function_or_method, not "),
        ("math:nothing.int", "--table: module 'math' has no attribute 'nothing' "),
    ],
)
def test_what_names_no_table_is_said(
    table: str, message: str, here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("stats", "--from", "sqlite:store.db", table=table) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith(f"provcache: {message.replace('HERE', str(here))}")
    assert err.endswith("(see provcache --help)\n")
    assert "s3cr3t" not in err
    assert names(here) in (["__pycache__", "shop.py"], ["shop.py"])


@pytest.mark.parametrize(
    ("module", "message"),
    [
        ("x = 1\nraise OSError('s3cr3t')", "OSError at HERE/broken.py:2"),
        ("import sys\nsys.exit('s3cr3t')", "SystemExit at HERE/broken.py:2"),
        ("x = 1\n)", "SyntaxError at HERE/broken.py:2"),
        ("\nimport s_3", "ModuleNotFoundError (No module named 's_3') at HERE/broken.py:2"),
        (
            "import shop\nshop.Table(shop.Plain, 'plain', key='nam')",
            "ValueError (Plain has no field 'nam'; it has name) at HERE/broken.py:2",
        ),
    ],
)
def test_a_module_that_cannot_be_imported_is_said_with_class_and_place(
    module: str, message: str, here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (here / "broken.py").write_text(module)
    assert run("stats", "--from", "sqlite:store.db", table="broken:VIEWS") == 2
    err = capsys.readouterr().err
    why = f"--table: module 'broken' can't be imported: {message.replace('HERE', str(here))}"
    assert err == f"provcache: {why} (see provcache --help)\n"


def test_a_table_is_found_in_an_attribute_of_an_attribute() -> None:
    assert entries_of("shop:Shop.views").table is entries_of("shop:VIEWS").table


def test_the_current_directory_stays_out_where_python_is_to_be_safe(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    flags = {name: getattr(sys.flags, name) for name in dir(sys.flags) if name[0] != "_"}
    monkeypatch.setattr(sys, "flags", SimpleNamespace(**flags | {"safe_path": True}))
    with pytest.raises(MisuseError, match=r"there is no module 'shop'$"):
        entries_of("shop:VIEWS")


def test_a_name_that_postgresql_would_cut_is_misuse(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("stats", "--from", "postgresql://127.0.0.1:1/db", table="shop:LONG") == 2
    assert "table: the name must be" in capsys.readouterr().err


# Keys


class Colour(Enum):
    RED = "red"


class Size(IntEnum):
    BIG = 3


class Thing(msgspec.Struct, frozen=True, kw_only=True):
    name: str
    number: int
    yes: bool
    blob: bytes
    uuid: UUID
    day: date
    at: datetime
    colour: Colour
    size: Size


UUID_1 = "00000000-0000-0000-0000-000000000001"


@pytest.mark.parametrize(
    ("field", "text", "value"),
    [
        ("name", "null", "null"),
        ("name", '["a"]', '["a"]'),
        ("number", "-7", -7),
        ("yes", "true", True),
        ("blob", "aGk=", b"hi"),
        ("uuid", UUID_1, UUID(UUID_1)),
        ("day", "2026-11-25", date(2026, 11, 25)),
        ("at", "2026-11-25T13:00:00+01:00", NOW),
        ("colour", "red", Colour.RED),
        ("size", "3", Size.BIG),
    ],
)
def test_a_key_is_read_by_the_type_of_its_field(field: str, text: str, value: object) -> None:
    found = TableEntries(Table(Thing, "thing", key=field)).read_key([text])
    assert (found, type(found)) == (value, type(value))


def test_a_key_of_several_fields_is_read_from_words_or_one_array() -> None:
    kind = TableEntries(Table(Thing, "thing", key=("number", "uuid")))
    for words in (["7", UUID_1], [f'[7, "{UUID_1}"]'], [f'["7", "{UUID_1}"]']):
        assert kind.read_key(words) == (7, UUID(UUID_1))


@pytest.mark.parametrize(
    ("key", "words", "message"),
    [
        ("number", ["s3cr3t"], "the key's field 'number' has to be an int"),
        ("blob", ["s3cr3t"], "the key's field 'blob' has to be bytes in Base64"),
        ("uuid", ["s3cr3t"], "the key's field 'uuid' has to be a UUID"),
        ("colour", ["s3cr3t"], "the key's field 'colour' has to be one of 'red'"),
        *[
            ("at", [text], "the key's field 'at' has to be a datetime such as 2026-11-25T12:00:00Z")
            for text in ("2026-11-25T12:00:00", "2026-11-25T12:00Z")
        ],
        (("number", "name"), ['["s3cr3t", "x"]'], "the key's field 'number' has to be an int"),
        (("number", "name"), ["[1, 2]"], "the key's field 'name' has to be a str"),
        *[
            (("number", "name"), words, "the key of thing has to be given in full: number, name")
            for words in ([], ["1"], ["[1]"], ["{"], ["1", "2", "3"])
        ],
        ("name", [], "the key of thing has to be given in full: name"),
    ],
)
def test_what_is_no_key_of_the_table_is_said_by_field(
    key: str | tuple[str, ...], words: list[str], message: str
) -> None:
    with pytest.raises(MisuseError) as caught:
        TableEntries(Table(Thing, "thing", key=key)).read_key(words)
    assert str(caught.value) == message


# Lines


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (view(number="s3cr3t"), "Expected `int`, got `str` - at `$.number`"),
        (view(kind="s3cr3t - at `$.x`"), "Invalid value - at `$.kind`"),
        (view(place={"kind": "s3cr3t"}), "Invalid value - at `$.place.kind`"),
        (view() | {"is": "s3cr3t"}, "Invalid value - at `$.is`"),
        ({"site": "s3cr3t"}, "Object missing required field `number`"),
        (view(note="s3cr3t?"), "refused by its type: ValueError at HERE/shop.py:32"),
        (view(note="s3cr3t!"), "refused by its type: KeyError at HERE/shop.py:32"),
        (view(s3cr3t=1), "Object contains an unknown field"),
        (7, "Expected `object`, got `int`"),
        (None, "longer than 1,048,576 bytes"),
    ],
)
def test_a_bad_line_is_reported_by_number_and_field_without_the_value(
    line: object, message: str, here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("init", "--to", "sqlite:store.db") == 0
    capsys.readouterr()
    content = msgspec.json.encode(line) if line is not None else b" " * (1 << 20) + b"1"
    (here / "lines").write_bytes(msgspec.json.encode(view()) + b"\n" + content)
    assert run("ingest", "lines", "--to", "sqlite:store.db", "--strict") == 1
    err = capsys.readouterr().err
    assert err == f"provcache: line 2: {message.replace('HERE', str(here))}\n"


def test_a_class_that_knows_its_fields_is_believed_and_its_fields_are_not_quoted(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (here / "shop_strict.py").write_text(
        "import msgspec\nfrom provcache_trio import Table\n"
        "class Only(msgspec.Struct, forbid_unknown_fields=True):\n    name: str\n"
        'ONLY = Table(Only, "only", key="name")\n'
    )
    assert run("init", "--to", "sqlite:store.db", table="shop_strict:ONLY") == 0
    write(here / "lines", {"name": "a", "s3cr3t` - at `$.x": 1})
    capsys.readouterr()
    assert run("ingest", "lines", "--to", "sqlite:store.db", table="shop_strict:ONLY") == 1
    assert capsys.readouterr().err == "provcache: line 1: Object contains an unknown field\n"


@pytest.mark.parametrize(
    ("pair", "message"),
    [
        (b'"hits":1,"hits":2', "Object contains `hits` twice"),
        (b'"s3cr3t":1,"s3cr3t":2', "Object contains an unknown field"),
    ],
)
def test_a_strict_line_has_every_field_once(
    pair: bytes, message: str, here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("init", "--to", "sqlite:store.db") == 0
    capsys.readouterr()
    (here / "lines").write_bytes(msgspec.json.encode(view())[:-1] + b"," + pair + b"}")
    assert run("ingest", "lines", "--to", "sqlite:store.db", "--strict") == 1
    assert capsys.readouterr().err == f"provcache: line 1: {message}\n"
    assert run("ingest", "lines", "--to", "sqlite:store.db") == 0


# Dead letters, journals, streams


def keep(path: Path, *objects: dict[str, object]) -> None:
    """Have a file of dead letters with these entries."""

    async def work() -> None:
        table = entries_of("shop:VIEWS").entry_type
        letters = [
            DeadLetter(
                entry=one,
                key=table.key(one),
                error_class="CheckViolationError",
                sqlstate="23514",
                constraint=None,
                attempts=1,
                opened_at=NOW,
                failed_at=NOW,
            )
            for one in entries(*objects)
        ]
        async with open_dead_letters(path, entry_type=table) as file:
            await file.put_many(letters)

    trio.run(work)


def test_letters_of_a_table_are_listed_shown_and_purged_by_their_key(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    dead = here / "dead.db"
    keep(dead, view(1), view(2, note="ü"))
    arguments = ("--in", str(dead), "--key", '["a", 2]')
    listed = got(capsys, "dead-letters", "list", *arguments, "--json")
    assert (listed["id"], listed["key"]) == (2, '["a",2]')
    # As it is listed, it finds the letter without a table, too.
    assert main(["dead-letters", "list", *arguments[:2], "--key", listed["key"], "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["id"] == 2
    shown = got(capsys, "dead-letters", "show", "2", "--in", str(dead), "--json")
    assert shown["entry"]["note"] == "ü"
    assert run("dead-letters", "show", "2", "--in", str(dead)) == 0
    assert '"note": "\\u00fc"' in capsys.readouterr().out
    assert run("dead-letters", "purge", *arguments, "--yes") == 0
    assert left_in(dead) == [1]
    assert run("dead-letters", "list", "--in", str(dead), "--key", '["a"]') == 2
    assert "has to be given in full: site, number" in capsys.readouterr().err
    # A key of the table that no letter has is no misunderstanding.
    assert run("dead-letters", "list", "--in", str(dead), "--key", '["a", 9]') == 0
    assert "written like this" not in capsys.readouterr().err


def refused(entry: Any, **changes: Any) -> DeadLetter[Any]:  # noqa: ANN401
    """Return the letter of an entry that the repository refused by itself."""
    return DeadLetter(
        entry=entry,
        key=(entry.site, entry.number),
        error_class="EntryRejectedError",
        sqlstate=None,
        constraint=None,
        attempts=1,
        opened_at=NOW,
        failed_at=NOW,
        **changes,
    )


def test_why_an_entry_was_refused_is_in_every_answer(
    views: str, here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    table = entries_of("shop:VIEWS").entry_type
    good, other = entries(view(1), view(2))
    naive = msgspec.structs.replace(good, seen_at=NOW.replace(tzinfo=None))
    unfit = msgspec.structs.replace(other, hits="many")
    put(
        here / "dead.db",
        [
            refused(naive, field="seen_at", reason="seen_at must be an aware datetime"),
            refused(unfit, field="hits", reason="hits must be an int, not str"),
            refused(msgspec.structs.replace(unfit, number=3), field="hits"),
            refused(msgspec.structs.replace(unfit, number=4)),
        ],
        table,
    )
    file = ("--in", str(here / "dead.db"))
    assert main(["dead-letters", "list", *file]) == 0
    rows = capsys.readouterr().out.splitlines()[1:]
    assert [row.partition("  [")[2] for row in rows] == [
        '"a",1]  EntryRejectedError: seen_at must be an aware datetime',
        '"a",2]  EntryRejectedError: hits must be an int, not str',
        '"a",3]  EntryRejectedError: field hits',
        '"a",4]  EntryRejectedError',
    ]
    assert main(["dead-letters", "show", "1", *file, "--json"]) == 0
    shown = json.loads(capsys.readouterr().out)
    assert (shown["field"], shown["reason"]) == ("seen_at", "seen_at must be an aware datetime")
    assert main(["dead-letters", "show", "2", *file]) == 0
    assert "reason       hits must be an int, not str\n" in capsys.readouterr().out
    assert run("dead-letters", "list", *file) == 1
    assert 'letter 2 can\'t be read (key ["a",2]): hits must be' in capsys.readouterr().err
    assert run("dead-letters", "retry", *file, "--to", views) == 1
    out, err = capsys.readouterr()
    naive_one = "seen_at must be an aware datetime, not a naive one"
    assert [line.removeprefix("provcache: ") for line in err.splitlines()] == [
        "letter 2 is no View, and stays: it was refused, hits must be an int, not str",
        "letter 3 is no View, and stays: it was refused, field hits",
        "letter 4 is no View, and stays: Expected `int`, got `str` - at `$.hits`",
        f"letter 1 was refused, and stays: EntryRejectedError, field seen_at: {naive_one}",
    ]
    assert "3 no View, kept: they do not fit the type; a program can read them, by upgrade=" in out
    assert "for the program that has their type" not in out


def test_a_field_that_letters_of_a_former_class_lack_is_named(
    views: str, here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    class Former(msgspec.Struct):
        site: str
        number: int

    former = f"{Former.__module__}.{Former.__qualname__}"
    put(here / "dead.db", [refused(Former("a", 1))], Former)
    file = ("--in", str(here / "dead.db"), "--alias", former)
    assert run("dead-letters", "retry", *file, "--to", views) == 1
    out, err = capsys.readouterr()
    assert err == "provcache: letter 1 is no View, and stays: missing required field `seen_at`\n"
    assert "1 no View, kept: they do not fit the type; a program can read them, by upgrade=" in out
    assert run("dead-letters", "show", "1", *file) == 1
    assert 'can\'t be read (key ["a",1]): missing required field `seen_at`' in (
        capsys.readouterr().err
    )


def test_letters_of_another_type_can_not_be_read_with_a_table(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    dead = here / "dead.db"
    put_entries(dead, letter(1))
    assert run("dead-letters", "list", "--in", str(dead)) == 1
    assert "letter 1 can't be read" in capsys.readouterr().err
    assert run("dead-letters", "show", "1", "--in", str(dead)) == 1
    assert main(["dead-letters", "show", "1", "--in", str(dead)]) == 0
    assert run("init", "--to", "sqlite:store.db") == 0
    capsys.readouterr()
    assert run("dead-letters", "retry", "--in", str(dead), "--to", "sqlite:store.db") == 1
    out, err = capsys.readouterr()
    assert err == "provcache: letter 1 is no View, and stays\n"
    assert "1 no View, kept: for the program that has their type, --table or --alias" in out


def test_letters_of_a_table_are_sent_again(
    views: str, here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    dead = here / "dead.db"
    keep(dead, view(1), view(2), view(3))
    retry = ("dead-letters", "retry", "--in", str(dead), "--to", views)
    assert run(*retry, "--key", '["a", 3]') == 0
    assert left_in(dead) == [1, 2]
    assert run(*retry) == 0
    assert left_in(dead) == []
    capsys.readouterr()
    assert got(capsys, "stats", "--from", views, "--json")["entries"] == 3


def rename_class(here: Path) -> None:
    """Deploy a version in which the class of the entries has another name."""
    (here / "shop.py").write_text(MODULE.replace("View(", "Visit(").replace("View,", "Visit,"))
    del sys.modules["shop"]


def test_letters_of_a_class_that_was_renamed_are_read_by_its_former_name(
    views: str, here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    dead = here / "dead.db"
    keep(dead, view(1), view(2))
    rename_class(here)
    file = ("--in", str(dead))
    former = ("--alias", "shop.View")
    for command, refused in ((("list",), "letter 1 can't be read"), (("show", "1"), "letter 1")):
        assert run("dead-letters", *command, *file) == 1
        assert refused in capsys.readouterr().err
        assert run("dead-letters", *command, *file, *former) == 0
    retry = ("dead-letters", "retry", *file, "--to", views)
    assert run(*retry) == 1
    assert "letter 1 is no Visit, and stays" in capsys.readouterr().err
    assert run(*retry, "--alias", "shop.Other", *former) == 0
    assert left_in(dead) == []


def test_a_journal_of_a_class_that_was_renamed_is_replayed_by_its_former_name(
    views: str, here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = here / "journal"
    journal_of(path, view(1), view(2))
    rename_class(here)
    replay = ("journal", "replay", str(path), "--to", views)
    assert run(*replay) == 3
    assert "--alias a name that their class had before" in capsys.readouterr().err
    assert run(*replay, "--alias", "shop.View") == 0
    assert "2 written; 0 stay in the journal" in capsys.readouterr().out


def journal_of(path: Path, *objects: dict[str, object]) -> None:
    async def work() -> None:
        table = entries_of("shop:VIEWS").table
        assert table is not None
        repository = MemoryRepository(table=table)
        repository.down()
        async with (
            open_journal(path, entry_type=table) as journal,
            open_write_behind_queue(
                repository, WriteBehindOptions(drain_timeout_seconds=0), journal=journal
            ) as queue,
        ):
            await queue.enqueue_many(entries(*objects))

    trio.run(work)


def test_a_journal_of_a_table_is_replayed(
    views: str, here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = here / "journal"
    journal_of(path, view(1), view(2))
    assert run("journal", "status", str(path)) == 0
    assert "of type shop.View" in capsys.readouterr().out
    assert run("journal", "replay", str(path), "--to", views) == 0
    assert "2 written; 0 stay in the journal" in capsys.readouterr().out
    assert got(capsys, "get", "a", "2", "--from", views)["number"] == 2


def test_an_entry_that_a_table_refuses_stays_in_the_journal(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = here / "journal"
    journal_of(path, view(1, site="\x1b"), view(2))
    assert run("init", "--to", "sqlite:store.db") == 0
    change(
        here / "store.db",
        "CREATE TRIGGER t BEFORE INSERT ON view WHEN NEW.number = 1 BEGIN SELECT RAISE(ABORT, 'no'); END",
    )
    capsys.readouterr()
    assert run("journal", "replay", str(path), "--to", "sqlite:store.db") == 1
    out, err = capsys.readouterr()
    assert "1 written; 1 stay in the journal" in out
    assert err.startswith(r'provcache: ["\u001b",1] was refused, and stays: ')


def test_a_journal_of_another_type_is_refused_with_both_names(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = here / "journal"
    leave(path, entry(1))
    assert run("init", "--to", "sqlite:store.db") == 0
    for command in (["status", str(path)], ["replay", str(path), "--to", "sqlite:store.db"]):
        capsys.readouterr()
        assert run("journal", *command) == 3
        err = capsys.readouterr().err
        assert f"journal {path} holds entries of type provcache_trio.ProvcacheEntry" in err
        assert "and this command is for shop.View: --table MODULE:NAME names the table" in err


def test_what_was_set_aside_comes_back_if_it_is_what_the_table_says(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = here / "journal"
    leave(path, entry(1))
    assert run("journal", "restore", str(path)) == 3
    assert "holds entries of type provcache_trio.ProvcacheEntry, not shop.View" in (
        capsys.readouterr().err
    )
    path.unlink()
    journal_of(path, view(1))
    assert run("journal", "restore", str(path)) == 0
    assert capsys.readouterr().out.startswith("0 entries restored; 0 entries")


async def test_a_relay_takes_the_entries_of_a_table_to_it(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    kind = entries_of("shop:VIEWS")
    where = f"{nats_server().url}/{unused_stream()}"
    source = stream_target(where, kind)
    await source.create(10_000_000, 1)
    store = target_of("sqlite:store.db", kind)
    async with store.open(create=True) as repository:
        await repository.check()
        async with source.open() as stream:
            await stream.upsert_many(entries(view(1), view(2)))
        job = RelayJob(source, store, here / "dead.db", None)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(job.run, Progress(job.where, io.StringIO()))
            await until(lambda: job.outage.metrics and job.outage.metrics.total_persisted == 2)
            nursery.cancel_scope.cancel()
        assert await repository.count() == 2
    async with open_dead_letters(here / "dead.db", entry_type=kind.entry_type) as letters:
        assert await letters.count() == 0


def test_a_table_whose_order_matters_can_not_go_through_a_stream(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert run("init", "--to", "nats://h/s", "--max-bytes", "1GB", table="shop:PLAIN") == 2
    assert capsys.readouterr().err == (
        "provcache: table 'plain' can't go through a stream, where order is not kept: it has no "
        "'newer' (see provcache --help)\n"
    )


# provcache expire

GONE, THERE = "2026-11-24T12:00:00Z", "2999-01-01T00:00:00Z"


def test_expire_deletes_from_a_table_what_has_expired_in_slices(
    views: str, here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    old = [view(number, until=GONE) for number in range(5)]
    write(here / "lines", *old, view(7, until=THERE), view(8))
    assert run("ingest", "lines", "--to", views) == 0
    capsys.readouterr()
    assert run("expire", "--in", views, "--now", "2026-11-24T11:59") == 0
    assert capsys.readouterr().out.startswith("0 expired entries deleted from ")
    assert run("expire", "--in", views, "--limit", "2") == 0
    out, err = capsys.readouterr()
    assert (out.startswith("5 expired entries deleted from "), err) == (True, "")
    assert got(capsys, "stats", "--from", views, "--json")["entries"] == 2


def test_expire_deletes_entries_of_veri_keys(
    store: str, here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (here / "lines").write_bytes(lines(range(3)))
    assert main(["ingest", "lines", "--to", store]) == 0
    capsys.readouterr()
    assert main(["expire", "--in", store, "--now", "2026-11-26T11:59:59"]) == 0
    assert capsys.readouterr().out.startswith("0 expired entries deleted")
    assert main(["expire", "--in", store, "--now", "2026-11-26T12:00"]) == 0
    assert capsys.readouterr().out.startswith("3 expired entries deleted")


@pytest.mark.parametrize(
    ("arguments", "table", "message"),
    [
        (("--limit", "0"), "VIEWS", "--limit is a number of entries, 1 or more"),
        (("--limit", str(2**63)), "VIEWS", "--limit is a number of entries, 1 or more"),
        (("--now", "s3cr3t"), "VIEWS", "--now is a time such as 2026-11-25T12:00 (UTC), or a dur"),
        ((), "PLAIN", "--table: 'plain' was declared without expires=, so nothing in it expires"),
    ],
)
def test_expire_says_what_is_wrong_with_its_arguments(
    arguments: Sequence[str], table: str, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("expire", "--in", "sqlite:store.db", *arguments, table=f"shop:{table}") == 2
    assert capsys.readouterr().err.startswith(f"provcache: {message}")


def test_expire_makes_no_store(store: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("expire", "--in", store) == 3
    out, err = capsys.readouterr()
    assert out == ""
    assert err.endswith("provcache init --to makes it\n")


def test_a_signal_ends_expire_after_the_slice_under_way(
    here: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    write(here / "lines", *(view(number, until=GONE) for number in range(5)))
    assert run("init", "--to", "sqlite:store.db") == 0
    assert run("ingest", "lines", "--to", "sqlite:store.db") == 0
    capsys.readouterr()
    delete = SQLiteRepository.delete_expired

    async def signalled(self: SQLiteRepository[Any], now: datetime, limit: int) -> int:
        signal.raise_signal(signal.SIGTERM)
        await trio.sleep(0.01)  # in which the signal arrives
        return await delete(self, now, limit)

    monkeypatch.setattr(SQLiteRepository, "delete_expired", signalled)
    assert run("expire", "--in", "sqlite:store.db", "--limit", "2") == 128 + signal.SIGTERM
    assert capsys.readouterr() == (
        "2 expired entries deleted from store.db\nStopped by SIGTERM\n",
        "",
    )
    assert got(capsys, "stats", "--from", "sqlite:store.db", "--json")["entries"] == 3


async def test_expire_waits_for_a_store_that_is_locked_and_says_where_it_is(
    here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kind = entries_of("shop:VIEWS")
    target = target_of("sqlite:store.db", kind)
    async with target.open(create=True) as repository:
        await repository.upsert_many(entries(view(1, until=GONE)))
    delete = SQLiteRepository.delete_expired
    failures = iter([True, False, False])

    async def locked(self: SQLiteRepository[Any], now: datetime, limit: int) -> int:
        if next(failures):
            raise StoreUnavailableError("locked")
        return await delete(self, now, limit)

    monkeypatch.setattr(SQLiteRepository, "delete_expired", locked)
    monkeypatch.setattr(stores, "_PAUSE", 0.001)
    job = Expire(target, NOW, 10)
    seen = Impatient()
    assert (job.where(), job.summary(None)) == ("0 entries deleted", [])
    await job.run(seen)
    assert job.where() == "1 entry deleted"
    assert job.status is Status.DONE
    assert seen.notices == ["locked; trying again for 10 s"]
