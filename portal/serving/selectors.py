"""Reads which launched models answer now, which could, and how fast they were found to.

Writes nothing; calls nobody.
"""

from django.db.models import F, Max, Q, QuerySet

from portal.jobs.lifecycle import LIVE, Status
from portal.jobs.models import Job
from portal.serving.models import Endpoint, LoadTest
from workers.contract.reasons import Reason

JOB_PREFIX = "job-"
STARTS = LIVE - {Status.CANCELLING}
"""A launch with one of these that doesn't answer will."""


def live_endpoints() -> QuerySet[Endpoint]:
    """Endpoints of running jobs' current attempts that aren't told to go, the newest job's first, with job, owner and
    node."""
    return (
        Endpoint.objects.select_related("attempt__job__owner", "attempt__node")
        .defer("attempt__order", "attempt__predicted", "attempt__ahead", "attempt__checkpoint")
        .filter(
            attempt__job__status=Status.RUNNING,
            attempt__number=F("attempt__job__attempt_number"),
            attempt__preempt_asked_at=None,
        )
        .order_by("-attempt__job_id", "-pk")
    )


NEEDED = (
    "url", "model_name", "ready_at", "asked_at", "attempt__number", "attempt__job__spec", "attempt__job__replica_of",
)  # fmt: skip
"""All that passing a request on needs."""


def serving(model: str) -> list[Endpoint]:
    """The live endpoints that may answer for `model`: those of the newest launch of a model or adapter of that name
    with all its replicas, or of launch 'job-<id>'."""
    live = live_endpoints().select_related(None).select_related("attempt__job").only(*NEEDED)
    named = list(live.filter(model_name=model))
    if named:
        return [endpoint for endpoint in named if endpoint.launch == named[0].launch]
    number = _number(model)
    return list(live.filter(_of_launch(number))) if number else []


def launch_behind(model: str) -> Job | None:
    """The launch that answered for `model` last, if a request may wait for it: it starts anew, or it was stopped for
    being idle and can be woken. It is the first of its replicas."""
    number = _number(model)
    known = Endpoint.objects.select_related("attempt__job__replica_of").order_by("-attempt__job_id", "-pk")
    last = known.filter(model_name=model).first() or (known.filter(_of_launch(number)).first() if number else None)
    if last is None:
        return None
    job = last.attempt.job
    first = job.replica_of or job
    if job.status in STARTS:
        return first if first.status in STARTS else job
    return first if job.reason == Reason.IDLE else None


def asleep() -> list[Endpoint]:
    """One endpoint of each name that was stopped for being idle: a request starts it again."""
    newest = Endpoint.objects.order_by().values("model_name").annotate(job=Max("attempt__job")).values("job")
    stopped = Endpoint.objects.filter(attempt__job__in=newest, attempt__job__reason=Reason.IDLE)
    rows = stopped.select_related("attempt__job__owner").order_by("-pk")
    return list({endpoint.model_name: endpoint for endpoint in rows}.values())


def live_endpoint(job: Job) -> Endpoint | None:
    """Where this very launch answers; None while it doesn't."""
    return live_endpoints().filter(attempt__job=job).first()


def request_name(endpoint: Endpoint) -> str:
    """What to put into a request's `model`: the model's name, or 'job-<id>' where a newer launch has that name."""
    return endpoint.model_name if endpoint in serving(endpoint.model_name) else f"{JOB_PREFIX}{endpoint.launch}"


def load_tests(*, launch: int | None = None, model: str = "") -> QuerySet[LoadTest]:
    """Load tests, newest first: of one launch with its replicas, of a base model or of what is served by that name, or
    of all."""
    rows = LoadTest.objects.select_related("attempt__job", "launch")
    if launch is not None:
        rows = rows.filter(Q(launch=launch) | Q(launch__replica_of=launch))
    return rows.filter(Q(model=model) | Q(served_as=model)) if model else rows


def _of_launch(number: int) -> Q:
    return Q(attempt__job=number) | Q(attempt__job__replica_of=number)


def _number(model: str) -> int | None:
    """Of 'job-<id>'; None for another name."""
    number = model.removeprefix(JOB_PREFIX)
    return int(number) if number != model and number.isdecimal() and len(number) <= 18 else None
