"""The envelope of a message, and what is refused before it is sent or when it comes."""

from __future__ import annotations

import dataclasses
import json
import math
import random
import zlib
from datetime import datetime, timedelta, timezone
from typing import TYPE_CHECKING, Any, cast

import msgspec
import pytest
from hypothesis import given, strategies as st

from provcache_trio import EntryRejectedError, ProvcacheEntry, Table
from provcache_trio.nats._messages import Codec, Encoded, Piece, UnreadableError, as_lines

from tests.support.entries import NOW, entry
from tests.support.strategies import provcache_entries
from tests.support.tables import READINGS, Everything, Reading, everything, readings

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

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


@given(some=st.lists(provcache_entries(), min_size=1, max_size=20))
async def test_what_can_be_constructed_comes_as_it_was(some: list[ProvcacheEntry]) -> None:
    codec: Codec[ProvcacheEntry] = Codec(None)
    assert came(codec, await sent(codec, some)) == some


async def test_a_small_message_is_plain_json_and_may_end_without_a_line_feed() -> None:
    codec: Codec[ProvcacheEntry] = Codec(None)
    (message,) = await sent(codec, [entry(1), entry(2)])
    lines = message.splitlines()
    assert json.loads(lines[0]) == {
        "provcache": 1,
        "of": "provcache_trio.ProvcacheEntry",
        "count": 2,
    }
    assert json.loads(lines[2])["veri_key"] == entry(2).veri_key
    assert came(codec, [message[:-1]]) == [entry(1), entry(2)]


async def test_a_message_of_some_size_is_compressed() -> None:
    codec: Codec[ProvcacheEntry] = Codec(None)
    (message,) = await sent(codec, [entry(number) for number in range(251)])
    head, _, body = message.partition(b"\n")
    assert json.loads(head)["provcache"] == 2
    lines = b""
    while body:
        part = zlib.decompressobj()
        lines += part.decompress(body)
        body = part.unused_data
    assert len(lines.splitlines()) == 251
    assert len(message) < len(lines) / 3


def test_what_compression_does_not_make_smaller_is_sent_as_it_is() -> None:
    codec = Codec(READINGS)
    noise = random.Random(7).randbytes(8000).replace(b"\n", b"") + b"\n"  # noqa: S311  # no secret
    (message,) = codec.messages(Encoded([Piece(0, 1, noise, b"")]), MOST)
    assert message.startswith(b'{"provcache":1,')


async def test_entries_are_in_pieces_that_each_take_a_moment() -> None:
    codec = Codec(READINGS)
    readings = [Reading(f"{number:0100000}", number) for number in range(6)]
    encoded = await codec.encode(readings)
    assert [(piece.first, piece.number) for piece in encoded] == [(0, 2), (2, 2), (4, 2)]
    assert all(len(piece.lines) <= 256 * 1024 and piece.packed for piece in encoded)
    assert came(codec, codec.messages(encoded, MOST)) == readings
    assert came(codec, codec.messages(encoded, 110_000)) == readings


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (lambda body: body[:-5], "cut off"),
        (lambda body: body[:20] + b"x" + body[21:], "damaged"),
        (lambda body: body + b"more", "damaged"),
        (lambda body: body + body, "40 entries announced, 80 there"),
        (lambda _: zlib.compress(bytes(64 * 1024 * 1024 + 1), 9), "too large"),
    ],
    ids=["cut", "changed", "more", "twice", "bomb"],
)
async def test_a_compressed_message_that_is_not_whole_is_unreadable(
    change: Callable[[bytes], bytes], why: str
) -> None:
    codec: Codec[ProvcacheEntry] = Codec(None)
    (message,) = await sent(codec, [entry(number) for number in range(40)])
    head, _, body = message.partition(b"\n")
    with pytest.raises(UnreadableError, match=why):
        came(codec, [head + b"\n" + change(body)])


async def test_a_compressed_message_that_is_taken_out_is_written_as_lines() -> None:
    codec: Codec[ProvcacheEntry] = Codec(None)
    some = [entry(number) for number in range(300)]
    (message,) = await sent(codec, some)
    lines = as_lines(message)
    assert json.loads(lines.partition(b"\n")[0])["provcache"] == 1
    assert len(lines.splitlines()) == 301
    assert came(codec, [lines]) == some
    assert as_lines(lines) == lines


@pytest.mark.parametrize("data", [b"", b"hello\n", b'{"provcache":2,"of":"x","count":1}\nhello'])
def test_what_cannot_be_read_is_written_as_it_is(data: bytes) -> None:
    assert as_lines(data) == data


async def test_no_entries_are_no_message() -> None:
    codec: Codec[ProvcacheEntry] = Codec(None)
    assert await sent(codec, []) == []


async def test_a_large_message_is_decoded_in_steps() -> None:
    codec: Codec[ProvcacheEntry] = Codec(None)
    (message,) = await sent(codec, [entry(number) for number in range(600)])
    assert [len(some) for some in codec.decode(message)] == [*([64] * 9), 24]
    plain = as_lines(message)
    assert [len(some) for some in codec.decode(plain)] == [*([125] * 4), 100]


async def test_an_empty_line_is_no_entry() -> None:
    codec: Codec[ProvcacheEntry] = Codec(None)
    (message,) = await sent(codec, [entry(1), entry(2)])
    lines = message.splitlines()
    with pytest.raises(UnreadableError, match="an empty line"):
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
    some = [entry(number) for number in range(50)]
    messages = await sent(codec, some, 10_000)
    line = len((await codec.encode(some[-1:]))[0].lines)
    assert len(messages) == -(-50 // ((10_000 - 70) // line))
    assert came(codec, messages) == some


async def test_an_entry_that_fits_into_no_message_is_refused_by_its_index() -> None:
    codec: Codec[ProvcacheEntry] = Codec(None)
    entries = [entry(1), entry(2, feed_epoch="x" * 256)]
    limit = len((await sent(codec, entries[:1]))[0])
    assert len(await sent(codec, [entry(3), entry(4)], limit)) == 2
    with pytest.raises(EntryRejectedError, match="too large") as caught:
        await sent(codec, entries, limit)
    assert caught.value.index == 1


@dataclasses.dataclass
class Loose:
    id: int
    at: datetime


LOOSE = Table(Loose, "loose", key="id", newer="at")
ODD_ZONE = timezone(timedelta(seconds=1))


@pytest.mark.parametrize(
    "bad",
    [
        "no entry",
        Loose(1, cast("Any", 3)),
        Loose(cast("Any", math.nan), NOW),
        Loose(3, cast("Any", object())),
        Loose(4, NOW.astimezone(ODD_ZONE)),
    ],
    ids=["str", "type", "NaN", "object", "zone"],
)
async def test_what_would_not_be_read_back_as_it_is_is_refused_by_its_index(bad: Any) -> None:  # noqa: ANN401  # wrong on purpose
    codec = Codec(LOOSE)
    with pytest.raises(EntryRejectedError, match="read back") as caught:
        await codec.encode([*(Loose(number, NOW) for number in range(300)), bad, Loose(4, NOW)])
    assert caught.value.index == 300


async def test_an_entry_of_a_derived_class_is_refused() -> None:
    class Derived(ProvcacheEntry, frozen=True, kw_only=True):
        pass

    fields = {name: getattr(entry(1), name) for name in ProvcacheEntry.__struct_fields__}
    codec: Codec[ProvcacheEntry] = Codec(None)
    with pytest.raises(EntryRejectedError, match="read back") as caught:
        await codec.encode([entry(2), Derived(**fields)])
    assert caught.value.index == 1


async def test_an_entry_of_another_class_with_the_same_fields_is_refused() -> None:
    other = dataclasses.make_dataclass("Other", [(f.name, Any) for f in READINGS.fields])
    values = READINGS.values(Reading("a", 1))
    with pytest.raises(EntryRejectedError):
        await Codec(READINGS).encode([other(*values)])


@pytest.mark.parametrize(
    ("old", "new", "why"),
    [
        (b'"provcache":1', b'"provcache":3', "format 3 is not known"),
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
        came(codec, [codec._beginning(1, 0)])
