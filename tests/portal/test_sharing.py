"""Several jobs on one device by planned memory: who may, who never does, and that a device is never given out twice."""

import threading
from collections.abc import Sequence
from typing import Any

import pytest
from django.core.exceptions import ImproperlyConfigured
from django.db import connection, connections
from django.test import Client
from django.utils import timezone
from pytest_django.fixtures import Settings

from portal import environment
from portal.fleet.models import Accelerator
from portal.jobs import loop, services
from portal.jobs.holdings import holdings
from portal.jobs.models import Allocation, Attempt, Job
from portal.jobs.scheduler import Placement, Policy
from portal.jobs.usage import Usage
from tests.portal.api_client import API
from tests.portal.factories import GIB, make_dataset, make_job, make_model, make_node, make_user
from workers.contract.reasons import Reason

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.usefixtures("live_redis")]

CONFIG = {
    "model_type": "llama", "hidden_size": 512, "intermediate_size": 1536, "num_hidden_layers": 4,
    "num_attention_heads": 8, "num_key_value_heads": 4, "vocab_size": 4096, "max_position_embeddings": 2048,
    "tie_word_embeddings": True,
}  # fmt: skip


@pytest.fixture
def packs(settings: Settings) -> None:
    settings.LIFTOFF_SCHEDULING = Policy(packs=frozenset({"launch"}))


@pytest.fixture
def device() -> Accelerator:
    """The only one: a CPU of 16 GiB."""
    return make_node("n1").accelerators.get()


@pytest.fixture
def model() -> str:
    return make_model("small", config=CONFIG).name


def launch(model: str, **spec: Any) -> Job:
    return make_job(kind="launch", spec={"model": model, **spec})


def statuses(*jobs: Job) -> list[str]:
    return [Job.objects.get(pk=job.pk).status for job in jobs]


def test_unless_the_policy_says_so_each_job_has_its_device_alone(model: str, device: Accelerator) -> None:
    first, second = launch(model), launch(model)
    loop.tick()
    assert statuses(first, second) == ["dispatched", "queued"]
    assert Allocation.objects.get().reserved_bytes is None


@pytest.mark.usefixtures("packs")
def test_small_launches_share_a_device_by_what_they_are_planned_to_take(model: str, device: Accelerator) -> None:
    jobs = [launch(model) for _ in range(3)]
    rounds = loop.Rounds()
    rounds.tick()
    assert statuses(*jobs) == ["dispatched"] * 3
    reserved = list(device.allocations.values_list("reserved_bytes", flat=True))
    assert min(reserved) > 3 * 2**20
    assert sum(reserved) < 16 * GIB
    orders = [attempt.order["devices"][0] for attempt in Attempt.objects.all()]
    assert [(one["index"], one["reserved_bytes"]) for one in orders] == [(0, size) for size in reserved]
    late = launch(model)
    rounds.tick()
    assert statuses(late) == ["dispatched"], "also beside those that run"


@pytest.mark.usefixtures("packs")
def test_training_never_shares_and_nobody_joins_it(model: str, device: Accelerator) -> None:
    tune = make_job(spec={"model": model, "dataset": make_dataset().name, "priority": 50})
    served = launch(model)
    loop.tick()
    assert statuses(tune, served) == ["dispatched", "queued"]
    services.finish(tune.pk, 1, Reason.COMPLETED)
    another = make_job(spec={"model": model, "dataset": make_dataset().name})
    loop.tick()
    loop.tick()
    assert statuses(served, another) == ["dispatched", "queued"]


@pytest.mark.usefixtures("packs")
def test_a_job_that_has_no_room_or_no_plan_says_what_it_waits_for(model: str, device: Accelerator) -> None:
    Accelerator.objects.update(memory_bytes=100 * 2**20)
    riddle = make_model("riddle").name  # too little is known of it to plan it
    jobs = [launch(model), launch(riddle)]
    loop.tick()
    assert statuses(*jobs) == ["dispatched", "queued"]
    assert "shared" not in Job.objects.get(pk=jobs[1].pk).waiting_for
    Accelerator.objects.update(memory_bytes=16 * GIB)
    large = launch(model, context_length=2048, quantization="int8")
    loop.tick()
    assert statuses(large)[0] == "queued"
    assert "of one that may be shared" in Job.objects.get(pk=large.pk).waiting_for


@pytest.mark.usefixtures("packs")
def test_pages_and_rest_show_who_shares_a_device(model: str, device: Accelerator, client: Client) -> None:
    first, second = launch(model), launch(model)
    loop.tick()
    client.force_login(make_user())
    page = client.get("/nodes/n1/").content.decode()
    assert "shares it" in page
    assert f"#{first.pk} {first.name}" in page
    assert f"#{second.pk} {second.name}" in page
    assert "0 of 1 free" in page
    assert "shared by" in client.get("/nodes/").content.decode()
    assert "shared by" in client.get("/").content.decode()
    assert f"shared with #{second.pk}" in client.get(f"/jobs/{first.pk}/").content.decode()
    shown = client.get(f"{API}/nodes/n1").json()["devices"][0]
    reserved = [allocation.reserved_bytes for allocation in Allocation.objects.order_by("pk")]
    assert shown["held_by"] == first.pk
    assert shown["holders"] == [
        {"job": first.pk, "reserved_bytes": reserved[0]},
        {"job": second.pk, "reserved_bytes": reserved[1]},
    ]
    services.finish(second.pk, 1, Reason.COMPLETED)
    assert "shared with nobody now" in client.get(f"/jobs/{first.pk}/").content.decode()


def place(job: Job, device: Accelerator, gib: float | None = None) -> bool:
    reserved = None if gib is None else int(gib * GIB)
    return services.allocate(Placement(job.pk, device.node_id, (device.pk,), reserved_bytes=reserved))


def queued(count: int) -> list[Job]:
    spec = {"model": make_model().name}
    owner = make_user()
    return [make_job(owner, kind="launch", spec=spec) for _ in range(count)]


def test_a_claim_never_gives_out_more_than_there_is(device: Accelerator) -> None:
    a, b, c, d = queued(4)
    assert place(a, device, 8)
    assert not place(b, device), "one that wants it alone"
    assert place(b, device, 8)
    assert not place(c, device, 0.1), "16 GiB are given out"
    services.finish(a.pk, 1, Reason.COMPLETED)
    assert place(c, device, 7)
    services.finish(b.pk, 1, Reason.COMPLETED)
    services.finish(c.pk, 1, Reason.COMPLETED)
    assert not place(d, device, 17), "more than it has"
    assert place(d, device)
    assert not place(Job.objects.get(pk=queued(1)[0].pk), device, 0.1), "nobody joins one that has it alone"


def test_in_one_round_as_well(device: Accelerator) -> None:
    jobs = queued(5)
    placements = [Placement(job.pk, device.node_id, (device.pk,), reserved_bytes=6 * GIB) for job in jobs]
    assert services.allocate_all(placements) == 2
    assert statuses(*jobs) == ["dispatched", "dispatched", "queued", "queued", "queued"]


def test_who_shares_a_device_uses_a_part_of_it(device: Accelerator) -> None:
    (job,) = queued(1)
    place(job, device, 4)
    now = timezone.now()
    usage = Usage()
    usage.step(holdings(now), now, 7 * 86_400)
    later = now + timezone.timedelta(seconds=1000)
    (used,) = usage.step(holdings(later), later, 7 * 86_400).values()
    assert used == pytest.approx(1000 * 4 / 16, rel=0.01)


@pytest.mark.skipif(connection.vendor != "postgresql", reason="SQLite has one writer at a time, by its own lock")
@pytest.mark.parametrize("sizes", [[3.0] * 12, [None, 5.0, None, 5.0, 9.0, None, 2.0, 2.0, None, 9.0]])
def test_claims_at_the_same_moment_never_give_out_more_than_there_is(
    sizes: Sequence[float | None], device: Accelerator
) -> None:
    for _ in range(5):
        jobs = queued(len(sizes))
        together = threading.Barrier(len(jobs))
        got: list[float | None] = []

        def claim(job: Job, size: float | None, together: threading.Barrier = together, got: Any = got) -> None:
            try:
                together.wait(30)
                if place(job, device, size):
                    got.append(size)
            finally:
                connections.close_all()

        threads = [threading.Thread(target=claim, args=one) for one in zip(jobs, sizes, strict=True)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
        held = list(Allocation.objects.filter(released_at=None).values_list("reserved_bytes", flat=True))
        assert held
        assert len(held) == len(got)
        assert len(held) == 1 or None not in held
        assert sum(part or 0 for part in held) <= device.memory_bytes
        if None not in sizes:
            assert sum(got) == 15.0, "and all that fit are let in"
        for attempt in Attempt.objects.filter(finished_at=None):
            services.finish(attempt.job_id, attempt.number, Reason.COMPLETED)


class TestSettings:
    @staticmethod
    def read(monkeypatch: pytest.MonkeyPatch, text: str) -> Policy:
        monkeypatch.setenv("LIFTOFF_SCHEDULING", text)
        return environment.scheduling("LIFTOFF_SCHEDULING")

    def test_a_policy_names_the_kinds_that_share(self, monkeypatch: pytest.MonkeyPatch) -> None:
        assert self.read(monkeypatch, "{}").packs == frozenset()
        policy = self.read(monkeypatch, '{"packs": ["launch", "finetune"], "pack_jobs": 2, "pack_share": 0.8}')
        assert (policy.packs, policy.pack_jobs, policy.pack_share) == ({"launch", "finetune"}, 2, 0.8)

    @pytest.mark.parametrize("text", ['{"packs": ["preflight"]}', '{"packs": "launch"}', '{"pack_jobs": 99}'])
    def test_what_cannot_share_is_refused(self, text: str, monkeypatch: pytest.MonkeyPatch) -> None:
        with pytest.raises(ImproperlyConfigured, match="can't share a device"):
            self.read(monkeypatch, text)
