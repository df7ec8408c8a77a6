"""``provcache dead-letters``: look, send again, throw away."""

from __future__ import annotations

import datetime as dt
import json
import logging
import os
import random
import signal
import sqlite3
import subprocess
import sys
import time
from contextlib import closing, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec
import pytest
import trio

from provcache_trio import (
    EntryRejectedError,
    ProvcacheEntry,
    StoreUnavailableError,
    WriteBehindOptions,
)
from provcache_trio._cli import main, sending
from provcache_trio._cli.arguments import read_moment
from provcache_trio._cli.dead_letters.retry import Retry
from provcache_trio._cli.input import Input, InputError
from provcache_trio._cli.misuse import MisuseError
from provcache_trio._core import watch as _store_watch
from provcache_trio.dead_letters import DeadLetters
from provcache_trio.sqlite import SQLiteRepository, open_sqlite_repository

from tests.cli.letters import SECOND, left_in, letter, put, put_entries
from tests.cli.support import (
    BAD,
    NOW,
    PROGRAM,
    change,
    entries_in,
    entry,
    key_of,
    names,
    pseudo_terminal,
    url,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Generator

ODD = "\x1b[31m\x9b \U0001f680"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Return a file with three letters."""
    path = tmp_path / "dead.db"
    put_entries(path, letter(1), letter(2), letter(3))
    return path


def run(command: str, path: Path, *more: object) -> int:
    return main(["dead-letters", *command.split(), *map(str, more), "--in", str(path)])


@contextmanager
def owned(path: Path) -> Generator[int]:
    """Have somebody else own the file, as a service does; yield the number of the process."""
    program = (
        "import sys, trio\n"
        "from provcache_trio.dead_letters import open_dead_letters\n"
        "async def main():\n"
        "    async with open_dead_letters(sys.argv[1]):\n"
        "        print('open', flush=True)\n"
        "        await trio.to_thread.run_sync(sys.stdin.read)\n"
        "trio.run(main)"
    )
    with subprocess.Popen(
        [sys.executable, "-c", program, str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"open\n"
        try:
            yield process.pid
        finally:
            process.communicate(b"")


# list


def test_list_shows_why_each_letter_is_there(
    path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    put_entries(path, msgspec.structs.replace(letter(4), sqlstate=None, constraint=None, key=ODD))
    assert run("list", path) == 0
    out, err = capsys.readouterr()
    heading, *lines = out.splitlines()
    assert heading.split() == ["id", "failed", "at", "attempts", "key", "and", "error"]
    assert [line.split() for line in lines[:3]] == [
        [
            str(number),
            f"2026-11-25T12:00:0{number}Z",
            "2",
            key_of(number),
            "UniqueViolationError",
            "23505",
            "one_per_key",
        ]
        for number in (1, 2, 3)
    ]
    assert lines[3].endswith("  2  \\x1b[31m\\x9b \U0001f680  UniqueViolationError")
    assert "nvd" not in out
    assert err == ""


def test_list_prints_json_on_request(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    put_entries(path, msgspec.structs.replace(letter(4), sqlstate=None, key=ODD))
    assert run("list --json", path) == 0
    out, _ = capsys.readouterr()
    assert out.isascii()
    first, *_, last = map(json.loads, out.splitlines())
    assert first == {
        "id": 1,
        "key": key_of(1),
        "error_class": "UniqueViolationError",
        "sqlstate": "23505",
        "constraint": "one_per_key",
        "field": None,
        "reason": None,
        "attempts": 2,
        "opened_at": "2026-11-25T11:59:59+00:00",
        "failed_at": "2026-11-25T12:00:01+00:00",
    }
    assert (last["key"], last["sqlstate"]) == (ODD, None)


@pytest.mark.parametrize(
    ("filters", "expected"),
    [
        ([], [1, 2, 3]),
        (["--key", key_of(2)], [2]),
        (["--key", key_of(9)], []),
        (["--since", "2026-11-25T12:00:02"], [2, 3]),
        (["--since", "2026-11-25T13:00:02.000001+01:00"], [3]),
        (["--since", "2026-11-26"], []),
        (["--since", "2026-11-25", "--key", key_of(3)], [3]),
        (["--since", "999w"], [1, 2, 3]),
    ],
    ids=str,
)
def test_list_filters(
    filters: list[str], expected: list[int], path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("list --json", path, *filters) == 0
    assert [json.loads(line)["id"] for line in capsys.readouterr().out.splitlines()] == expected


def test_list_tells_that_there_is_none(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("list --key", path, key_of(9)) == 0
    assert capsys.readouterr() == ("no letters\n", "")


@pytest.mark.parametrize("json_", [[], ["--json"]], ids=["text", "json"])
def test_list_does_not_take_a_key_that_it_can_not_read_for_one_without_letters(
    json_: list[str], path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("list --key", path, '[1,"2026-11-30T11:00:00+01:00"]', *json_) == 1
    out, err = capsys.readouterr()
    assert out == ""
    assert "no letter has a key that is written like this; --table MODULE:NAME" in err


def test_list_goes_through_all_pages(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    put_entries(path, *map(letter, range(250)))
    assert run("list", path) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [int(line.split()[0]) for line in lines[1:]] == left_in(path)
    assert len(lines) == 251


def test_list_tells_by_number_what_can_not_be_read(
    path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    change(path, "UPDATE provcache_dead_letters SET letter = x'5b', key = char(27) WHERE id = 1")
    assert run("list", path) == 1
    out, err = capsys.readouterr()
    assert [line.split()[0] for line in out.splitlines()] == ["id", "2", "3"]
    assert err == f"provcache: {path}: letter 1 can't be read (key \\x1b)\n"


def test_letters_of_any_type_can_be_looked_at_and_purged(
    tmp_path: Path, cache: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "other.db"
    put(path, [msgspec.structs.replace(letter(1), entry={"a": [1.5, "ü"]}, key=1)], dict)
    assert run("list", path) == 0
    assert run("show 1 --json", path) == 0
    assert json.loads(capsys.readouterr().out.splitlines()[-1])["entry"] == {"a": [1.5, "ü"]}
    assert run("retry", path, "--to", url(cache)) == 1
    out, err = capsys.readouterr()
    assert "1 no ProvcacheEntry, kept" in out
    assert err == "provcache: letter 1 is no ProvcacheEntry, and stays\n"
    assert left_in(path) == [1]
    assert run("purge --yes", path) == 0
    assert left_in(path) == []


# show


def test_show_prints_everything(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("show 2", path) == 0
    out, err = capsys.readouterr()
    facts, _, document = out.partition("entry\n")
    assert dict(line.split(maxsplit=1) for line in facts.splitlines()) == {
        "id": "2",
        "key": key_of(2),
        "error_class": "UniqueViolationError",
        "sqlstate": "23505",
        "constraint": "one_per_key",
        "attempts": "2",
        "opened_at": "2026-11-25T11:59:59+00:00",
        "failed_at": "2026-11-25T12:00:02+00:00",
    }
    assert msgspec.json.decode(document, type=ProvcacheEntry) == entry(2)
    assert err == ""


def test_show_escapes_what_a_terminal_might_obey(
    path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    odd = msgspec.structs.replace(letter(4, feed_epoch=ODD), key=ODD, sqlstate=None)
    put_entries(path, odd)
    assert run("show 4", path) == 0
    assert run("show 4 --json", path) == 0
    out, _ = capsys.readouterr()
    assert all(line.isprintable() for line in out.splitlines())
    whole = json.loads(out.splitlines()[-1])
    assert msgspec.convert(whole["entry"], ProvcacheEntry) == odd.entry
    assert whole["sqlstate"] is None
    assert "\nsqlstate" not in out


def test_show_tells_that_there_is_no_such_letter_or_that_it_can_not_be_read(
    path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    change(path, "UPDATE provcache_dead_letters SET letter = x'5b' WHERE id = 1")
    assert run("show 7", path) == 1
    assert run("show 1", path) == 1
    assert capsys.readouterr() == (
        "",
        (
            f"provcache: {path}: there is no letter 7\n"
            f"provcache: {path}: letter 1 can't be read (key {key_of(1)})\n"
        ),
    )
    assert run(f"show {2**63}", path) == 2


# retry


def test_retry_persists_and_removes(
    path: Path, cache: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    capsys.readouterr()
    assert run("retry", path, "--to", url(cache)) == 0
    assert capsys.readouterr() == (
        (
            f"3 letters, from {path} into {cache}\n"
            "          3 persisted and removed\n"
            "          0 refused again, kept\n"
        ),
        "",
    )
    assert left_in(path) == []
    assert entries_in(cache) == {key_of(number): entry(number) for number in (1, 2, 3)}


def test_retry_keeps_what_is_refused_again_untouched_and_goes_on(
    path: Path, cache: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bad = [letter(number, hit_count=BAD) for number in range(100, 150)]
    put_entries(path, *bad, letter(4))
    before = [number for number in left_in(path) if 3 < number < 54]
    capsys.readouterr()
    assert run("retry --json", path, "--to", url(cache)) == 1
    out, err = capsys.readouterr()
    assert json.loads(out) == {
        "matched": 54,
        "persisted": 4,
        "removed": 4,
        "refused": 50,
        "unreadable": 0,
    }
    assert left_in(path) == before
    assert err.splitlines() == [
        f"provcache: letter {number} was refused, and stays: SQLITE_CONSTRAINT_TRIGGER"
        for number in before
    ]
    assert set(entries_in(cache)) == {key_of(number) for number in (1, 2, 3, 4)}
    assert run("list --json", path) == 0
    assert json.loads(capsys.readouterr().out.splitlines()[0])["attempts"] == 2


def test_the_reason_of_a_refusal_is_told_in_full(
    path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    async def refuse(*_: object) -> int:
        await trio.lowlevel.checkpoint()
        raise EntryRejectedError("no", error_class="Check", sqlstate="23514", constraint="odd")

    monkeypatch.setattr(SQLiteRepository, "upsert_many", refuse)
    assert run("retry --key", path, key_of(1), "--to", url(cache)) == 1
    assert capsys.readouterr().err == (
        "provcache: letter 1 was refused, and stays: Check, SQLSTATE 23514, constraint odd\n"
    )


def test_a_refusal_is_not_logged_as_a_new_dead_letter(
    tmp_path: Path, cache: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "bad.db"
    put_entries(path, letter(1, hit_count=BAD))
    before = list(logging.getLogger("provcache_trio").filters)
    assert run("retry", path, "--to", url(cache)) == 1
    assert [record for record in caplog.records if "dead-lettered" in record.getMessage()] == []
    assert logging.getLogger("provcache_trio").filters == before


def test_what_the_queue_warns_of_is_told(
    path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    upsert = SQLiteRepository.upsert_many
    failing = iter([True])

    async def fail_once(self: SQLiteRepository, entries: list[ProvcacheEntry]) -> int:
        if next(failing, False):
            await trio.lowlevel.checkpoint()
            raise StoreUnavailableError("gone")
        return await upsert(self, entries)

    monkeypatch.setattr(SQLiteRepository, "upsert_many", fail_once)
    assert run("retry", path, "--to", url(cache)) == 0
    assert "provcache: retry: store lost, entries are kept until it works" in (
        capsys.readouterr().err
    )


def drain_within(monkeypatch: pytest.MonkeyPatch, seconds: float) -> None:
    options = WriteBehindOptions(batch_size=19, coalesce=False, drain_timeout_seconds=seconds)
    defaults = Retry.__init__.__kwdefaults__
    assert defaults is not None
    monkeypatch.setitem(defaults, "options", options)


def test_a_store_that_stays_away_is_given_up(
    path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    async def gone(*_: object) -> int:
        await trio.lowlevel.checkpoint()
        raise StoreUnavailableError("gone")

    drain_within(monkeypatch, 0.1)
    monkeypatch.setattr(SQLiteRepository, "upsert_many", gone)
    assert run("retry --give-up-after 0.2", path, "--to", url(cache)) == 3
    out, err = capsys.readouterr()
    assert "  3 not tried or not known to be persisted, kept\n" in out
    assert err.endswith(
        f"provcache: {cache}: given up after 0.2 s without the store (StoreUnavailableError)\n"
    )
    assert left_in(path) == [1, 2, 3]


@pytest.mark.parametrize("seconds", ["0", "-1", "nan"])
def test_a_time_to_give_up_after_is_above_0(
    seconds: str, path: Path, cache: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(f"retry --give-up-after={seconds}", path, "--to", url(cache)) == 2
    assert "a number of seconds above 0, or inf" in capsys.readouterr().err


def test_letters_that_can_not_be_read_in_the_middle_are_told_with_their_place(
    path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    letters = DeadLetters.letters

    async def fail_later(self: DeadLetters[object], *, after: int, **more: object) -> object:
        if after:
            raise StoreUnavailableError("the disk failed")
        return await letters(self, after=after, **more)  # type: ignore[arg-type]

    monkeypatch.setattr(DeadLetters, "letters", fail_later)
    assert run("retry", path, "--to", url(cache)) == 3
    out, err = capsys.readouterr()
    assert "3 persisted and removed" in out
    assert err == f"provcache: {path}: the disk failed\n"


def test_retry_never_has_a_queue_blame_the_store() -> None:
    assert sending.AT_ONCE < _store_watch._REFUSALS_THAT_BLAME_THE_STORE


def test_each_of_several_letters_of_one_key_has_a_fate_of_its_own(
    tmp_path: Path, cache: Path
) -> None:
    path = tmp_path / "versions.db"
    versions = [
        letter(1, hit_count=1),
        letter(1, hit_count=BAD, created_at=NOW + SECOND),
        letter(1, hit_count=2, created_at=NOW + 2 * SECOND),
    ]
    put_entries(path, *versions)
    assert run("retry", path, "--to", url(cache)) == 1
    assert left_in(path) == [2]
    assert entries_in(cache) == {key_of(1): entry(1, hit_count=2, created_at=NOW + 2 * SECOND)}


def test_an_old_letter_does_not_go_back_in_time(path: Path, cache: Path) -> None:
    newer = entry(1, created_at=NOW + SECOND, feed_epoch="newer")

    async def fill() -> None:
        async with open_sqlite_repository(cache) as repository:
            await repository.upsert_many([newer])

    trio.run(fill)
    assert run("retry", path, "--to", url(cache)) == 0
    assert entries_in(cache)[key_of(1)] == newer
    assert left_in(path) == []


def test_retry_filters(path: Path, cache: Path) -> None:
    assert run("retry --key", path, key_of(2), "--to", url(cache)) == 0
    assert left_in(path) == [1, 3]
    assert run("retry --since 2026-11-25T12:00:03", path, "--to", url(cache)) == 0
    assert left_in(path) == [1]
    assert set(entries_in(cache)) == {key_of(2), key_of(3)}


def test_retry_makes_neither_a_store_nor_a_file(
    path: Path, tmp_path: Path, cache: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = names(tmp_path)
    capsys.readouterr()
    assert run("retry", path, "--to", url(tmp_path / "cash.db")) == 3
    assert run("retry", tmp_path / "ded.db", "--to", url(cache)) == 3
    assert run("retry --json", tmp_path / "ded.db", "--to", url(cache)) == 3
    out, err = capsys.readouterr()
    assert json.loads(out)["matched"] == 0
    assert err.splitlines() == [
        f"provcache: {tmp_path}/cash.db: there is no such file; provcache init --to makes it",
        *[f"provcache: {tmp_path}/ded.db: there is no such file"] * 2,
    ]
    assert names(tmp_path) == before
    assert left_in(path) == [1, 2, 3]


def test_retry_does_not_take_its_own_file_for_a_store(
    path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("retry", path, "--to", url(path)) == 3
    assert "database of another application; or give --table MODULE" in capsys.readouterr().err
    assert left_in(path) == [1, 2, 3]


@pytest.mark.one_lane
def test_what_is_not_known_to_be_persisted_stays(
    path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The store goes away in the middle, and a signal comes."""
    put_entries(path, *map(letter, range(10, 40)))
    upsert = SQLiteRepository.upsert_many
    calls = 0

    async def lose(self: SQLiteRepository, entries: list[ProvcacheEntry]) -> int:
        nonlocal calls
        calls += 1
        if calls == 1:
            return await upsert(self, entries)
        if calls == 2:
            signal.raise_signal(signal.SIGTERM)
        await trio.lowlevel.checkpoint()
        raise StoreUnavailableError("gone")

    monkeypatch.setattr(SQLiteRepository, "upsert_many", lose)
    drain_within(monkeypatch, 0.2)
    capsys.readouterr()
    assert run("retry", path, "--to", url(cache)) == 3
    out, err = capsys.readouterr()
    assert out.splitlines()[1:] == [
        "         19 persisted and removed",
        "          0 refused again, kept",
        "         14 not tried or not known to be persisted, kept",
        "Stopped by SIGTERM",
    ]
    assert "SIGTERM: writing what was accepted, at most 0.2 s\n" in err
    assert err.endswith(f"provcache: {cache}: 14 entries could not be written in time\n")
    assert left_in(path) == list(range(20, 34))


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_lets_what_was_sent_be_persisted_and_removed(
    number: signal.Signals,
    path: Path,
    cache: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    put_entries(path, *map(letter, range(10, 40)))
    upsert = SQLiteRepository.upsert_many

    async def signalled(self: SQLiteRepository, entries: list[ProvcacheEntry]) -> int:
        signal.raise_signal(number)
        return await upsert(self, entries)

    monkeypatch.setattr(SQLiteRepository, "upsert_many", signalled)
    assert run("retry", path, "--to", url(cache)) == 128 + number
    assert "19 persisted and removed" in capsys.readouterr().out
    assert left_in(path) == list(range(20, 34))
    assert len(entries_in(cache)) == 19


def test_a_signal_before_anything_was_sent_changes_nothing(
    path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    letters = DeadLetters.letters

    async def signalled(self: DeadLetters[object], **filters: object) -> object:
        found = await letters(self, **filters)  # type: ignore[arg-type]
        signal.raise_signal(signal.SIGINT)
        with trio.CancelScope(shield=True):
            await trio.sleep(0.05)
        return found

    monkeypatch.setattr(DeadLetters, "letters", signalled)
    assert run("retry", path, "--to", url(cache)) == 130
    monkeypatch.undo()
    assert left_in(path) == [1, 2, 3]
    assert entries_in(cache) == {}


def test_what_could_not_be_removed_is_told_and_sent_again_next_time(
    path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    async def never(*_: object) -> None:
        await trio.sleep_forever()

    async def fail(*_: object) -> None:
        await trio.lowlevel.checkpoint()
        raise StoreUnavailableError("the disk failed")

    with monkeypatch.context() as patched:
        patched.setattr(sending, "_REMOVAL_SECONDS", 0.01)
        patched.setattr(DeadLetters, "remove", never)
        assert run("retry", path, "--to", url(cache)) == 1
        assert "  3 persisted, not yet removed: will be sent again\n" in capsys.readouterr().out
        patched.setattr(DeadLetters, "remove", fail)
        assert run("retry", path, "--to", url(cache)) == 3
        assert capsys.readouterr().err == f"provcache: {path}: the disk failed\n"
    assert left_in(path) == [1, 2, 3]
    assert run("retry", path, "--to", url(cache)) == 0
    assert left_in(path) == []
    assert len(entries_in(cache)) == 3


def test_retry_tells_once_a_second_where_it_is(
    path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    check, upsert = SQLiteRepository.check, SQLiteRepository.upsert_many
    sleep = trio.sleep

    async def slow_check(self: SQLiteRepository) -> None:
        await sleep(0.05)
        await check(self)

    async def slow_upsert(self: SQLiteRepository, entries: list[ProvcacheEntry]) -> int:
        await sleep(0.05)
        return await upsert(self, entries)

    async def soon(_: float) -> None:
        await sleep(0.005)

    monkeypatch.setattr(SQLiteRepository, "check", slow_check)
    monkeypatch.setattr(SQLiteRepository, "upsert_many", slow_upsert)
    monkeypatch.setattr(trio, "sleep", soon)
    assert run("retry", path, "--to", url(cache)) == 0
    told = capsys.readouterr().err
    assert "provcache: 0 of 3 letters persisted, 0 refused again\n" in told
    assert "provcache: 0 of 3 letters persisted, 0 refused again, running\n" in told


# purge


def test_purge_removes_what_the_filters_mean(
    path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("purge --yes --key", path, key_of(2)) == 0
    assert left_in(path) == [1, 3]
    assert run("purge --yes --json --since 2026-11-25T12:00:03", path) == 0
    assert left_in(path) == [1]
    assert run("purge --yes", path) == 0
    assert left_in(path) == []
    assert run("purge --yes", path) == 0
    assert capsys.readouterr() == (
        '1 letter purged\n{"purged": 1}\n1 letter purged\n0 letters purged\n',
        "",
    )


def test_purge_removes_also_what_can_not_be_read(path: Path) -> None:
    change(path, "UPDATE provcache_dead_letters SET letter = x'5b'")
    assert run("purge --yes", path) == 0
    assert left_in(path) == []


@pytest.mark.parametrize(
    ("more", "complaint"),
    [
        ([], "to purge every letter needs --yes; --key and --since purge some"),
        (["--key", "k"], "there is no terminal to ask on: --yes purges without"),
    ],
    ids=str,
)
@pytest.mark.parametrize("closed", [False, True])
def test_purge_is_not_done_by_mistake(
    more: list[str],
    complaint: str,
    closed: bool,
    path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    if closed:
        monkeypatch.setattr(sys, "stdin", None)
    assert run("purge", path, *more) == 2
    assert capsys.readouterr() == ("", f"provcache: {complaint} (see provcache --help)\n")
    assert left_in(path) == [1, 2, 3]


@contextmanager
def asked(monkeypatch: pytest.MonkeyPatch) -> Generator[int]:
    """Have standard input be a terminal; its other side is yielded."""
    with pseudo_terminal() as (ours, file):
        monkeypatch.setattr(sys, "stdin", file)
        yield ours


@pytest.mark.parametrize(
    ("answer", "status", "left"),
    [
        (b"y\n", 0, [1, 3]),
        (b"YES\n", 0, [1, 3]),
        (b"n\n", 1, [1, 2, 3]),
        (b"\n", 1, [1, 2, 3]),
        (b"\x04", 1, [1, 2, 3]),
    ],
)
def test_purge_asks_on_a_terminal(
    answer: bytes,
    status: int,
    left: list[int],
    path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    with asked(monkeypatch) as other_side:
        os.write(other_side, answer)
        assert run("purge --key", path, key_of(2)) == status
    assert capsys.readouterr() == (
        f"{3 - len(left)} letter{'' if status == 0 else 's'} purged\n",
        "Purge 1 letter? [y/N] ",
    )
    assert left_in(path) == left


def test_a_purge_that_was_agreed_to_is_not_one_of_other_letters(
    path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    async def answer(_: Input) -> bytes:
        await trio.to_thread.run_sync(put_entries, path, letter(4))  # a service came and went
        return b"y"

    monkeypatch.setattr(Input, "read", answer)
    with asked(monkeypatch):
        assert run("purge --since 2026-01-01", path) == 3
    assert capsys.readouterr() == (
        "",
        (
            "Purge 3 letters? [y/N] "
            f"provcache: {path}: there are 4 letters now; nothing was removed\n"
        ),
    )
    assert left_in(path) == [1, 2, 3, 4]


def test_no_answer_means_no(
    path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    async def fail(_: Input) -> bytes:
        await trio.lowlevel.checkpoint()
        raise InputError("standard input: Input/output error")

    monkeypatch.setattr(Input, "read", fail)
    with asked(monkeypatch):
        assert run("purge --key", path, key_of(2)) == 1
    out, err = capsys.readouterr()
    assert out == "0 letters purged\n"
    assert err.endswith("provcache: standard input: Input/output error\n")
    assert left_in(path) == [1, 2, 3]


def test_a_signal_ends_the_question(
    path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    read = Input.read

    async def signalled(self: Input) -> bytes:
        signal.raise_signal(signal.SIGINT)
        return await read(self)

    monkeypatch.setattr(Input, "read", signalled)
    with asked(monkeypatch) as other_side:
        assert run("purge --key", path, key_of(2)) == 130
        os.write(other_side, b"y\n")  # for the thread that was left behind
    assert capsys.readouterr().out == "0 letters purged\n"
    assert left_in(path) == [1, 2, 3]


def test_a_purge_that_is_cut_off_reports_what_it_has_removed(
    path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    async def removes_one(letters: DeadLetters[object], **_: object) -> None:
        assert await letters.remove([1]) == 1
        signal.raise_signal(signal.SIGTERM)
        await trio.sleep_forever()

    monkeypatch.setattr(DeadLetters, "purge", removes_one)
    assert run("purge --yes", path) == 128 + signal.SIGTERM
    assert capsys.readouterr() == ("1 letter purged\n", "")
    assert left_in(path) == [2, 3]


# All of them


COMMANDS = ["list", "show 1", "retry", "purge --yes"]


def arguments(command: str, cache: Path) -> list[str]:
    return ["--to", url(cache)] if command == "retry" else []


@pytest.mark.whole_process
@pytest.mark.parametrize("command", COMMANDS)
def test_a_service_that_owns_the_file_is_told_in_one_line(
    command: str, path: Path, cache: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    capsys.readouterr()
    with owned(path) as pid:
        reads = command in {"list", "show 1"}
        assert run(command, path, *arguments(command, cache)) == (0 if reads else 3)
        out, err = capsys.readouterr()
    if reads:
        assert key_of(1) in out
        assert err == ""
    else:
        assert out == ""
        assert err == f"provcache: {path}: in use: process {pid} owns it\n"
    assert left_in(path) == [1, 2, 3]


@pytest.mark.parametrize("command", COMMANDS)
def test_a_file_that_can_not_be_used_is_told_in_one_line_and_left_alone(
    command: str, tmp_path: Path, cache: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    capsys.readouterr()
    before = cache.read_bytes()
    for place, why in (
        (cache, "the file is a database of another application"),
        (tmp_path / "none", "there is no such file"),
        (tmp_path, "it is no regular file"),
    ):
        assert run(command, place, *arguments(command, cache)) == 3
        assert capsys.readouterr() == ("", f"provcache: {place}: {why}\n")
    assert cache.read_bytes() == before


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize(
    ("command", "call"), [("list", "letters"), ("show 1", "get"), ("purge --yes", "count")]
)
def test_a_signal_ends_a_command_that_waits_for_the_disk(
    number: signal.Signals,
    command: str,
    call: str,
    path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    async def never(*_: object, **__: object) -> None:
        signal.raise_signal(number)
        await trio.sleep_forever()

    monkeypatch.setattr(DeadLetters, call, never)
    assert run(command, path) == 128 + number
    out, err = capsys.readouterr()
    assert out in {"", "0 letters purged\n"}
    assert err == ""
    assert left_in(path) == [1, 2, 3]


@pytest.mark.parametrize("command", ["list", "retry", "purge"])
@pytest.mark.parametrize(
    "text", ["", "yesterday", "1", "1y", "-1h", "1.5h", "9999-99-99", "999999999w"]
)
def test_a_time_that_is_none_is_refused(
    command: str, text: str, path: Path, cache: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    capsys.readouterr()
    assert run(f"{command} --since={text}", path, *arguments(command, cache)) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("provcache: --since is a time such as 2026-11-25T12:00 (UTC), or a ")


@pytest.mark.parametrize(
    ("text", "ago"),
    [
        ("90s", dt.timedelta(seconds=90)),
        ("30m", dt.timedelta(minutes=30)),
        ("1h", dt.timedelta(hours=1)),
        ("2d", dt.timedelta(days=2)),
        ("1w", dt.timedelta(weeks=1)),
    ],
)
def test_a_duration_is_counted_from_now(text: str, ago: dt.timedelta) -> None:
    assert read_moment("--since", text, NOW) == NOW - ago


@pytest.fixture
def elsewhere(monkeypatch: pytest.MonkeyPatch) -> Generator[None]:
    """Have the local time be another one than UTC."""
    with monkeypatch.context() as patched:
        patched.setenv("TZ", "UTC-9")
        time.tzset()
        yield
    time.tzset()


def test_a_time_without_an_offset_is_in_utc(elsewhere: None) -> None:
    assert read_moment("--since", "2026-11-25", NOW) == NOW.replace(hour=0)
    assert read_moment("--since", "2026-11-25T12:00", NOW) == NOW
    assert read_moment("--since", "2026-11-25T07:00-05:00", NOW) == NOW
    with pytest.raises(MisuseError):
        read_moment("--since", "0001-01-01T00:00+01:00", NOW)


def test_a_misplaced_secret_is_not_quoted(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for command in ("list", "show 1", "retry --to sqlite:x.db", "purge --yes"):
        assert run(command, Path("postgresql://u:s3cret@host/db")) == 2
    assert run("retry --to mysql://u:s3cret@host/db", path) == 2
    assert run("retry --too=postgresql://u:s3cret@host/db", path) == 2
    out, err = capsys.readouterr()
    assert "s3cret" not in out + err


# Crashes

RETRY = [*PROGRAM, "dead-letters", "retry"]
EXIT_BETWEEN = """
import os, sys
from provcache_trio._cli import main
from provcache_trio.dead_letters import DeadLetters

async def remove(*_):
    os._exit(9)

DeadLetters.remove = remove
main(sys.argv[1:])
"""


@pytest.mark.whole_process
def test_a_crash_between_storing_and_removing_loses_none_and_doubles_none(
    path: Path, cache: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    to = ["retry", "--in", str(path), "--to", url(cache)]
    command = [sys.executable, "-c", EXIT_BETWEEN, "dead-letters", *to]
    for _ in range(2):
        assert subprocess.run(command, check=False).returncode == 9
        assert left_in(path) == [1, 2, 3]
        assert len(entries_in(cache)) == 3
    with closing(sqlite3.connect(cache)) as connection:
        before = connection.execute("SELECT * FROM provcache_entries").fetchall()
        assert run("retry", path, "--to", url(cache)) == 0
        assert connection.execute("SELECT * FROM provcache_entries").fetchall() == before
    assert left_in(path) == []


@pytest.mark.heavy
def test_a_retry_that_is_killed_at_any_moment_loses_none_and_doubles_none(
    tmp_path: Path, cache: Path, counts: Callable[[int, int], int]
) -> None:
    path = tmp_path / "many.db"
    chance = random.Random(0)  # noqa: S311  # no secret
    kills = counts(5, 40)
    rounds = 0
    killed = 0
    while killed < kills:
        rounds += 1
        numbers = range(1000)
        put_entries(path, *map(letter, numbers))
        while left_in(path):
            with subprocess.Popen(
                [*RETRY, "--in", str(path), "--to", url(cache)],
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
            ) as process:
                before = len(left_in(path))
                while process.poll() is None and len(left_in(path)) == before:
                    time.sleep(0.001)
                time.sleep(chance.uniform(0, 0.05))
                process.kill()
            killed += process.returncode == -signal.SIGKILL
            held = set(keys_in(path))
            there = set(entries_in(cache))
            assert held | there == set(map(key_of, numbers))
        assert len(entries_in(cache)) == len(numbers)
        change(cache, "DELETE FROM provcache_entries")


def keys_in(path: Path) -> list[str]:
    with closing(sqlite3.connect(path)) as connection:
        return [key for (key,) in connection.execute("SELECT key FROM provcache_dead_letters")]
