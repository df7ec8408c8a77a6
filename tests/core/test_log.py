"""What is logged can't forge other lines, whatever keys and names hold."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

import pytest

from provcache_trio import WriteBehindOptions, open_write_behind_queue
from provcache_trio._vocabulary.keys import shown_key
from provcache_trio._vocabulary.log import Lines, escaped, log
from provcache_trio.testing import MemoryRepository

from tests.support.items import Item

if TYPE_CHECKING:
    from trio.testing import MockClock

FORGED = "k\nERROR all is lost\r\x1b[31m\u2028\x00\udc80"


class Shy:
    def __str__(self) -> str:
        raise ValueError("not today")


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ("sha256:00", "sha256:00"),
        ("Schlüssel 鍵 😀", "Schlüssel 鍵 😀"),
        (7, "7"),
        (FORGED, r"k\nERROR all is lost\r\x1b[31m\u2028\x00\udc80"),
        (Shy(), "<Shy that can't be shown>"),
    ],
)
def test_what_can_not_be_printed_is_escaped(value: object, text: str) -> None:
    assert escaped(value) == text


def test_a_key_whose_class_raises_is_named_by_its_class() -> None:
    class Broken:
        def __repr__(self) -> str:
            raise ValueError("not today")

    assert shown_key(Broken()).endswith("Broken that can't be shown>")
    assert shown_key(("a", 2)) == '["a",2]'


def test_every_argument_of_a_line_is_escaped_but_for_lines_of_our_own(
    caplog: pytest.LogCaptureFixture,
) -> None:
    log(logging.ERROR, "%s: %d of %.1f, %s", "a\nb", 3, 4.5, Lines("one\ntwo"), key="a\nb")
    (record,) = caplog.records
    assert record.getMessage() == "a\\nb: 3 of 4.5, one\ntwo"
    assert record.__dict__["key"] == "a\nb"  # data; whoever formats it quotes it


def test_what_nobody_listens_to_costs_no_formatting(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.ERROR, "provcache_trio")
    asked: list[object] = []

    class Key:
        def __str__(self) -> str:
            asked.append(self)
            return "key"

    log(logging.DEBUG, "%s", Key())
    assert asked == []
    log(logging.ERROR, "%s", Key())
    assert len(asked) == 1


async def test_no_key_and_no_queue_s_name_begins_a_line_of_the_log(
    caplog: pytest.LogCaptureFixture, autojump_clock: MockClock
) -> None:
    caplog.set_level(logging.INFO, "provcache_trio")
    store = MemoryRepository[Item]()
    store.reject(FORGED)
    store.fail_next(KeyError, times=3)
    options = WriteBehindOptions(max_retries=5)
    async with open_write_behind_queue(store, options, name=FORGED) as queue:
        await queue.enqueue(Item(FORGED))
        await queue.flush()
    assert len(caplog.records) > 3
    for record in caplog.records:
        assert record.getMessage().isprintable(), record.getMessage()
