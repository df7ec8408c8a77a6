"""``check_repository``: a test of what the queue relies on, for repositories of users."""

from __future__ import annotations

from operator import attrgetter
from typing import TYPE_CHECKING, Any, Final, Generic, Protocol, TypeVar, cast

import trio

from provcache_trio._vocabulary.entries import merge_or_replace
from provcache_trio._vocabulary.errors import EntryRejectedError
from provcache_trio._vocabulary.failures import leaves_of
from provcache_trio._vocabulary.table import Table

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Hashable, Iterable, Mapping, Sequence
    from contextlib import AbstractAsyncContextManager

E = TypeVar("E")
E_repository = TypeVar("E_repository")

# Entries in one call.
_SEVERAL: Final = 20
_MANY: Final = 500
# The seconds within which a cancelled call has to return.
_PROMPT_SECONDS: Final = 5.0
_CUTS_SECONDS: Final = (0.0, 0.001, 0.01, 0.1)
# A cancelled call that has waited for so many seconds may leave a store that does not stop, such as a server
# whose disk is slow: its callers need not wait for ever.
_PATIENT_SECONDS: Final = 0.5
# The seconds after which a cancelled call must have stored nothing more.
_LATER_SECONDS: Final = 0.5


class ReadableRepository(Protocol[E_repository]):
    """A repository whose rows can be read, as ``check_repository`` needs it."""

    async def upsert_many(self, entries: Sequence[E_repository], /) -> int:
        """Store every entry, or none; see ``Repository.upsert_many``."""
        ...

    async def get_many(self, keys: Iterable[Any], /) -> Mapping[Any, E_repository]:
        """Return the stored entries of ``keys``, by key."""
        ...


async def check_repository(
    open: Callable[[], AbstractAsyncContextManager[ReadableRepository[E]]],  # noqa: A002  # what it does
    make: Callable[[int, int], E],
    *,
    key: Callable[[E], Hashable] | None = None,
    merge: Callable[[E, E], E] | None = None,
    refused: Callable[[int], E] | None = None,
    writers: int = 1,
) -> None:
    """Test whether a repository keeps the promises of ``Repository``.

    ::

        async def test_our_store_keeps_its_promises() -> None:
            await check_repository(open_empty_store, lambda number, version: Visit(number, version))

    It stores some thousand entries, cancels calls, looks half a second later whether they have
    really ended, and takes some seconds with a quick store. A cancelled call that waited for half a
    second, and then gave up a store that would not stop, may go on there.

    Args:
        open: returns a context manager that enters a repository without rows, which has
            ``get_many`` beside ``upsert_many``; called several times, one after another.
        make: called with ``number`` and ``version``; returns an entry, equal for equal arguments.
            ``number`` decides its key, and a larger ``version`` is newer.
        key: returns what identifies an entry, as for the queue; by default the key of
            ``repository.table``, or else the entry's ``veri_key``.
        merge: merges two versions, as for the queue; by default the rule of
            ``repository.table``, or else ``merge_entries``, or the newer version.
        refused: called with a number; returns an entry with the key of that number that the
            store can't take. Without it, refused entries are not tested.
        writers: how many calls to make at a time, with different keys; as many as the queue's
            option of that name allows.

    Raises:
        AssertionError: it does not; each line of the message is a broken promise, with what was
            expected and what is stored.
        TypeError: an argument, such as ``key``, does not fit; or a repository has no ``get_many``.
    """
    contract = _Contract(open, make, key, merge, refused, writers)
    broken: list[str] = []
    for trial in (
        contract.arguments_are_what_they_should_be,
        contract.what_is_stored_can_be_read,
        contract.to_store_again_changes_nothing,
        contract.versions_are_merged_in_any_order,
        contract.many_are_stored_at_once,
        contract.calls_with_different_keys_do_not_disturb_each_other,
        contract.a_cancelled_call_stores_all_or_nothing,
        contract.what_was_prepared_can_be_stored,
        contract.a_refused_entry_takes_no_other_along,
    ):
        try:
            await trial()
        except _BrokenPromiseError as error:
            broken.append(str(error))
        except _WrongArgumentError as error:
            raise TypeError(str(error)) from None
        except Exception as error:  # noqa: BLE001  # whatever the store raises
            broken.append(_described(trial, error))
    if broken:
        lines = "".join(f"\n- {line}" for line in broken)
        raise AssertionError(f"the repository breaks {len(broken)} of its promises:{lines}")


class _BrokenPromiseError(Exception):
    """A promise was broken; the message names it."""


class _WrongArgumentError(Exception):
    """``check_repository`` got an argument that does not fit; the message names it."""


def _described(trial: Callable[[], Awaitable[None]], error: Exception) -> str:
    name: str = getattr(trial, "__name__", "")
    leaves = [f"{type(leaf).__name__}: {leaf}" for leaf in leaves_of(error)]
    return f"{name.replace('_', ' ')}: it raised {', '.join(leaves)}"


def _is_entered(manager: object) -> bool:
    return hasattr(type(manager), "__aenter__")


def _class_of(value: object) -> str:
    return type(value).__name__


def _promise(kept: object, text: str) -> None:
    if not kept:
        raise _BrokenPromiseError(text)


def _promise_same(
    stored: Mapping[Hashable, object], expected: Mapping[Hashable, object], text: str
) -> None:
    """Raise unless what is stored is what was expected, and show the first difference."""
    for key in [*expected, *stored]:
        if stored.get(key) != expected.get(key):
            told = f"{text}: of key {key!r} {expected.get(key)!r} was expected"
            raise _BrokenPromiseError(f"{told}, and {stored.get(key)!r} is stored")


class _Contract(Generic[E]):
    """One trial for each promise; each begins with a repository without rows."""

    def __init__(
        self,
        open_one: Callable[[], AbstractAsyncContextManager[ReadableRepository[E]]],
        make: Callable[[int, int], E],
        key: Callable[[E], Hashable] | None,
        merge: Callable[[E, E], E] | None,
        refused: Callable[[int], E] | None,
        writers: int,
    ) -> None:
        self._open = open_one
        self._make = make
        self._key = key
        self._merge = merge
        self._refused = refused
        self._writers = writers

    def _entries(self, many: int, version: int = 1) -> list[E]:
        return [self._make(number, version) for number in range(many)]

    def _key_of(self, repository: object) -> Callable[[E], Hashable]:
        table = getattr(repository, "table", None)
        declared = cast("Table[E]", table).key if isinstance(table, Table) else None
        return self._key or declared or cast("Callable[[E], Hashable]", attrgetter("veri_key"))

    def _merged(self, repository: object, entries: Iterable[E]) -> dict[Hashable, E]:
        """Return the merged entries, by key, for ``entries`` that arrive in this order."""
        key_of, table = self._key_of(repository), getattr(repository, "table", None)
        declared = cast("Table[E]", table).merge if isinstance(table, Table) else None
        merge = self._merge or declared or merge_or_replace
        kept: dict[Hashable, E] = {}
        for entry in entries:
            key = key_of(entry)
            kept[key] = merge(kept[key], entry) if key in kept else entry
        return kept

    async def _stored(
        self, repository: ReadableRepository[E], entries: Iterable[E]
    ) -> dict[Hashable, E]:
        """Return what is stored for the keys of ``entries``."""
        key_of = self._key_of(repository)
        return dict(await repository.get_many([key_of(entry) for entry in entries]))

    async def arguments_are_what_they_should_be(self) -> None:
        given: dict[str, object] = {"open": self._open, "make": self._make}
        for name, function in given.items():
            # What an `open_…` function returns may be callable, as a decorator.
            if not callable(function) or _is_entered(function):
                raise _WrongArgumentError(f"{name} must be a function, not {_class_of(function)}")
        manager = self._open()
        if not _is_entered(manager):
            raise _WrongArgumentError(
                f"open must return what 'async with' enters, not {_class_of(manager)}"
            )
        async with manager as one:
            if not callable(getattr(one, "get_many", None)):
                raise _WrongArgumentError("check_repository needs a repository with get_many(keys)")
            self._check_make(self._key_of(one))

    def _check_make(self, key_of: Callable[[E], Hashable]) -> None:
        entry = self._make(0, 1)
        try:
            keys = [key_of(entry), key_of(self._make(0, 2)), key_of(self._make(1, 1))]
            as_key = {keys[0]: entry}
        except Exception as error:
            raise _WrongArgumentError(
                f"the key of a {type(entry).__name__} can't be read or hashed "
                f"({type(error).__name__}); it is entry.veri_key, unless key= is given or the "
                "repository has a table"
            ) from error
        if self._make(0, 1) not in as_key.values():
            raise _WrongArgumentError("make must return the same entry for the same arguments")
        if keys[0] != keys[1] or keys[0] == keys[2]:
            raise _WrongArgumentError("make(number, version): number alone must decide the key")

    async def what_is_stored_can_be_read(self) -> None:
        async with self._open() as repository:
            entries = self._entries(_SEVERAL)
            _promise(not await self._stored(repository, entries), "open gave one that has rows")
            changed = await repository.upsert_many(entries)
            _promise(
                type(cast("object", changed)) is int and changed == len(entries),
                f"upsert_many returned {changed!r} for {len(entries)} rows that were not there",
            )
            _promise(entries == self._entries(_SEVERAL), "upsert_many changed its entries")
            _promise_same(
                await self._stored(repository, entries),
                self._merged(repository, entries),
                "what get_many returned was not what was stored",
            )

    async def to_store_again_changes_nothing(self) -> None:
        async with self._open() as repository:
            entries = self._entries(_SEVERAL)
            await repository.upsert_many(entries)
            changed = await repository.upsert_many(tuple(entries))
            _promise_same(
                await self._stored(repository, entries),
                self._merged(repository, entries),
                "the same entries once more changed what is stored; after a lost answer the queue "
                "sends them again",
            )
            _promise(
                0 <= changed <= len(entries),
                f"upsert_many returned {changed!r} for {len(entries)} entries once more",
            )

    async def versions_are_merged_in_any_order(self) -> None:
        for order in ((1, 2), (2, 1), (1, 3, 2), (2, 2)):
            async with self._open() as repository:
                versions = [self._make(1, version) for version in order]
                for version in versions:
                    await repository.upsert_many([version])
                _promise_same(
                    await self._stored(repository, versions),
                    self._merged(repository, versions),
                    f"versions that arrived in the order {order} were not stored as merge says",
                )

    async def many_are_stored_at_once(self) -> None:
        async with self._open() as repository:
            entries = self._entries(_MANY)
            await repository.upsert_many(entries)
            newer = self._entries(_MANY, 2)
            await repository.upsert_many(newer)
            _promise_same(
                await self._stored(repository, entries),
                self._merged(repository, [*entries, *newer]),
                f"{_MANY} entries of a call, and newer versions of them, were not stored as merge "
                "says",
            )

    async def calls_with_different_keys_do_not_disturb_each_other(self) -> None:
        async with self._open() as repository:
            entries = self._entries(self._writers * _SEVERAL)
            async with trio.open_nursery() as nursery:
                for number in range(self._writers):
                    nursery.start_soon(repository.upsert_many, entries[number :: self._writers])
            _promise_same(
                await self._stored(repository, entries),
                self._merged(repository, entries),
                f"{self._writers} calls at a time with different keys did not store what each of "
                "them was given",
            )

    async def a_cancelled_call_stores_all_or_nothing(self) -> None:
        for seconds in _CUTS_SECONDS:
            async with self._open() as repository:
                entries = self._entries(_MANY)
                began, returned = trio.current_time(), False
                with trio.move_on_after(seconds):
                    await repository.upsert_many(entries)
                    returned = True
                waited = trio.current_time() - began - seconds
                _promise(
                    waited < _PROMPT_SECONDS,
                    f"a call that was cancelled after {seconds} s took more than "
                    f"{_PROMPT_SECONDS:g} s to return",
                )
                found = await self._stored(repository, entries)
                if not returned and waited < _PATIENT_SECONDS:
                    await trio.sleep(_LATER_SECONDS)
                    _promise_same(
                        await self._stored(repository, entries),
                        found,
                        f"a call that was cancelled after {seconds} s went on writing when it had "
                        "returned: wait for its thread or its task before trio.Cancelled leaves it",
                    )
                _promise(
                    not found or found == self._merged(repository, entries),
                    f"a call that was cancelled after {seconds} s stored {len(found)} of "
                    f"{len(entries)} entries",
                )
                _promise(
                    found or not returned,
                    f"a call that was cancelled after {seconds} s returned, and stored nothing: "
                    "let trio.Cancelled out, or the queue counts its entries as persisted",
                )
                await repository.upsert_many(entries)
                _promise_same(
                    await self._stored(repository, entries),
                    self._merged(repository, entries),
                    "after a call was cancelled, the next one did not store its entries",
                )

    async def what_was_prepared_can_be_stored(self) -> None:
        async with self._open() as repository:
            prepare: Callable[[Sequence[E]], Awaitable[Sequence[E]]] | None
            prepare = getattr(repository, "prepare", None)
            if prepare is None:
                return
            entries = self._entries(_SEVERAL)
            prepared = await prepare(entries)
            _promise(list(prepared) == entries, "prepare did not return the same entries")
            await repository.upsert_many(prepared)
            _promise_same(
                await self._stored(repository, entries),
                self._merged(repository, entries),
                "what prepare returned was not stored",
            )

    async def a_refused_entry_takes_no_other_along(self) -> None:
        if self._refused is None:
            return
        at = _SEVERAL // 2
        async with self._open() as repository:
            entries = self._entries(_SEVERAL)
            bad = [*entries]
            bad[at] = self._refused(at)
            try:
                await repository.upsert_many(bad)
            except EntryRejectedError as error:
                _promise(
                    error.index in {None, at},
                    f"EntryRejectedError.index was {error.index!r} for entry {at}; None is better "
                    "than a wrong one",
                )
            except Exception as error:  # whatever the store raises
                raise _BrokenPromiseError(
                    "an entry that the store can't take did not raise EntryRejectedError, but "
                    f"{type(error).__name__}"
                ) from error
            else:
                raise _BrokenPromiseError("an entry that the store can't take was taken")
            good = [entry for entry in entries if entry is not entries[at]]
            _promise(
                not await self._stored(repository, good),
                "a call with an entry that was refused stored others",
            )
            await repository.upsert_many(good)
            _promise_same(
                await self._stored(repository, good),
                self._merged(repository, good),
                "after an entry was refused, the others could not be stored without it",
            )
