"""Dashboard, alert rules and operating guide name what is there; promtool runs the rules."""

from __future__ import annotations

import itertools
import json
import re
import shutil
import sqlite3
import ssl
import subprocess
import time
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import urlencode
from urllib.request import urlopen

import msgspec
import pytest
import trio
from prometheus_client import CollectorRegistry, start_http_server

from provcache_trio import (
    EntryRejectedError,
    QueueState,
    StoreMisconfiguredError,
    StoreUnavailableError,
    WriteBehindOptions,
    open_write_behind_queue,
)
from provcache_trio._disk.sqlite_connection import _BY_RESULT_CODE
from provcache_trio._vocabulary.metrics import LOOKUPS, FlushReason, LastError
from provcache_trio._vocabulary.sqlstates import MEANINGS
from provcache_trio.cache import open_cache
from provcache_trio.nats import StreamMetrics
from provcache_trio.nats._errors import _WORDS, ApiError, DeniedError, PlainTextError, meaning_of
from provcache_trio.prometheus import QueueCollector
from provcache_trio.testing import MemoryRepository

from tests.support.items import Item, items
from tests.support.programs import ROOT
from tests.support.servers import unused_port
from tests.support.shown import CACHE, LOOK
from tests.support.site import SITE

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from trio.testing import MockClock

    from provcache_trio import WriteBehindMetrics, WriteBehindQueue
    from provcache_trio.cache import Cache, CacheMetrics

RULES: Final = (ROOT / "ops" / "alerts.yml").read_text("utf-8")
RULES_TEST: Final = (ROOT / "ops" / "alerts_test.yml").read_text("utf-8")
DASHBOARD: Final[dict[str, Any]] = json.loads(
    (ROOT / "ops" / "grafana-dashboard.json").read_bytes()
)
GUIDE: Final = (ROOT / "docs" / "operating" / "index.md").read_text("utf-8")
RUNBOOK: Final = (ROOT / "docs" / "operating" / "runbook.md").read_text("utf-8")

PREFIX: Final = "provcache_write_behind_"
ANY_PREFIX: Final = "provcache_(?:write_behind|cache|stream)_"
ADDED_BY_PROMETHEUS: Final = {"job", "instance"}
VARIABLES: Final = {  # what Grafana puts in
    "$__rate_interval": "1m",
    "$__range": "3h",
    "$job": ".*",
    "$instance": ".*",
    "$queue_capacity": "10000",
    "$queue": ".*",
}


# What there is


class WithStream:
    """A queue, as if a stream were behind it."""

    name = "default"

    def __init__(self, queue: WriteBehindQueue[Item]) -> None:
        self._queue = queue

    def metrics(self) -> WriteBehindMetrics:
        return self._queue.metrics()

    def cache_metrics(self) -> CacheMetrics | None:
        return self._queue.cache_metrics()

    def stream_metrics(self) -> StreamMetrics:
        return StreamMetrics(stream="s", look=LOOK)


def panels() -> list[dict[str, Any]]:
    return [panel for panel in DASHBOARD["panels"] if panel["type"] != "row"]


def expressions_of_the_dashboard() -> Iterator[tuple[str, str]]:
    """Yield each panel's title and each of its expressions, variables replaced."""
    for panel in panels():
        for target in panel["targets"]:
            expression: str = target["expr"]
            for name, value in VARIABLES.items():
                expression = expression.replace(name, value)
            assert "$" not in expression
            yield panel["title"], expression


def expressions_of_the_rules() -> list[str]:
    """Return what follows each ``expr:``, in one line or indented below it."""
    found = re.findall(r"^ {8}expr: (?:\|\n((?: {10}.*\n)+)|(.*)\n)", RULES, re.MULTILINE)
    return [block or line for block, line in found]


def alert_names() -> list[str]:
    return re.findall(r"^ +- alert: (\w+)$", RULES, re.MULTILINE)


async def labels_of_each_sample() -> dict[str, set[str]]:
    """Return the label names of every sample that a collector can ever show."""

    class WithEverything(WithStream):
        """With a journal and a cache, too, and an error that it has seen."""

        def metrics(self) -> WriteBehindMetrics:
            now = queue.metrics()
            error = LastError(error_class="E", sqlstate="57P01", at=now.timestamp)
            return msgspec.structs.replace(now, durable=True, last_error=error)

        def cache_metrics(self) -> CacheMetrics:
            return CACHE

    async with open_write_behind_queue(MemoryRepository[Item]()) as queue:
        collector = QueueCollector(WithEverything(queue))
        samples = [sample for family in collector.collect() for sample in family.samples]
    return {sample.name: set(sample.labels) for sample in samples}


# Names


async def test_every_metric_and_label_that_is_named_is_shown_by_the_collector() -> None:
    known = await labels_of_each_sample()
    every_label = set[str]().union(*known.values()) | ADDED_BY_PROMETHEUS
    expressions = [*expressions_of_the_rules(), *(one for _, one in expressions_of_the_dashboard())]
    selectors = [
        found
        for expression in expressions
        for found in re.findall(rf"({ANY_PREFIX}\w+)(?:\{{([^}}]*)\}})?", expression)
    ]
    assert len(selectors) > 80
    for name, matchers in selectors:
        assert name in known
        labels = set(re.findall(r"(\w+)\s*[=!]~?\s*\"", matchers))
        assert labels <= known[name] | ADDED_BY_PROMETHEUS, name
        for label, values in (
            ("state", set(QueueState)),
            ("reason", set(FlushReason)),
            ("result", set(LOOKUPS)),
        ):
            for told in re.findall(rf"\b{label}!?=~?\"([^\"]*)\"", matchers):
                assert set(told.split("|")) <= values
    for expression in expressions:
        for labels in re.findall(r"\b(?:by|without|on|ignoring) \(([^)]*)\)", expression):
            assert set(re.findall(r"\w+", labels)) <= every_label
    for text in (RULES, json.dumps(DASHBOARD)):
        shown = re.findall(r"\$labels\.(\w+)|\{\{ ?(\w+) ?\}\}", text)
        assert {one or other for one, other in shown} <= every_label


async def test_the_dashboard_shows_every_metric() -> None:
    shown = " ".join(expression for _, expression in expressions_of_the_dashboard())
    known = await labels_of_each_sample()
    assert [name for name in known if name not in shown] == []


def test_the_guide_has_a_row_for_every_metric_and_for_no_other() -> None:
    table = GUIDE[GUIDE.index("## What to watch") : GUIDE.index("## States")]
    told = re.findall(r"`(\w+)`", "".join(re.findall(r"^\| (`.*?) \|", table, re.MULTILINE)))
    described = [re.sub(ANY_PREFIX, "", family.name) for family in QueueCollector().describe()]
    assert sorted(told) == sorted(described)


def test_the_guide_has_a_row_for_every_state() -> None:
    table = GUIDE[GUIDE.index("## States") :]
    assert re.findall(r"^\| `(\w+)` \|", table, re.MULTILINE) == list(QueueState)


# Alert rules


def test_every_alert_has_a_severity_a_reason_and_a_runbook_entry() -> None:
    headings = re.findall(r"^#+ (.*)$", RUNBOOK, re.MULTILINE)
    anchors = {heading.lower().replace(" ", "-").replace(",", "") for heading in headings}
    rules = RULES.partition("    rules:\n")[2].split("\n\n")
    assert len(rules) == len(alert_names()) == len(set(alert_names())) > 0
    for rule in rules:
        assert re.match(r"(?: {6}# .*\n)+ {6}- alert: \w+\n", rule)
        assert rule.count("\n        labels:\n") == rule.count("\n        annotations:\n") == 1
        assert re.search(r"severity: (critical|warning)\n", rule)
        assert re.search(r"summary: \S.*\n", rule)
        assert re.search(r"description: \S", rule)
        [runbook] = re.findall(rf"runbook_url: {SITE}operating/runbook/#(\S+)\n", f"{rule}\n")
        assert runbook in anchors


def test_the_runbook_names_every_alert_below_the_heading_that_its_runbook_links_to() -> None:
    sections = re.split(r"^## (.*)$", RUNBOOK, flags=re.MULTILINE)[1:]
    told = {
        name: heading.lower().replace(" ", "-")
        for heading, text in zip(sections[::2], sections[1::2], strict=True)
        for name in re.findall(r"`(Provcache\w+)`", text.split("\n\n")[1])
    }
    linked = re.findall(r"- alert: (\w+)\n(?:(?!- alert).*\n)*? +runbook_url: .*#(.*)\n", RULES)
    assert told == dict(linked)


def test_promtool_is_to_see_every_alert_fire_and_not_fire() -> None:
    cases = re.findall(r"alertname: (\w+)\n +exp_alerts:( \[\])?", RULES_TEST)
    for name in alert_names():
        assert {quiet == "" for alert, quiet in cases if alert == name} == {True, False}, name


def patterns_that_need_a_person(label: str) -> list[tuple[re.Pattern[str], re.Pattern[str] | None]]:
    """Return the patterns of the rule ``ProvcacheStoreNeedsAPerson``, and their exceptions."""
    [rule] = [one for one in expressions_of_the_rules() if "last_error" in one]
    found = re.findall(rf'{label}=~"([^"]*)"(?:,{label}!~"([^"]*)")?', rule)
    return [(re.compile(yes), re.compile(no) if no else None) for yes, no in found]


def test_the_sqlstates_that_need_a_person_are_those_of_the_code() -> None:
    [(needs_a_person, waits)] = patterns_that_need_a_person("sqlstate")
    assert waits is not None
    for state, (meaning, _) in MEANINGS.items():
        # For a class as a whole, two codes of it.
        for code in {state.ljust(5, "0"), f"{state}001"[:5]} - (MEANINGS.keys() - {state}):
            # 08P01 is what PgBouncer says of a server that is away.
            expected = code != "08P01" and issubclass(
                meaning, (StoreMisconfiguredError, EntryRejectedError)
            )
            told = needs_a_person.fullmatch(code) is not None and not waits.fullmatch(code)
            assert told == expected, code


def test_the_classes_of_sqlite_that_need_a_person_are_those_of_the_code() -> None:
    (every, away), (ours, _) = patterns_that_need_a_person("error_class")
    assert away is not None
    names = re.fullmatch(r"SQLITE_\((.*)\)\.\*", away.pattern)
    assert names is not None
    assert {getattr(sqlite3, f"SQLITE_{name}") for name in names[1].split("|")} == {
        code
        for code, (meaning, _) in _BY_RESULT_CODE.items()
        if issubclass(meaning, StoreUnavailableError)
    }
    assert every.fullmatch("SQLITE_CANTOPEN_ISDIR")
    assert away.fullmatch("SQLITE_BUSY_SNAPSHOT")
    for cls in (StoreMisconfiguredError, EntryRejectedError, ssl.CertificateError):
        assert ours.fullmatch(cls.__name__)


def test_the_errors_of_a_stream_that_need_a_person_are_those_of_the_code() -> None:
    _, (ours, _) = patterns_that_need_a_person("error_class")
    for code in [*_WORDS, 10008, 10039]:
        error = ApiError(503 if code in {10008, 10039} else 400, code).meaning()
        for front in ("", "stream decisions: "):  # of a producer, of a relay
            found = ours.fullmatch(f"{front}{error.error_class}")
            assert (found is not None) == isinstance(error, StoreMisconfiguredError), error
    for cls in (DeniedError, PlainTextError):
        error = meaning_of(cls("x"), "pulling", connected=True)
        assert isinstance(error, StoreMisconfiguredError)
        assert ours.fullmatch(str(error.error_class))
    assert ours.fullmatch("stream decisions: UnreadableMessage 4711")


# The dashboard


def test_the_dashboard_can_be_imported_anywhere() -> None:
    assert DASHBOARD["id"] is None
    variables = {one["name"]: one for one in DASHBOARD["templating"]["list"]}
    assert variables["datasource"]["type"] == "datasource"
    assert {f"${name}" for name in variables} >= {"$job", "$instance", "$queue", "$queue_capacity"}
    sources = re.findall(r'"datasource": \{[^{}]*"uid": "([^"]*)"', json.dumps(DASHBOARD))
    assert set(sources) == {"${datasource}", "-- Grafana --"}
    assert len(sources) == json.dumps(DASHBOARD).count('"datasource": {')


def test_every_panel_explains_itself_and_has_a_unit() -> None:
    identities = [panel["id"] for panel in DASHBOARD["panels"]]
    assert len(identities) == len(set(identities))
    for panel in panels():
        assert panel["title"]
        assert panel["description"].endswith(".")
        assert panel["fieldConfig"]["defaults"]["unit"]
        assert panel["fieldConfig"]["defaults"]["thresholds"]["steps"]
        for target in panel["targets"]:
            for selector in re.findall(rf"{ANY_PREFIX}\w+\{{[^}}]*\}}", target["expr"]):
                assert 'job=~"$job",instance=~"$instance",queue=~"$queue"' in selector
            named = re.findall(ANY_PREFIX, target["expr"])
            assert len(named) == target["expr"].count('=~"$queue"')


def test_no_panel_covers_another_one() -> None:
    taken: set[tuple[int, int]] = set()
    for panel in DASHBOARD["panels"]:
        place = panel["gridPos"]
        assert place["x"] + place["w"] <= 24
        cells = {
            (place["x"] + x, place["y"] + y) for x in range(place["w"]) for y in range(place["h"])
        }
        assert not cells & taken, panel["title"]
        taken |= cells
    assert len(taken) == 24 * (max(y for _, y in taken) + 1)  # and there is no hole


def test_the_states_have_the_names_that_their_numbers_stand_for() -> None:
    [panel] = [one for one in panels() if one["type"] == "state-timeline"]
    [mapping] = panel["fieldConfig"]["defaults"]["mappings"]
    numbers = re.findall(r'(\d) \* \(\w+\{[^}]*state="(\w+)"\}', panel["targets"][0]["expr"])
    assert [state for _, state in numbers] == list(QueueState)
    assert dict(numbers) == {number: shown["text"] for number, shown in mapping["options"].items()}


# The guide


@pytest.mark.one_lane
async def test_what_the_guide_says_about_a_failing_sink_is_so(autojump_clock: MockClock) -> None:
    class Broken:
        """A sink that never works."""

        async def put_many(self, _: object, /) -> None:
            await trio.lowlevel.checkpoint()
            raise OSError

    store = MemoryRepository[Item]()
    for key in ("x", "y", "z"):
        store.reject(key)
    options = WriteBehindOptions(batch_size=2, drain_timeout_seconds=0)
    opening = open_write_behind_queue(store, options, dead_letters=Broken())
    with pytest.raises(Exception, match="could not write 4 entries"):
        async with opening as queue:
            await queue.enqueue_many(items("axb"))
            await trio.sleep(100)
            seen = queue.metrics()
            # Letters have room: good entries are written, and only the oldest age tells.
            assert (seen.state, seen.in_flight, seen.total_persisted) == ("running", 1, 2)
            assert seen.oldest_pending_seconds == pytest.approx(100)
            await queue.enqueue_many(items("yz"))
            await trio.sleep(100)
            await queue.enqueue_many(items("c"))
            await trio.sleep(100)
            seen = queue.metrics()
            assert (seen.state, seen.total_persisted) == ("paused", 2)


async def test_what_the_guide_says_about_a_store_that_hangs_is_so(
    autojump_clock: MockClock,
) -> None:
    store = MemoryRepository[Item]()
    store.stall()
    async with open_write_behind_queue(store) as queue:
        await queue.enqueue(Item("a"))
        await trio.sleep(600)
        seen = queue.metrics()
        assert (seen.state, seen.in_flight, seen.last_error) == ("running", 1, None)
        assert seen.oldest_pending_seconds == pytest.approx(600)
        store.resume()


async def test_what_the_guide_says_about_an_idle_queue_is_so(autojump_clock: MockClock) -> None:
    store = MemoryRepository[Item]()
    async with open_write_behind_queue(store) as queue:
        store.down()
        await trio.sleep(600)
        assert queue.metrics().state == "running"
        await queue.enqueue(Item("a"))
        await trio.sleep(600)
        assert queue.metrics().state == "waiting"
        store.up()
        await trio.sleep(30 + 1)  # retry_cap_seconds
        assert queue.metrics().state == "running"


# With promtool


@pytest.fixture
def promtool() -> str:
    found = shutil.which("promtool")
    if found is None:
        pytest.fail("promtool is not installed: apt-get install prometheus brings it")
    return found


def run(*command: str) -> str:
    done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.promtool
def test_promtool_takes_the_rules(promtool: str) -> None:
    said = run(promtool, "check", "rules", str(ROOT / "ops" / "alerts.yml"))
    assert f"SUCCESS: {len(alert_names())} rules found" in said


@pytest.mark.promtool
def test_the_alerts_fire_when_they_should_and_only_then(promtool: str) -> None:
    assert "SUCCESS" in run(promtool, "test", "rules", str(ROOT / "ops" / "alerts_test.yml"))


@pytest.mark.promtool
def test_promtool_takes_every_expression_of_the_dashboard(promtool: str, tmp_path: Path) -> None:
    rules = [
        {"record": f"expression:{number}", "expr": expression}
        for number, (_, expression) in enumerate(expressions_of_the_dashboard())
    ]
    path = tmp_path / "dashboard.yml"  # JSON is YAML
    path.write_text(json.dumps({"groups": [{"name": "dashboard", "rules": rules}]}), "utf-8")
    assert f"SUCCESS: {len(rules)} rules found" in run(promtool, "check", "rules", str(path))


class Prometheus:
    """A server of its own that scrapes one address every half second."""

    def __init__(self, place: Path, target_port: int, port: int) -> None:
        program = shutil.which("prometheus")
        if program is None:
            pytest.fail("prometheus is not installed: apt-get install prometheus brings it")
        config = {
            "global": {"scrape_interval": "500ms", "evaluation_interval": "500ms"},
            "rule_files": [str(ROOT / "ops" / "alerts.yml")],
            "scrape_configs": [
                {"job_name": "j", "static_configs": [{"targets": [f"127.0.0.1:{target_port}"]}]}
            ],
        }
        (place / "prometheus.yml").write_text(json.dumps(config), "utf-8")
        self.url = f"http://127.0.0.1:{port}"
        self.process = subprocess.Popen(
            [
                program,
                f"--config.file={place}/prometheus.yml",
                f"--storage.tsdb.path={place}/data",
                f"--web.listen-address=127.0.0.1:{port}",
            ],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )

    def get(self, path: str, **query: str) -> Any:  # noqa: ANN401  # JSON
        url = f"{self.url}/api/v1/{path}?{urlencode(query)}"
        with urlopen(url, timeout=10) as answer:  # noqa: S310  # it is http
            return json.load(answer)["data"]

    def wait_until_true(self, expression: str) -> None:
        """Wait until ``expression`` has a result, and fail after a minute."""
        deadline = time.monotonic() + 60
        while True:
            try:
                if self.get("query", query=expression)["result"]:
                    return
            except OSError:  # it starts
                pass
            assert time.monotonic() < deadline, expression
            time.sleep(0.1)

    def stop(self) -> None:
        self.process.terminate()
        self.process.wait(30)


@pytest.mark.promtool
async def test_a_real_prometheus_shows_something_in_every_panel(
    promtool: str, tmp_path: Path
) -> None:
    async def keep_busy(queue: WriteBehindQueue[Item]) -> None:
        for number in itertools.count():
            await queue.enqueue(Item(f"{number}"))
            await trio.sleep(0.01)

    def empty_panels(prometheus: Prometheus) -> set[str]:
        return {
            title
            for title, expression in expressions_of_the_dashboard()
            if not prometheus.get("query", query=expression)["result"]
        }

    async def read(cache: Cache[Item]) -> None:
        for number in itertools.count():
            await cache.get(f"{number // 2}")
            await trio.sleep(0.01)

    store = MemoryRepository[Item]()
    store.reject("100")
    options = WriteBehindOptions(flush_interval_seconds=0.05)
    registry = CollectorRegistry()
    server, thread = start_http_server(0, addr="127.0.0.1", registry=registry)
    prometheus = Prometheus(tmp_path, server.server_port, unused_port())
    try:
        async with (
            open_write_behind_queue(store, options) as queue,
            open_cache(queue, store) as cache,
        ):
            registry.register(QueueCollector(WithStream(queue)))
            async with trio.open_nursery() as nursery:
                nursery.start_soon(keep_busy, queue)
                nursery.start_soon(read, cache)
                await trio.to_thread.run_sync(
                    prometheus.wait_until_true,
                    f"count_over_time({PREFIX}failed_total[1m]) > 5 and {PREFIX}failed_total > 0",
                )
                empty = await trio.to_thread.run_sync(empty_panels, prometheus)
                nursery.cancel_scope.cancel()
    finally:
        prometheus.stop()
        server.shutdown()
        server.server_close()
        thread.join()
    assert empty == {"Durable"}  # there is no journal
