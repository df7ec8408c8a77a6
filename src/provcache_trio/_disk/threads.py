"""Work in a thread that is interrupted, not abandoned, when its caller is cancelled."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar

import trio
from trio.lowlevel import Abort

from provcache_trio._vocabulary.errors import StoreUnavailableError

if TYPE_CHECKING:
    from collections.abc import Callable

    from outcome import Outcome

T = TypeVar("T")


# ``trio.to_thread.run_sync`` can only abandon a thread or ignore a cancellation; this interrupts
# the work instead. The task sleeps until the thread is done, even when Ctrl-C is pressed.
@trio.lowlevel.enable_ki_protection
async def in_thread(work: Callable[[], T], interrupt: Callable[[], None]) -> T:
    """Return what ``work`` returns in a worker thread; call ``interrupt`` when cancelled.

    Raises:
        StoreUnavailableError: no thread can be started.
        BaseException: what ``work`` raised.
    """
    task = trio.lowlevel.current_task()
    token = trio.lowlevel.current_trio_token()

    def deliver(result: Outcome[T]) -> None:
        token.run_sync_soon(trio.lowlevel.reschedule, task, result)

    def abort(_: object) -> Abort:
        interrupt()
        return Abort.FAILED

    try:
        trio.lowlevel.start_thread_soon(work, deliver)
    except RuntimeError:
        # The system has no thread left, which may pass.
        raise StoreUnavailableError("no thread can be started") from None
    result: T = await trio.lowlevel.wait_task_rescheduled(abort)
    return result


async def end_in_thread(end: Callable[[], None]) -> None:
    """Call ``end`` in a worker thread, or in this one if none can be started."""
    try:
        await in_thread(end, lambda: None)
    except StoreUnavailableError:
        end()
