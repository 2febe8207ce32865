"""`make bench SECTION=scale`: pages and the metrics API over 100,000 finished jobs and millions of points, PostgreSQL.

Goal: each under 200 ms at the 95th percentile. Rows are made by the database itself, as many points as `--points` says;
the disk they take is told.
"""

import argparse
import json
import random
import sys
import time
from pathlib import Path
from typing import Any

from tests.bench.machine import describe, percentile
from tests.bench.services import own_services

GOAL_S = 0.2
SERIES = ("loss", "grad_norm", "learning_rate", "tokens_per_s")
LONG_EVERY, LONG_STEPS = 1000, 10_000
"""One job in a thousand has this many steps; the others share the rest of the points."""


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.bench.scale", description=__doc__)
    parser.add_argument("--jobs", type=int, default=100_000)
    parser.add_argument("--points", type=int, default=8_000_000)
    parser.add_argument("--requests", type=int, default=150, help="of each kind")
    parser.add_argument("--report", type=Path, default=Path("var/bench/scale.json"))
    given = parser.parse_args(arguments)
    with own_services("bench-scale"):
        filled = _fill(given.jobs, given.points)
        report = {"section": "scale", "goal_ms": GOAL_S * 1000, **filled, **_ask(given.jobs, given.requests)}
    report["machine"] = describe()
    report["met"] = all(figures["p95"] <= GOAL_S * 1000 for figures in report["ms"].values())
    given.report.parent.mkdir(parents=True, exist_ok=True)
    given.report.write_text(json.dumps(report, indent=1))
    print(json.dumps(report))
    return 0


def _fill(jobs: int, points: int) -> dict[str, Any]:
    """Jobs of the last year, each with one finished attempt, its changes of state, events, log and points."""
    from django.contrib.auth.models import User
    from django.db import connection

    from tests.portal.factories import make_dataset, make_job, make_model, make_node, make_user

    began = time.monotonic()
    make_user("bench", staff=True)
    node, model, dataset = make_node("bench", devices=8), make_model("bench"), make_dataset("bench")
    spec = {"model": model.name, "dataset": dataset.name}
    pattern = make_job(User.objects.get(username="bench"), spec=spec, name="Fine-tune bench on bench")
    long_points = jobs // LONG_EVERY * LONG_STEPS * len(SERIES)
    steps = max((points - long_points) // (jobs * len(SERIES)), 1)
    with connection.cursor() as cursor:
        for statement in _STATEMENTS:
            values = {
                **{"jobs": jobs, "pattern": pattern.pk, "node": node.pk, "steps": steps, "series": list(SERIES)},
                **{"every": LONG_EVERY, "long": LONG_STEPS},
            }
            cursor.execute(statement, values)
        cursor.execute("ANALYZE")
        cursor.execute("SELECT pg_database_size(current_database()), count(*) FROM telemetry_metricpoint")
        size, stored = cursor.fetchone()
    return {
        "jobs": jobs,
        "metric_points": stored,
        "points_of_a_job": steps * len(SERIES),
        "points_of_a_long_job": LONG_STEPS * len(SERIES),
        "database_gib": round(size / 2**30, 2),
        "filled_s": round(time.monotonic() - began),
    }


_STATUS = "(ARRAY['succeeded','succeeded','succeeded','failed','cancelled'])[1 + n %% 5]"
_REASON = "(ARRAY['completed','completed','completed','crashed','cancelled'])[1 + n %% 5]"
_AT = "now() - (%(jobs)s - n) * interval '5 minutes'"
_STATEMENTS = (
    # A copy of the pattern job with another number, time, status and reason; whatever columns there are.
    f"""INSERT INTO jobs_job SELECT (jsonb_populate_record(job, jsonb_build_object(
        'id', job.id + n, 'status', {_STATUS}, 'reason', {_REASON}, 'attempt_number', 1, 'created_at', {_AT},
        'started_at', {_AT} + interval '5 s', 'finished_at', {_AT} + interval '4 minutes',
        'name', job.name || ' ' || n, 'waiting_for', ''))).*
        FROM jobs_job job, generate_series(1, %(jobs)s) n WHERE job.id = %(pattern)s""",
    """INSERT INTO jobs_attempt (job_id, number, node_id, "order", reason, detail, last_seq, dispatched_at, started_at,
        finished_at, token, ahead, nodes)
        SELECT id, 1, %(node)s, jsonb_build_object('spec', spec), reason, '', 100, created_at, started_at, finished_at,
        '', '[]', 1 FROM jobs_job WHERE id > %(pattern)s""",
    """INSERT INTO jobs_transition (job_id, attempt_number, old, new, reason, note, at)
        SELECT job.id, 1, old, CASE new WHEN 'end' THEN job.status ELSE new END, '', 'A note of a usual length.',
        job.created_at FROM jobs_job job, (VALUES (1, '', 'queued'), (2, 'queued', 'dispatched'),
        (3, 'dispatched', 'running'), (4, 'running', 'end')) AS move (n, old, new)
        WHERE job.id > %(pattern)s ORDER BY job.id, n""",
    """INSERT INTO jobs_allocation (attempt_id, accelerator_id, released_at)
        SELECT attempt.id, (SELECT min(id) FROM fleet_accelerator) + attempt.id %% 8, finished_at
        FROM jobs_attempt attempt""",
    """INSERT INTO telemetry_attemptevent (attempt_id, seq, at, type, payload)
        SELECT id, seq, extract(epoch FROM finished_at), type, payload::jsonb FROM jobs_attempt, (VALUES
        (1, 'started', '{"pid": 1}'), (2, 'phase', '{"name": "training"}'),
        (98, 'result', '{"name": "training", "values": {"final_loss": 1.5}}'),
        (99, 'artifact', '{"name": "adapter", "kind": "adapter", "uri": "store://a", "bytes": 1, "sha256": "0"}'),
        (100, 'finished', '{"reason": "completed", "detail": ""}')) AS event (seq, type, payload)""",
    """INSERT INTO telemetry_logline (attempt_id, seq, at, stream, text)
        SELECT id, seq, extract(epoch FROM finished_at), 'out', 'A line of the output of a run, of a usual length.'
        FROM jobs_attempt, generate_series(3, 12) seq""",
    """INSERT INTO telemetry_metricpoint (attempt_id, seq, name, step, at, value)
        SELECT attempt.id, 12 + step, name, step, extract(epoch FROM started_at) + step, 4.0 / step + random()
        FROM jobs_attempt attempt, unnest(%(series)s::text[]) name,
        generate_series(1, CASE WHEN attempt.job_id %% %(every)s = 0 THEN %(long)s ELSE %(steps)s END) step""",
)


def _ask(jobs: int, requests: int) -> dict[str, Any]:
    """Milliseconds of each kind of request, by Django's test client: no network, all of the portal."""
    from django.contrib.auth.models import User
    from django.db.models import Max
    from django.test import Client

    from portal.jobs.models import Job

    client = Client(SERVER_NAME="localhost")
    client.force_login(User.objects.get(username="bench"))
    last = Job.objects.aggregate(last=Max("pk"))["last"]
    draw = random.Random(1)

    def some_job() -> int:
        return last - draw.randrange(jobs)

    def long_job() -> int:
        return some_job() // LONG_EVERY * LONG_EVERY or LONG_EVERY

    kinds = {
        "jobs page": lambda: "/jobs/",
        "jobs page, by status": lambda: f"/jobs/?status={draw.choice(['succeeded', 'failed', 'cancelled', 'live'])}",
        "jobs page, searched": lambda: f"/jobs/?search=bench+{draw.randrange(jobs)}",
        "jobs page, a later one": lambda: f"/jobs/?page={draw.randrange(2, 50)}",
        "jobs by REST": lambda: "/api/v1/jobs",
        "job page": lambda: f"/jobs/{some_job()}/",
        "job page of a long job": lambda: f"/jobs/{long_job()}/",
        "job by REST": lambda: f"/api/v1/jobs/{some_job()}",
        "metrics": lambda: f"/api/v1/jobs/{some_job()}/metrics",
        "metrics of a long job": lambda: f"/api/v1/jobs/{long_job()}/metrics",
        "prometheus": lambda: "/metrics",
    }
    found: dict[str, dict[str, float]] = {}
    for kind, url in kinds.items():
        times = []
        for number in range(requests + 3):
            began = time.perf_counter()
            answer = client.get(url())
            took = time.perf_counter() - began
            assert answer.status_code == 200, (kind, answer.status_code, answer.content[:300])
            if number >= 3:  # templates and imports of the first
                times.append(took * 1000)
        found[kind] = {f"p{share}": round(percentile(times, share / 100), 1) for share in (50, 95, 99)}
        print(f"{kind}: {found[kind]}", flush=True)
    return {"requests": requests, "ms": found}


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
