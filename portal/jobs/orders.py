"""Turns jobs and their devices into Orders: every name resolved to where a node finds it. Writes nothing."""

import secrets
from collections.abc import Mapping, Sequence

from django.conf import settings

from portal.catalog.models import Adapter, Dataset, ModelProfile
from portal.fleet.models import Accelerator, Node
from portal.jobs import load_tests
from portal.jobs.checks import Known, look_up
from portal.jobs.models import Attempt, Job, Member
from portal.jobs.scheduler import Placement
from portal.jobs.teams import Part, spread
from portal.jobs.tokens import serve_token
from workers.contract.load_test import LoadTestSpec
from workers.contract.names import store_uri
from workers.contract.order import AdapterInput, DatasetInput, Device, LaunchTarget, ModelInput, Order, ResumeInput
from workers.contract.spec import JOB_SPEC, Spec


def build(claimed: Sequence[tuple[Job, Placement]]) -> list[tuple[Order, ...]]:
    """The orders of each job's next attempt, one for each of its nodes. What several of them name is read once.

    Raises Refused when something one of them names is gone.
    """
    nodes = Node.objects.in_bulk({node for _, placement in claimed for node, _ in placement.parts})
    devices = Accelerator.objects.in_bulk({device for _, placement in claimed for device in placement.all_devices})
    retried = [job.pk for job, _ in claimed if job.attempt_number]
    resumes, earlier = _newest_checkpoints(retried), _tokens(retried)
    known = Known()
    return [
        spread(_order(job, parts[0], resumes, known, earlier.get(job.pk, [])), parts)
        for job, parts in ((job, _parts(placement, nodes, devices)) for job, placement in claimed)
    ]


def _parts(placement: Placement, nodes: Mapping[int, Node], known: Mapping[int, Accelerator]) -> list[Part]:
    return [(nodes[node], _devices(placement, devices, known)) for node, devices in placement.parts]


def _devices(placement: Placement, devices: Sequence[int], known: Mapping[int, Accelerator]) -> tuple[Device, ...]:
    found = [known[device] for device in devices]
    return tuple(
        Device.model_validate(
            {
                "kind": device.kind,
                "index": device.index,
                "name": device.name,
                "reserved_bytes": placement.reserved_bytes,
            }
        )
        for device in sorted(found, key=lambda device: (device.kind, device.index))
    )


def _order(job: Job, part: Part, resumes: Mapping[int, ResumeInput], known: Known, earlier: Sequence[str]) -> Order:
    """As for one node alone. `earlier`: the tokens of the attempts before."""
    (node, devices), number = part, job.attempt_number + 1
    spec = JOB_SPEC.validate_python(job.spec)
    # A retry finds what its own earlier attempt made, which is no reason to refuse it.
    makes = {"finetune": "adapter", "export": "result", "quantize": "result"}.get(spec.kind) if number > 1 else None
    named = look_up(spec.model_copy(update={makes: None}) if makes else spec, known)
    target = load_tests.target(spec) if isinstance(spec, LoadTestSpec) else None
    token = secrets.token_hex(8)
    return Order(
        job=job.pk,
        attempt=number,
        token=token,
        node=node.name,
        spec=spec,
        model=_model(named.model) if named.model else None,
        dataset=_dataset(named.dataset) if named.dataset else None,
        adapter=_adapter(named.adapter) if named.adapter else None,
        devices=devices,
        result_uri=store_uri("jobs", f"{job.pk}-{number}-{token}"),
        resume=resumes.get(job.pk),
        earlier=tuple(earlier),
        lease_s=settings.LIFTOFF_NODE_LOST_S,
        target=target,
        serve_token=_secret(spec, job.pk, number, target),
    )


def _secret(spec: Spec, job: int, attempt: int, target: LaunchTarget | None) -> str | None:
    """The token of the engine that the attempt is, or asks. Orders are stored without it."""
    if target is not None:
        return serve_token(target.job, target.attempt)
    return serve_token(job, attempt) if spec.kind == "launch" else None


def rebuild(stored: Attempt | Member) -> Order:
    """The stored order of an attempt, or of one of its nodes, with its secret derived again."""
    order = Order.model_validate(stored.order)
    secret = _secret(order.spec, order.job, order.attempt, order.target)
    return order.model_copy(update={"serve_token": secret}) if secret else order


def _newest_checkpoints(jobs: Sequence[int]) -> dict[int, ResumeInput]:
    """Of each job the furthest that any earlier attempt came; of equals, the later attempt's."""
    found: dict[int, ResumeInput] = {}
    rows = Attempt.objects.filter(job__in=jobs, checkpoint__isnull=False).order_by("job", "number")
    for job, checkpoint in rows.values_list("job_id", "checkpoint") if jobs else ():
        one = ResumeInput.model_validate(checkpoint)
        if job not in found or one.step >= found[job].step:
            found[job] = one
    return found


def _tokens(jobs: Sequence[int]) -> dict[int, list[str]]:
    """Of each job the tokens of its attempts so far."""
    found: dict[int, list[str]] = {}
    rows = Attempt.objects.filter(job__in=jobs).exclude(token="").order_by("job", "number")
    for job, token in rows.values_list("job_id", "token") if jobs else ():
        found.setdefault(job, []).append(token)
    return found


def _model(model: ModelProfile) -> ModelInput:
    return ModelInput.model_validate(
        {
            "name": model.name,
            "uri": model.uri,
            "revision": model.revision or None,
            "format": model.source,
            "sha256": model.sha256 or None,
            "trust_remote_code": model.remote_code_approved,
        }
    )


def _dataset(dataset: Dataset) -> DatasetInput:
    return DatasetInput.model_validate(
        {
            "name": dataset.name,
            "format": dataset.format,
            "train_uri": dataset.train_uri,
            "test_uri": dataset.test_uri or None,
            "sha256": dataset.sha256,
            "labels": tuple(dataset.labels),
        }
    )


def _adapter(adapter: Adapter) -> AdapterInput:
    return AdapterInput(name=adapter.name, uri=adapter.uri, sha256=adapter.sha256 or None)
