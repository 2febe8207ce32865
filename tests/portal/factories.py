"""Records for tests: each `make_…` gives a valid one, with any column set by keyword."""

from functools import cache
from itertools import count
from typing import Any

from django.contrib.auth.hashers import make_password
from django.contrib.auth.models import User
from django.utils import timezone

from portal.catalog.models import Adapter, Dataset, ModelProfile
from portal.fleet.models import Accelerator, Link, Node
from portal.jobs.models import Allocation, Attempt, Job, Transition
from workers.contract.spec import JOB_SPEC

GIB = 2**30
PASSWORD = "correct horse battery"
_numbers = count(1)


@cache
def _hash() -> str:
    """Hashing is slow on purpose: once is enough."""
    return make_password(PASSWORD)


def _name(what: str) -> str:
    return f"{what}-{next(_numbers)}"


def make_user(username: str = "", *, staff: bool = False, **columns: Any) -> User:
    """A user with PASSWORD; `staff` makes an administrator."""
    user = User(username=username or _name("user"), is_staff=staff, is_superuser=staff, **columns)
    user.password = _hash()
    user.save()
    return user


def make_model(name: str = "", **columns: Any) -> ModelProfile:
    """A small Llama with a context of 2,048 tokens."""
    name = name or _name("model")
    defaults: dict[str, Any] = {
        "source": "safetensors",
        "uri": f"store://models/{name}",
        "architecture": "LlamaForCausalLM",
        "layers": 2,
        "hidden_size": 64,
        "context_length": 2048,
        "parameters": 1_000_000,
        "disk_bytes": 2_000_000,
        "dtype": "float32",
        "licence": "apache-2.0",
    }
    return ModelProfile.objects.create(name=name, **{**defaults, **columns})


def make_dataset(name: str = "", **columns: Any) -> Dataset:
    """A classification dataset of 8 + 2 rows."""
    name = name or _name("dataset")
    defaults: dict[str, Any] = {
        "format": "text_label",
        "source": f"{name}.jsonl",
        "train_uri": f"store://datasets/{name}/train.jsonl",
        "test_uri": f"store://datasets/{name}/test.jsonl",
        "sha256": "0" * 64,
        "train_rows": 8,
        "test_rows": 2,
        "labels": ["billing", "login"],
        "preview": [
            {"text": "I can't sign in", "label": "login"},
            {"text": "The invoice is wrong", "label": "billing"},
        ],
    }
    return Dataset.objects.create(name=name, **{**defaults, **columns})


def make_adapter(name: str = "", *, base_model: ModelProfile | None = None, **columns: Any) -> Adapter:
    """An adapter of `base_model`."""
    name = name or _name("adapter")
    defaults: dict[str, Any] = {"uri": f"store://jobs/{name}/adapter", "disk_bytes": 1000, "sha256": "1" * 64}
    return Adapter.objects.create(name=name, base_model=base_model or make_model(), **{**defaults, **columns})


def make_node(name: str = "", *, devices: int = 1, kind: str = "cpu", online: bool = True, **columns: Any) -> Node:
    """A node with `devices` accelerators of 16 GiB each, linked pairwise, that reported just now if `online`."""
    defaults: dict[str, Any] = {
        "cores": 8,
        "ram_bytes": 32 * GIB,
        "disk_free_bytes": 100 * GIB,
        "versions": {"torch": "2.13.0"},
        "last_seen_at": timezone.now() if online else None,
    }
    node = Node.objects.create(name=name or _name("node"), **{**defaults, **columns})
    for index in range(devices):
        Accelerator.objects.create(node=node, kind=kind, index=index, name=f"Device {index}", memory_bytes=16 * GIB)
        if index:
            Link.objects.create(node=node, a=index - 1, b=index, kind="pcie", detail="PHB")
    return node


def make_job(
    owner: User | None = None, *, kind: str = "finetune", spec: dict[str, Any] | None = None, **columns: Any
) -> Job:
    """A queued job with a valid spec (what it names exists), and its first transition.

    `spec` sets values of the spec.
    """
    values: dict[str, Any] = {"kind": kind, **(spec or {})}
    if "model" not in values:
        values["model"] = make_model().name
    if kind == "finetune" and "dataset" not in values:
        values["dataset"] = make_dataset().name
    stored = JOB_SPEC.validate_python(values).model_dump(mode="json")
    defaults: dict[str, Any] = {"name": _name(f"{kind} job"), "kind": kind, "spec": stored}
    job = Job.objects.create(owner=owner or make_user(), **{**defaults, **columns})
    Transition.objects.create(job=job, new="queued", note="Submitted.")
    return job


def make_attempt(job: Job, *, node: Node | None = None, status: str = "running", **columns: Any) -> Attempt:
    """The job's next attempt, on every device of `node`; the job gets `status`."""
    node = node or make_node()
    job.attempt_number += 1
    job.status, job.started_at = status, timezone.now()
    job.save()
    attempt = Attempt.objects.create(
        job=job, number=job.attempt_number, node=node, **{"order": {}, "started_at": timezone.now(), **columns}
    )
    if status in ("dispatched", "running", "cancelling"):
        for accelerator in node.accelerators.all():
            Allocation.objects.create(attempt=attempt, accelerator=accelerator)
    Transition.objects.create(job=job, attempt_number=attempt.number, old="queued", new=status)
    return attempt
