"""Run flake8-async as it is, but walk through each file once, not once for each rule.

A rule of libcst may return another tree, with what it has fixed, so libcst makes every node of
it anew, and flake8-async finds all positions again for the next rule. Nothing is fixed here. So
the methods that libcst would call are noted once, in order, and every rule is called from these
notes; and a rule of ast is asked about no node of which it has nothing to say. Without flake8,
no other plugin runs in vain, either.
"""

from __future__ import annotations

import ast
import functools
import sys
from types import SimpleNamespace
from typing import TYPE_CHECKING

from flake8_async import main, runner
from flake8_async.visitors.flake8asyncvisitor import Flake8AsyncVisitor_cst
from libcst import CSTNode, CSTTransformer, CSTVisitor, MetadataWrapper

if TYPE_CHECKING:
    from collections.abc import Iterable

    from flake8_async.visitors.flake8asyncvisitor import Flake8AsyncVisitor
    from libcst import BatchableCSTVisitor, CSTVisitorT, Module

RULES = (*runner.utility_visitors_cst, *runner.ERROR_CLASSES_CST)
visit_with_libcst = CSTNode.visit


@functools.cache
def has(rule: type, name: str, base: type) -> bool:
    """Return whether ``rule`` has a method of that name, and not that of its ``base``."""
    method = getattr(rule, name, None)
    return method is not None and method is not getattr(base, name, None)


@functools.cache
def is_of_any_rule(name: str) -> bool:
    """Return whether a rule of libcst has a method of that name."""
    return any(has(rule, name, CSTTransformer) for rule in RULES)


class Walk(CSTVisitor):
    """The calls that libcst would make on its way through a tree."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[tuple[str, tuple[CSTNode, ...]]] = []
        self.spans: dict[CSTNode, tuple[int, int]] = {}
        self.left: dict[int, int] = {}
        self._begun: list[int] = []

    def on_visit(self, node: CSTNode) -> bool:
        """Note that ``node`` is visited."""
        self._begun.append(len(self.calls))
        self._note(f"visit_{type(node).__name__}", node)
        return True

    def on_leave(self, original_node: CSTNode) -> None:
        """Note that it is left, and which calls were about it."""
        begin, name = self._begun.pop(), type(original_node).__name__
        if is_of_any_rule(f"visit_{name}"):
            self.left[begin] = len(self.calls)
        self._note(f"leave_{name}", original_node, original_node)
        self.spans[original_node] = (begin, len(self.calls))

    def on_visit_attribute(self, node: CSTNode, attribute: str) -> None:
        """Note that what it has as ``attribute`` is visited."""
        self._note(f"visit_{type(node).__name__}_{attribute}", node)

    def on_leave_attribute(self, original_node: CSTNode, attribute: str) -> None:
        """Note that it is left."""
        self._note(f"leave_{type(original_node).__name__}_{attribute}", original_node)

    def _note(self, name: str, *nodes: CSTNode) -> None:
        if is_of_any_rule(name):
            self.calls.append((name, nodes))

    def lead(self, rule: Flake8AsyncVisitor_cst, node: CSTNode) -> None:
        """Make those calls of ``rule`` that belong to ``node`` and what is in it."""
        at, end = self.spans[node]
        while at < end:
            name, nodes = self.calls[at]
            says = None
            if has(type(rule), name, CSTTransformer):
                says = getattr(rule, name)(*nodes)
            # What is in a node is left out if its visit returns False.
            at = self.left.get(at, at + 1) if says is False else at + 1


class Tree(MetadataWrapper):
    """A tree that stays what it is, whatever visits it; its positions are found once."""

    def __init__(self, module: Module) -> None:
        super().__init__(module, unsafe_skip_copy=True)  # a parser makes no node twice
        self._walk = Walk()
        visit_with_libcst(module, self._walk)

    def visit(self, visitor: Flake8AsyncVisitor_cst) -> Module:
        """Call ``visitor`` as libcst would, and return the tree as it was."""
        visitor.walk = self._walk
        with visitor.resolve(self):
            self._walk.lead(visitor, self.module)
        return self.module

    def visit_batched(self, visitors: Iterable[BatchableCSTVisitor]) -> CSTNode:
        """Visit it for several at once; libcst also does so for none, before it finds positions."""
        batch = list(visitors)
        return super().visit_batched(batch) if batch else self.module


@functools.lru_cache(maxsize=1)
def wrap(module: Module, **_options: bool) -> Tree:
    """Be ``MetadataWrapper``, but return the same tree as before if it is asked for again."""
    return Tree(module)


def visit(node: CSTNode, visitor: CSTVisitorT) -> object:
    """Be ``CSTNode.visit``: some rules lead themselves through what is in a node."""
    if not isinstance(visitor, Flake8AsyncVisitor_cst):
        return visit_with_libcst(node, visitor)
    visitor.walk.lead(visitor, node)
    return node


def visit_ast(self: runner.Flake8AsyncRunner, node: ast.AST) -> None:
    """Be ``Flake8AsyncRunner.visit``, but ask only rules that have a method for such a node."""
    name = f"visit_{type(node).__name__}"
    led: set[Flake8AsyncVisitor] = set()
    for rule in (*self.utility_visitors, *self.visitors):
        if has(type(rule), name, ast.NodeVisitor):
            getattr(rule, name)(node)
            if rule.novisit:  # it has led itself through what is in the node
                led.add(rule)
    self.visitors -= led
    self.generic_visit(node)
    self.visitors |= led
    for rule in led:
        rule.novisit = False
    for rule in (*self.utility_visitors, *self.visitors):
        if rule.outer and (state := rule.outer.pop(node, None)):
            rule.set_state(state)


CSTNode.visit = visit
runner.Flake8AsyncRunner.visit = visit_ast
runner.cst = SimpleNamespace(MetadataWrapper=wrap)

if __name__ == "__main__":
    sys.exit(main())
