"""Options: every field is checked when they are made, and the message names it."""

from __future__ import annotations

import math

import msgspec
import pytest

from provcache_trio import WriteBehindOptions

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
        ("writers", 2),
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
