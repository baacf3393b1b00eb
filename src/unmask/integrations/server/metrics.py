"""What the server counts, for Prometheus."""

from __future__ import annotations

from collections.abc import Iterator

from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from unmask.integrations.server.engine import Engine

SECONDS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 25, 60, 120)


class Metrics:
    """Counts of requests and tokens; what the engine counts is read when it is asked for."""

    def __init__(self, engine: Engine) -> None:
        self.registry = CollectorRegistry()
        self.registry.register(_OfEngine(engine))
        self.requests = Counter("unmask_requests", "Requests answered.", ("endpoint", "status"), registry=self.registry)
        self.prompt_tokens = Counter("unmask_prompt_tokens", "Tokens of prompts.", registry=self.registry)
        self.tokens = Counter(
            "unmask_generated_tokens", "Tokens written, up to the end of each text.", registry=self.registry
        )
        self.seconds = Histogram(
            "unmask_request_seconds", "From request to answer.", buckets=SECONDS, registry=self.registry
        )
        self.first = Histogram(
            "unmask_first_text_seconds", "From request to streamed text.", buckets=SECONDS, registry=self.registry
        )

    def text(self) -> bytes:
        """In Prometheus's exposition format."""
        return generate_latest(self.registry)


class _OfEngine(Collector):
    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def collect(self) -> Iterator[Metric]:
        totals = self._engine.totals
        yield GaugeMetricFamily("unmask_rows_active", "Rows that are being decoded.", self._engine.active)
        yield GaugeMetricFamily("unmask_rows_waiting", "Rows that wait for a place.", self._engine.waiting)
        yield CounterMetricFamily("unmask_passes", "Forward passes of all rows together (NFE).", totals.passes)
        yield CounterMetricFamily("unmask_model_seconds", "Seconds in the dLLM.", totals.model_seconds)
        yield CounterMetricFamily("unmask_policy_seconds", "Seconds in policies.", totals.policy_seconds)
