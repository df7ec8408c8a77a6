"""The life of an open queue: its tasks, the drain, and what every exit reports."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Generic

import trio

from provcache_trio._vocabulary.errors import DrainTimeoutError, WriteBehindCrashedError
from provcache_trio._vocabulary.failures import leaves_of
from provcache_trio._vocabulary.plurals import counted_entries
from provcache_trio._vocabulary.protocols import E

from .supervisor import MOST_CRASHES, other_than_cancelled

if TYPE_CHECKING:
    from contextlib import AbstractAsyncContextManager

    from .assembly import Assembly


class Life(Generic[E]):
    """The parts of an open queue, and the nursery that they run in."""

    def __init__(
        self,
        parts: Assembly[E],
        manager: AbstractAsyncContextManager[trio.Nursery, bool | None],
        nursery: trio.Nursery,
    ) -> None:
        self._parts = parts
        self._lifetime = parts.lifetime
        self._manager = manager
        self._nursery = nursery
        # Why the drain left something; empty if it did not.
        self._shortfall = ""
        # What failed at its end; empty if nothing did.
        self._cause = ""

    @trio.lowlevel.enable_ki_protection
    async def host(self) -> None:
        """Run our tasks, out of reach of every surrounding scope."""
        parts = self._parts
        with trio.CancelScope(shield=True), parts.tasks() as tasks:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(parts.calls.watch, name="calls")
                await parts.supervisor.run(tasks, self._give_up)
                nursery.cancel_scope.cancel()
        if parts.supervisor.last_straw is not None:
            await self._finish_journal()
            # At once, so that nobody waits for a fate until the body has ended.
            parts.abandon_rest()

    def _give_up(self) -> None:
        self._parts.close_intake()
        self._parts.cancel_tasks()
        self._nursery.cancel_scope.cancel()

    async def leave(self, error: BaseException | None) -> None:
        """Drain, end our tasks, settle what is left as abandoned, and report."""
        parts, lifetime = self._parts, self._lifetime
        parts.close_intake()
        interrupted = _holds_interrupt(error)
        interrupt: KeyboardInterrupt | None = None
        try:
            if not lifetime.forked:
                interrupt = await self._drain(interrupted=interrupted)  # noqa: ASYNC102  # is shielded
            interrupt = await self._stop_tasks() or interrupt  # noqa: ASYNC102  # ends them first
            await self._finish_journal()  # noqa: ASYNC102  # is shielded
        finally:
            parts.abandon_rest()
            parts.note_closed()
        self._report(error, None if interrupted else interrupt)

    async def _drain(self, *, interrupted: bool) -> KeyboardInterrupt | None:
        """Wait until everything is settled, the time is up, or a second interrupt comes."""
        lifetime = self._lifetime
        seconds = lifetime.options.drain_timeout_seconds
        interrupt: KeyboardInterrupt | None = None
        self._shortfall = f" within {seconds:g} s" if seconds else ": drain_timeout_seconds is 0"
        with trio.move_on_after(seconds, shield=True):
            while True:
                try:
                    await lifetime.drained.wait()
                except KeyboardInterrupt as error:
                    if interrupted:
                        self._shortfall = ": the drain was interrupted"
                        break
                    interrupted = True
                    interrupt = error
                else:
                    why = "store is closed" if lifetime.store_is_closed else "sink refuses them"
                    self._shortfall = f": the {why}"
                    return interrupt
        self._cause = self._described_cause()
        self._shortfall += self._cause
        return interrupt

    def _described_cause(self) -> str:
        """Return what fails at the end of the drain, or "" if nothing does."""
        watch = self._parts.watch
        if not watch.last_cause or (watch.trouble is None and not self._parts.outbox.failing):
            return ""
        return f", as the last call failed ({watch.last_cause})"

    async def _stop_tasks(self) -> KeyboardInterrupt | None:
        """End our tasks; a repository that does not return when cancelled delays this."""
        self._parts.cancel_tasks()
        try:
            # Waits for the tasks whether or not a surrounding scope is cancelled.
            await self._manager.__aexit__(None, None, None)
        except BaseExceptionGroup as group:
            interrupts, others = group.split(KeyboardInterrupt)
            if interrupts is None or others is not None:
                # Our tasks let nothing else out.
                raise AssertionError("unreachable") from group
            return KeyboardInterrupt()
        return None

    async def _finish_journal(self) -> None:
        """Leave in the journal what is left, before it is settled as abandoned."""
        recorder = self._parts.recorder
        if recorder is not None and not self._lifetime.forked:
            await recorder.finish()
        intake = self._parts.intake
        if intake is not None and not self._lifetime.forked:
            await intake.finish()

    def _report(self, error: BaseException | None, interrupt: KeyboardInterrupt | None) -> None:
        """Log the end, and raise the error that the caller has to know about."""
        parts, name = self._parts, self._lifetime.name
        left = self._lifetime.undelivered
        kept = parts.kept
        self._log_end(len(left), kept=kept)
        last_straw = parts.supervisor.last_straw
        if last_straw is not None:
            crashed = WriteBehindCrashedError(
                f"queue {name!r} gave up after {MOST_CRASHES} crashes of its tasks, which the log "
                f"has; left in .undelivered: {counted_entries(len(left))}",
                undelivered=left,
                metrics=parts.queue.metrics(),
            )
            crashed.__cause__ = last_straw
            if interrupt is not None:
                # Whoever pressed the key wants the program to end.
                raise interrupt from crashed
            raise crashed
        if not left or kept:
            if interrupt is not None:
                raise interrupt
            return
        message = (
            f"queue {name!r} could not write {counted_entries(len(left))}{self._shortfall}; "
            "save what is in .undelivered"
        )
        if interrupt is not None:
            interrupt.add_note(message)
            raise interrupt
        if error is None or not other_than_cancelled(error):
            raise DrainTimeoutError(
                message, undelivered=left, metrics=parts.queue.metrics()
            ) from error
        error.add_note(message)

    def _log_end(self, left: int, *, kept: bool) -> None:
        log, recorder, ledger = self._lifetime.log, self._parts.recorder, self._lifetime.ledger
        unread = recorder is not None and self._lifetime.recovering
        if recorder is not None and unread:
            recorder.replay.log_rest()
        if left and kept:
            where = "left in the journal" if recorder is not None else "given back to the stream"
            log(logging.WARNING, f"%s {where}%s", counted_entries(left), self._cause, count=left)
        elif left:
            log(
                logging.ERROR,
                "%s not written, and handed back in .undelivered%s",
                counted_entries(left),
                self._cause,
                count=left,
            )
        elif not unread:
            log(
                logging.INFO,
                "drained: %d persisted, %d coalesced, %d dead-lettered",
                ledger.persisted,
                ledger.coalesced,
                ledger.failed,
            )
        log(
            logging.INFO,
            "stopped: %d accepted, %d recovered, %d abandoned",
            ledger.enqueued,
            ledger.recovered,
            ledger.abandoned,
        )


def _holds_interrupt(error: BaseException | None) -> bool:
    return error is not None and any(
        isinstance(leaf, KeyboardInterrupt) for leaf in leaves_of(error)
    )
