"""Turns a job and its devices into an Order: every name resolved to where a node finds it. Writes nothing."""

import secrets

from django.conf import settings

from portal.catalog.models import Adapter, Dataset, ModelProfile
from portal.fleet.models import Accelerator, Node
from portal.jobs.checks import look_up
from portal.jobs.models import Attempt, Job
from portal.jobs.tokens import serve_token
from workers.contract.names import store_uri
from workers.contract.spec import (
    JOB_SPEC,
    AdapterInput,
    DatasetInput,
    Device,
    FinetuneSpec,
    ModelInput,
    Order,
    ResumeInput,
)


def build(job: Job, number: int, node_id: int, device_ids: tuple[int, ...]) -> Order:
    """The order for attempt `number`. Raises Refused when something the job names is gone."""
    spec = JOB_SPEC.validate_python(job.spec)
    # A retry finds the adapter its own earlier attempt made, which is no reason to refuse it.
    retried = isinstance(spec, FinetuneSpec) and number > 1
    named = look_up(spec.model_copy(update={"adapter": None}) if retried else spec)
    devices = Accelerator.objects.filter(pk__in=device_ids).order_by("kind", "index")
    token = secrets.token_hex(8)
    return Order(
        job=job.pk,
        attempt=number,
        token=token,
        node=Node.objects.get(pk=node_id).name,
        spec=spec,
        model=_model(named.model) if named.model else None,
        dataset=_dataset(named.dataset) if named.dataset else None,
        adapter=_adapter(named.adapter) if named.adapter else None,
        devices=tuple(Device.model_validate({"kind": d.kind, "index": d.index, "name": d.name}) for d in devices),
        result_uri=store_uri("jobs", f"{job.pk}-{number}-{token}"),
        resume=_newest_checkpoint(job),
        lease_s=settings.LIFTOFF_NODE_LOST_S,
        serve_token=serve_token(job.pk, number) if spec.kind == "launch" else None,
    )


def rebuild(attempt: Attempt) -> Order:
    """The stored order of an attempt, with its secret derived again."""
    order = Order.model_validate(attempt.order)
    if order.spec.kind != "launch":
        return order
    return order.model_copy(update={"serve_token": serve_token(order.job, order.attempt)})


def _newest_checkpoint(job: Job) -> ResumeInput | None:
    """The furthest that any earlier attempt came; of equals, the later attempt's."""
    known = job.attempts.filter(checkpoint__isnull=False).order_by("number").values_list("checkpoint", flat=True)
    checkpoints = [ResumeInput.model_validate(checkpoint) for checkpoint in known]
    return max(reversed(checkpoints), key=lambda checkpoint: checkpoint.step, default=None)


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
