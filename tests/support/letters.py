"""Dead letters as tests make them: one for each number."""

from __future__ import annotations

from datetime import timedelta
from typing import TypeVar

import msgspec

from provcache_trio import DeadLetter, ProvcacheEntry

from tests.support.entries import NOW, entry

T = TypeVar("T")


def letter(entry: T, key: object = "key", **changes: object) -> DeadLetter[T]:
    plain = DeadLetter(
        entry=entry,
        key=key,
        error_class="UniqueViolationError",
        sqlstate="23505",
        constraint="one_per_key",
        attempts=2,
        opened_at=NOW - timedelta(seconds=1),
        failed_at=NOW,
    )
    return msgspec.structs.replace(plain, **changes)


def numbered(number: object, **changes: object) -> DeadLetter[ProvcacheEntry]:
    one = entry(number)
    return letter(one, one.veri_key, **changes)
