"""/metrics of the portal, read as Prometheus reads it."""

from typing import Any

import pytest
import redis
from django.test import Client
from prometheus_client.parser import text_string_to_metric_families
from pytest_django.fixtures import Settings

from portal.accounts.services import create_token
from tests.portal.factories import make_attempt, make_job, make_node, make_user
from workers.contract.names import INGEST_GROUP, job_stream

pytestmark = pytest.mark.django_db


def scrape(**request: Any) -> dict[tuple[str, tuple[str, ...]], float]:
    answer = Client().get("/metrics", **request)
    assert answer.status_code == 200
    families = text_string_to_metric_families(answer.content.decode())
    return {
        (sample.name, tuple(sample.labels.values())): sample.value for family in families for sample in family.samples
    }


def test_jobs_queue_nodes_and_devices_are_counted(settings: Settings) -> None:
    settings.REDIS_URL = "unix:///nowhere/redis.sock?db=0"
    make_job()
    make_attempt(make_job(), node=make_node(devices=2))
    make_node(online=False, state="draining", kind="cuda")
    found = scrape()
    assert found["liftoff_jobs", ("queued",)] == 1
    assert found["liftoff_jobs", ("running",)] == 1
    assert found["liftoff_jobs", ("failed",)] == 0
    assert found["liftoff_queue_length", ()] == 1
    assert found["liftoff_nodes", ("true", "active")] == 1
    assert found["liftoff_nodes", ("false", "draining")] == 1
    assert found["liftoff_devices", ("true", "cpu")] == 2
    assert found["liftoff_devices", ("false", "cuda")] == 1
    assert any(name == "liftoff_build_info" for name, _ in found)
    assert ("liftoff_ingest_lag_seconds", ()) not in found  # Redis is away: no figure rather than a wrong one


def test_the_ingest_lag_is_the_age_of_what_waits(live_redis: "redis.Redis") -> None:
    job = make_job()
    make_attempt(job)
    stream = job_stream(job.pk)
    live_redis.xgroup_create(stream, INGEST_GROUP, id="0", mkstream=True)
    assert scrape()["liftoff_ingest_lag_seconds", ()] == 0
    live_redis.xadd(stream, {"batch": "{}"}, id="1000-0")  # one second after 1970
    assert scrape()["liftoff_ingest_lag_seconds", ()] > 10**9
    live_redis.xreadgroup(INGEST_GROUP, "test", {stream: ">"})
    assert scrape()["liftoff_ingest_lag_seconds", ()] == 0


def test_only_this_machine_or_a_token_may_read(settings: Settings) -> None:
    settings.REDIS_URL = "unix:///nowhere/redis.sock?db=0"
    token = create_token(make_user(), "prometheus")[1]
    client = Client()
    assert client.get("/metrics", REMOTE_ADDR="10.0.0.9").status_code == 401
    assert client.get("/metrics", headers={"x-forwarded-for": "10.0.0.9"}).status_code == 401
    assert client.get("/metrics", headers={"authorization": "Bearer lift_wrong"}).status_code == 401
    assert client.get("/metrics", REMOTE_ADDR="::1").status_code == 200
    answer = client.get("/metrics", REMOTE_ADDR="10.0.0.9", headers={"authorization": f"Bearer {token}"})
    assert answer.status_code == 200
    assert client.post("/metrics").status_code == 405
