"""Every Python block of the documents runs as it stands."""

from __future__ import annotations

import ast
import datetime as dt
import os
import re
import subprocess
import sys
from typing import TYPE_CHECKING, Any
from uuid import uuid4

import pytest
import trio

import provcache_trio
from provcache_trio import (
    DecisionDigest,
    ProvcacheEntry,
    ReplaySeed,
    WriteBehindOptions,
    open_write_behind_queue,
)
from provcache_trio.postgres import open_postgres_repository
from provcache_trio.testing import MemoryRepository

from tests.faults.catalogue import ALL as FAULTS
from tests.mutants.table import MUTANTS
from tests.support.items import Item
from tests.support.programs import ROOT
from tests.support.servers import postgres, query, run_sql
from tests.support.site import anchors_of

if TYPE_CHECKING:
    from pathlib import Path

    from trio.testing import MockClock

pytestmark = pytest.mark.whole_process


PAGES = sorted(
    str(page.relative_to(ROOT)) for page in (*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"))
)


def blocks_of(name: str, kind: str = "python") -> list[str]:
    """Return the blocks whose opening fence is followed by exactly ``kind``."""
    text = (ROOT / name).read_text("utf-8")
    return re.findall(rf"^```{kind}\n(.*?)^```$", text, re.DOTALL | re.MULTILINE)


def cases(kind: str) -> list[object]:
    return [
        pytest.param(block, id=f"{name} {number}")
        for name in PAGES
        for number, block in enumerate(blocks_of(name, kind))
    ]


def an_entry(digit: str) -> ProvcacheEntry:
    some_hash = "sha256:" + 64 * digit
    now = dt.datetime.now(dt.UTC)
    return ProvcacheEntry(
        veri_key=some_hash,
        decision=DecisionDigest(
            verdict_hash=some_hash, proof_root=some_hash, replay_seed=ReplaySeed(), trust_score=1
        ),
        policy_hash=some_hash,
        signer_set_hash=some_hash,
        feed_epoch="2026-W48",
        created_at=now,
        expires_at=now + dt.timedelta(days=7),
    )


@pytest.mark.parametrize("block", cases("python"))
def test_a_block_runs(block: str, tmp_path: Path) -> None:
    environment = dict(os.environ)
    if "DATABASE_URL" in block:
        environment["DATABASE_URL"] = postgres().create_database(str(uuid4()))
    subprocess.run(
        [sys.executable, "-W", "error", "-c", block],
        check=True,
        cwd=tmp_path,
        timeout=60,
        env=environment,
    )


@pytest.mark.parametrize("fragment", cases("python fragment"))
async def test_a_fragment_runs_inside_an_open_queue(
    fragment: str, autojump_clock: MockClock
) -> None:
    repository = MemoryRepository[ProvcacheEntry]()
    names: dict[str, Any] = {name: getattr(provcache_trio, name) for name in provcache_trio.__all__}
    names |= {"trio": trio, "repository": repository}
    names |= {"entry": an_entry("0"), "entries": [an_entry(digit) for digit in "123"]}
    # A block that awaits is compiled to code that returns a coroutine.
    code = compile(fragment, "fragment", "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
    async with open_write_behind_queue(repository) as names["queue"]:
        await eval(code, names)  # noqa: S307  # our own


@pytest.mark.parametrize("name", PAGES)
def test_no_block_escapes(name: str) -> None:
    fences = re.findall(r"^ *(?:```|~~~) *py.*$", (ROOT / name).read_text("utf-8"), re.MULTILINE)
    kinds = [f"python{kind}" for kind in ("", " fragment", ' title="[^"]+"')]
    assert len(fences) == sum(len(blocks_of(name, kind)) for kind in kinds)
    # What has a title is a file of the quickstart, whose test saves and runs it.
    assert name == "docs/quickstart.md" or not blocks_of(name, kinds[-1])


async def test_the_sql_for_postgres_is_what_a_service_needs() -> None:
    # The last one is run by tests/stores/test_postgres_partitions.py.
    grants, settings, select, _ = blocks_of("docs/using/postgres.md", "sql")
    dsn = postgres().create_database(str(uuid4()))
    service = dsn.replace("://postgres@", "://provcache_service@")
    async with open_postgres_repository(dsn, create=True) as owner:
        await owner.check()
        await run_sql(dsn, grants)
        await run_sql(dsn, settings)
        async with open_postgres_repository(service) as repository:
            one = an_entry("0")
            async with open_write_behind_queue(repository) as queue:
                await queue.persist(one)
            assert await query(dsn, select) == [(one.veri_key, 1, one.expires_at)]
            assert await repository.delete_many([one.veri_key]) == 1
    await run_sql(dsn, "DROP OWNED BY provcache_service; DROP ROLE provcache_service")


@pytest.mark.parametrize("name", PAGES)
def test_what_a_page_links_to_is_there(name: str) -> None:
    page = ROOT / name
    for link in re.findall(r"\]\(([^)\s]+)\)", page.read_text("utf-8")):
        if link.startswith("https://"):
            continue
        target, _, anchor = link.partition("#")
        path = (page.parent / target).resolve() if target else page
        assert path.exists(), link
        assert not anchor or anchor in anchors_of(path), link


def test_every_fault_has_its_row_and_every_test_that_is_named_is_there() -> None:
    text = (ROOT / "docs" / "operating" / "faults.md").read_text("utf-8")
    rows = re.findall(r"^\| \[([^\]]+)\]\(../../tests/faults/catalogue.py\)", text, re.MULTILINE)
    assert sorted(row.replace(" ", "_") for row in rows) == sorted(FAULTS)
    cluster = (ROOT / "tests/stream/test_cluster.py").read_text("utf-8")
    faults = "".join(
        re.findall(r"^(?:FAULTS|OF_ACCESS).*?= \((.*?)^\)", cluster, re.MULTILINE | re.DOTALL)
    )
    rows = re.findall(r"^\| \[([^\]]+)\]\(../../tests/stream/test_cluster.py\)", text, re.MULTILINE)
    assert sorted(row.replace(" ", "_") for row in rows) == sorted(re.findall(r"\w+", faults))
    for test, path in re.findall(r"\[`(test_\w+)`\]\(\.\./\.\./([^)]+)\)", text):
        assert f"def {test}(" in (ROOT / path).read_text("utf-8"), test


def test_the_guide_tells_every_option_and_its_default() -> None:
    table = (ROOT / "docs" / "using" / "options.md").read_text("utf-8")
    rows = dict(re.findall(r"^\| (`.*?) \| ([^|]*?) \|", table, re.MULTILINE))
    told = {
        name: default
        for names, defaults in rows.items()
        for name, default in zip(
            re.findall(r"`(\w+)`", names), defaults.replace(" ", "").split(","), strict=True
        )
    }
    assert told == {
        name: f"{getattr(WriteBehindOptions(), name)}".removesuffix(".0")
        for name in WriteBehindOptions.__struct_fields__
    }


def test_the_figures_of_readme_are_those_of_the_tests_and_of_the_benchmarks() -> None:
    readme = " ".join((ROOT / "README.md").read_text("utf-8").split())
    benchmarks = (ROOT / "docs" / "benchmarks.md").read_text("utf-8")
    [ways] = re.findall(r"broken in \[(\d+) ways\]", readme)
    assert int(ways) == len(FAULTS)
    [bugs] = re.findall(r"Over (\d+) known bugs", readme)
    assert int(bugs) <= len(MUTANTS) < int(bugs) + 100
    [(by_hand, by_entry)] = re.findall(r"\[([\d.]+) times as fast\].* and (\d+) times", readme)
    for told, beside in ((by_hand, "loop written by hand"), (by_entry, "one upsert per entry")):
        [measured] = re.findall(
            rf"^\| whole queue \| (\S+) \| x \| of {beside} ", benchmarks, re.MULTILINE
        )
        assert float(told) == pytest.approx(float(measured), rel=0.1), beside


@pytest.mark.one_lane
async def test_the_recipes_for_a_full_queue_do_what_they_say(autojump_clock: MockClock) -> None:
    recipes: dict[str, Any] = {"trio": trio}
    exec(next(block for block in blocks_of("docs/using/calls.md") if "def skip" in block), recipes)  # noqa: S102  # our own
    store = MemoryRepository[Item]()
    store.down()
    options = WriteBehindOptions(queue_capacity=1, batch_size=1)
    async with open_write_behind_queue(store, options) as queue:
        for key in "ab":  # one is being written, one waits in line
            assert recipes["skip"](queue, Item(key))
            await trio.testing.wait_all_tasks_blocked()
        assert not recipes["skip"](queue, Item("c"))
        started = trio.current_time()
        assert not await recipes["wait_at_most_50_ms"](queue, Item("d"))
        assert trio.current_time() - started == pytest.approx(0.05)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(recipes["wait"], queue, Item("e"))
            await trio.sleep(3600)
            assert queue.metrics().producers_waiting == 1
            store.up()
    assert list(store.rows) == ["a", "b", "e"]


def test_what_contributing_tells_to_run_is_what_ci_runs() -> None:
    contributing = (ROOT / "CONTRIBUTING.md").read_text("utf-8")
    [command] = [line for line in contributing.splitlines() if line.startswith("python3 -m venv")]
    install, nox = command.replace("pip install", "pip install --quiet").rsplit(" && ", 1)
    ci = (ROOT / ".ci" / "run").read_text("utf-8")
    assert f"{install} && .venv/bin/python .ci/side_by_side.py\n" in ci
    assert nox == ".venv/bin/nox"
    runner = (ROOT / ".ci" / "side_by_side.py").read_text("utf-8")
    assert '[NOX, "--list", "--json"]' in runner
