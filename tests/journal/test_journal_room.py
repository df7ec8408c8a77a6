"""A journal on a small disk: nothing acknowledged is lost, and it goes on as soon as there is room."""

from __future__ import annotations

import errno
import logging
import random
from contextlib import suppress
from typing import TYPE_CHECKING, Final

import pytest
import trio

from provcache_trio import JournalError
from provcache_trio.journal._file import JournalFile
from provcache_trio.journal._reasons import NoRoomError
from provcache_trio.journal._replay import Replay

from tests.support.disks import BLOCK_BYTES, PATH, ModelDisk, fail_at
from tests.support.items import Item
from tests.support.model_journals import in_virtual_thread, journal_on

if TYPE_CHECKING:
    from collections.abc import Callable

    from trio.testing import MockClock

BIG: Final = b"b" * 1000
ASIDE: Final = f"{PATH}.set-aside"


def open_file(disk: ModelDisk) -> JournalFile:
    file = JournalFile(PATH, entry_type="Item", disk=disk)
    file.open()
    return file


def entries_of(file: JournalFile) -> dict[int, bytes]:
    return dict(Replay(file).next(0, 10**6))


def left_after_a_kill(disk: ModelDisk) -> dict[int, bytes]:
    return entries_of(open_file(disk.crash()))


def fill(file: JournalFile, most: int = 10**6) -> list[int]:
    """Append until there is no room."""
    numbers: list[int] = []
    while len(numbers) < most:
        try:
            numbers.append(file.append([(BIG, ())], ()))
        except NoRoomError:
            break
    return numbers


def test_an_append_that_does_not_fit_is_cut_back_and_a_smaller_one_fits() -> None:
    disk = ModelDisk(5 * BLOCK_BYTES)
    file = open_file(disk)
    numbers = fill(file)
    assert numbers == list(range(1, len(numbers) + 1))
    before = bytes(disk.names[PATH].data)
    with pytest.raises(JournalError, match=rf"{PATH} can't be written: No space left .* room on"):
        file.append([(BIG * 10, ())], ())
    assert bytes(disk.names[PATH].data) == before
    assert file.append([(b"small", ())], ()) == numbers[-1] + 1
    assert left_after_a_kill(disk) == {**dict.fromkeys(numbers, BIG), numbers[-1] + 1: b"small"}


def test_once_nothing_is_live_a_full_journal_is_emptied_without_any_room() -> None:
    disk = ModelDisk(10 * BLOCK_BYTES)
    file = open_file(disk)
    numbers = fill(file)
    file.forget(numbers)
    disk.fill_up()
    file.compact()
    assert len(disk.names[PATH].data) < 400
    assert left_after_a_kill(disk) == {}
    # The rest of its first block is its own.
    assert file.append([(b"more", ())], ()) == numbers[-1] + 1
    reopened = JournalFile(PATH, entry_type="Item", disk=disk.crash())
    assert reopened.open().flawless
    assert entries_of(reopened) == {numbers[-1] + 1: b"more"}


def test_also_a_file_whose_last_sync_failed_is_emptied_without_room() -> None:
    disk = ModelDisk(4 * BLOCK_BYTES)
    file = open_file(disk)
    number = file.append([(BIG, ())], ())
    disk.fault = fail_at(disk.operations + 2, names=("sync",))
    with pytest.raises(JournalError, match="Input/output error; look at the disk"):
        file.append([(BIG, ())], ())
    file.forget([number])
    disk.fill_up()
    new = file.append([(b"more", ())], ())
    assert left_after_a_kill(disk) == {new: b"more"}
    assert entries_of(open_file(disk.cut_power(random.Random(0)))) == {new: b"more"}  # noqa: S311


def test_a_new_file_that_does_not_fit_changes_nothing() -> None:
    disk = ModelDisk(10 * BLOCK_BYTES)
    file = open_file(disk)
    numbers = fill(file, 20)
    before = dict(disk.names)
    with pytest.raises(NoRoomError, match="written anew"):
        file.compact()
    disk.shows_room = True  # as with a quota, which is not seen beforehand
    with pytest.raises(NoRoomError, match="written anew"):
        file.compact()
    assert disk.names == before
    assert file.append([(BIG, ())], ()) == numbers[-1] + 1


def test_a_new_file_that_does_not_fit_takes_no_room_from_others() -> None:
    disk = ModelDisk(10 * BLOCK_BYTES)
    file = open_file(disk)
    fill(file, 30)
    before = disk.operations
    with pytest.raises(NoRoomError, match="written anew"):
        file.compact()
    assert disk.operations == before


def test_a_file_that_is_not_there_yet_is_made_once_there_is_room() -> None:
    for empty in (False, True):
        disk = ModelDisk(0)
        if empty:
            disk.close(disk.open_note(PATH))
        file = open_file(disk)
        with pytest.raises(NoRoomError):
            file.append([(BIG, ())], ())
        disk.capacity = 2 * BLOCK_BYTES
        assert file.append([(BIG, ())], ()) == 1
        assert left_after_a_kill(disk) == {1: BIG}


def test_what_else_is_wrong_with_a_file_that_is_not_there_is_no_matter_of_room() -> None:
    disk = ModelDisk()
    disk.fault = fail_at(1, errno.EACCES)
    with pytest.raises(JournalError, match="Permission denied; give it to the user that runs"):
        open_file(disk)


def damaged_and_full() -> tuple[ModelDisk, bytes]:
    """Return a full disk with a journal that is damaged in the middle and at the end."""
    disk = ModelDisk(10 * BLOCK_BYTES)
    file = open_file(disk)
    for document in (b"first", b"second", b"third"):
        file.append([(document, ())], ())
    file.close()
    data = disk.names[PATH].data
    at = data.index(b"second")
    data[at : at + 6] = b"SECOND"
    data += b"\xf7pvj torn"
    disk.names[PATH].sync()
    disk.fill_up()
    return disk, bytes(data)


def test_opening_a_damaged_journal_on_a_full_disk_changes_nothing_and_replays_what_is_good() -> (
    None
):
    disk, data = damaged_and_full()
    for _ in range(3):
        again = disk.crash()
        file = open_file(again)
        assert entries_of(file) == {1: b"first", 3: b"third"}
        assert bytes(again.names[PATH].data) == data
        assert file.damaged
        # What is written behind the damage is found, too.
        number = file.append([(b"fourth", ())], ())
        assert left_after_a_kill(again) == {1: b"first", 3: b"third", number: b"fourth"}


def aside_in(disk: ModelDisk) -> list[bytes]:
    file = JournalFile(PATH, entry_type=None, disk=disk, read_only=True)
    return [kept.content for kept in file.what_was_set_aside()]


def test_damage_is_set_aside_once_there_is_room_and_then_leaves_the_file() -> None:
    disk, _ = damaged_and_full()
    file = open_file(disk)
    with pytest.raises(NoRoomError):
        file.compact()
    disk.foreign = 0
    assert file.overgrown
    file.compact()
    middle, end = aside_in(disk)
    assert b"SECOND" in middle
    assert end == b"\xf7pvj torn"
    assert (file.damaged, file.overgrown) == (False, False)
    reopened = JournalFile(PATH, entry_type="Item", disk=disk.crash())
    assert reopened.open().flawless
    assert entries_of(reopened) == {1: b"first", 3: b"third"}


def test_damage_is_set_aside_once_however_often_the_file_is_opened() -> None:
    disk, _ = damaged_and_full()
    disk.foreign = 0
    for _ in range(25):
        disk = disk.crash()
        assert entries_of(open_file(disk)) == {1: b"first", 3: b"third"}
    assert len(aside_in(disk)) == 2


def test_damage_outlives_that_its_file_is_emptied_on_a_full_disk() -> None:
    disk, _ = damaged_and_full()
    file = open_file(disk)
    file.forget([1, 3])
    file.compact()
    assert len(disk.names[PATH].data) < 400
    assert file.damaged
    disk.foreign = 0
    file.compact()
    assert len(aside_in(disk)) == 2


def test_more_damage_than_memory_should_hold_stays_in_its_file(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("provcache_trio.journal._damage._MOST_IN_MEMORY_BYTES", 10)
    disk, data = damaged_and_full()
    file = open_file(disk)
    file.forget([1, 3])
    with pytest.raises(NoRoomError, match="can't be emptied"):
        file.compact()
    assert bytes(disk.names[PATH].data) == data


def test_an_entry_that_nobody_can_use_stays_until_it_could_be_set_aside() -> None:
    disk = ModelDisk(10 * BLOCK_BYTES)
    file = open_file(disk)
    file.append([(b"good", ()), (b"bad", ())], ())
    disk.fill_up()
    with pytest.raises(NoRoomError, match="set a record aside"):
        file.set_aside([2])
    assert ASIDE not in disk.names or not disk.names[ASIDE].data
    disk.foreign = 0
    file.rewrite([], keeping=[2])
    assert left_after_a_kill(disk) == {2: b"bad"}
    file.set_aside([2])
    file.set_aside([2])
    assert aside_in(disk) == [b"bad"]


def test_what_a_crash_left_of_a_new_file_takes_no_room_after_the_next_start() -> None:
    disk = ModelDisk(10 * BLOCK_BYTES)
    open_file(disk).close()
    new = f"{PATH}.new"
    descriptor = disk.create(new)
    disk.write(descriptor, bytes(disk.names[PATH].data) + BIG)
    disk.close(descriptor)
    open_file(disk)
    assert new not in disk.names
    descriptor = disk.create(new)
    disk.write(descriptor, b"somebody's notes")
    open_file(disk)
    assert new in disk.names


def test_room_that_gets_short_is_noticed_before_a_new_file_does_not_fit() -> None:
    disk = ModelDisk(6 * 2**20)
    file = open_file(disk)
    said_at = None
    for count in range(10**6):
        if file.short_of_room:
            said_at = count
            break
        file.append([(BIG * 50, ())], ())
    assert said_at is not None
    file.compact()  # there is still room for that
    file.forget(range(1, file.last + 1))
    file.append([], range(1, file.last))
    file.compact()
    file.append([(b"small", ())], ())
    assert not file.short_of_room


def test_it_is_overgrown_before_it_is_four_times_as_large_as_what_is_live() -> None:
    disk = ModelDisk()
    file = open_file(disk)
    numbers = [file.append([(BIG * 100, ())] * 10, ()) for _ in range(20)]
    for number in numbers:
        file.append([], range(number, number + 10))
        size, live = len(disk.names[PATH].data), sum(map(len, entries_of(file).values()))
        assert file.overgrown or size <= 4 * live + 4 * 2**20
        if file.overgrown:
            file.compact()
            assert len(disk.names[PATH].data) <= live * 1.01 + 1000
    assert len(disk.names[PATH].data) <= 1000


def test_what_can_not_be_noted_is_no_reason_to_stop() -> None:
    class Noteless(ModelDisk):
        def open_note(self, path: str) -> int:
            raise OSError(errno.EMFILE, path)

    disk = Noteless()
    file = open_file(disk)
    file.forget([file.append([(BIG, ())], ())])
    file.compact()
    assert left_after_a_kill(disk) == {}


def test_a_replay_goes_on_though_the_file_is_written_anew_meanwhile() -> None:
    disk = ModelDisk()
    file = open_file(disk)
    file.append([(b"%d" % number, ()) for number in range(1, 8)], ())
    file.close()
    file.open()
    replay = Replay(file)
    assert replay.next(0, 2) == [(1, b"1"), (2, b"2")]
    file.append([(b"new", ())], [1, 4])  # new: of this life, so it is not replayed
    file.compact()
    assert replay.next(2, 2) == [(3, b"3"), (5, b"5")]
    assert replay.next(5, 5) == [(6, b"6"), (7, b"7")]
    assert replay.next(7, 5) == []


def test_what_can_not_be_read_back_has_to_be_written_out_of_memory() -> None:
    disk = ModelDisk()
    file = open_file(disk)
    file.append([(b"first", ()), (b"second", ())], ())
    data = disk.names[PATH].data
    at = data.index(b"second")
    data[at : at + 6] = b"SECOND"
    with pytest.raises(JournalError, match="can't be read back; look at the disk"):
        file.compact()
    legible = [file.legible]
    file.rewrite([b"first", b"second"])
    assert [*legible, file.legible] == [False, True]
    assert list(left_after_a_kill(disk).values()) == [b"first", b"second"]


def test_an_empty_file_that_is_only_looked_at_stays_so() -> None:
    disk = ModelDisk()
    disk.close(disk.open_note(PATH))
    file = JournalFile(PATH, entry_type=None, disk=disk, read_only=True)
    assert file.open().entries == 0
    assert disk.names[PATH].data == b""


def test_a_file_that_is_emptied_while_it_is_looked_at_is_looked_at_again() -> None:
    disk = ModelDisk()
    owner = open_file(disk)
    number = owner.append([(BIG, ())], ())

    class Looking(ModelDisk):
        """Has the owner empty the file between two looks."""

        def read(self, descriptor: int, count: int, at: int) -> bytes:
            if at > 100:
                owner.forget([number])
                owner.compact()
            return super().read(descriptor, count, at)

    looking = Looking()
    looking.names = disk.names
    file = JournalFile(PATH, entry_type=None, disk=looking, read_only=True)
    findings = file.open()
    assert findings.flawless
    assert findings.entries == 0


def test_what_is_no_record_of_what_was_set_aside_is_passed_over() -> None:
    disk, _ = damaged_and_full()
    disk.foreign = 0
    open_file(disk)
    disk.names[ASIDE].data += b"garbage"
    assert len(aside_in(disk)) == 2
    open_file(disk)
    assert len(aside_in(disk)) == 2


async def test_that_a_volume_gets_full_and_has_room_again_is_logged_once_each(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "provcache_trio")
    monkeypatch.setattr("provcache_trio.journal._journal.in_thread", in_virtual_thread)
    disk = ModelDisk(10 * 2**20)
    _, journal = journal_on(disk, always=False)
    for foreign in (0, 9 * 2**20, 9 * 2**20, 0, 0):
        disk.foreign = foreign
        await journal.append([(Item("a"), ())], ())
    assert [record.levelname for record in caplog.records] == ["WARNING", "INFO"]
    assert "its volume is almost full" in caplog.messages[0]
    assert "its volume has room again" in caplog.messages[1]


async def test_what_can_not_be_made_smaller_is_tried_less_and_less_often_and_logged_once(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("provcache_trio.journal._journal.in_thread", in_virtual_thread)
    monkeypatch.setattr("provcache_trio.journal._file._GROWTH_BYTES", 1000)
    disk = ModelDisk(10 * BLOCK_BYTES)
    _, journal = journal_on(disk, always=False)
    assert journal.entry_type is Item
    entries = [(Item(f"{number} {'x' * 500}"), ()) for number in range(40)]
    numbers = await journal.append(entries, ())
    await journal.append([], [number for number in numbers[:-1] if number is not None])
    disk.fill_up()
    waits: list[float] = []
    for _ in range(10):
        before = journal.overgrown
        await journal.tidy()
        assert (before, journal.overgrown) == (True, False)
        waits.append(journal.tidy_at - trio.current_time())
        await trio.sleep_until(journal.tidy_at)
    assert waits[0] < 1
    assert waits[-1] == 30
    assert caplog.text.count("stay in the journal, and take room") == 1
    disk.foreign = 0
    await journal.tidy()
    assert not journal.overgrown
    assert len(disk.names[PATH].data) < 1200


class Life:
    """A program that appends and settles on a small disk, and is killed now and then."""

    def __init__(self, disk: ModelDisk, seed: int) -> None:
        self.disk = disk
        self.dice = random.Random(seed)  # noqa: S311  # no secret
        self.file = open_file(disk)
        self.safe: dict[int, bytes] = {}  # by number
        self.maybe_settled: set[int] = set()
        self.count = 0

    def step(self) -> None:
        self.dice.choice(
            [self.append, self.append, self.settle, self.tidy, self.others, self.kill]
        )()

    def append(self) -> None:
        self.count += 1
        document = b"%d " % self.count * self.dice.choice([1, 100, 1000])
        try:
            number = self.file.append([(document, ())], ())
        except NoRoomError:
            return
        self.safe[number] = document

    def settle(self) -> None:
        some = [number for number in self.safe if self.dice.random() < 0.7]
        for number in some:
            del self.safe[number]
        self.maybe_settled |= set(some)
        try:
            self.file.append([], some)
        except NoRoomError:  # written again later, as the recorder does
            self.file.forget(some)

    def tidy(self) -> None:
        with suppress(NoRoomError):
            self.file.compact()

    def others(self) -> None:
        if self.dice.random() < 0.5:
            self.disk.fill_up()
        else:
            self.disk.foreign = 0

    def kill(self) -> None:
        cut = self.dice.random() < 0.5
        self.disk = self.disk.cut_power(self.dice) if cut else self.disk.crash()
        file = JournalFile(PATH, entry_type="Item", disk=self.disk)
        findings = file.open()
        assert cut or findings.flawless or findings.only_unfinished
        found = entries_of(file)
        assert {n: found.get(n) for n in self.safe} == self.safe
        assert found.keys() - self.safe.keys() <= self.maybe_settled
        self.safe, self.file = found, file

    def heal(self) -> None:
        self.disk.foreign = 0
        self.disk.capacity = None
        number = self.file.append([(b"works", ())], ())
        self.safe[number] = b"works"
        self.kill()
        self.file.forget(list(self.safe))
        self.file.compact()
        assert len(self.disk.names[PATH].data) < 400


@pytest.mark.heavy
def test_on_a_disk_of_any_size_that_others_fill_nothing_acknowledged_is_lost(
    counts: Callable[[int, int], int],
) -> None:
    for seed in range(counts(300, 20_000)):
        life = Life(ModelDisk(seed % 12 * BLOCK_BYTES), seed)
        for _ in range(30):
            life.step()
        life.heal()
