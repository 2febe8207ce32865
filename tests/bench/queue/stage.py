"""The parts of a portal as processes, and the records and figures that the three measurements share."""

import os
import statistics
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests.bench.machine import percentile
from tests.chaos.stack import Part

COMMANDS = {
    "controller": ["manage.py", "controller"],
    "worker": ["-m", "workers"],
}


@contextmanager
def parts(home: Path, *commands: Sequence[str]) -> Iterator[list[Part]]:
    """Python processes with this environment, ended afterwards, the last one first."""
    started: list[Part] = []
    try:
        for number, command in enumerate(commands):
            name = f"{number}-{command[-1].rsplit('.', 1)[-1]}"
            part = Part(name, [sys.executable, *command], dict(os.environ), home / f"{name}.log")
            part.start()
            started.append(part)
        yield started
    finally:
        for part in reversed(started):
            part.stop()


_LLAMA = {
    "model_type": "llama", "hidden_size": 64, "intermediate_size": 172, "num_hidden_layers": 2,
    "num_attention_heads": 4, "num_key_value_heads": 2, "vocab_size": 512, "max_position_embeddings": 2048,
}  # fmt: skip


def fleet(count: int, devices: int) -> list[Any]:
    """Nodes of H100s that have just reported."""
    from portal.fleet.models import Accelerator
    from tests.portal.factories import GIB, make_node

    nodes = [make_node(f"node-{number:03}", devices=devices, kind="cuda") for number in range(count)]
    Accelerator.objects.update(name="NVIDIA H100 80GB HBM3", memory_bytes=80 * GIB, compute_capability="9.0")
    return nodes


def pattern_job() -> Any:
    """A fine-tune on one device, of a model that the planner knows."""
    from tests.portal.factories import make_dataset, make_job, make_model, make_user

    spec = {"model": make_model("bench", config=_LLAMA).name, "dataset": make_dataset("bench").name}
    return make_job(make_user("bench"), spec=spec, name="waiting")


def spread(values: Sequence[float], digits: int = 1) -> dict[str, float]:
    """Median, and how far it spreads."""
    found = {f"p{share}": percentile(list(values), share / 100) for share in (5, 95, 99)}
    return {
        "median": round(statistics.median(values), digits),
        **{name: round(value, digits) for name, value in found.items()},
    }


def durability() -> dict[str, str]:
    """What PostgreSQL promises of a commit."""
    from django.db import connection

    found = {}
    with connection.cursor() as cursor:
        for name in ("fsync", "synchronous_commit", "full_page_writes"):
            cursor.execute(f"SHOW {name}")
            found[name] = cursor.fetchone()[0]
    return found


def copies(pattern: Any, count: int) -> None:
    """More queued jobs like this one, each with a seed of its own, submitted now; with their first notes."""
    from django.db import connection

    with connection.cursor() as cursor:
        cursor.execute("SELECT max(id) FROM jobs_job")
        last = cursor.fetchone()[0]
        cursor.execute(
            """INSERT INTO jobs_job SELECT (jsonb_populate_record(job, jsonb_build_object(
            'id', nextval(pg_get_serial_sequence('jobs_job', 'id')), 'created_at', now(), 'status', 'queued',
            'attempt_number', 0,
            'spec', jsonb_set(job.spec, '{seed}', to_jsonb(n))))).*
            FROM jobs_job job, generate_series(1, %s) n WHERE job.id = %s""",
            [count, pattern.pk],
        )
        cursor.execute(
            """INSERT INTO jobs_transition (job_id, attempt_number, old, new, reason, note, at)
            SELECT id, 0, '', 'queued', '', 'Submitted.', now() FROM jobs_job WHERE id > %s""",
            [last],
        )
        cursor.execute("ANALYZE jobs_job")
