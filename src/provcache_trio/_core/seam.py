"""What the read side needs of a queue."""

from __future__ import annotations

from typing import TYPE_CHECKING, Generic, NamedTuple

from provcache_trio._vocabulary.protocols import E

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Hashable, Iterable

    from provcache_trio._vocabulary.protocols import EntryObserver


class Seam(NamedTuple, Generic[E]):
    """What a cache is sewn to a queue by.

    Attributes:
        name: the queue's.
        key: reads the key of an entry.
        merge: makes one entry of an older version and a newer one.
        observe: has an observer told of each version that is accepted or refused; None: nobody.
        open_versions: returns what the versions with open fates come to, by key.
        has_room: returns whether an entry with that key would not have to wait for room.
        enqueue: the queue's.
        flush: the queue's.
    """

    name: str
    key: Callable[[E], Hashable]
    merge: Callable[[E, E], E]
    observe: Callable[[EntryObserver[E] | None], None]
    open_versions: Callable[[Iterable[Hashable]], dict[Hashable, E]]
    has_room: Callable[[Hashable], bool]
    enqueue: Callable[[E], Awaitable[None]]
    flush: Callable[[], Awaitable[None]]
