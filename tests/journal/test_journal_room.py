"""A journal on a small disk: nothing acknowledged is lost, and it goes on as soon as there is room."""

from __future__ import annotations

import errno
import random
from contextlib import suppress
from typing import TYPE_CHECKING, Final

import pytest

from provcache_trio import JournalError
from provcache_trio.journal._file import JournalFile, NoRoomError
from provcache_trio.journal._replay import Replay

from tests.support.disks import BLOCK_BYTES, PATH, ModelDisk, fail_at

if TYPE_CHECKING:
    from collections.abc import Callable

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
    monkeypatch.setattr("provcache_trio.journal._file._MOST_DAMAGE_IN_MEMORY", 10)
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
