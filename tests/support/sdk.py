"""OpenTelemetry's real SDK."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader, MetricsData
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from provcache_trio.otel import OpenTelemetry

if TYPE_CHECKING:
    from collections.abc import Generator


class Sdk:
    """The SDK as an application would set it up, with exporters that keep what they get."""

    def __init__(self) -> None:
        self.exporter = InMemorySpanExporter()
        self.reader = InMemoryMetricReader()
        self.tracers = TracerProvider()
        self.tracers.add_span_processor(SimpleSpanProcessor(self.exporter))
        self.meters = MeterProvider([self.reader])
        self.tracer = self.tracers.get_tracer("the application")
        self.telemetry = OpenTelemetry(tracer_provider=self.tracers, meter_provider=self.meters)

    def flushes(self) -> list[ReadableSpan]:
        """Return the spans of batches that have ended."""
        spans = self.exporter.get_finished_spans()
        return [one for one in spans if one.name == "provcache.write_behind.flush"]

    def points(self, name: str) -> dict[tuple[Any, ...], Any]:
        """Return the data points of an instrument by their attributes' values, sorted by name."""
        return points_of(self.reader.get_metrics_data(), name)


def points_of(data: MetricsData | None, name: str) -> dict[tuple[Any, ...], Any]:
    assert data is not None
    return {
        tuple(value for _, value in sorted((point.attributes or {}).items())): point
        for resource in data.resource_metrics
        for scope in resource.scope_metrics
        for metric in scope.metrics
        if metric.name == name
        for point in metric.data.data_points
    }


@pytest.fixture
def sdk() -> Generator[Sdk]:
    sdk = Sdk()
    yield sdk
    sdk.tracers.shutdown()
    sdk.meters.shutdown()
