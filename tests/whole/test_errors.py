"""Every error of every entry point names what it is about, and docs/using/errors.md has it."""

from __future__ import annotations

import importlib
import inspect
import pkgutil
import re
import traceback
from typing import TYPE_CHECKING, Any

import msgspec
import pytest

import provcache_trio
from provcache_trio import ProvcacheError
from provcache_trio._cli import main, stores as cli_stores
from provcache_trio._cli.app import app
from provcache_trio._core.verdict import classify
from provcache_trio._vocabulary.failures import Kind

from tests.support import walks
from tests.support.entries import entry
from tests.support.exports import MODULES, is_protocol
from tests.support.programs import ROOT
from tests.support.walks import HERE, SECRET, WALKS
from tests.support.walks.commands import COMMAND_WALKS, STORE

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.support.walks import CommandWalk, Walk


for module in pkgutil.iter_modules(walks.__path__):  # which adds its walks
    importlib.import_module(f"tests.support.walks.{module.name}")

PAGE = (ROOT / "docs" / "using" / "errors.md").read_text("utf-8")
TEXTS = dict(re.findall(r"^## (.+)\n((?:(?!## ).*\n)*)", PAGE, re.MULTILINE))
SECTIONS = {
    heading: re.findall(r"^    (\S.*)$", text, re.MULTILINE) for heading, text in TEXTS.items()
}
# What the page says of an error, by what a queue does when its store raises it.
WAIT_OR_ACT = {
    Kind.UNAVAILABLE: "Wait",  # it keeps the batch, and tries again without end
    Kind.TRANSIENT: "Wait",  # it tries again
    Kind.MISCONFIGURED: "Act",  # it keeps the batch, and logs an error
    Kind.REJECTED: "Act",  # it makes the entry a dead letter
    Kind.UNKNOWN: "Act",  # it looks for the entry to blame, which becomes a dead letter
}
# Errors of which the page says otherwise, and why.
BY_OTHER_MEANS = {
    "DeadLettersFullError": "Act",  # tried again without end, but only a person makes room
    "JournalError": "Either",  # not of a store: an open queue tries again, opening does not
    "OSError": "Act",  # not of a store: a status server that can't listen ends
}
# Whatever these raise is somebody's own.
OTHERS = {"Exception", "BaseException"}
# What each call of a store may raise, beside what its docstring has: its class says so.
OF_STORES = {
    "StoreUnavailableError",
    "StoreMisconfiguredError",
    "TransientStoreError",
    "ClosedResourceError",
}
STORES = {"SQLiteRepository", "PostgresRepository", "StreamRepository", "DeadLetters", "Cache"}
# What these return is an error, which whoever called raises.
MAKERS = {"store_error_of"}
# Nothing of ours comes out of these: they return what is known, or do as they are told.
QUIET = {
    "Histogram.plus",
    "Table.make",  # whatever the class raises
    "WriteBehindQueue.cache_metrics",
    "WriteBehindQueue.metrics",
    "WriteBehindQueue.stream_metrics",
    "cache.Cache.accepted",
    "cache.Cache.metrics",
    "cache.Cache.refused",
    "cache.CacheMetrics.plus",
    "journal.FileJournal.begin",
    "journal.FileJournal.fault_of",
    "journal.FileJournal.set_aside",  # tries again later
    "journal.FileJournal.tidy",  # logs what fails
    "nats.Relay.metrics",
    "nats.Relay.stream_metrics",
    "nats.StreamRepository.stream_metrics",
    "otel.OpenTelemetry.closed",
    "otel.OpenTelemetry.flush",
    "otel.OpenTelemetry.opened",
    "otel.OpenTelemetry.producer",
    "prometheus.QueueCollector.collect",
    "prometheus.QueueCollector.describe",
    "prometheus.QueueCollector.remove",
    "status.StatusApp.remove",
    *(
        f"testing.{fake}.{method}"
        for fake in ("MemoryRepository", "MemoryDeadLetters")
        for method in (
            "crash_next",
            "down",
            "fail_next",
            "lose_next_answer",
            "resume",
            "stall",
            "up",
        )
    ),
    "testing.MemoryRepository.accept",
    "testing.MemoryRepository.reject",
}


# What the code says


def raised_by(doc: str | None) -> set[str]:
    """Return the names of the classes under ``Raises:`` of a docstring."""
    found = re.search(
        r"^Raises:\n((?:    .*\n|\n)+)", f"{inspect.cleandoc(doc or '')}\n", re.MULTILINE
    )
    lines = re.findall(r"^    (\w[\w., ]*):", found.group(1), re.MULTILINE) if found else []
    names = {name.rpartition(".")[2] for line in lines for name in line.split(", ")}
    return names - OTHERS


def referred_to(doc: str | None) -> set[str]:
    """Return what the methods raise to which a docstring refers."""
    names: set[str] = set()
    for kind, method in re.findall(r"(?:[Ss]ee|[Aa]s for) ``(\w+)\.(\w+)``", doc or ""):
        names |= raised_by(getattr(getattr(provcache_trio, kind), method).__doc__)
    return names


def entry_points() -> Iterator[tuple[str, str | None]]:
    """Yield each public function, class and method, and its docstring."""
    for module in ("", *MODULES):
        offered = importlib.import_module(f"provcache_trio.{module}".rstrip("."))
        for name in offered.__all__:
            thing = getattr(offered, name)
            path = f"{module}.{name}".lstrip(".")
            if inspect.isfunction(thing):
                yield path, thing.__doc__
            elif inspect.isclass(thing) and not is_record(thing):
                yield from class_of(path, thing)


def is_record(kind: type) -> bool:
    """Tell whether ``kind`` is what others make, or return: errors, protocols, plain values."""
    plain = issubclass(kind, BaseException) or is_protocol(kind)
    return plain or not (raised_by(kind.__doc__) or any(True for _ in methods_of(kind)))


def class_of(path: str, kind: type) -> Iterator[tuple[str, str | None]]:
    if raised_by(kind.__doc__):
        yield path, kind.__doc__
    for name, method in methods_of(kind):
        yield f"{path}.{name}", method.__doc__


def methods_of(kind: type) -> Iterator[tuple[str, Any]]:
    for base in kind.__mro__:
        if base.__module__.startswith("provcache_trio") and not is_protocol(base):
            for name, member in vars(base).items():
                method = getattr(member, "__func__", member)
                if inspect.isfunction(method) and (not name.startswith("_") or name == "__call__"):
                    yield name, method


ENTRY_POINTS = dict(entry_points())
ERRORS = {
    thing
    for module in ("", *MODULES)
    for offered in [importlib.import_module(f"provcache_trio.{module}".rstrip("."))]
    for thing in (getattr(offered, name) for name in offered.__all__)
    if inspect.isclass(thing) and issubclass(thing, ProvcacheError)
}


def test_every_error_that_an_entry_point_says_is_made_to_happen() -> None:
    said = {(path, name) for path, doc in ENTRY_POINTS.items() for name in raised_by(doc)}
    made = {(walk.entry, walk.error.__name__) for walk in WALKS}
    assert said - made == set(), "no walk makes these happen"
    unsaid = {
        (path, name)
        for path, name in made - said
        if path not in MAKERS
        and name not in referred_to(ENTRY_POINTS[path])
        and not (name in OF_STORES and path.split(".")[-2] in STORES)
    }
    assert unsaid == set(), "no docstring says these"


def test_every_entry_point_has_a_walk_or_is_known_to_raise_nothing() -> None:
    walked = {walk.entry for walk in WALKS}
    silent = {path for path in ENTRY_POINTS if path not in walked}
    assert silent - QUIET == set(), "add walks for these"
    assert QUIET & walked == set()


def test_every_error_of_the_package_is_made_to_happen_and_has_its_section() -> None:
    made = {walk.error for walk in WALKS}
    assert ERRORS - made == {ProvcacheError}, "of these no walk makes one happen"
    for error in made:
        assert name_of(error) in SECTIONS


# What people read


def name_of(error: type[BaseException]) -> str:
    return f"trio.{error.__name__}" if error.__module__ == "trio" else error.__name__


def at(path: Path, text: str) -> str:
    return text.replace(HERE, str(path))


def matches(pattern: str, message: str) -> bool:
    """Tell whether ``message`` is that line of the page, whose ``…`` is one part: a place, a name."""
    one_part = "(?:(?!: ).)*"
    return re.fullmatch(one_part.join(map(re.escape, pattern.split("…"))), message) is not None


@pytest.mark.whole_process
@pytest.mark.parametrize(
    "walk", WALKS, ids=[f"{walk.entry}-{walk.error.__name__}" for walk in WALKS]
)
async def test_an_error_names_what_it_is_about_and_no_secret(walk: Walk, tmp_path: Path) -> None:
    with pytest.raises(BaseException) as caught:  # noqa: PT011  # the walk says which
        answer = walk.step(tmp_path)
        if inspect.isawaitable(answer):
            await answer
    error = caught.value
    assert type(error).__name__ == walk.error.__name__ or isinstance(error, walk.error), repr(error)
    message = str(error)
    for about in walk.about:
        assert at(tmp_path, about) in message
    assert SECRET not in "".join(traceback.format_exception_only(error))
    assert SECRET not in repr({**vars(error), "undelivered": None, "__notes__": None})
    section = name_of(walk.error)
    of_queue = WAIT_OR_ACT[classify(error).kind]
    assert said_of(section) == BY_OTHER_MEANS.get(section, of_queue), (
        f"docs/using/errors.md, {section}"
    )
    patterns = [one for one in SECTIONS[section] if matches(one, message.partition("\n")[0])]
    assert patterns or not message, f"docs/using/errors.md, {section}: add {message!r}"


# The commands


def commands_of(group: Any, *words: str) -> Iterator[str]:  # noqa: ANN401  # cyclopts's
    for name in group:
        if not name.startswith("-"):
            inner = list(commands_of(group[name], *words, name))
            yield from inner or [" ".join((*words, name))]


def test_every_command_is_called_wrongly_and_fails_in_a_walk() -> None:
    walked = {(walk.command, walk.status) for walk in COMMAND_WALKS}
    assert walked >= {(command, status) for command in commands_of(app) for status in (2, 3)}


@pytest.mark.parametrize(
    "walk", COMMAND_WALKS, ids=[f"{walk.command}-{walk.status}" for walk in COMMAND_WALKS]
)
def test_a_command_says_in_its_last_line_what_is_wrong_and_no_secret(
    walk: CommandWalk,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(cli_stores, "_PATIENCE", 0.1)
    (tmp_path / "one.jsonl").write_bytes(msgspec.json.encode(entry(feed_epoch=SECRET)))
    if walk.status == 1:
        assert main(["init", "--to", at(tmp_path, STORE)]) == 0
    status = main([*walk.command.split(), *(at(tmp_path, word) for word in walk.words)])
    out, err = capsys.readouterr()
    last = err.splitlines()[-1]
    assert status == walk.status, err
    for about in walk.about:
        assert at(tmp_path, about) in last
    assert SECRET not in out + err
    assert "Traceback" not in err
    section = f"provcache: status {status}"
    patterns = [one for one in SECTIONS[section] if matches(one, last)]
    assert patterns, f"docs/using/errors.md, {section}: add {last!r}"


# The page


def said_of(section: str) -> str:
    """Return the word with which a section of the page begins."""
    found = re.match(r"\n\*\*(Wait|Act|Either)\.\*\* ", TEXTS[section])
    assert found is not None, section
    return found.group(1)


def test_the_page_says_first_of_each_error_whether_to_wait_or_to_act() -> None:
    assert {said_of(section) for section in TEXTS} == {"Wait", "Act", "Either"}


def test_the_page_says_otherwise_than_a_queue_does_only_where_it_must() -> None:
    for section, word in BY_OTHER_MEANS.items():
        kinds = [walk.error for walk in WALKS if name_of(walk.error) == section]
        assert kinds
        made = classify(kinds[0].__new__(kinds[0]))
        assert WAIT_OR_ACT[made.kind] != word, f"{section} needs no exception"
