"""Jobs from submit to end, on a real database."""

import json
from datetime import timedelta
from typing import Any

import pytest
import redis
from django.contrib.auth.models import User
from django.utils import timezone

from portal.catalog.models import Adapter, Dataset, ModelProfile
from portal.fleet.models import Accelerator, Node
from portal.jobs import leases, loop, services
from portal.jobs.models import Allocation, Attempt, Job
from portal.jobs.scheduler import Placement
from workers.contract.errors import Refused
from workers.contract.names import START_TASK, node_queue
from workers.contract.reasons import Reason

pytestmark = pytest.mark.django_db(transaction=True)

FINETUNE: dict[str, Any] = {"kind": "finetune", "model": "tiny", "dataset": "tickets"}
ONCE: dict[str, Any] = {"max_attempts": 1}


@pytest.fixture
def user() -> User:
    return User.objects.create_user("ada")


@pytest.fixture(autouse=True)
def catalog() -> None:
    model = ModelProfile.objects.create(
        name="tiny", source="safetensors", uri="store://models/tiny", context_length=512
    )
    Dataset.objects.create(
        name="tickets", format="text_label", source="t.jsonl", train_uri="store://d/train.jsonl", sha256="0" * 64,
        train_rows=10, labels=["a", "b"],
    )  # fmt: skip
    other = ModelProfile.objects.create(name="other", source="safetensors", uri="store://models/other")
    Adapter.objects.create(name="of-other", base_model=other, uri="store://a")
    Adapter.objects.create(name="of-tiny", base_model=model, uri="store://b")


@pytest.fixture
def node() -> Node:
    made = Node.objects.create(name="n1", last_seen_at=timezone.now())
    Accelerator.objects.create(node=made, kind="cpu", index=0, name="CPU", memory_bytes=2**34)
    return made


def submit(user: User, **changes: Any) -> Job:
    return services.submit(user, {**FINETUNE, **changes})[0]


@pytest.mark.parametrize(
    ("changes", "field", "words"),
    [
        ({"model": "tini"}, "model", ["'tini'", "did you mean tiny"]),
        ({"dataset": "nothing-like-it"}, "dataset", ["no dataset named", "tickets"]),
        ({"context_length": 4096}, "context_length", ["4096", "at most 512"]),
        ({"learning_rate": -1}, "learning_rate", ["-1", "more than 0"]),
        ({"micro_batch": "many"}, "micro_batch", ['"many"', "whole number"]),
        ({"lora": {"rank": 0}}, "lora.rank", ["0", "at least 1"]),
        ({"kind": "dance"}, "kind", ["dance", "finetune"]),
        ({"adapter": "of-tiny"}, "adapter", ["already an adapter"]),
        ({"resources": {"node": "nowhere"}}, "resources.node", ["no node named"]),
        ({"objective": "dpo"}, "objective", ["rows of preference", "'tickets'", "text_label", "use objective sft"]),
        ({"spec_version": 99}, "spec_version", ["99", "version 1"]),
        ({"kind": "launch", "adapter": "of-other", "context_length": 512}, "adapter", ["was trained on other"]),
        ({"kind": "launch", "max_tokens": 256, "context_length": 256}, "max_tokens", ["256", "use at most 255"]),
    ],
)
def test_bad_specs_are_refused_in_one_sentence_at_the_field(
    user: User, changes: dict[str, Any], field: str, words: list[str]
) -> None:
    with pytest.raises(Refused) as refused:
        submit(user, **changes)
    (error,) = refused.value.errors
    assert error.field == field
    for word in words:
        assert word in error.message
    assert "\n" not in error.message
    assert not Job.objects.exists()


@pytest.mark.parametrize(("capability", "has"), [("8.6", "compute capability 8.6"), ("8.9", None), ("", "capability ")])
def test_eight_bit_floats_are_for_gpus_that_have_them(user: User, capability: str, has: str | None) -> None:
    for name, found in (("old", capability), ("new", "9.0")):
        made = Node.objects.create(name=name, last_seen_at=timezone.now(), labels={"gpu": name})
        Accelerator.objects.create(
            node=made, kind="cuda", index=0, name="RTX", memory_bytes=2**34, compute_capability=found
        )
    assert submit(user, precision="fp8", resources={"labels": {"gpu": "new"}}).spec["precision"] == "fp8"
    if has is None:
        submit(user, precision="fp8")
        return
    with pytest.raises(Refused) as refused:
        submit(user, precision="fp8")
    (error,) = refused.value.errors
    assert error.field == "precision"
    assert "8.9 or more, and RTX of node old" in error.message
    assert has in error.message


def test_a_launch_in_fp8_is_for_gpus_that_have_it(user: User) -> None:
    node = Node.objects.create(name="old", last_seen_at=timezone.now())
    card = Accelerator.objects.create(
        node=node, kind="cuda", index=0, name="RTX", memory_bytes=2**34, compute_capability="8.6"
    )
    launch = {"kind": "launch", "context_length": 512, "quantization": "fp8"}
    with pytest.raises(Refused) as refused:
        submit(user, **launch)
    (error,) = refused.value.errors
    assert error.field == "quantization"
    assert error.message.endswith("has compute capability 8.6; use int8.")
    Accelerator.objects.filter(pk=card.pk).update(compute_capability="8.9")
    assert submit(user, **launch).spec["quantization"] == "fp8"


def test_all_errors_are_told_at_once(user: User) -> None:
    with pytest.raises(Refused) as refused:
        submit(user, learning_rate=-1, micro_batch=0)
    assert {error.field for error in refused.value.errors} == {"learning_rate", "micro_batch"}


def test_an_idempotency_key_makes_one_job(user: User) -> None:
    first, new = services.submit(user, FINETUNE, idempotency_key="k")
    again, newer = services.submit(user, FINETUNE, idempotency_key="k")
    assert (new, newer, again.pk) == (True, False, first.pk)
    with pytest.raises(Refused, match="other settings"):
        services.submit(user, {**FINETUNE, "seed": 1}, idempotency_key="k")
    stranger = User.objects.create_user("eve")
    theirs, _ = services.submit(stranger, FINETUNE, idempotency_key="k")
    assert theirs.pk != first.pk


def test_the_tick_allocates_dispatches_and_tells_the_rest_why_they_wait(
    user: User, node: Node, live_redis: "redis.Redis"
) -> None:
    first, second = submit(user), submit(user)
    assert loop.tick() == 1
    first.refresh_from_db()
    second.refresh_from_db()
    assert (first.status, second.status) == ("dispatched", "queued")
    assert f"#{first.pk}" in second.waiting_for
    assert second.queue_position == 1
    (message,) = live_redis.lrange(node_queue("n1"), 0, -1)
    assert json.loads(message)["headers"]["task"] == START_TASK


def test_a_device_is_never_given_to_two_live_attempts(user: User, node: Node) -> None:
    first, second = submit(user), submit(user)
    device = node.accelerators.get().pk
    assert services.allocate(Placement(first.pk, node.pk, (device,)))
    assert not services.allocate(Placement(second.pk, node.pk, (device,)))
    second.refresh_from_db()
    assert (second.status, second.attempt_number) == ("queued", 0)
    assert Allocation.objects.filter(released_at=None).count() == 1
    assert services.finish(first.pk, 1, Reason.COMPLETED)
    assert services.allocate(Placement(second.pk, node.pk, (device,)))


def running(user: User, node: Node, **changes: Any) -> Job:
    job = submit(user, **changes)
    services.allocate(Placement(job.pk, node.pk, (node.accelerators.get().pk,)))
    services.mark_started(job.pk, 1)
    job.refresh_from_db()
    assert job.status == "running"
    return job


def test_exactly_one_end_wins(user: User, node: Node) -> None:
    job = running(user, node)
    assert services.finish(job.pk, 1, Reason.OUT_OF_MEMORY, "3 GiB too much")
    assert not services.finish(job.pk, 1, Reason.COMPLETED)
    job.refresh_from_db()
    assert (job.status, job.reason, job.detail) == ("failed", "out_of_memory", "3 GiB too much")
    assert [t.new for t in job.transitions.all()] == ["queued", "dispatched", "running", "failed"]


def test_a_stale_attempt_changes_nothing(user: User, node: Node) -> None:
    job = running(user, node)
    Job.objects.filter(pk=job.pk).update(attempt_number=2)
    services.report(job.pk, 1, phase="haunting")
    services.finish(job.pk, 1, Reason.CRASHED)
    job.refresh_from_db()
    assert (job.status, job.phase) == ("running", "")


def test_cancel_ends_a_waiting_job_at_once_and_a_running_one_through_its_node(
    user: User, node: Node, live_redis: "redis.Redis"
) -> None:
    waiting = services.cancel(submit(user), user)
    assert (waiting.status, waiting.reason) == ("cancelled", "cancelled")
    job = services.cancel(running(user, node), user)
    assert job.status == "cancelling"
    assert services.cancel(job, user).status == "cancelling"
    services.finish(job.pk, 1, Reason.KILLED)
    job.refresh_from_db()
    assert job.status == "cancelled"
    assert services.cancel(job, user).status == "cancelled"


def test_a_lost_node_ends_what_it_held(user: User, node: Node, live_redis: "redis.Redis") -> None:
    job = running(user, node, retry=ONCE)
    long_ago = timezone.now() - timedelta(seconds=3600)
    leases.expire()
    job.refresh_from_db()
    assert job.status == "running"
    Node.objects.update(last_seen_at=long_ago)
    Attempt.objects.update(dispatched_at=long_ago)
    leases.expire()
    job.refresh_from_db()
    assert (job.status, job.reason) == ("failed", "node_lost")
    assert not Allocation.objects.filter(released_at=None).exists()


def test_an_order_lost_on_the_way_is_sent_again_and_then_given_up(
    user: User, node: Node, live_redis: "redis.Redis"
) -> None:
    job = submit(user, retry=ONCE)
    loop.tick()
    live_redis.flushdb()
    Attempt.objects.update(dispatched_at=timezone.now() - timedelta(seconds=20))
    loop.sweep()
    assert live_redis.llen(node_queue("n1")) == 1
    Attempt.objects.update(dispatched_at=timezone.now() - timedelta(seconds=900))
    loop.sweep()
    job.refresh_from_db()
    assert (job.status, job.reason) == ("failed", "never_started")


def test_a_queued_job_whose_dataset_is_gone_fails_with_the_sentence(user: User, node: Node) -> None:
    job = submit(user)
    Dataset.objects.all().delete()
    loop.tick()
    job.refresh_from_db()
    assert (job.status, job.reason) == ("failed", "invalid_input")
    assert "no dataset named 'tickets'" in job.detail


def test_the_stored_order_holds_no_secret(user: User, node: Node) -> None:
    job, _ = services.submit(user, {"kind": "launch", "model": "tiny", "context_length": 512})
    services.allocate(Placement(job.pk, node.pk, (node.accelerators.get().pk,)))
    attempt = Attempt.objects.get()
    assert "serve_token" not in attempt.order
    from portal.jobs.orders import rebuild

    assert rebuild(attempt).serve_token
