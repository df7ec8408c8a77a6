"""A journal's file: what ``append`` returned for is there, whatever happens to disk and file."""

from __future__ import annotations

import errno
import os
import random
import tracemalloc
from contextlib import suppress
from types import SimpleNamespace
from typing import TYPE_CHECKING, Final

import msgspec
import pytest

from provcache_trio import JournalError
from provcache_trio.journal._disk import Disk
from provcache_trio.journal._file import JournalFile
from provcache_trio.journal._numbers import Expected
from provcache_trio.journal._records import (
    FORMAT,
    MAGIC_LINE,
    MOST_PAYLOAD_BYTES,
    Beginning,
    Damage,
    Record,
    RecordKind,
    pack,
    pack_settled,
    pieces,
    ranges_of,
    read_beginning,
)
from provcache_trio.journal._replay import Replay

from tests.support.disks import PATH, ModelDisk, PowerCut, cut_at, fail_at

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

SEVERAL: Final = range(6)  # rolls of the dice for each power cut


def dice(roll: int) -> random.Random:
    return random.Random(roll)  # noqa: S311  # no secret


def open_file(disk: ModelDisk, entry_type: str = "Item") -> JournalFile:
    file = JournalFile(PATH, entry_type=entry_type, disk=disk)
    file.open()
    return file


def replayed(file: JournalFile, most: int = 2) -> dict[int, bytes]:
    replay, found, after = Replay(file), dict[int, bytes](), 0
    while page := replay.next(after, most):
        found |= page
        after = page[-1][0]
    return found


def left_on(disk: ModelDisk) -> list[bytes]:
    return list(replayed(open_file(disk)).values())


class Story:
    """What a program does with a journal, and what it was told.

    Attributes:
        offered: documents that were ever given to the journal.
        safe: those that have to be there, as the journal said so, and their numbers.
        doubtful: those that may be there or not.
    """

    def __init__(self, disk: ModelDisk) -> None:
        self.disk = disk
        self.file = JournalFile(PATH, entry_type="Item", disk=disk)
        self.offered: list[bytes] = []
        self.safe: dict[bytes, int] = {}
        self.doubtful: set[bytes] = set()
        self.failures = 0
        self.messages: list[str] = []
        self.count = 0

    def documents(self, count: int) -> list[bytes]:
        made = [b"%d" % (self.count + n) for n in range(count)]
        self.count += count
        self.offered += made
        return made

    def write(self, new: list[bytes], replaces: tuple[int, ...], settled: list[bytes]) -> None:
        """Append; what fails is tried once more, which mends the file."""
        numbers = [self.safe.pop(document) for document in settled]
        self.doubtful |= {*new, *settled}
        entries = [(document, replaces) for document in new]
        for _ in range(2):
            try:
                first = self.file.append(entries, () if replaces else numbers)
            except JournalError as error:
                self.messages.append(str(error))
                self.failures += 1
            else:
                self.doubtful -= {*new, *settled}
                self.safe |= {document: first + n for n, document in enumerate(new)}
                return

    def append(self, count: int, settle: int = 0) -> None:
        """Append, and settle the oldest."""
        self.write(self.documents(count), (), list(self.safe)[:settle])

    def replace(self) -> None:
        """Write a newer version of the newest entry, in its place."""
        new = self.documents(1)
        if self.safe:
            old, number = list(self.safe.items())[-1]
            self.write(new, (number,), [old])

    def rewrite(self) -> None:
        before = list(self.safe)
        for _ in range(2):  # after a failure nothing else may be done
            try:
                first = self.file.rewrite(before)
            except JournalError:
                self.failures += 1
            else:
                # What was doubtful before is forgotten with the old file.
                self.doubtful.clear()
                self.safe = {document: first + n for n, document in enumerate(before)}
                return

    def compact(self) -> None:
        try:
            self.file.compact()
        except JournalError:
            self.failures += 1

    def tell(self) -> None:
        try:
            self.file.open()
        except JournalError:
            self.failures += 1
            self.file.close()
            self.file.open()
        self.append(3)
        self.append(2, settle=2)
        self.replace()
        self.append(0, settle=1)
        self.rewrite()
        self.append(2)
        self.compact()
        self.append(1, settle=1)
        self.append(1, settle=len(self.safe))
        self.append(0, settle=1)
        self.compact()  # nothing is live: it is emptied where it is
        self.append(3)
        self.compact()
        self.append(2, settle=1)
        self.file.close()

    def check(self, disk: ModelDisk) -> None:
        assert all(PATH in message for message in self.messages)
        found = left_on(disk)
        assert len(set(found)) == len(found)
        assert found == [document for document in self.offered if document in found]
        assert set(self.safe) <= set(found)
        assert set(found) <= set(self.safe) | self.doubtful
        # A replay changes nothing, so that it may be cut off and begin again.
        assert left_on(disk) == found


def operations_of_the_story() -> int:
    disk = ModelDisk()
    Story(disk).tell()
    return disk.operations


LENGTH: Final = operations_of_the_story()


def test_the_story_is_told_to_its_end() -> None:
    disk = ModelDisk()
    story = Story(disk)
    story.tell()
    assert not story.failures
    assert not story.doubtful
    story.check(disk)
    assert left_on(disk) == list(story.safe) == [b"%d" % number for number in range(11, 15)]


@pytest.mark.two_pythons
@pytest.mark.parametrize("at", range(1, LENGTH + 2))
def test_after_a_power_cut_at_any_operation_what_was_acknowledged_is_there(at: int) -> None:
    for roll in SEVERAL:
        disk = ModelDisk()
        disk.fault = cut_at(at)
        story = Story(disk)
        with suppress(PowerCut):
            story.tell()
        story.check(disk.cut_power(dice(roll)))


@pytest.mark.two_pythons
@pytest.mark.parametrize("at", range(1, LENGTH + 2))
def test_after_the_process_died_at_any_operation_what_was_acknowledged_is_there(at: int) -> None:
    disk = ModelDisk()
    disk.fault = cut_at(at)
    story = Story(disk)
    with suppress(PowerCut):
        story.tell()
    story.check(disk.crash())


@pytest.mark.two_pythons
@pytest.mark.parametrize("short", [False, True], ids=["whole", "short"])
@pytest.mark.parametrize("code", [errno.EIO, errno.ENOSPC, errno.EROFS])
@pytest.mark.parametrize("at", range(1, LENGTH + 1))
def test_when_any_one_operation_fails_the_next_file_is_good(
    at: int, code: int, *, short: bool
) -> None:
    for roll in SEVERAL:
        disk = ModelDisk()
        disk.fault = fail_at(at, code)
        disk.short = short
        story = Story(disk)
        story.tell()
        assert story.failures <= 1  # the next try mends it
        story.check(disk.cut_power(dice(roll)))


@pytest.mark.two_pythons
@pytest.mark.parametrize("short", [False, True], ids=["whole", "short"])
@pytest.mark.parametrize("code", [errno.EIO, errno.ENOSPC])
@pytest.mark.parametrize("at", range(4, LENGTH + 1))
def test_when_every_operation_fails_from_any_one_on_nothing_acknowledged_is_lost(
    at: int, code: int, *, short: bool
) -> None:
    for roll in SEVERAL:
        disk = ModelDisk()
        disk.fault = fail_at(at, code, for_good=True)
        disk.short = short
        story = Story(disk)
        with suppress(JournalError):
            story.tell()
        story.check(disk.cut_power(dice(roll)))


# Damage


def a_journal() -> tuple[ModelDisk, dict[int, bytes], set[int]]:
    """Return a journal with a record of every kind, its entries, and which of them are settled."""
    disk = ModelDisk()
    file = open_file(disk)
    documents = [b'["entry",%d]' % n for n in range(10)]
    file.append([(documents[0], ()), (documents[0], ())], ())
    file.append([(documents[0], ())], [2])
    file.compact()
    first = file.append([(document, ()) for document in documents[1:4]], ())
    file.append([(documents[4], ())], [1, first + 1])
    file.append([(documents[5], (first,)), (documents[6], ())], ())
    for document in documents[7:]:
        file.append([(document, ())], ())
    file.close()
    numbers = {
        piece.number: piece.payload.rpartition(b"\n")[2]
        for piece in records_of(disk)
        if isinstance(piece, Record) and piece.kind in {RecordKind.ENTRY, RecordKind.NEWER}
    }
    assert list(numbers.values()) == [documents[0], *documents]
    return disk, numbers, {1, first, first + 1}


def salt_of(disk: ModelDisk) -> int:
    found = read_beginning(bytes(disk.names[PATH].data))
    assert found is not None
    return msgspec.json.decode(found[0], type=Beginning).salt


def records_of(disk: ModelDisk) -> list[Record | Damage]:
    data = bytes(disk.names[PATH].data)
    found = read_beginning(data)
    assert found is not None
    return list(pieces(reader(data[found[1] :]), 0, salt_of(disk)))


def reader(data: bytes, at_most: int = 10**9) -> Callable[[int], bytes]:
    position = 0

    def read(count: int) -> bytes:
        nonlocal position
        some = data[position : position + min(count, at_most)]
        position += len(some)
        return some

    return read


def check_damaged(data: bytes, *, flipped: bool = False, moved: bool = False) -> None:
    """It opens and says what is missing, or refuses; what it replays is as it was written.

    A record that was moved behind later ones is damage, and is not said to be missing.
    """
    disk = ORIGINAL.crash()
    disk.names[PATH].data = bytearray(data)
    file = JournalFile(PATH, entry_type="Item", disk=disk)
    try:
        findings = file.open()
    except JournalError as error:
        assert PATH in str(error)  # noqa: PT017  # it need not be refused
        assert disk.names.keys() == ORIGINAL.names.keys()
        return
    numbers, settled = NUMBERS, SETTLED
    # Of a file that is another one by now, nobody knows how long it was.
    moved = moved and (findings.damaged_bytes > 0 or salt_of(disk) != salt_of(ORIGINAL))
    missing = {n for first, last in findings.missing for n in range(first, last + 1)}
    found = replayed(file, 100)
    for number, document in found.items():
        assert numbers[number] == document
        # What said so is missing, or was moved.
        assert number not in settled or missing or moved
    if flipped:  # one byte: only a version whose heir is missing comes back
        assert settled.intersection(found) <= {sorted(settled)[1]}
    lost = set(numbers) - settled - set(found) - missing
    assert not lost or moved
    # Nothing of it is set aside twice, and it goes with the next file.
    aside = bytes(disk.names[f"{PATH}.set-aside"].data) if findings.damaged_bytes else b""
    assert replayed(open_file(disk), 100) == found
    assert not aside or bytes(disk.names[f"{PATH}.set-aside"].data) == aside
    file.append([(b"new", ())], ())
    file.compact()
    reopened = JournalFile(PATH, entry_type="Item", disk=disk)
    assert reopened.open().flawless
    assert replayed(reopened, 100) == {**found, reopened.last: b"new"}


ORIGINAL, NUMBERS, SETTLED = a_journal()
WHOLE: Final = bytes(ORIGINAL.names[PATH].data)


@pytest.mark.two_pythons
def test_every_flipped_byte_is_noticed_and_costs_at_most_its_record() -> None:
    for at in range(len(WHOLE)):
        for flip in (0x01, 0x80, 0xFF):
            data = WHOLE[:at] + bytes([WHOLE[at] ^ flip]) + WHOLE[at + 1 :]
            check_damaged(data, flipped=True)


@pytest.mark.two_pythons
@pytest.mark.parametrize("tail", ["nothing", "zeros", "ones", "stale"])
def test_every_truncation_is_noticed(tail: str) -> None:
    for at in range(len(WHOLE)):
        rest = WHOLE[at:]
        data = WHOLE[:at]
        if tail == "zeros":
            data += bytes(len(rest))
        elif tail == "ones":
            data += b"\xff" * len(rest)
        elif tail == "stale":
            data += WHOLE[:at][-len(rest) :]
        check_damaged(data)


ANOTHER: Final = bytes(a_journal()[0].names[PATH].data)


def damaged(data: bytes, dice: random.Random) -> bytes:
    """Return a journal to which one of many things happened."""
    at, to = sorted((dice.randrange(len(data) + 1), dice.randrange(len(data) + 1)))
    before, some, after = data[:at], data[at:to], data[to:]
    half = len(some) // 2
    bit = bytes([some[0] ^ (1 << dice.randrange(8))]) if some else b""
    return dice.choice(
        [
            before,
            before + after,
            before + bytes(len(some)) + after,
            before + dice.randbytes(min(len(some), 40)) + data[at + 40 :],
            before + some + some + after,
            before + some[half:] + some[:half] + after,
            before + ANOTHER[at:to] + after,
            data + dice.choice([ANOTHER, data, bytes(5000), some]),
            before + bit + some[1:] + after,
        ]
    )


@pytest.mark.heavy
def test_whatever_happens_to_its_bytes_a_journal_opens_or_says_why_not(
    counts: Callable[[int, int], int],
) -> None:
    seed = int(os.environ.get("DAMAGE_SEED", "0"))
    times = int(os.environ.get("DAMAGES", "0")) or counts(2_000, 100_000)
    for roll in range(times):
        luck = dice(seed + roll)
        data = WHOLE
        for _ in range(luck.randint(1, 3)):
            data = damaged(data, luck)
        try:
            check_damaged(data, moved=True)
        except Exception as error:
            error.add_note(f"DAMAGE_SEED={seed + roll} DAMAGES=1")
            raise


# What can be read, and what is refused


def read_all(data: bytes, at_most: int = 10**9) -> list[Record | Damage]:
    return list(pieces(reader(data, at_most), 0))


@pytest.mark.parametrize("at_most", [1, 7, 10**9])
def test_records_are_found_between_what_is_none(at_most: int) -> None:
    one, two = pack(RecordKind.ENTRY, 1, b"one"), pack_settled(2, [1], 0)
    found = read_all(b"\xf7pv" + one + b"\xf7pvj" + two + b"\xf7", at_most)
    assert [piece.number for piece in found if isinstance(piece, Record)] == [1, 2, 3]
    assert [(piece.raw, piece.at_end) for piece in found if isinstance(piece, Damage)] == [
        (b"\xf7pv", False),
        (b"\xf7pvj", False),
        (b"\xf7", True),
    ]


def test_however_long_the_damage_is_no_more_of_it_is_held_than_of_a_record() -> None:
    found = read_all(bytes(40 * 2**20) + pack(RecordKind.ENTRY, 1, b"one"))
    assert isinstance(found[-1], Record)
    damages = found[:-1]
    assert sum(len(piece.raw) for piece in damages) == 40 * 2**20
    assert max(len(piece.raw) for piece in damages) < MOST_PAYLOAD_BYTES + 2**22


def test_a_record_that_says_it_is_too_long_is_not_read() -> None:
    asked: list[int] = []
    long = pack(RecordKind.ENTRY, 1, bytes(MOST_PAYLOAD_BYTES + 1))
    read = reader(long[:1000])

    def spy(count: int) -> bytes:
        asked.append(count)
        return read(count)

    assert [type(piece) for piece in pieces(spy, 0)] == [Damage]
    assert max(asked) <= 2**20


def test_many_entries_are_read_as_they_were_written() -> None:
    disk = ModelDisk()
    file = open_file(disk)
    documents = [b"%d" % number + b"x" * 2000 for number in range(2000)]
    file.rewrite(documents)
    file.append([(documents[0], ())], ())
    assert left_on(disk) == [*documents, documents[0]]


def test_ranges_are_as_short_as_they_can_be() -> None:
    assert ranges_of([3, 1, 2, 2, 7]) == [(1, 3), (7, 7)]


def with_records(*records: bytes, beginning: bytes | None = None) -> ModelDisk:
    disk = ModelDisk()
    open_file(disk).close()
    data = disk.names[PATH].data
    if beginning is not None:
        del data[len(MAGIC_LINE) :]
        data += 2 * pack(RecordKind.BEGINNING, 0, beginning)
    for record in records:
        data += record
    return disk


def with_entries(*entries: tuple[RecordKind, int, bytes]) -> tuple[ModelDisk, list[bytes]]:
    """Return a journal with records that may be odd, and their bytes."""
    disk = with_records()
    packed = [pack(*entry, salt_of(disk)) for entry in entries]
    for record in packed:
        disk.names[PATH].data += record
    return disk, packed


@pytest.mark.parametrize(
    ("beginning", "text"),
    [
        (
            msgspec.json.encode(Beginning(format=FORMAT + 1, type="Item", identity="")),
            f"format version {FORMAT + 1}, and this program knows {FORMAT} only",
        ),
        (msgspec.json.encode({"format": FORMAT + 1}), f"format version {FORMAT + 1}"),
        (b"[]", "format version 0"),
        (b"{", "format version 0"),
        (b'{"format":1,"entry_type":"Item","identity":"0"}', "journal was written by version 0.1"),
    ],
)
def test_a_beginning_that_is_none_of_ours_is_refused(beginning: bytes, text: str) -> None:
    with pytest.raises(JournalError, match=text):
        open_file(with_records(beginning=beginning))


@pytest.mark.parametrize(
    "odd",
    [
        (RecordKind.ENTRY, 1, b"a number that was there before"),
        (RecordKind.ENTRY, 2**63, b"a number that is far away"),
        (RecordKind.BEGINNING, 2, b"a second beginning"),
        (RecordKind.HELD, 2, b"[]"),
        (RecordKind.SETTLED, 2, b"no json"),
        (RecordKind.NEWER, 2, b"no line"),
    ],
)
def test_a_record_that_can_not_be_here_is_damage(odd: tuple[RecordKind, int, bytes]) -> None:
    disk, packed = with_entries((RecordKind.ENTRY, 1, b"good"), odd, (RecordKind.ENTRY, 3, b"too"))
    file = JournalFile(PATH, entry_type="Item", disk=disk)
    findings = file.open()
    assert findings.damaged_bytes == len(packed[1])
    assert findings.missing == [(2, 2)]
    assert not findings.only_unfinished
    assert list(replayed(file).values()) == [b"good", b"too"]


def test_what_should_be_in_a_file_is_known_by_ranges_and_above_them_is_everything() -> None:
    expected = Expected()
    expected.begin(10, [(2, 3), (7, 9)])
    assert expected.between(0, 13) == [(2, 3), (7, 9), (11, 12)]
    assert expected.between(2, 8) == [(3, 3), (7, 7)]
    assert expected.between(3, 7) == []
    assert expected.between(9, 11) == []
    assert expected.between(10, 12) == [(11, 11)]


def test_a_record_of_another_file_is_damage() -> None:
    """As when a power cut leaves what was on the disk before."""
    disk, other = with_records(), with_records()
    open_file(other).append([(b"stale", ())], ())
    beginning = len(bytes(disk.names[PATH].data))
    disk.names[PATH].data += other.names[PATH].data[beginning:]
    assert left_on(other) == [b"stale"]
    assert left_on(disk) == []


def test_a_record_that_can_not_be_here_is_set_aside_as_a_whole() -> None:
    disk = ModelDisk()
    open_file(disk).append([(b"1", ())], ())
    odd = pack(RecordKind.ENTRY, 1, b'"precious"', salt_of(disk))
    disk.names[PATH].data += odd
    file = open_file(disk)
    assert disk.names[f"{PATH}.set-aside"].synced.endswith(odd)
    assert list(replayed(file).values()) == [b"1"]


def test_what_was_set_aside_has_a_name_on_the_disk_before_it_leaves_the_journal() -> None:
    disk = ModelDisk()
    open_file(disk).append([(b"1", ())], ())
    disk.names[PATH].data += b"torn"
    disk.names[PATH].sync()
    open_file(disk)
    assert not disk.names[PATH].synced.endswith(b"torn")
    assert disk.durable_names[f"{PATH}.set-aside"].synced.endswith(b"torn")


def test_after_a_sync_failed_nothing_is_written_to_that_file() -> None:
    disk = ModelDisk()
    file = open_file(disk)
    file.append([(b"1", ())], ())
    before = disk.names[PATH]
    disk.fault = fail_at(disk.operations + 2, names=("sync",))
    with pytest.raises(JournalError, match="Input/output error"):
        file.append([(b"2", ())], ())
    written = bytes(before.data)
    file.append([(b"3", ())], ())
    assert disk.names[PATH] is not before
    assert bytes(before.data) == written
    assert left_on(disk.cut_power(dice(0))) == [b"1", b"3"]


def test_a_rewrite_that_fails_leaves_no_file_behind() -> None:
    disk = ModelDisk()
    file = open_file(disk)
    disk.fault = fail_at(disk.operations + 2, names=("write",))
    with pytest.raises(JournalError):
        file.rewrite([b"1"])
    assert f"{PATH}.new" not in disk.names


def test_a_journal_of_which_all_is_settled_is_emptied_when_it_is_opened_without_any_room() -> None:
    disk = ModelDisk()
    file = open_file(disk)
    size = len(disk.names[PATH].data)
    first = file.append([(b"{}", ()), (b"{}", ())], ())
    file.append((), (first, first + 1))
    disk = disk.crash()
    disk.capacity = 0
    opened = open_file(disk)
    assert len(disk.names[PATH].data) <= size
    assert opened.append((), ()) > first + 1
    disk.capacity = None
    assert opened.append([(b"{}", ())], ()) > first + 1


def test_what_root_makes_belongs_to_the_owner_of_the_journal(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    owners = {1: (0, 0), 2: (0, 0), 3: (4711, 4712)}
    given: list[tuple[int, int, int]] = []

    def fstat(descriptor: int) -> SimpleNamespace:
        uid, gid = owners[descriptor]
        return SimpleNamespace(st_uid=uid, st_gid=gid)

    def fchown(descriptor: int, uid: int, gid: int) -> None:
        given.append((descriptor, uid, gid))
        raise PermissionError

    with monkeypatch.context() as patched:
        patched.setattr(os, "fstat", fstat)
        patched.setattr(os, "fchown", fchown)
        Disk().give(1, 2)
        Disk().give(1, 3)  # that only root may is no reason to stop
    assert given == [(1, 4711, 4712)]


def test_a_journal_that_grows_while_it_is_looked_at_looks_sound() -> None:
    disk = ModelDisk()
    owner = open_file(disk)
    owner.append([(b"1", ())], ())

    class Growing(ModelDisk):
        """Shows the other's files, and lets the owner write at every look."""

        def read(self, descriptor: int, count: int, at: int) -> bytes:
            owner.append([(b"2", ())], ())
            data = bytes(self.open_files[descriptor].data)
            # The last record is half written.
            return data[: len(data) - 9][at : at + count]

    looking = Growing()
    looking.names = disk.names
    file = JournalFile(PATH, entry_type=None, disk=looking, read_only=True)
    findings = file.open()
    assert findings.entries > 0
    assert findings.missing == []
    assert findings.damaged_bytes == findings.unfinished_bytes


def test_ranges_of_what_is_not_here_settle_nothing() -> None:
    odd = (RecordKind.SETTLED, 2, b"[[-5,0],[2,9],[1,0]]")
    disk, _ = with_entries((RecordKind.ENTRY, 1, b"good"), odd)
    assert left_on(disk) == [b"good"]


def test_a_journal_that_is_only_looked_at_is_not_changed() -> None:
    disk, _ = with_entries((RecordKind.ENTRY, 1, b"good"))
    disk.names[PATH].data += b"damage"
    before = bytes(disk.names[PATH].data), set(disk.names)
    file = JournalFile(PATH, entry_type="Item", disk=disk, read_only=True)
    assert file.open().entries == 1
    assert list(replayed(file).values()) == [b"good"]
    file.close()
    assert (bytes(disk.names[PATH].data), set(disk.names)) == before
    with pytest.raises(JournalError, match="no journal /disk/other"):
        JournalFile("/disk/other", entry_type="Item", disk=disk, read_only=True).open()


def test_a_journal_that_is_replaced_while_it_is_opened_is_refused(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    disk = with_records()
    monkeypatch.setattr(disk, "identity_of", lambda descriptor: (7, descriptor))
    with pytest.raises(JournalError, match="replaced while it was opened"):
        open_file(disk)


def test_a_file_that_can_not_be_closed_is_let_go() -> None:
    disk = ModelDisk()
    file = open_file(disk)

    def fail(descriptor: int) -> None:
        raise OSError(errno.EIO, str(descriptor))

    disk.close = fail  # type: ignore[method-assign]
    file.close()
    file.close()


@pytest.mark.heavy
def test_a_large_journal_is_opened_and_replayed_in_little_memory(tmp_path: Path) -> None:
    where, document = str(tmp_path / "journal"), b"x" * 1000
    file = JournalFile(where, entry_type="Item", disk=Disk())
    file.open()
    for _ in range(50):
        first = file.append([(document, ())] * 1000, ())
        file.append([], range(first, first + 999, 2))
    file.close()
    assert (tmp_path / "journal").stat().st_size > 50_000_000
    tracemalloc.start()
    try:
        file.open()
        replay, count, after = Replay(file), 0, 0
        while page := replay.next(after, 500):
            count, after = count + len(page), page[-1][0]
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    file.close()
    assert count == 25_000
    assert peak < 8_000_000
