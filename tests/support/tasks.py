"""Tasks of a test, and which tasks of a queue are alive."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import trio
from trio.testing import wait_all_tasks_blocked

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable


def kind_of(name: str) -> str:
    """Return what a task is, without the number of its lane."""
    return name.rstrip(" 0123456789")


def queue_tasks() -> list[str]:
    """Return the names of all tasks that a queue started."""
    root = trio.lowlevel.current_root_task()
    assert root is not None
    todo, names = [root], []
    while todo:
        task = todo.pop()
        todo += [child for nursery in task.child_nurseries for child in nursery.child_tasks]
        frame = getattr(task.coro, "cr_frame", None)
        if frame is not None and "provcache_trio" in frame.f_globals["__name__"]:
            names.append(task.name)
    return sorted(names)


async def put_aside(
    nursery: trio.Nursery, function: Callable[..., Awaitable[object]], *arguments: object
) -> list[Any]:
    """Call ``function`` in a task; return a list that its result or its error will be in."""
    results: list[Any] = []

    async def call() -> None:
        try:
            results.append(await function(*arguments))
        except Exception as error:  # noqa: BLE001  # the test looks at it
            results.append(error)

    nursery.start_soon(call)
    await wait_all_tasks_blocked()
    return results
