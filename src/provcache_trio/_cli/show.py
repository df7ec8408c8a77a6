"""A job in sight of the user, what is told in the end, and the exit status."""

from __future__ import annotations

import sys
from functools import partial
from typing import TYPE_CHECKING, Final

import trio

from .demo.summary import summarize, went_well
from .ending import Status, check_output, complaint, finish, status_of, warnings_told_by
from .ingest.report import all_went_in, summarize_ingest
from .running import attempt_in_sight
from .stream import Stream
from .text import counted

if TYPE_CHECKING:
    from .demo.job import Demo
    from .demo.screen import Screen
    from .ingest.job import Ingest
    from .progress import Progress
    from .running import Ending

_HEAD_START: Final = 0.5  # seconds


async def show(job: Demo, screen: Screen) -> int:
    """Run the demo and return the exit status.

    Raises:
        OutputError: the summary could not be written.
    """

    async def conclude(ending: Ending) -> None:
        screen.summary(summarize(job, ending.stopped_by))
        complaints: list[str] = []
        if ending.failure:
            complaints.append(complaint(ending.failure, job.target.label))
        elif not ending.stopped_by and not job.distributions:
            complaints.append(complaint("no installed distribution has a RECORD there"))
        await finish(screen.stream, complaints)

    with warnings_told_by(screen.notice):
        ending = await attempt_in_sight(
            partial(job.run, screen.notice),
            screen,
            job.options.drain_timeout_seconds,
            conclude=conclude,
        )
    check_output(screen.stream)
    return status_of(ending) or (Status.DONE if went_well(job) else Status.NOT_ALL)


async def show_ingest(job: Ingest, progress: Progress) -> int:
    """Run the job and return the exit status.

    Raises:
        OutputError: the summary could not be written.
    """
    results = Stream(sys.stdout)

    async def conclude(ending: Ending) -> None:
        for line in summarize_ingest(job, ending.stopped_by):
            results.add(f"{line}\n")
        complaints: list[str] = []
        if job.untold:
            text = f"{counted(job.untold, 'more bad line')}; --all-errors tells each"
            complaints.append(complaint(text))
        if job.trouble:
            complaints.append(complaint(job.trouble))
        if ending.failure:
            complaints.append(complaint(ending.failure, job.target.label))
        if ending.stopped_by is None:
            await progress.finish()
        else:  # then there is not much time, and the summary matters more
            with trio.move_on_after(_HEAD_START):
                await progress.finish()
        await finish(results, complaints)

    with warnings_told_by(progress.notice):
        ending = await attempt_in_sight(
            partial(job.run, progress.report, progress.notice),
            progress,
            job.options.drain_timeout_seconds,
            beside=job.give_up_when_due,
            conclude=conclude,
        )
    check_output(results)
    if job.trouble:
        return status_of(ending) or Status.FAILED
    return status_of(ending) or (Status.DONE if all_went_in(job) else Status.NOT_ALL)
