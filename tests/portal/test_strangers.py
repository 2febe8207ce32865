"""Memory of devices that no live attempt explains: told once on the node's page, and what a run left is killed."""

import base64
import json
from typing import Any

import pytest
from django.test import Client

from portal.fleet.models import Accelerator, Node, NodeEvent
from portal.jobs import services
from portal.jobs.models import Attempt
from portal.jobs.reconcile import Reconciler
from portal.jobs.scheduler import Placement
from portal.jobs.strangers import SURE_S
from tests.portal.factories import make_job, make_node, make_user
from workers.contract.events import DeviceProcess, DeviceUse, Heartbeat, RunningAttempt
from workers.contract.names import REVOKE_TASK, START_TASK, node_queue
from workers.contract.reasons import Reason

pytestmark = pytest.mark.django_db(transaction=True)

GIB = 2**30
THEIRS = DeviceProcess(pid=4242, name="python train.py", bytes=int(3.1 * GIB))


class Controller:
    """A reconciler that hears node g1, of two GPUs, every ten seconds."""

    def __init__(self, redis: Any) -> None:
        self.s = 0.0
        self.redis = redis
        self.node = make_node("g1", kind="cuda", devices=2)
        self.reconciler = Reconciler(lambda: self.s)

    def hear(
        self,
        *processes: DeviceProcess,
        running: tuple[RunningAttempt, ...] = (),
        for_s: float = SURE_S + 10,
        index: int = 0,
        memory: int | None = None,
    ) -> None:
        used = DeviceUse(kind="cuda", index=index, memory_bytes=memory, processes=processes)
        beat = Heartbeat(node="g1", at=0, running=running, devices=(used,))
        until = self.s + for_s
        while self.s < until:
            self.reconciler.heard({"g1": beat})
            self.s += 10

    def told(self) -> list[str]:
        return list(NodeEvent.objects.order_by("pk").values_list("text", flat=True))

    def killed(self) -> set[tuple[Any, ...]]:
        """The runs that the node was told to end."""
        messages = [json.loads(one) for one in self.redis.lrange(node_queue("g1"), 0, -1)]
        sent = [(one["headers"]["task"], json.loads(base64.b64decode(one["body"]))[0]) for one in messages]
        assert {task for task, _ in sent} <= {REVOKE_TASK, START_TASK}
        return {tuple(arguments) for task, arguments in sent if task == REVOKE_TASK}

    def attempt(self, index: int = 0) -> Attempt:
        """One that runs on a GPU, and that the node has named."""
        job = make_job()
        device = Accelerator.objects.get(node=self.node, index=index)
        assert services.allocate(Placement(job.pk, self.node.pk, (device.pk,)))
        assert services.mark_started(job.pk, 1)
        return Attempt.objects.get(job=job)


@pytest.fixture
def controller(live_redis: object) -> Controller:
    return Controller(live_redis)


def named(attempt: Attempt) -> RunningAttempt:
    return RunningAttempt(job=attempt.job_id, attempt=attempt.number, token=attempt.token)


def test_a_foreign_process_is_told_once_and_again_when_it_is_gone(controller: Controller) -> None:
    controller.hear(THEIRS, for_s=120)
    said = "accelerator cuda:0: 3.1 GiB held by pid 4242 (python train.py)"
    assert controller.told() == [f"{said}, which no live attempt explains."]
    controller.hear(for_s=60)
    assert controller.told()[1:] == ["accelerator cuda:0: no longer 3.1 GiB held by pid 4242 (python train.py)."]
    assert controller.killed() == set(), "what isn't a run's is not Liftoff's to kill"


def test_a_new_leader_does_not_say_it_again(controller: Controller) -> None:
    controller.hear(THEIRS)
    controller.reconciler = Reconciler(lambda: controller.s)
    controller.hear(THEIRS, for_s=60)
    controller.hear(THEIRS.model_copy(update={"bytes": 5 * GIB}), for_s=60)
    assert len(controller.told()) == 1


def test_one_that_is_gone_in_a_moment_is_not_told(controller: Controller) -> None:
    controller.hear(THEIRS, for_s=10)
    controller.hear(for_s=60)
    assert controller.told() == []


def test_the_processes_of_a_live_attempt_are_explained(controller: Controller) -> None:
    attempt = controller.attempt()
    ours = (DeviceProcess(pid=7, name="python", bytes=9 * GIB, run=named(attempt)), DeviceProcess(pid=8, bytes=GIB))
    controller.hear(*ours, running=(named(attempt),), for_s=60, memory=12 * GIB)
    assert controller.told() == [], "nor one in a container that the node can't look into"
    controller.hear(*ours, THEIRS, running=(named(attempt),), for_s=60)
    assert [text[:60] for text in controller.told()] == ["accelerator cuda:0: 3.1 GiB held by pid 4242 (python train.p"]


def test_what_a_run_has_left_is_named_and_its_node_told_to_kill_it(controller: Controller) -> None:
    attempt = controller.attempt()
    left = DeviceProcess(pid=7, name="python -m", bytes=2 * GIB, run=named(attempt))
    controller.hear(left, running=(named(attempt),))
    assert controller.killed() == set()
    services.finish(attempt.job_id, 1, Reason.CRASHED)
    controller.hear(left, for_s=60)
    job = f"job #{attempt.job_id}, attempt 1"
    assert controller.told() == [
        f"accelerator cuda:0: 2.0 GiB held by pid 7 (python -m), left by {job}; told the node to kill it."
    ]
    assert controller.killed() == {(attempt.job_id, 1, attempt.token)}


def test_memory_of_no_process_is_told_when_the_device_is_free(controller: Controller) -> None:
    attempt = controller.attempt()
    controller.hear(running=(named(attempt),), memory=6 * GIB, for_s=60)
    controller.hear(running=(named(attempt),), index=1, memory=GIB // 2, for_s=60)
    assert controller.told() == [], "of the attempt; or a driver's own"
    services.finish(attempt.job_id, 1, Reason.COMPLETED)
    controller.hear(memory=6 * GIB, for_s=60)
    assert controller.told() == [
        "accelerator cuda:0: 6.0 GiB held by no process that the driver names, which no live attempt explains."
    ]


def test_a_heartbeat_without_a_look_changes_nothing(controller: Controller) -> None:
    controller.hear(THEIRS)
    controller.reconciler.heard({"g1": Heartbeat(node="g1", at=0)})
    assert len(controller.told()) == 1
    assert Accelerator.objects.get(node=controller.node, index=0).strangers


def test_pages_and_rest_show_who_holds_a_device_now(controller: Controller, client: Client) -> None:
    controller.hear(THEIRS)
    user = make_user()
    client.force_login(user)
    page = client.get("/nodes/g1/").content.decode()
    assert "3.1 GiB held by pid 4242 (python train.py)" in page
    assert "which no live attempt explains" in page
    shown = client.get("/api/v1/nodes/g1").json()["devices"]
    assert shown[0]["strangers"] == [{"pid": 4242, "name": "python train.py", "bytes": THEIRS.bytes, "left_by": ""}]
    assert shown[1]["strangers"] == []
    controller.hear(for_s=60)
    assert "pid 4242" not in client.get("/nodes/g1/").content.decode().split("What happened here")[0]
    assert Node.objects.count() == 1
