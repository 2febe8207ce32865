"""What launched models last said of themselves, for Prometheus: rates, queues, errors by kind, times as histograms.

Reads the store; knows nothing of who scrapes it.
"""

import re
from collections.abc import Iterator
from typing import Any

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric

from portal.serving.models import Endpoint
from portal.serving.selectors import live_endpoints
from portal.telemetry.models import AttemptEvent, MetricPoint

LABELS = ["model", "job"]
GAUGES = {
    "running": ("requests_running", "Requests being answered."),
    "queue_depth": ("requests_waiting", "Requests that wait to be answered."),
    "kv_cache_used": ("kv_cache_used_ratio", "Share of the KV cache in use."),
    "requests_per_s": ("requests_per_second", "Requests of the last seconds."),
    "tokens_in_per_s": ("prompt_tokens_per_second", "Tokens of prompts in the last seconds."),
    "tokens_out_per_s": ("answer_tokens_per_second", "Tokens of answers in the last seconds."),
}
COUNTERS = {
    "requests_total": ("requests", "Requests since the launch's attempt began."),
    "tokens_in_total": ("prompt_tokens", "Tokens of prompts."),
    "tokens_out_total": ("answer_tokens", "Tokens of answers."),
}
HISTOGRAMS = {
    "ttft_s": ("time_to_first_token_seconds", "From the request to its first text."),
    "tpot_s": ("time_per_token_seconds", "Of an answer's tokens after the first."),
    "latency_s": ("request_seconds", "From the request to its answer's end."),
}
LATENCY = "latency"
"""The result that holds the histograms."""
ERRORS = re.compile(r"errors_(\w+)_total")


def families() -> Iterator[Metric]:
    """One metric family for each figure that a launch has."""
    newest = [(endpoint, _newest(endpoint)) for endpoint in live_endpoints()]
    for name, (called, words) in GAUGES.items():
        yield _filled(GaugeMetricFamily(f"liftoff_launch_{called}", words, labels=LABELS), name, newest)
    for name, (called, words) in COUNTERS.items():
        yield _filled(CounterMetricFamily(f"liftoff_launch_{called}", words, labels=LABELS), name, newest)
    errors = CounterMetricFamily("liftoff_launch_errors", "Requests that failed.", labels=[*LABELS, "kind"])
    for endpoint, values in newest:
        for name, value in values.items():
            if found := ERRORS.fullmatch(name):
                errors.add_metric([*_labels(endpoint), found[1]], value)
    yield errors
    yield from _histograms([endpoint for endpoint, _ in newest])


def _newest(endpoint: Endpoint) -> dict[str, float]:
    """The figures of its last report."""
    points = MetricPoint.objects.filter(attempt=endpoint.attempt_id)
    last = points.filter(name="requests_total").order_by("-seq").values_list("seq", flat=True).first()
    return dict(points.filter(seq=last).values_list("name", "value")) if last is not None else {}


def _filled(family: Any, name: str, newest: list[tuple[Endpoint, dict[str, float]]]) -> Metric:
    for endpoint, values in newest:
        if name in values:
            family.add_metric(_labels(endpoint), values[name])
    filled: Metric = family
    return filled


def _histograms(endpoints: list[Endpoint]) -> Iterator[Metric]:
    said = {endpoint: _latency(endpoint) for endpoint in endpoints}
    for name, (called, words) in HISTOGRAMS.items():
        family = HistogramMetricFamily(f"liftoff_launch_{called}", words, labels=LABELS)
        for endpoint, histograms in said.items():
            if counts := histograms.get(name):
                family.add_metric(_labels(endpoint), _cumulative(counts), sum_value=None)
        yield family


def _latency(endpoint: Endpoint) -> dict[str, dict[str, int]]:
    """Name → upper bound → answers, of its last report."""
    results = AttemptEvent.objects.filter(attempt=endpoint.attempt_id, type="result", payload__name=LATENCY)
    payload = results.order_by("-seq").values_list("payload", flat=True).first()
    return payload["values"] if payload else {}


def _cumulative(counts: dict[str, int]) -> list[tuple[str, float]]:
    """Prometheus counts in each bucket what is in the ones below, too."""
    buckets, sum_so_far = [], 0
    for bound, count in counts.items():
        sum_so_far += count
        buckets.append(("+Inf" if bound == "more" else bound, float(sum_so_far)))
    return buckets


def _labels(endpoint: Endpoint) -> list[str]:
    return [endpoint.model_name, str(endpoint.attempt.job_id)]
