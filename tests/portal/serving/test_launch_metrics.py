"""What launched models say of themselves, as Prometheus reads it."""

import httpx
import pytest
from django.contrib.auth.models import User

from portal.serving.services import mark_ready
from portal.telemetry.record import record
from tests.portal.factories import make_attempt, make_job, make_node
from workers.contract.events import EVENT, Envelope

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.usefixtures("live_redis")]


def test_figures_of_a_live_launch_are_the_latest_and_its_times_histograms(client: httpx.Client, user: User) -> None:
    attempt = make_attempt(make_job(user, kind="launch"), node=make_node(address="10.0.0.5"))
    assert mark_ready(attempt, "http://10.0.0.5:9000", "tuned")
    reports = [
        {"type": "metric", "values": {"requests_total": 3, "queue_depth": 9}},
        {"type": "metric", "values": {"requests_total": 7, "queue_depth": 2, "errors_full_total": 4}},
        {"type": "result", "name": "latency", "values": {"ttft_s": {"0.1": 5, "0.5": 1, "more": 1}}},
        {"type": "metric", "values": {"cpu_percent": 50}},
    ]
    record(
        [
            Envelope(job=attempt.job_id, attempt=1, seq=seq, at=0.0, event=EVENT.validate_python(event))
            for seq, event in enumerate(reports, 1)
        ]
    )
    lines = client.get("/metrics").content.decode().splitlines()
    labels = f'job="{attempt.job_id}",model="tuned"'
    assert f"liftoff_launch_requests_total{{{labels}}} 7.0" in lines
    assert f"liftoff_launch_requests_waiting{{{labels}}} 2.0" in lines
    assert f'liftoff_launch_errors_total{{job="{attempt.job_id}",kind="full",model="tuned"}} 4.0' in lines
    buckets = [line for line in lines if line.startswith("liftoff_launch_time_to_first_token_seconds_bucket")]
    assert [line.rsplit(" ", 1)[1] for line in buckets] == ["5.0", "6.0", "7.0"]
    assert 'le="+Inf"' in buckets[-1]
