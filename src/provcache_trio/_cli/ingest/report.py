"""What ``provcache ingest`` tells: where it is, and how it ended."""

from __future__ import annotations

from typing import TYPE_CHECKING

from provcache_trio import QueueState
from provcache_trio._cli.demo.summary import places_of
from provcache_trio._cli.text import counted, printable

from .job import error_of

if TYPE_CHECKING:
    import signal

    from .job import Ingest


def in_one_line(ingest: Ingest) -> str:
    """Return where the job is."""
    words = [counted(ingest.lines, "line"), f"{ingest.bad:,} bad"]
    metrics = ingest.metrics()
    if metrics is not None:
        words += [
            f"in line {metrics.current_queue_depth:,}",
            f"in flight {metrics.in_flight:,}",
            f"persisted {metrics.total_persisted:,}",
            metrics.state,
        ]
        if metrics.state is QueueState.WAITING:
            words[-1] += f" ({error_of(metrics)})"
    return ", ".join(words)


def summarize_ingest(ingest: Ingest, stopped_by: signal.Signals | None) -> list[str]:
    """Return what a finished or stopped job has to tell; nothing if it never began."""
    metrics = ingest.metrics()
    if metrics is None:
        return []
    batches = counted(metrics.total_batches, "batch", "batches")
    remarks = {"persisted": f" in {batches}, {metrics.total_unchanged:,} unchanged"}
    accepted = metrics.total_enqueued
    lines = [
        f"{counted(ingest.lines, 'line')} read, into {printable(ingest.target.label)}",
        f"  {accepted:>9,} accepted",
        f"  {ingest.bad:>9,} bad",
        f"  {ingest.blank:>9,} blank",
    ]
    # A cancellation may come while an entry waits for room in the queue.
    if left := ingest.lines - accepted - ingest.bad - ingest.blank:
        lines.append(f"  {left:>9,} not accepted")
    lines.append("of those accepted")
    lines += [
        f"  {count:>9,} {word}{remarks.get(word, '')}"
        for count, word in places_of(metrics)
        if count or word in {"persisted", "coalesced", "dead-lettered"}
    ]
    if stopped_by is not None:
        lines.append(f"Stopped by {stopped_by.name}")
    elif ingest.stopped_early:
        lines.append("Stopped at the first bad line")
    return lines


def all_went_in(ingest: Ingest) -> bool:
    """Return whether the whole input was read, every line was good, and the store took it."""
    metrics = ingest.metrics()
    return (
        not ingest.trouble and not ingest.bad and metrics is not None and not metrics.total_failed
    )
