"""Labels that a job's node must or should carry, from the job's spec to where it starts and why it waits."""

from typing import Any

import pytest
from django.test import Client

from portal.fleet.models import Node
from portal.jobs import loop
from portal.jobs.models import Attempt, Job
from tests.portal.api_client import API
from tests.portal.factories import make_job, make_node, make_user

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.usefixtures("live_redis")]


@pytest.fixture
def nodes() -> None:
    make_node("a1", labels={"zone": "a"})
    make_node("b1", labels={"zone": "b"})
    make_node("b2", labels={"zone": "b", "tier": "fast"})


def wants(**resources: Any) -> Job:
    return make_job(spec={"resources": resources})


def started_on(job: Job) -> str:
    loop.tick()
    return Attempt.objects.get(job=job).node.name


@pytest.mark.usefixtures("nodes")
def test_a_node_that_carries_what_is_preferred_is_taken_first() -> None:
    assert started_on(wants(preferred_labels={"tier": "fast"})) == "b2"
    assert started_on(wants(preferred_labels={"zone": "b", "tier": "fast"})) == "b1", "the next best"
    assert started_on(wants(preferred_labels={"zone": "b", "tier": "fast"})) == "a1", "any at all"


@pytest.mark.usefixtures("nodes")
def test_a_required_label_goes_before_a_preferred_one() -> None:
    assert started_on(wants(labels={"zone": "a"}, preferred_labels={"tier": "fast"})) == "a1"


@pytest.mark.usefixtures("nodes")
def test_a_job_that_no_node_can_take_says_which_labels_each_lacks(client: Client) -> None:
    job = wants(labels={"zone": "b", "tier": "slow"}, preferred_labels={"disk": "nvme"})
    loop.tick()
    client.force_login(make_user())
    why = client.get(f"{API}/jobs/{job.pk}").json()["queue"]["waiting_for"]
    assert "a1: it has no label zone=b, tier=slow" in why
    assert "b1: it has no label tier=slow" in why
    assert "tier=slow" in client.get(f"/jobs/{job.pk}/").content.decode()
    Node.objects.filter(name="b1").update(labels={"zone": "b", "tier": "slow"})
    assert started_on(job) == "b1"
