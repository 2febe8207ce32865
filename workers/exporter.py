"""Prometheus metrics of a worker: its devices, its runs, its events.

Doesn't know how the figures are come by; it asks at each scrape.
"""

import logging
from collections.abc import Callable, Iterator
from wsgiref.simple_server import WSGIServer

from prometheus_client import CollectorRegistry, start_http_server
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from workers.nvml import DeviceSample
from workers.shipping import Shipper

log = logging.getLogger(__name__)


class WorkerCollector(Collector):
    """Asks the worker at each scrape."""

    def __init__(self, running: Callable[[], int], devices: Callable[[], list[DeviceSample]]) -> None:
        self._running = running
        self._devices = devices

    def collect(self) -> Iterator[Metric]:
        names = ["device", "kind", "name"]
        util = GaugeMetricFamily("liftoff_device_utilisation_percent", "How busy the device is.", labels=names)
        used = GaugeMetricFamily("liftoff_device_memory_used_bytes", "Memory in use.", labels=names)
        total = GaugeMetricFamily("liftoff_device_memory_total_bytes", "Memory of the device.", labels=names)
        power = GaugeMetricFamily("liftoff_device_power_watts", "Power drawn.", labels=names)
        for sample in self._devices():
            labels = [str(sample.index), sample.kind, sample.name]
            for family, value in (
                (util, sample.util_percent),
                (used, sample.memory_bytes),
                (total, sample.memory_total_bytes),
                (power, sample.power_w),
            ):
                if value is not None:
                    family.add_metric(labels, value)
        yield from (util, used, total, power)
        yield GaugeMetricFamily("liftoff_worker_running_attempts", "Attempts held by this worker.", self._running())
        yield CounterMetricFamily(
            "liftoff_worker_events_shipped", "Events delivered to the stream.", Shipper.shipped_events
        )
        waiting = sum(shipper.waiting_bytes for shipper in list(Shipper.live))
        yield GaugeMetricFamily("liftoff_worker_events_waiting_bytes", "Events on disk, not delivered yet.", waiting)


def start_exporter(host: str, port: int, collector: WorkerCollector) -> WSGIServer | None:
    """Serve /metrics; None, with a warning in the log, when the port can't be had."""
    registry = CollectorRegistry()
    registry.register(collector)
    try:
        server, _ = start_http_server(port, addr=host, registry=registry)
    except OSError as error:
        log.warning("No metrics: LIFTOFF_METRICS_PORT %d on %s can't be had (%s).", port, host, error.strerror)
        return None
    log.info("Metrics at http://%s:%d/metrics.", host, server.server_port)
    return server
