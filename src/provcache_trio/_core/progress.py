"""What is left to do with one batch while it is written; kept on it, so that no crash loses it.

A part is what goes to the store in one call. What happens to a part that failed:

=========== ==================================================== ================================
failure     several entries                                      one entry
=========== ==================================================== ================================
rejected    with an index, which is a hint: the named entry      refused
            alone first, then the rest; if the named one is
            stored, no more hints are believed in this batch.
            Else halved
unknown     retried once; then halved without a wait until one   in doubt: set aside until the
            entry has failed alone, from then on with a wait a   others were tried, then in
            failure. Without one while draining, and for an      rounds, with one wait a round
            error class that was narrowed to one entry
transient   ``max_retries`` used up: halved                      ``max_retries`` used up: refused
too slow    see ``pace``                                         waits, as in an outage
unavailable waits                                                waits
=========== ==================================================== ================================

While the store is under suspicion each failure waits, no hint is believed, and parts far from
what was refused are tried first. An entry that the repository refused without asking the store
is no sign of that: it does not wait, its hint is believed, and its refusal is final at once.

When nothing is left to be tried, the refused entries become dead letters, except for these:

====================================== ===========================================================
something of the batch was stored      what was refused under suspicion, or in another epoch before
                                       anything was stored, is tried once more
the store is under suspicion           everything is tried again
it was, since the entry was refused    the entry is tried once more; that does not count, and a
                                       second refusal is final
====================================== ===========================================================
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Generic

from provcache_trio._vocabulary.protocols import E

if TYPE_CHECKING:
    from collections.abc import Container, Hashable, Iterable

    from provcache_trio._vocabulary.failures import Failure

    from .doubt import Doubt


class Part:
    """Keys of a batch that go to the store in one call."""

    __slots__ = ("failed_unknown", "is_whole", "keys", "retries", "tries", "was_halved")

    def __init__(
        self,
        keys: tuple[Hashable, ...],
        *,
        is_whole: bool = False,
        tries: int = 0,
        was_halved: bool = False,
    ) -> None:
        self.keys: tuple[Hashable, ...] = keys
        # True for every key of the batch, in its order.
        self.is_whole: bool = is_whole
        # The number of calls that included these keys.
        self.tries: int = tries
        # Retries for transient errors, of ``max_retries``.
        self.retries: int = 0
        # True once this very part failed for an unknown reason.
        self.failed_unknown: bool = False
        # True if a part was halved for an unknown error, so its halves are not retried.
        self.was_halved: bool = was_halved

    def piece(self, keys: tuple[Hashable, ...], *, was_halved: bool = False) -> Part:
        """Return a part with some of these keys, whose retries count anew."""
        return Part(keys, tries=self.tries, was_halved=was_halved or self.was_halved)


class Refusal(Generic[E]):
    """An entry that the store refused while the verdict on its batch is open."""

    __slots__ = ("entry", "epoch", "failure", "final", "proven", "suspected", "tries")

    def __init__(
        self,
        entry: E,
        failure: Failure,
        tries: int,
        *,
        epoch: int,
        suspected: bool,
        proven: bool,
        final: bool,
    ) -> None:
        self.entry = entry
        self.failure = failure
        self.tries = tries
        # The epoch of the store watch.
        self.epoch = epoch
        # Whether the store was under suspicion.
        self.suspected = suspected
        # Whether the store had stored something of the batch.
        self.proven = proven
        # True if nothing that happens later changes the refusal.
        self.final = final

    def is_doubtful(self, epoch: int) -> bool:
        """Return whether the store may be to blame, although it has stored something since."""
        return self.suspected or (not self.proven and self.epoch != epoch)


class Progress:
    """What is left of a batch, and what its calls have shown about the store and single entries.

    Attributes:
        parts: a stack; the last one is tried next.
        doubtful: parts of one entry that wait for the next round, and why they failed.
        doubts: of entries that failed alone for an unknown reason, by key.
        rounds: how often the doubtful ones were tried again.
        failed_alone: an entry has failed alone for an unknown reason.
        waits: the number of waits after such failures.
        stored: a call for this batch changed something.
        believes_hints: no named entry was stored when it was written alone.
        singled_out: the part with the named entry, until its first answer.
        narrowed: for each class of unknown errors, the first call in which one entry failed
            alone with it.
        tries: calls that included an entry before it was put back.
        second: keys that were refused and put back. A second refusal does not count as one, and
            is final unless the store is under suspicion.
    """

    __slots__ = (
        "_probes",
        "believes_hints",
        "doubtful",
        "doubts",
        "failed_alone",
        "narrowed",
        "parts",
        "rounds",
        "second",
        "singled_out",
        "stored",
        "tries",
        "waits",
    )

    def __init__(self) -> None:
        self.parts: list[Part] = []
        self.doubtful: list[tuple[Part, Failure]] = []
        self.doubts: dict[Hashable, Doubt] = {}
        self.rounds: int = 0
        self.failed_alone: bool = False
        self.waits: int = 0
        self.stored: bool = False
        self.believes_hints: bool = True
        self.singled_out: Part | None = None
        self.narrowed: dict[str, int] = {}
        self.tries: dict[Hashable, int] = {}
        self.second: set[Hashable] = set()
        self._probes = 0

    def begin(self, keys: Iterable[Hashable]) -> None:
        """Plan to try everything in one call."""
        self.parts.append(Part(tuple(keys), is_whole=True))

    # Which part is next

    def next(self, most: int, *, suspecting: bool) -> Part | None:
        """Return the part to try next, of at most ``most`` entries, or None."""
        if not self.parts:
            return None
        part = self._probe() if suspecting else self.parts[-1]
        if len(part.keys) > most:
            part = self._cut(part, most)
        return part

    def _probe(self) -> Part:
        """Return a part that shows soon whether the store is bad, or only a run of entries.

        In turn the part farthest from where the refusals began, and the largest.
        """
        self._probes += 1
        if self._probes % 2:
            return self.parts[0]
        return max(self.parts, key=lambda part: len(part.keys))

    def _cut(self, part: Part, most: int) -> Part:
        first, rest = part.piece(part.keys[:most]), part.piece(part.keys[most:])
        self._replace(part, rest, first)
        return first

    def _replace(self, part: Part, *pieces: Part) -> None:
        """Put ``pieces`` in the place of ``part``, the last one to be tried first."""
        at = self.parts.index(part)
        self.parts[at : at + 1] = pieces

    # What happens to a part

    def halve(self, part: Part, *, was_halved: bool = False) -> None:
        """Try both halves instead."""
        middle = len(part.keys) // 2
        self._replace(
            part,
            part.piece(part.keys[middle:], was_halved=was_halved),
            part.piece(part.keys[:middle], was_halved=was_halved),
        )

    def single_out(self, part: Part, index: int) -> None:
        """Try the entry at ``index`` alone, then the rest."""
        keys = part.keys
        named, rest = part.piece((keys[index],)), part.piece(keys[:index] + keys[index + 1 :])
        self._replace(part, rest, named)
        self.singled_out = named

    def done(self, part: Part) -> None:
        """Remove a part whose entries are stored or refused."""
        self.parts.remove(part)
        for key in part.keys if self.doubts else ():
            self.doubts.pop(key, None)

    def set_aside(self, part: Part, failure: Failure) -> None:
        """Keep an entry in doubt for the next round."""
        self.parts.remove(part)
        self.doubtful.append((part, failure))

    def begin_round(self) -> int:
        """Plan to retry everything in doubt; return how many entries that is."""
        entries = len(self.doubtful)
        self.parts[:0] = [part for part, _ in reversed(self.doubtful)]
        self.doubtful.clear()
        return entries

    def note_alone(self, error_class: str, call: int) -> bool:
        """Note that ``call`` failed with one entry; return whether one had failed alone before."""
        before, self.failed_alone = self.failed_alone, True
        self.narrowed.setdefault(error_class, call)
        return before

    def is_narrowed(self, error_class: str, last_stored: int) -> bool:
        """Return whether the lane stored something since an entry failed alone with that class."""
        return self.narrowed.get(error_class, last_stored) < last_stored

    # What happens to refused entries

    def counts(self, key: Hashable, run: Container[int]) -> bool:
        """Return whether a refusal of ``key`` joins ``run``; a second try never does."""
        if self.stored or key in self.second:
            return False
        doubt = self.doubts.get(key)
        return doubt is None or doubt.first_call not in run

    def to_try_again(
        self, refused: Iterable[tuple[Hashable, Refusal[E]]], *, suspecting: bool, epoch: int
    ) -> list[Hashable]:
        """Return the keys of refused entries that do not become dead letters yet."""
        open_ones = [(key, refusal) for key, refusal in refused if not refusal.final]
        if self.stored:
            return [key for key, refusal in open_ones if refusal.is_doubtful(epoch)]
        if suspecting:
            return [key for key, _ in open_ones]
        return [key for key, refusal in open_ones if refusal.epoch != epoch]

    def put_back(self, keys: Iterable[Hashable]) -> None:
        """Plan to try ``keys``, which were refused, once more."""
        again = tuple(keys)
        self.parts.append(Part(again))
        self.second.update(again)
