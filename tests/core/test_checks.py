"""The checks of arguments: each says what was given, and what may be."""

from __future__ import annotations

import math
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import pytest

from provcache_trio._vocabulary.checks import (
    check_int,
    check_moment,
    check_seconds,
    check_text,
    check_type,
)

if TYPE_CHECKING:
    from collections.abc import Callable


@pytest.mark.parametrize(
    ("check", "good", "bad"),
    [
        pytest.param(
            lambda value: check_type("x", value, bool),
            [True, False],
            {1: "a bool, not int", None: "a bool, not NoneType"},
            id="bool",
        ),
        pytest.param(
            lambda value: check_int("x", value, at_least=1),
            [1, 2**63 - 1],
            {True: "an int, not bool", 0: "1 to 2**63 - 1", 2**63: "1 to 2**63 - 1"},
            id="int",
        ),
        pytest.param(
            lambda value: check_int("x", value, at_least=0, at_most=100),
            [0, 100],
            {1.0: "an int, not float", -1: "0 to 100", 101: "0 to 100"},
            id="int in a range",
        ),
        pytest.param(
            lambda value: check_int("x", value, at_least=0, at_most=None),
            [0, 2**64],
            {"1": "an int, not str", -1: "at least 0"},
            id="int without an upper bound",
        ),
        pytest.param(
            lambda value: check_seconds("x", value),
            [0, 0.0, 1, 1e300],
            {
                True: "a number of seconds, not bool",
                "1": "a number of seconds, not str",
                -1: "finite and at least 0",
                math.nan: "finite and at least 0",
                math.inf: "finite and at least 0",
                10**400: "finite and at least 0",
            },
            id="seconds",
        ),
        pytest.param(
            lambda value: check_seconds("x", value, positive=True),
            [1e-9],
            {0: "finite and above 0", -1: "finite and above 0"},
            id="positive seconds",
        ),
        pytest.param(
            lambda value: check_seconds("x", value, positive=True, at_most=3600),
            [1e-9, 3600],
            {
                0: "above 0 and at most 3600",
                math.nan: "above 0 and at most 3600",
                3601: "most 3600",
            },
            id="seconds in a range",
        ),
        pytest.param(
            lambda value: check_text("x", value),
            ["a"],
            {b"a": "a str, not bytes", "": "x must not be empty"},
            id="text",
        ),
        pytest.param(
            lambda value: check_moment("x", value),
            [datetime.now(UTC)],
            {
                0: "a datetime, not int",
                datetime(2026, 1, 1): "an aware datetime, not a naive one",  # noqa: DTZ001
            },
            id="moment",
        ),
    ],
)
def test_what_is_wrong_is_refused_in_words_that_say_what_is_right(
    check: Callable[[object], None], good: list[object], bad: dict[object, str]
) -> None:
    for value in good:
        check(value)
    for value, message in bad.items():
        expected = TypeError if ", not " in message and "naive" not in message else ValueError
        with pytest.raises(expected) as caught:
            check(value)
        assert str(caught.value).startswith("x must ")
        assert str(caught.value).endswith(message)
