"""Options: every field is checked when they are made, and the message names it."""

from __future__ import annotations

import math
from contextlib import suppress

import hypothesis.strategies as st
import msgspec
import pytest
import trio
from hypothesis import event, example, given
from trio.testing import MockClock

from provcache_trio import DrainTimeoutError, WriteBehindOptions, open_write_behind_queue
from provcache_trio.testing import MemoryRepository

from tests.support.items import Item, items

NUMBERS = ["flush_interval_seconds", "retry_base_seconds", "retry_cap_seconds"]
NUMBERS += ["drain_timeout_seconds"]
COUNTS = ["queue_capacity", "batch_size", "max_retries", "writers"]


@pytest.mark.parametrize("field", COUNTS)
@pytest.mark.parametrize("value", [True, 1.0, "1", b"1"], ids=repr)
def test_a_count_must_be_an_int(field: str, value: object) -> None:
    with pytest.raises(TypeError, match=f"{field} must be an int.* {type(value).__name__}"):
        WriteBehindOptions(**{field: value})  # type: ignore[arg-type]


@pytest.mark.parametrize("field", NUMBERS)
@pytest.mark.parametrize("value", [True, "1", None], ids=repr)
def test_seconds_must_be_a_number(field: str, value: object) -> None:
    with pytest.raises(TypeError, match=f"{field} must be .* not {type(value).__name__}"):
        WriteBehindOptions(**{field: value})  # type: ignore[arg-type]


@pytest.mark.parametrize("field", NUMBERS)
@pytest.mark.parametrize("value", [-1, -0.001, math.inf, math.nan], ids=repr)
def test_seconds_must_be_finite_and_not_negative(field: str, value: float) -> None:
    with pytest.raises(ValueError, match=field):
        WriteBehindOptions(**{field: value})  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("queue_capacity", 0),
        ("batch_size", 0),
        ("batch_size", -5),
        ("max_retries", -1),
        ("writers", 0),
        ("writers", 101),
        ("retry_base_seconds", 0),
        ("retry_cap_seconds", 0.01),
    ],
)
def test_a_value_out_of_range_is_a_value_error(field: str, value: float) -> None:
    with pytest.raises(ValueError, match=f"^{field}"):
        WriteBehindOptions(**{field: value})  # type: ignore[arg-type]


def test_coalesce_must_be_a_bool() -> None:
    with pytest.raises(TypeError, match="coalesce must be a bool, not int"):
        WriteBehindOptions(coalesce=1)  # type: ignore[arg-type]


def test_max_retries_may_be_none_and_seconds_may_be_whole_numbers() -> None:
    options = WriteBehindOptions(max_retries=None, drain_timeout_seconds=0)
    assert options.max_retries is None
    assert options.drain_timeout_seconds == 0


def test_options_are_frozen() -> None:
    options = WriteBehindOptions()
    with pytest.raises(AttributeError):
        options.batch_size = 1  # type: ignore[misc]


def test_options_come_from_a_configuration_file_as_they_are() -> None:
    text = b'{"batch_size": 7, "flush_interval_seconds": 1}'
    options = msgspec.json.decode(text, type=WriteBehindOptions)
    assert options == WriteBehindOptions(batch_size=7, flush_interval_seconds=1)
    with pytest.raises(msgspec.ValidationError, match="queue_capacity"):
        msgspec.json.decode(b'{"queue_capacity": 0}', type=WriteBehindOptions)


anything = st.one_of(
    st.sampled_from([0, 1, -1, 2**63, 10**400, True, None, 5e-324, 1e308, math.inf, math.nan]),
    st.floats(),
    st.text(max_size=3),
)
counts = st.integers(1, 1000) | anything
seconds = st.floats(0, 1e308) | st.integers(0, 1000) | anything
values = {
    **dict.fromkeys(COUNTS, counts),
    **dict.fromkeys(NUMBERS, seconds),
    "coalesce": st.booleans() | anything,
}
fields = st.lists(
    st.sampled_from(sorted(values)).flatmap(lambda name: st.tuples(st.just(name), values[name])),
    max_size=3,
).map(dict)


def refusal_of(given_fields: dict[str, object]) -> str:
    try:
        WriteBehindOptions(**given_fields)  # type: ignore[arg-type]
    except (TypeError, ValueError) as error:
        return str(error)
    return ""


@given(given_fields=fields)
@example(given_fields={"flush_interval_seconds": 10**400})
@example(given_fields={"retry_base_seconds": 1, "retry_cap_seconds": 10**400})
@example(given_fields={"drain_timeout_seconds": 10**400})
def test_options_are_refused_by_the_name_of_a_field_or_a_queue_runs_with_them(
    given_fields: dict[str, object],
) -> None:
    async def run(options: WriteBehindOptions) -> None:
        store = MemoryRepository[Item]()
        store.fail_next(OSError("gone"))
        async with open_write_behind_queue(store, options) as queue:
            await queue.enqueue_many(items("abcab"))
            with trio.move_on_after(options.retry_cap_seconds):
                await queue.flush()
            store.fail_next(OSError("gone"))
            await queue.enqueue(Item("d"))

    refusal = refusal_of(given_fields)
    event("refused" if refusal else "runs")
    if refusal:
        assert any(name in refusal for name in given_fields), refusal
        return
    with suppress(DrainTimeoutError):
        trio.run(
            run,
            WriteBehindOptions(**given_fields),  # type: ignore[arg-type]
            clock=MockClock(autojump_threshold=0),
        )
