"""Which launch a load test asks, and why it can't ask one. Writes nothing.

Where a launch answers is recorded by the serving app, and read here through its attempt. Knows nothing of what is
measured.
"""

from collections.abc import Iterable
from datetime import datetime

from django.db.models import F

from portal.catalog.models import Dataset
from portal.jobs.lifecycle import LIVE, Status
from portal.jobs.models import Attempt, Job
from workers.contract.errors import FieldError
from workers.contract.launch import LaunchSpec
from workers.contract.load_test import LoadTestSpec
from workers.contract.order import LaunchTarget

KIND = "load_test"


def running(launch: int | None = None) -> list[Attempt]:
    """The attempts of launches that answer now, the newest launch's first; with `launch` of that one alone."""
    rows = Attempt.objects.select_related("job", "node", "endpoint").filter(
        job__kind="launch",
        job__status=Status.RUNNING,
        number=F("job__attempt_number"),
        preempt_asked_at=None,
        endpoint__isnull=False,
    )
    return list((rows if launch is None else rows.filter(job=launch)).order_by("-job"))


def under_way(launch: int) -> Job | None:
    """The load test of that launch which has not ended, if there is one."""
    return Job.objects.filter(kind=KIND, status__in=LIVE, spec__launch=launch).first()


def latest_end(launches: Iterable[int], now: datetime) -> datetime | None:
    """When the last load test of any of them ended: `now` where one has not; None where there was none."""
    ended = [one.finished_at or now for one in Job.objects.filter(kind=KIND, spec__launch__in=list(launches))]
    return max(ended, default=None)


def settled(spec: LoadTestSpec) -> LoadTestSpec:
    """The same with the node that it runs on: the one that was named, else the launch's, which reaches it for sure."""
    if spec.resources.node:
        return spec
    node = (
        Attempt.objects.filter(job=spec.launch, number=F("job__attempt_number"))
        .values_list("node__name", flat=True)
        .first()
    )
    return spec.model_copy(update={"resources": spec.resources.model_copy(update={"node": node})}) if node else spec


def target(spec: LoadTestSpec) -> LaunchTarget | None:
    """Whom it asks; None where the launch doesn't answer."""
    for attempt in running(spec.launch):
        where = attempt.endpoint
        return LaunchTarget(job=attempt.job_id, attempt=attempt.number, url=where.url, model=where.model_name)
    return None


def refusals(spec: LoadTestSpec, dataset: Dataset | None) -> list[FieldError]:
    """Why it can't be carried out now."""
    found: list[FieldError] = []

    def refuse(path: str, value: object, sentence: str) -> None:
        found.append(FieldError(path, value, f"{path}: {sentence}"))

    attempt = next(iter(running(spec.launch)), None)
    if attempt is None:
        refuse("launch", spec.launch, _not_running(spec.launch))
        return found
    launch = LaunchSpec.model_validate(attempt.job.spec)
    most = launch.max_concurrency + launch.queue
    if spec.concurrency > most:
        refuse(
            "concurrency",
            spec.concurrency,
            f"launch #{spec.launch} takes {most} requests at a time, {launch.max_concurrency} that it answers and "
            f"{launch.queue} that wait, and refuses more; use at most {most}.",
        )
    if spec.max_tokens >= launch.context_length:
        refuse(
            "max_tokens",
            spec.max_tokens,
            f"{spec.max_tokens} leave no room for a prompt in the launch's context of {launch.context_length} tokens; "
            f"use at most {launch.context_length - 1}.",
        )
    if dataset is not None and dataset.shard_count:
        refuse(
            "dataset",
            dataset.name,
            f"{dataset.name!r} lies in shards, which a load test doesn't read; name a dataset of one file, or prompts.",
        )
    return found


def _not_running(number: int) -> str:
    job = Job.objects.filter(pk=number).first()
    if job is None:
        said = f"there is no job #{number}"
    elif job.kind != "launch":
        said = f"job #{number} is a {job.kind}, not a launch"
    elif job.status == Status.RUNNING:
        said = f"launch #{number} does not answer yet"
    else:
        said = f"launch #{number} is {job.status}, not running"
    now = [f"#{attempt.job_id}" for attempt in running()[:3]]
    return f"{said}; " + (f"running now: {', '.join(now)}." if now else "no launch is running, start one first.")
