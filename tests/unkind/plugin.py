"""A plugin of pytest: ``-p tests.unkind.plugin --shuffle SEED`` runs tests in random order."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Generator


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--shuffle", metavar="SEED", help="run the tests in an order drawn from it")


@pytest.hookimpl(wrapper=True, trylast=True)
def pytest_collection_modifyitems(
    config: pytest.Config, items: list[pytest.Item]
) -> Generator[None]:
    """Shuffle what is left when all others had their say: every worker of xdist alike."""
    yield
    seed = config.getoption("--shuffle")
    if seed is not None:
        # Sorted first: an order that a hash decides would differ between workers.
        items.sort(key=lambda item: item.nodeid)
        random.Random(seed).shuffle(items)  # noqa: S311  # not for secrets


def pytest_report_header(config: pytest.Config) -> str:
    return f"order of tests: drawn from {config.getoption('--shuffle')}"
