"""How many letters go to the sink at once: all that wait, except in these cases.

=============================== ===========================================================
event                           the next calls
=============================== ===========================================================
several are refused, one named  those before it; it alone, since an index is a hint; the rest
several are refused, else       the first half of them, the second half
one is refused                  goes on without it: the sink will never take it
what was named is taken         goes on; no index is believed until one is refused alone
a call is too slow              see ``pace``
=============================== ===========================================================

Letters go in the order in which they came, so no rule takes one out of the middle.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from .pace import Pace

if TYPE_CHECKING:
    from provcache_trio._vocabulary.failures import Failure


class _Portion(NamedTuple):
    size: int
    # True if the sink has named this letter.
    named: bool = False


class Portions:
    """Decides how many letters are in the next call."""

    __slots__ = ("_believes_hints", "_pace", "_planned")

    def __init__(self, batch_size: int) -> None:
        self._pace = Pace(batch_size)
        # A stack; the next call takes from its last one.
        self._planned: list[_Portion] = []
        self._believes_hints = True

    @property
    def most(self) -> int:
        """How many letters the next call may have at most."""
        return min(self._pace.most, self._planned[-1].size) if self._planned else self._pace.most

    def taken(self, count: int) -> None:
        """Note that the sink took ``count`` letters."""
        self._pace.stored(count)
        if self._remove(count).named:
            self._believes_hints = False

    def refused(self, count: int, index: int | None) -> bool:
        """Note that the sink refused ``count`` letters; return whether it is known which one."""
        self._remove(count)
        if count == 1:
            self._believes_hints = True
            return True
        if self._believes_hints and type(index) is int and 0 <= index < count:
            pieces = [_Portion(count - index - 1), _Portion(1, named=True), _Portion(index)]
        else:
            pieces = [_Portion(count - count // 2), _Portion(count // 2)]
        self._planned += [piece for piece in pieces if piece.size]
        return False

    def _remove(self, count: int) -> _Portion:
        """Remove ``count`` letters from the plan; return the portion that they were part of."""
        if not self._planned:
            return _Portion(count)
        portion = self._planned.pop()
        if portion.size > count:
            self._planned.append(_Portion(portion.size - count))
        return portion

    def failed(self, count: int, failure: Failure) -> None:
        """Note that a call with ``count`` letters failed for a reason that is no letter's fault."""
        if failure.too_slow:
            self._pace.was_too_slow(count)
        else:
            self._pace.failed_otherwise()
