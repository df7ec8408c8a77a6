"""The report as a document: tables, and plots as SVG."""

from __future__ import annotations

import importlib
from itertools import groupby
from typing import TYPE_CHECKING, Any, Final

from benchmarks.figures import markdown_table

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from benchmarks.figures import Curve, Report

HEAD: Final = """\
# Benchmarks

This page is written by the command below. Every figure is the median over the rounds of one run
in which all cases take turns, so a machine that gets slower slows all of them; "beside" names
what a ratio is taken of, within a round. Run it where it matters to you: ratios travel well,
absolute figures do not.

"""

MEANINGS: Final = {
    "in process": """\
What accepting an entry costs your task, beside what trio itself would take for passing an object to another task. With 2.5
times a raw channel of half a microsecond, a service that records 10,000 entries a second spends a hundredth of a core on it.
*Hot keys* are entries whose key waits already: they replace each other, and reach the store once.
""",
    "growth": """\
Whether a queue gets dearer while it gets longer: it does not, up to hundreds of thousands of waiting entries, so
`queue_capacity` is a question of memory only. Writers pay where the store has latency, as each waits for it alone.
""",
    "harm": """\
What the other tasks of your program notice. An *echo* is a request that another task answers: its slowest hundredth
is what your users would feel. A *step* is how long the event loop is held at a time.
""",
    "journal": """\
What surviving a kill -9 costs. `interval` writes to the disk beside your work; with `always` each entry waits for a sync,
so the rate depends on how many tasks wait together.
""",
    "cache": """\
What reading through the queue costs: a hit, a look without waiting (`peek`), a miss that many tasks have at the same time,
and what rows in bulk cost beside one statement of your own.
""",
    "PostgreSQL": """\
How far the queue is from the best that can be done by hand. *Whole queue* is what you get with a batch size of 500; *loop
written by hand* is what most programs do instead; *server only* is the limit that no client can pass. A single `persist` on
an idle queue takes twice as long as a bare call, which is half a millisecond or two more: use it for the few entries whose
fate the caller must know.
""",
    "SQLite": """\
The same, for a file on this machine: a queue reaches some three quarters of a loop that does nothing but `executemany` and
`COMMIT`, and yours does not have to wait for it.
""",
    "stream": """\
What it costs that entries survive the loss of a machine: a queue that writes into the stream instead of PostgreSQL, and a relay
that writes from the stream into PostgreSQL. *Time without an acknowledgement* is how long callers of `persist` wait
when the server that leads the stream dies (the servers' own election) or is shut down in order.
""",
}

NOTES: Final = """\

## What is compared

- *A raw channel* is `send_nowait` and `receive_nowait` of a trio memory channel; *a bare
  checkpoint* is `trio.lowlevel.checkpoint()`. `enqueue` contains one, so that it can be cancelled
  and other tasks run; what does not yield after each entry is cheaper, and stalls the others.
- The queue counts and keeps every entry until its fate is known, replaces versions of a key in
  place, retries, and isolates what the store refuses. A loop by hand and flushq do nothing of
  that; BatchSpanProcessor drops what it has no room for (here it has room for all); `produce` of
  confluent-kafka copies the bytes into a buffer in C, and its broker is mocked in its process.
- Peers write to a store that costs nothing as well, and get the same batch size of 500 and the
  same room where they have such options. async-batcher's callers wait for their result.
- Into PostgreSQL, every run starts with the same table and ends with a count of the rows that hold
  the last version of their key. Those that lost some have a line of their own; all others kept all.
  Half of the entries are newer versions of rows, unless a plot says otherwise.
- *Server only* is the statement over rows that are on the server already, so nothing is encoded or
  sent: the limit for a client that costs nothing.
- *Enqueue* adds to a checkpoint one frame, a thirtieth, and the acceptance. That takes a fifth when
  many follow each other without one, and more here: after a checkpoint's system call the
  processor's caches are cold. To write it out in the place of a call saved nothing.
- *Persist, idle queue* is the time of one entry while nothing else happens. To the upsert come the
  queue's own tasks (the line with a store that costs nothing) and the way to asyncio and back (an
  empty call), together more than the bar leaves; and asyncpg takes longer in trio-asyncio's loop
  than in asyncio's. A caller that can't wait calls `enqueue`.
- Into the stream, through a relay and directly, the same entries are written in each round. Connecting does not
  count, nor does a relay's first batch. Three servers that sync always, PostgreSQL and the relay share this machine, so the relay's ratio is one of a machine that does
  everything; the lines of CPU time say what a relay costs where the servers are elsewhere.
- What could not be measured is named at the end.
"""


def write_document(report: Report, directory: Path) -> None:
    """Write ``benchmarks.md`` and its plots into ``directory``."""
    plots = directory / "benchmarks"
    plots.mkdir(parents=True, exist_ok=True)
    versions = ", ".join(f"{name} {number}" for name, number in report.versions.items())
    text = f"{HEAD}    {report.command}\n\n{report.machine}; {versions}.\n"
    for part, figures in groupby(report.findings.figures, lambda figure: figure.part):
        meaning = MEANINGS[part]
        text += f"\n## {part[0].upper()}{part[1:]}\n\n{meaning}\n{markdown_table(figures)}\n"
    curves = sorted(report.findings.curves, key=lambda curve: curve.plot)
    if curves:
        text += "\n## Plots\n"
    for title, group in groupby(curves, lambda curve: curve.plot):
        name = "".join(c if c.isalnum() else "-" for c in title.lower()) + ".svg"
        plot(title, list(group), plots / name)
        text += f"\n![{title}](benchmarks/{name})\n"
    text += NOTES
    if report.findings.absent:
        text += "\n## Not measured\n\n"
        text += "".join(f"- {what}\n" for what in report.findings.absent)
    (directory / "benchmarks.md").write_text(text, encoding="utf-8")


def plot(title: str, curves: Sequence[Curve], file: Path) -> None:
    """Draw the curves of one plot."""
    matplotlib: Any = importlib.import_module("matplotlib")  # of the group "benchmarks"
    matplotlib.use("svg")
    matplotlib.rcParams["svg.hashsalt"] = "benchmarks"  # the same figures make the same file
    plt: Any = importlib.import_module("matplotlib.pyplot")
    figure, axes = plt.subplots(figsize=(7, 4), layout="constrained")
    for curve in curves:
        axes.plot(*zip(*curve.points, strict=True), marker="o", label=curve.name)
    first = curves[0]
    axes.set(title=title, xlabel=first.along, ylabel=first.up)
    if "x" in first.logarithmic:
        axes.set_xscale("log")
    if "y" in first.logarithmic:
        axes.set_yscale("log")
    else:
        axes.set_ylim(bottom=0)
    axes.grid(visible=True, alpha=0.3)
    if len(curves) > 1:
        axes.legend()
    figure.savefig(file, metadata={"Date": None})
    plt.close(figure)
