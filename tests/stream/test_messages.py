"""The envelope of a message, and what is refused before it is sent or when it comes."""

from __future__ import annotations

import dataclasses
import math
from datetime import timedelta, timezone
from typing import TYPE_CHECKING, Any

import msgspec
import pytest
from hypothesis import given

from provcache_trio import EntryRejectedError, ProvcacheEntry, Table
from provcache_trio.nats._messages import Codec, UnreadableError

from tests.support.entries import NOW, entry
from tests.support.tables import READINGS, Everything, Reading, everything, readings

if TYPE_CHECKING:
    from collections.abc import Sequence

MOST = 1024 * 1024
EVERYTHING = Table(Everything, "everything", key="id", newer="number")


async def sent(codec: Codec[Any], entries: Sequence[Any], most: int = MOST) -> list[bytes]:
    return codec.messages(await codec.encode(entries), most)


def came(codec: Codec[Any], messages: Sequence[bytes]) -> list[Any]:
    return [one for message in messages for some in codec.decode(message) for one in some]


async def test_what_is_sent_comes_as_it_was() -> None:
    codec: Codec[ProvcacheEntry] = Codec(None)
    entries = [entry(number) for number in range(600)]
    messages = await sent(codec, entries)
    assert len(messages) == 1
    assert came(codec, messages) == entries
    assert came(codec, [messages[0][:-1]]) == entries  # of a program that ends no last line


async def test_a_large_message_is_decoded_in_steps_of_250_entries() -> None:
    codec: Codec[ProvcacheEntry] = Codec(None)
    (message,) = await sent(codec, [entry(number) for number in range(600)])
    assert [len(some) for some in codec.decode(message)] == [250, 250, 100]


async def test_an_empty_line_is_no_entry() -> None:
    codec: Codec[ProvcacheEntry] = Codec(None)
    (message,) = await sent(codec, [entry(1), entry(2)])
    lines = message.splitlines()
    with pytest.raises(UnreadableError, match="2 entries announced, 1 there"):
        came(codec, [b"\n".join([lines[0], b"", lines[1], b""])])


@given(some=everything())
async def test_every_kind_of_field_comes_as_it_was_or_is_refused(some: Everything) -> None:
    codec = Codec(EVERYTHING)
    if is_known_to_json(some):
        assert came(codec, await sent(codec, [some])) == [some]
    else:
        with pytest.raises(EntryRejectedError):
            await codec.encode([some])


def is_known_to_json(some: Everything) -> bool:
    moments = (some.moment, some.later or some.moment)
    offsets = [moment.utcoffset() or timedelta() for moment in moments]
    return math.isfinite(some.real) and not any(offset.seconds % 60 for offset in offsets)


@given(some=readings())
async def test_a_dataclass_comes_as_it_was(some: Reading) -> None:
    codec = Codec(READINGS)
    assert came(codec, await sent(codec, [some])) == [some]


async def test_entries_that_compare_by_identity_come_as_they_were() -> None:
    class Odd(msgspec.Struct, eq=False):
        id: int
        at: int = 0

    codec = Codec(Table(Odd, "odd", key="id", newer="at"))
    (found,) = came(codec, await sent(codec, [Odd(id=3, at=4)]))
    assert (found.id, found.at) == (3, 4)


async def test_a_batch_is_as_few_messages_as_the_servers_allow() -> None:
    codec: Codec[ProvcacheEntry] = Codec(None)
    entries = [entry(number) for number in range(50)]
    messages = await sent(codec, entries, 10_000)
    assert all(len(message) <= 10_000 for message in messages)
    assert len(messages) == -(-sum(map(len, messages)) // 10_000)
    assert came(codec, messages) == entries


async def test_an_entry_that_fits_into_no_message_is_refused_by_its_index() -> None:
    codec: Codec[ProvcacheEntry] = Codec(None)
    entries = [entry(1), entry(2, feed_epoch="x" * 256)]
    limit = len((await sent(codec, entries[:1]))[0])
    assert len(await sent(codec, [entry(3), entry(4)], limit)) == 2
    with pytest.raises(EntryRejectedError, match="too large") as caught:
        await sent(codec, entries, limit)
    assert caught.value.index == 1


def changed(one: ProvcacheEntry, field: str, value: object) -> ProvcacheEntry:
    msgspec.structs.force_setattr(one, field, value)
    return one


@pytest.mark.parametrize(
    "bad",
    [
        "no entry",
        changed(entry(1), "feed_epoch", 3),
        changed(entry(2), "hit_count", float("nan")),
        changed(entry(3), "feed_epoch", object()),
    ],
    ids=["str", "type", "NaN", "object"],
)
async def test_what_would_not_be_read_back_as_it_is_is_refused_by_its_index(
    bad: ProvcacheEntry,
) -> None:
    codec: Codec[ProvcacheEntry] = Codec(None)
    with pytest.raises(EntryRejectedError, match="read back") as caught:
        await codec.encode([*map(entry, range(300)), bad, entry(301)])
    assert caught.value.index == 300


async def test_a_time_that_json_does_not_bring_back_is_refused() -> None:
    zone = timezone(timedelta(seconds=1))
    some = [entry(1), changed(entry(2), "created_at", NOW.astimezone(zone))]
    with pytest.raises(EntryRejectedError, match="read back") as caught:
        await Codec[ProvcacheEntry](None).encode(some)
    assert caught.value.index == 1


async def test_an_entry_of_another_class_with_the_same_fields_is_refused() -> None:
    other = dataclasses.make_dataclass("Other", [(f.name, Any) for f in READINGS.fields])
    values = READINGS.values(Reading("a", 1))
    with pytest.raises(EntryRejectedError):
        await Codec(READINGS).encode([other(*values)])


@pytest.mark.parametrize(
    ("old", "new", "why"),
    [
        (b'"provcache":1', b'"provcache":2', "format 2 is not known"),
        (b"provcache_trio.ProvcacheEntry", b"table views", "entries of table views, not of"),
        (b'"count":2', b'"count":3', "3 entries announced, 2 there"),
        (b'"count":2', b'"count":"2"', "no envelope"),
        (b'"trust_score":90', b'"trust_score":900', "an entry is no"),
    ],
)
async def test_a_message_that_this_program_does_not_know_is_unreadable(
    old: bytes, new: bytes, why: str
) -> None:
    codec: Codec[ProvcacheEntry] = Codec(None)
    (message,) = await sent(codec, [entry(1), entry(2)])
    assert old in message
    with pytest.raises(UnreadableError, match=why) as caught:
        came(codec, [message.replace(old, new)])
    assert "sha256" not in str(caught.value)


@pytest.mark.parametrize("data", [b"", b"\n", b"hello", b"\xff\n\xff", b"[]\n[]\n"])
def test_garbage_is_unreadable(data: bytes) -> None:
    with pytest.raises(UnreadableError):
        came(Codec(None), [data])


def test_a_message_without_entries_is_unreadable() -> None:
    codec: Codec[ProvcacheEntry] = Codec(None)
    with pytest.raises(UnreadableError, match="0 entries announced"):
        came(codec, [codec._beginning(0)])
