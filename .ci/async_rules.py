"""Run flake8-async as it is, but find the positions of a file's parts once, not for each rule.

A rule of libcst may return another tree, with what it has fixed, so flake8-async prepares the
result anew for the next one: that takes half of its time. Nothing is fixed here, so all rules
visit one tree. By itself, without flake8, it also runs no other plugin in vain.
"""

from __future__ import annotations

import functools
import sys
from types import SimpleNamespace
from typing import TYPE_CHECKING

from flake8_async import main, runner
from libcst import MetadataWrapper

if TYPE_CHECKING:
    from libcst import CSTVisitorT, Module


class OneTree(MetadataWrapper):
    """A tree that stays what it is, whatever visits it, and knows its positions."""

    def visit(self, visitor: CSTVisitorT) -> Module:
        """Let ``visitor`` look at it, and return it."""
        super().visit(visitor)
        return self.module


@functools.lru_cache(maxsize=1)
def wrap(module: Module, *, unsafe_skip_copy: bool) -> OneTree:
    """Return the same tree as before if it is asked for again."""
    return OneTree(module, unsafe_skip_copy=unsafe_skip_copy)


runner.cst = SimpleNamespace(MetadataWrapper=wrap)

if __name__ == "__main__":
    sys.exit(main())
