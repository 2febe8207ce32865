"""Many claims in one round: what keeps one job from starting keeps no other, and many cost the database no more."""

import json

import pytest
import redis
from django.db import connection
from django.test.utils import CaptureQueriesContext

from portal.catalog.models import Dataset
from portal.fleet.models import Node
from portal.jobs import services
from portal.jobs.models import Allocation, Attempt, Job
from portal.jobs.scheduler import Placement
from tests.portal.factories import make_attempt, make_dataset, make_job, make_model, make_node, make_user
from workers.contract.names import LEASES, node_queue

pytestmark = pytest.mark.django_db(transaction=True)


def submit(count: int) -> list[Job]:
    spec = {"model": make_model().name, "dataset": make_dataset().name}
    owner = make_user()
    return [make_job(owner, spec={**spec, "seed": seed}) for seed in range(count)]


def on(node: Node, jobs: list[Job]) -> list[Placement]:
    """Each job on a device of its own."""
    devices = node.accelerators.order_by("index").values_list("pk", flat=True)
    return [Placement(job.pk, node.pk, (device,)) for job, device in zip(jobs, devices, strict=True)]


def test_each_gets_its_device_a_lease_and_an_order_of_its_own(live_redis: "redis.Redis") -> None:
    node, jobs = make_node("n1", devices=3), submit(3)
    assert services.allocate_all(on(node, jobs)) == 3
    orders = [attempt.order for attempt in Attempt.objects.order_by("pk")]
    assert [order["job"] for order in orders] == [job.pk for job in jobs]
    assert [order["devices"][0]["index"] for order in orders] == [0, 1, 2]
    assert [order["spec"]["seed"] for order in orders] == [0, 1, 2]
    assert live_redis.hgetall(LEASES) == {str(order["job"]): f"1:{order['token']}" for order in orders}
    assert len({order["token"] for order in orders}) == 3
    assert live_redis.llen(node_queue("n1")) == 3
    for job in jobs:
        job.refresh_from_db()
        assert (job.status, job.attempt_number) == ("dispatched", 1)
        assert job.transitions.get(new="dispatched").note == "Sent to node n1."


def test_a_device_that_is_held_and_a_name_that_is_gone_stop_only_their_own_jobs(live_redis: "redis.Redis") -> None:
    node, jobs = make_node("n1", devices=4), submit(4)
    make_attempt(make_job(), node=make_node("elsewhere", devices=1))
    placements = on(node, jobs)
    holder = Attempt.objects.get()
    Allocation.objects.create(attempt=holder, accelerator_id=placements[1].devices[0])
    gone = make_dataset("gone")
    Job.objects.filter(pk=jobs[2].pk).update(spec={**jobs[2].spec, "dataset": gone.name})
    Dataset.objects.filter(pk=gone.pk).delete()
    assert services.allocate_all(placements) == 2
    for job in jobs:
        job.refresh_from_db()
    assert [job.status for job in jobs] == ["dispatched", "queued", "failed", "dispatched"]
    assert "gone" in jobs[2].detail
    assert jobs[1].attempt_number == 0
    assert live_redis.llen(node_queue("n1")) == 2


def test_a_job_that_was_stopped_meanwhile_is_passed_over(live_redis: "redis.Redis") -> None:
    node, jobs = make_node("n1", devices=2), submit(2)
    services.cancel(jobs[0], None)
    assert services.allocate_all(on(node, jobs)) == 1
    assert not services.allocate_all(on(node, jobs))
    assert Attempt.objects.get().job == jobs[1]


def test_many_claims_ask_the_database_as_often_as_one(live_redis: "redis.Redis") -> None:
    node, jobs = make_node("n1", devices=20), submit(20)
    node.accelerators.update(name="NVIDIA H100 80GB HBM3")
    placements = on(node, jobs)
    counts = []
    for some in (placements[:1], placements[1:]):
        with CaptureQueriesContext(connection) as seen:
            services.allocate_all(some)
        counts.append(len(seen))
    assert counts[0] == counts[1]


def test_the_message_shows_nothing_of_the_order_in_its_headers(live_redis: "redis.Redis") -> None:
    """Celery would write the arguments there for its log."""
    node, jobs = make_node("n1"), submit(1)
    services.allocate_all(on(node, jobs))
    headers = json.loads(live_redis.lindex(node_queue("n1"), 0) or "")["headers"]  # type: ignore[arg-type]
    assert headers["argsrepr"] == ""
