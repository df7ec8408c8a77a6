"""The summary of ``provcache demo``: lines of text, for a terminal and a pipe alike."""

from __future__ import annotations

import enum
from typing import TYPE_CHECKING, Final

import msgspec

from provcache_trio._cli.text import counted, duration, printable, size

from .wheels import GOOD, Outcome

if TYPE_CHECKING:
    import signal

    from provcache_trio import WriteBehindMetrics

    from .job import Decision, Demo

_MOST_SHOWN: Final = 5
_WORDS: Final = {
    Outcome.MATCH: "match",
    Outcome.UNLISTED: "listed without a hash",
    Outcome.MISMATCH: "do not match",
    Outcome.MISSING: "missing",
    Outcome.UNREADABLE: "unreadable",
    Outcome.UNSUPPORTED: "with a hash of an unknown kind",
}


class Tone(enum.Enum):
    """How a line is meant."""

    TITLE = "title"
    PLAIN = "plain"
    GOOD = "good"
    BAD = "bad"
    QUIET = "quiet"


class Line(msgspec.Struct, frozen=True):
    """A line of the summary."""

    text: str
    tone: Tone = Tone.PLAIN


def summarize(demo: Demo, stopped_by: signal.Signals | None) -> list[Line]:
    """Return what a finished or stopped job has to tell."""
    metrics = demo.metrics()
    lines: list[Line] = []
    if metrics is not None:
        lines += [*_verified(demo), *_accounted(demo, metrics)]
    if demo.read_back:
        lines += _read_back(demo)
    if stopped_by is None and demo.waits_for_writes.calls:
        lines += _waited(demo)
    if stopped_by is not None:
        lines += _stopped(demo, metrics, stopped_by)
    return lines


def went_well(demo: Demo) -> bool:
    """Return whether every entry is accounted for and those read back are as enqueued."""
    metrics = demo.metrics()
    return (
        metrics is not None
        and _is_balanced(demo, metrics)
        and _same_as_enqueued(demo) == len(demo.read_back)
    )


def _is_balanced(demo: Demo, metrics: WriteBehindMetrics) -> bool:
    places = sum(count for count, _ in places_of(metrics))
    return demo.files_done == metrics.total_enqueued == places


def places_of(metrics: WriteBehindMetrics) -> list[tuple[int, str]]:
    """Return where accepted entries are, each of them in one place."""
    return [
        (metrics.total_persisted, "persisted"),
        (metrics.total_coalesced, "coalesced"),
        (metrics.total_failed, "dead-lettered"),
        (metrics.total_abandoned, "abandoned"),
        (metrics.current_queue_depth, "in line"),
        (metrics.in_flight, "in flight"),
    ]


def _same_as_enqueued(demo: Demo) -> int:
    return sum(found == decision.entry for decision, found in demo.read_back)


def _verified(demo: Demo) -> list[Line]:
    return [
        Line("Verified", Tone.TITLE),
        Line(
            f"{demo.files_done:,} of {counted(demo.files_total, 'file')}, "
            f"{counted(len(demo.distributions), 'distribution')}, {size(demo.bytes_read)}"
        ),
        Line(f"in {duration(demo.seconds)}, {demo.rate:,.0f} files/s"),
        *(
            Line(f"{count:>9,} {words}", Tone.PLAIN if outcome in GOOD else Tone.BAD)
            for outcome, words in _WORDS.items()
            if (count := demo.outcomes[outcome])
        ),
        *_first(
            [Line(f"{one.verdict.outcome}: {_name(one)}", Tone.BAD) for one in demo.problems],
            sum(count for outcome, count in demo.outcomes.items() if outcome not in GOOD),
        ),
        *_first(
            [
                Line(f"skipped: {printable(one.what)} ({one.reason})", Tone.QUIET)
                for one in demo.skipped
            ],
            len(demo.skipped),
        ),
    ]


def _first(lines: list[Line], total: int) -> list[Line]:
    """Return the first of ``lines`` and, if ``total`` is more, how many are not told."""
    shown = lines[:_MOST_SHOWN]
    if total > len(shown):
        shown.append(Line(f"and {total - len(shown):,} more", shown[0].tone))
    return shown


def _accounted(demo: Demo, metrics: WriteBehindMetrics) -> list[Line]:
    batches = counted(metrics.total_batches, "batch", "batches")
    remarks = {"persisted": f" in {batches}, {metrics.total_unchanged:,} unchanged"}
    balanced = _is_balanced(demo, metrics)
    lines = [
        Line("Every entry accounted for" if balanced else "ENTRIES ARE MISSING", Tone.TITLE),
        Line(f"  {demo.files_done:>9,} verified"),
        Line(f"= {metrics.total_enqueued:>9,} accepted"),
        *(
            Line(f"{sign} {count:>9,} {word}{remarks.get(word, '')}")
            for sign, (count, word) in zip("=+++++", places_of(metrics), strict=True)
        ),
    ]
    if lost := metrics.total_failed + metrics.total_abandoned:
        lines.append(Line(f"{counted(lost, 'entry', 'entries')} not in the store", Tone.BAD))
    return lines


def _read_back(demo: Demo) -> list[Line]:
    same = _same_as_enqueued(demo)
    lines = [
        Line("Read back", Tone.TITLE),
        Line(
            f"{printable(demo.target.label)} holds {counted(demo.rows or 0, 'row')}; "
            f"{same} of {len(demo.read_back)} read are as enqueued",
            Tone.GOOD if same == len(demo.read_back) else Tone.BAD,
        ),
    ]
    for decision, found in demo.read_back:
        state = "lost" if found is None else "same" if found == decision.entry else "differs"
        lines.append(
            Line(
                f"{decision.entry.veri_key[:15]} {state}, "
                f"trust {decision.entry.decision.trust_score:>3}: {_name(decision)}",
                Tone.QUIET if state == "same" else Tone.BAD,
            )
        )
    return lines


def _waited(demo: Demo) -> list[Line]:
    queue, writes = demo.waits_for_queue, demo.waits_for_writes
    ratio = writes.mean / queue.mean
    every = demo.waits
    return [
        Line("What the caller waited for the database", Tone.TITLE),
        Line("while verifying, with the queue:"),
        Line(
            f"{duration(every.mean):>9} per entry, {duration(every.seconds)} in all, "
            f"longest {duration(every.longest)}"
        ),
        Line(f"on a sample of {queue.calls:,}, with nothing else to do:"),
        Line(f"{duration(queue.mean):>9} per entry with the queue"),
        Line(f"{duration(writes.mean):>9} per entry with one write each: {ratio:,.0f} times that"),
        Line(
            "Through the queue, an entry is not yet written when the caller goes on, but due "
            f"in a batch within {duration(demo.options.flush_interval_seconds)}."
        ),
    ]


def _stopped(
    demo: Demo, metrics: WriteBehindMetrics | None, stopped_by: signal.Signals
) -> list[Line]:
    written = 0 if metrics is None else metrics.total_persisted
    return [
        Line(
            f"Stopped by {stopped_by.name} while {demo.phase}: {counted(written, 'entry', 'entries')} "
            f"written to {printable(demo.target.label)}",
            Tone.TITLE,
        )
    ]


def _name(decision: Decision) -> str:
    return printable(f"{decision.distribution.label} {decision.verdict.row.path}")
