"""What the workers wrote down, held against every version that a row has had."""

from __future__ import annotations

import json
from datetime import timedelta
from typing import TYPE_CHECKING, NamedTuple

from tests.faults.site import POISON
from tests.support.entries import NOW

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable
    from pathlib import Path

    from tests.faults.site import Site


class Asked(NamedTuple):
    """An entry that a caller brought."""

    key: str
    created: int
    hits: int
    accessed: int | None


class Told:
    """The record of one worker: what its callers asked for, and were told."""

    def __init__(self, path: Path) -> None:
        self.asked: dict[str, Asked] = {}
        self.accepted: list[str] = []
        self.failed: set[str] = set()  # to bring it: there must be no trace
        self.refused: set[str] = set()
        self.safe: set[str] = set()  # the caller was told that it is stored
        self.flushed = 0
        self.ending: list[object] | None = None
        text = path.read_text("ascii") if path.exists() else ""  # it was killed before that
        for line in text.splitlines():
            try:
                what, *details = json.loads(line)
            except ValueError:  # it was killed while it wrote this
                continue
            self._note(what, details)
        self.safe.update(self.accepted[: self.flushed])

    def _note(self, what: str, details: list[object]) -> None:
        match what, details:
            case "asked", [str(name), *fields]:
                self.asked[name] = Asked(*fields)  # type: ignore[arg-type]  # as they were written
            case "accepted", [str(name)]:
                self.accepted.append(name)
            case "failed", [str(name)]:
                self.failed.add(name)
            case "refused", [str(name)]:
                self.refused.add(name)
            case "persisted", [str(name)]:
                self.safe.add(name)
            case "flushed", [int(number)]:
                self.flushed = number
            case "ended", _:
                self.ending = details
            case _:  # that it has started
                pass

    def close(self) -> list[str]:
        """Learn from the ending, and return what is wrong with it."""
        if self.ending is None:
            return ["a process wrote down no ending"]
        undelivered, letters, balance, left, _ = self.ending
        assert isinstance(undelivered, list)
        assert isinstance(letters, list)
        self.safe.update(self.accepted)
        wrong = [f"{one} was handed back although the store works" for one in undelivered]
        wrong += [
            f"{one} was dead-lettered although nothing is wrong with it"
            for one in letters
            if self.asked[one].hits != POISON
        ]
        bad = {name for name in self.accepted if self.asked[name].hits == POISON}
        wrong += [f"{one} is poison and no dead letter" for one in bad.difference(letters)]
        if balance or left:
            wrong.append(f"at the end, {balance} entries are unaccounted for and {left} are left")
        return wrong


async def verdict(site: Site, records: Iterable[Path], killed: Collection[Path] = ()) -> list[str]:
    """Return what is wrong; nothing, as is to be hoped.

    Args:
        site: the place, when everything has ended.
        records: of every worker.
        killed: those of workers that were killed.
    """
    by_path = {path: Told(path) for path in records}
    told = list(by_path.values())
    wrong = [what for path, one in by_path.items() if path not in killed for what in one.close()]
    asked = {name: entry for one in told for name, entry in one.asked.items()}
    failed = {name for one in told for name in one.failed}
    wrong += await _check_history(site, asked, failed)
    wrong += await _check_rows(site, [asked[name] for one in told for name in one.safe])
    if back := await site.steps_back():
        wrong.append(f"{back} times a row went back to something older")
    return wrong


async def _check_history(site: Site, asked: dict[str, Asked], failed: set[str]) -> list[str]:
    """Every version of every row was brought by somebody who was not told that it failed."""
    wrong: list[str] = []
    hits: dict[str, set[int]] = {}
    for name, entry in asked.items():
        if name not in failed:
            hits.setdefault(entry.key, set()).add(entry.hits)
    rows = await site.fetch(
        f"SELECT {site.veri_key}, created_at, hit_count, feed_epoch FROM {site.schema}.history"
    )
    for key, created, count, epoch in rows:
        name = str(epoch).rpartition(" ")[2]
        if name not in asked or name in failed:
            wrong.append(f"{name} is stored and was never accepted")
            continue
        entry = asked[name]
        if (key, created) != (entry.key, NOW + timedelta(microseconds=entry.created)):
            wrong.append(f"{name} is stored otherwise than it was brought")
        elif count not in hits[entry.key] or count == POISON:
            wrong.append(f"{name} is stored with {count} hits, which nobody brought")
    return wrong


async def _check_rows(site: Site, safe: list[Asked]) -> list[str]:
    """What a caller knows to be stored is there, or something newer."""
    rows = await site.fetch(
        f"SELECT {site.veri_key}, created_at, hit_count, last_accessed_at FROM {site.table}"
    )
    stored = {key: rest for key, *rest in rows}
    wrong: list[str] = []
    for entry in safe:
        if entry.hits == POISON:
            continue
        if entry.key not in stored:
            wrong.append(f"{entry} is not there")
            continue
        created, hits, accessed = stored[entry.key]
        least = NOW + timedelta(microseconds=entry.created)
        newer = created >= least and hits >= entry.hits  # type: ignore[operator]  # as the table has them
        if entry.accessed is not None:
            least = NOW + timedelta(microseconds=entry.accessed)
            newer = newer and accessed is not None and accessed >= least  # type: ignore[operator]
        if not newer:
            wrong.append(f"{entry} is there in something older")
    return wrong
