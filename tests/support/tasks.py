"""Which tasks of a queue are alive."""

from __future__ import annotations

import trio


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
