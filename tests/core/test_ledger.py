"""The ledger: what ``metrics()`` reads from another thread is never half of a move.

CPython lets another thread or a signal handler in at calls, at backward jumps and when a
function begins. So the instructions between two of those are one step, and a move of an entry
has to be booked, and the counters have to be read, within one.
"""

from __future__ import annotations

import ast
import dis
import inspect
import itertools
from collections import Counter
from pathlib import Path
from types import CodeType
from typing import TYPE_CHECKING

import pytest

import provcache_trio
from provcache_trio._core.ledger import Ledger

if TYPE_CHECKING:
    from collections.abc import Iterator

CORE = Path(provcache_trio.__file__).parent / "_core"
# An accepted entry is on the left side of the identity once, and on the right side once.
LEFT = {"enqueued", "recovered"}
RIGHT = {"persisted", "coalesced", "failed", "abandoned", "depth", "in_flight"}
BESIDE = {"kept", "retries", "batches", "unchanged", "refused", "flush_seconds", "age_seconds"}
BESIDE |= {"flushes_full", "flushes_due", "flushes_requested", "flushes_drain"}
BOOKS = {
    "Line.accept",
    "Line.take",
    "Line.persisted",
    "Line.abandon",
    "JournaledLine.recover",
    "Outbox._settle",
    "Outbox.abandon",
    "WriteBehindQueue.enqueue_nowait",
}
# What runs to its end: moves between locals, constants and slots, sums of ints, and the
# keywords of a call with many of them, which go into a dict that is there already.
ATOMIC = {"BINARY_OP", "CACHE", "COPY", "EXTENDED_ARG", "LOAD_ATTR", "LOAD_CONST", "LOAD_SMALL_INT"}
ATOMIC |= {"MAP_ADD", "NOP", "NOT_TAKEN", "STORE_ATTR", "SWAP"}
LOCALS = ("LOAD_FAST", "STORE_FAST")

Booking = tuple[str, str, object]  # counter, "+=" or "-=", amount


def functions(source: str) -> Iterator[CodeType]:
    """Yield the code of every function in ``source``, nested ones too."""
    todo = [compile(source, "module", "exec")]
    while todo:
        code = todo.pop()
        todo += [constant for constant in code.co_consts if isinstance(constant, CodeType)]
        yield code


def steps(code: CodeType) -> list[list[dis.Instruction]]:
    """Split ``code`` wherever something else may run in between."""
    split: list[list[dis.Instruction]] = [[]]
    for instruction in dis.get_instructions(code):
        name = instruction.opname
        if name in ATOMIC or name.startswith(LOCALS):
            split[-1].append(instruction)
        else:
            split.append([])
    return split


def bookings(code: CodeType) -> list[list[Booking]]:
    """Return what each step of ``code`` books: ``ledger.x += y`` and ``-=``."""
    return [booked for step in steps(code) if (booked := list(booked_in(step)))]


def booked_in(step: list[dis.Instruction]) -> Iterator[Booking]:
    for amount, operation, swap, store in zip(step, step[1:], step[2:], step[3:], strict=False):
        names = (operation.opname, swap.opname, store.opname)
        counter = store.argval
        if names == ("BINARY_OP", "SWAP", "STORE_ATTR") and counter in Ledger.__slots__:
            yield counter, operation.argrepr, amount.argval


def imbalance(booked: list[Booking]) -> Counter[object]:
    """Return by how much a step's bookings break the identity, per amount."""
    sums: Counter[object] = Counter()
    for counter, operation, amount in booked:
        side = (counter in LEFT) - (counter in RIGHT)
        sums[amount] += side if operation == "+=" else -side
    return Counter({amount: total for amount, total in sums.items() if total})


def text_of(name: str) -> str:
    return (CORE / name).read_text("utf-8")


def torn(source: str) -> set[str]:
    """Return the functions of which a step does not keep the balance."""
    return {
        code.co_qualname
        for code in functions(source)
        if any(imbalance(booked) for booked in bookings(code))
    }


def test_the_sides_of_the_identity_name_every_counter_once() -> None:
    assert sorted([*LEFT, *RIGHT, *BESIDE]) == sorted(Ledger.__slots__)


def test_every_move_is_booked_in_one_step() -> None:
    found: set[str] = set()
    for path in sorted(CORE.glob("*.py")):
        source = path.read_text("utf-8")
        assert torn(source) == set(), path.name
        for code in functions(source):
            for booked in bookings(code):
                if not {counter for counter, *_ in booked} <= BESIDE:
                    found.add(code.co_qualname)
    assert found == BOOKS


def test_what_a_call_persisted_is_counted_in_the_same_step() -> None:
    [code] = [code for code in functions(text_of("line.py")) if code.co_name == "persisted"]
    [booked] = bookings(code)
    counters = [counter for counter, *_ in booked]
    assert counters == ["in_flight", "persisted", "unchanged", "batches"]


def test_metrics_reads_every_counter_in_one_step() -> None:
    [code] = [code for code in functions(text_of("queue.py")) if code.co_name == "metrics"]
    reading = [read for step in steps(code) if (read := read_in(step))]
    assert [sorted(read) for read in reading] == [sorted(Ledger.__slots__)]


def read_in(step: list[dis.Instruction]) -> list[str]:
    names = [instruction.argval for instruction in step if instruction.opname == "LOAD_ATTR"]
    return [name for name in names if name in Ledger.__slots__]


# Does the reader of bytecode see what it is to see?


def moves(source: str) -> Iterator[tuple[int, int]]:
    """Yield the line numbers of each two statements that book one move."""
    for parent in ast.walk(ast.parse(source)):
        body: list[ast.stmt] = getattr(parent, "body", [])
        if isinstance(body, list):
            for first, second in itertools.pairwise(body):
                if books(first) and books(second):
                    yield first.lineno, second.lineno


def books(statement: ast.stmt) -> bool:
    if not isinstance(statement, ast.AugAssign) or not isinstance(statement.target, ast.Attribute):
        return False
    return statement.target.attr in LEFT | RIGHT


@pytest.mark.parametrize("name", ["line.py", "outbox.py", "journaled_line.py", "queue.py"])
@pytest.mark.parametrize("between", ["print()", "for _ in (): pass", "len(self)", "self.x()"])
def test_anything_that_lets_others_in_between_two_lines_of_a_move_is_found(
    name: str, between: str
) -> None:
    source = text_of(name)
    lines = source.splitlines()
    places = list(moves(source))
    assert places
    for first, second in places:
        assert second == first + 1
        indent = " " * (len(lines[first]) - len(lines[first].lstrip()))
        changed = [*lines[:first], indent + between, *lines[first:]]
        assert len(torn("\n".join(changed))) == 1, lines[first]


@pytest.mark.parametrize("name", ["line.py", "outbox.py", "journaled_line.py", "queue.py"])
def test_a_line_of_a_move_that_is_left_out_is_found(name: str) -> None:
    source = text_of(name)
    lines = source.splitlines()
    for number in {number for pair in moves(source) for number in pair}:
        assert len(torn("\n".join([*lines[: number - 1], *lines[number:]]))) == 1


def test_a_call_between_two_reads_of_metrics_is_found() -> None:
    source = inspect.cleandoc(
        """
        def metrics(ledger):
            return Snapshot(ledger.enqueued, now(), ledger.depth)
        """
    )
    [code] = [code for code in functions(source) if code.co_name == "metrics"]
    assert [read for step in steps(code) if (read := read_in(step))] == [["enqueued"], ["depth"]]
