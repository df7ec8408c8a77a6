"""Every number that a queue, a cache or a stream has can be watched; what can't is named here."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import msgspec
import pytest
from prometheus_client import CollectorRegistry, generate_latest

from provcache_trio import Histogram, LastError, QueueState, WriteBehindMetrics
from provcache_trio.prometheus import QueueCollector

from tests.support.sdk import Sdk
from tests.support.shown import CACHE, LOOK, Shown

if TYPE_CHECKING:
    from collections.abc import Callable

NOW = datetime(2026, 11, 30, 12, tzinfo=UTC)
QUEUE = WriteBehindMetrics(
    **{
        name: 0
        for name in WriteBehindMetrics.__struct_fields__
        if name.startswith(("total_", "flushes_"))
    },
    current_queue_depth=0,
    in_flight=0,
    flush_seconds=Histogram(),
    age_seconds=Histogram(),
    producers_waiting=0,
    oldest_pending_seconds=0.0,
    state=QueueState.RUNNING,
    recovering=False,
    durable=True,
    call_seconds=0.0,
    next_try_in_seconds=None,
    last_error=None,
    timestamp=NOW,
)
CLOCK = {"timestamp"}  # whoever asks knows when
STATE = {"recovering", "next_try_in_seconds"}  # what ``state`` leaves out, for a person who looks
# The age of a look says whether it is current, and that says whether the stream is up.
LOOKS = {"age_seconds"}
# Counted by ``flushes`` as well.
BATCHES = {"total_batches"}
# Recorded with each call, not read from a snapshot: the tests of spans and histograms have them.
RECORDED = {"flush_seconds", "age_seconds", "last_error"}


def other(value: object) -> object:
    """Return another value of that kind."""
    match value:
        case bool():
            return not value
        case QueueState():
            return QueueState.PAUSED
        case int() | float():
            return value + 1
        case Histogram():
            return Histogram(counts=(1, *value.counts[1:]), sum=0.001)
        case datetime():
            return value + timedelta(seconds=1)
        case _:
            return LastError(error_class="StoreUnavailableError", sqlstate=None, at=NOW)


def variants(snapshot: msgspec.Struct, unseen: set[str]) -> list[Any]:
    """Return what has one field of ``snapshot`` changed, for each that can be watched."""
    return [
        pytest.param(msgspec.structs.replace(snapshot, **{name: other(value)}), id=name)
        for name, value in msgspec.structs.asdict(snapshot).items()
        if name not in unseen
    ]


def of_queue(metrics: WriteBehindMetrics) -> Shown:
    return Shown(metrics, cache=CACHE, stream="s", look=LOOK)


def scraped(shown: Shown) -> object:
    registry = CollectorRegistry()
    registry.register(QueueCollector(shown))
    return generate_latest(registry)


def read(shown: Shown) -> object:
    sdk = Sdk()
    sdk.telemetry.opened(shown, None)
    data: Any = sdk.reader.get_metrics_data()
    sdk.tracers.shutdown()
    sdk.meters.shutdown()
    [resource] = data.resource_metrics
    return {
        (metric.name, *sorted(point.attributes.items())): point.value
        for scope in resource.scope_metrics
        for metric in scope.metrics
        for point in metric.data.data_points
    }


EXPORTERS = pytest.mark.parametrize("show", [scraped, read], ids=["prometheus", "opentelemetry"])


@pytest.mark.parametrize("changed", variants(QUEUE, CLOCK | STATE | RECORDED | BATCHES))
@EXPORTERS
def test_each_number_of_a_queue_is_exported(
    show: Callable[[Shown], object], changed: WriteBehindMetrics
) -> None:
    assert show(of_queue(changed)) != show(of_queue(QUEUE))


@pytest.mark.parametrize(
    "changed", [one for one in variants(QUEUE, set()) if one.id in RECORDED | BATCHES]
)
def test_what_opentelemetry_records_by_itself_prometheus_reads(changed: WriteBehindMetrics) -> None:
    assert scraped(of_queue(changed)) != scraped(of_queue(QUEUE))


@pytest.mark.parametrize("changed", variants(CACHE, set()))
@EXPORTERS
def test_each_number_of_a_cache_is_exported(show: Callable[[Shown], object], changed: Any) -> None:  # noqa: ANN401  # ``CacheMetrics``
    shown = Shown(QUEUE, cache=changed, stream="s", look=LOOK)
    assert show(shown) != show(of_queue(QUEUE))


@pytest.mark.parametrize("changed", variants(LOOK, LOOKS))
@EXPORTERS
def test_each_number_of_a_stream_is_exported(show: Callable[[Shown], object], changed: Any) -> None:  # noqa: ANN401  # ``StreamLook``
    shown = Shown(QUEUE, cache=CACHE, stream="s", look=changed)
    assert show(shown) != show(of_queue(QUEUE))
