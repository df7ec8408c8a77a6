"""What ``provcache demo`` found, and what happened to every file and entry."""

from __future__ import annotations

import random
from collections import Counter
from typing import TYPE_CHECKING, Final

from provcache_trio._cli.accounting import places_of
from provcache_trio._cli.text import counted, duration, printable, size

from .wheels import GOOD, Outcome

if TYPE_CHECKING:
    from provcache_trio import ProvcacheEntry, WriteBehindMetrics

    from .decisions import Decision
    from .wheels import Distribution, Skipped

_READ_BACK: Final = 5
_MOST_SHOWN: Final = 5
_WORDS: Final = {
    Outcome.MATCH: "match",
    Outcome.UNLISTED: "listed without a hash",
    Outcome.MISMATCH: "do not match",
    Outcome.MISSING: "missing",
    Outcome.UNREADABLE: "unreadable",
    Outcome.UNSUPPORTED: "with a hash of an unknown kind",
}


class Account:
    """The account of a demo.

    Attributes:
        distributions: the distributions that were found; empty until then.
        skipped: what was not verified.
        outcomes: the number of files by outcome; their sum is the number of enqueued entries.
        problems: the first files that do not match.
        sample: files chosen at random, each with the same chance.
        seconds: the time until everything was verified and written.
        read_back: entries read from the store, with those that were enqueued.
        stored: the number of entries in the store at the end.
    """

    def __init__(self) -> None:
        self.distributions: list[Distribution] = []
        self.skipped: list[Skipped] = []
        self.outcomes: Counter[Outcome] = Counter()
        self.problems: list[Decision] = []
        self.sample: list[Decision] = []
        self.seconds = 0.0
        self.read_back: list[tuple[Decision, ProvcacheEntry | None]] = []
        self.stored = 0
        self._bytes_read = 0
        self._random = random.Random(0)  # noqa: S311  # no secret

    @property
    def files_total(self) -> int:
        """How many files there are to verify."""
        return sum(len(found.lines) for found in self.distributions)

    @property
    def files_done(self) -> int:
        """How many files were verified and their entries accepted."""
        return self.outcomes.total()

    @property
    def to_read_back(self) -> list[Decision]:
        """The decisions to compare with the store."""
        return (self.problems[:2] + self.sample)[:_READ_BACK]

    def note(self, decision: Decision) -> None:
        """Note an entry that was accepted."""
        self.outcomes[decision.finding.outcome] += 1
        self._bytes_read += decision.finding.size
        if decision.finding.outcome not in GOOD and len(self.problems) < _MOST_SHOWN:
            self.problems.append(decision)
        # Reservoir sampling: the n-th file takes a place with chance _READ_BACK / n.
        if len(self.sample) < _READ_BACK:
            self.sample.append(decision)
        elif (place := self._random.randrange(self.files_done)) < _READ_BACK:
            self.sample[place] = decision

    def holds(self, metrics: WriteBehindMetrics) -> bool:
        """Return whether every entry is accounted for, and those read back equal the enqueued ones."""
        return self._is_balanced(metrics) and self._same == len(self.read_back)

    def lines(self, metrics: WriteBehindMetrics, store: str) -> list[str]:
        """Return the account as lines of text."""
        lines = ["Verified", *self._verified(), *self._accounted(metrics)]
        if self.read_back:
            same = f"{self._same} of {len(self.read_back)} read are as enqueued"
            lines += [
                "Read back",
                f"  {printable(store)} holds {counted(self.stored, 'row')}; {same}",
                *(_compared(decision, found) for decision, found in self.read_back),
            ]
        return lines

    def _is_balanced(self, metrics: WriteBehindMetrics) -> bool:
        places = sum(count for count, _ in places_of(metrics))
        return self.files_done == metrics.total_enqueued == places

    @property
    def _same(self) -> int:
        return sum(found == decision.entry for decision, found in self.read_back)

    def _verified(self) -> list[str]:
        distributions = counted(len(self.distributions), "distribution")
        files = f"{self.files_done:,} of {counted(self.files_total, 'file')}"
        rate = self.files_done / (self.seconds or 1)
        bad = sum(count for outcome, count in self.outcomes.items() if outcome not in GOOD)
        return [
            f"  {files}, {distributions}, {size(self._bytes_read)}",
            f"  in {duration(self.seconds)}, {rate:,.0f} files/s",
            *(
                f"  {count:>9,} {words}"
                for outcome, words in _WORDS.items()
                if (count := self.outcomes[outcome])
            ),
            *_first([f"{one.finding.outcome}: {_name(one)}" for one in self.problems], bad),
            *_first(
                [f"skipped: {printable(one.what)} ({one.reason})" for one in self.skipped],
                len(self.skipped),
            ),
        ]

    def _accounted(self, metrics: WriteBehindMetrics) -> list[str]:
        lines = [
            "Every entry accounted for" if self._is_balanced(metrics) else "ENTRIES ARE MISSING",
            f"    {self.files_done:>9,} verified",
            f"  = {metrics.total_enqueued:>9,} accepted",
            *(
                f"  {sign} {count:>9,} {words}"
                for sign, (count, words) in zip("=+++++", places_of(metrics), strict=True)
            ),
        ]
        if lost := metrics.total_failed + metrics.total_abandoned:
            lines.append(f"  {counted(lost, 'entry', 'entries')} not in the store")
        return lines


def _first(lines: list[str], total: int) -> list[str]:
    """Return the first of ``lines``, and how many of ``total`` are left out, if any."""
    shown = [f"  {line}" for line in lines[:_MOST_SHOWN]]
    return [*shown, f"  and {total - len(shown):,} more"] if total > len(shown) else shown


def _compared(decision: Decision, found: ProvcacheEntry | None) -> str:
    state = "lost" if found is None else "same" if found == decision.entry else "differs"
    trust = f"trust {decision.entry.decision.trust_score:>3}"
    return f"  {decision.entry.veri_key[:15]} {state}, {trust}: {_name(decision)}"


def _name(decision: Decision) -> str:
    return printable(f"{decision.distribution.label} {decision.finding.line.path}")
