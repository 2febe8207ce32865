"""A node whose disk is nearly full gets nothing new, and says so; what runs there goes on."""

import pytest
from django.test import Client

from portal.fleet.models import Node
from portal.jobs import loop
from portal.jobs.models import Attempt, Job
from tests.portal.factories import GIB, make_attempt, make_job, make_node, make_user

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.usefixtures("live_redis")]


def test_nothing_starts_on_a_node_whose_disk_is_nearly_full_and_it_says_why(client: Client) -> None:
    node = make_node("n1", devices=2, disk_free_bytes=GIB // 2)
    running = make_attempt(make_job(), node=node)
    running.allocations.filter(accelerator__index=1).delete()
    job = make_job()
    rounds = loop.Rounds()
    rounds.tick()
    client.force_login(make_user())
    assert "n1: its disk is nearly full, 0.5 GiB free" in Job.objects.get(pk=job.pk).waiting_for
    assert "its disk is nearly full" in client.get(f"/jobs/{job.pk}/").content.decode()
    assert "Its disk is nearly full" in client.get("/nodes/n1/").content.decode()
    for page in ("/", "/nodes/"):
        assert "disk is nearly full" in client.get(page).content.decode()
    assert Job.objects.get(pk=running.job_id).status == "running"
    Node.objects.update(disk_free_bytes=50 * GIB)
    rounds.tick()
    assert Attempt.objects.get(job=job).node == node
    assert "nearly full" not in client.get("/nodes/n1/").content.decode()


def test_another_node_takes_the_job() -> None:
    make_node("full", disk_free_bytes=0)
    make_node("roomy")
    job = make_job()
    loop.tick()
    assert Attempt.objects.get(job=job).node.name == "roomy"
