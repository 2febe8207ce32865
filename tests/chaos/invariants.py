"""What must hold after a round, each as a list of sentences that say where it doesn't; all empty when all holds.

Reads the database, the spools, the store and the witness folder. Changes nothing.
"""

import itertools
import json
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path

import redis
from django.db import connection
from django.db.models import F

from portal.catalog.models import Adapter
from portal.jobs.lifecycle import FINAL, MOVES, Status, final_status
from portal.jobs.models import Allocation, Attempt, Job
from portal.telemetry.models import AttemptEvent, MetricPoint
from tests.chaos import course
from tests.chaos.faults import Injected
from tests.chaos.rounds import Round
from tests.chaos.schedule import Kind
from tests.chaos.stack import NODES, Stack
from tests.chaos.work import Work
from workers.contract.events import Envelope, Finished, Metric
from workers.contract.names import EPOCH_FIELD, INGEST_GROUP, LEASES, SPOOL_FILE, job_stream
from workers.contract.reasons import Reason

LATE_S = 20.0
"""What is still on its way when the last job ends must have arrived within this."""

WRITE_S = 1.0
"""A write that had begun when the lease lapsed may take this long."""

_WORKER_FAULTS = frozenset({Kind.KILL_WORKER, Kind.STOP_WORKER, Kind.PAUSE_WORKER})
CAUSES = {
    Reason.NODE_LOST: _WORKER_FAULTS,
    Reason.WORKER_STOPPED: _WORKER_FAULTS,
    Reason.NEVER_STARTED: _WORKER_FAULTS | {Kind.FILL_DISK},
    Reason.KILLED: frozenset({Kind.KILL_CHILD}),
    Reason.CRASHED: frozenset({Kind.FILL_DISK}),
    Reason.DISK_FULL: frozenset({Kind.FILL_DISK}),
}
"""Ends of an attempt that only a fault explains, and which faults explain them."""


def violations(stack: Stack, played: Round) -> dict[str, list[str]]:
    """Invariant → where it is broken; only broken ones are in it."""
    connection.close()  # the one of before may have been cut
    checks: dict[str, Callable[[], list[str]]] = {
        "nothing waits for ever": lambda: played.stuck,
        "every end is explained": lambda: list(_unexplained(played)),
        "states change by the table": lambda: list(_illegal_moves(played)),
        "one live attempt a device": _double_allocations,
        "one live child a device": lambda: list(_double_children(stack, played)),
        "nothing is written without the lease": lambda: list(_late_writes(stack, played)),
        "every metric is stored once": lambda: _in_time(lambda: list(_lost_metrics(stack, played))),
        "losses are those of an undisturbed run": lambda: list(_wrong_losses(played)),
        "no process is left": lambda: _in_time(lambda: _left_processes(stack)),
        "no lease or message is left": lambda: _in_time(lambda: list(_left_messages(stack, played))),
    }
    found = {name: check() for name, check in checks.items()}
    return {name: broken for name, broken in found.items() if broken}


def caused(attempt: Attempt, kinds: frozenset[Kind], injected: list[Injected]) -> list[Injected]:
    """The faults of these kinds that can have ended the attempt, in order of time."""
    began = attempt.dispatched_at.timestamp() - 1
    ended = attempt.finished_at.timestamp() if attempt.finished_at else time.time()
    run = f"{attempt.job_id}-{attempt.number}-"
    return [
        fault
        for fault in injected
        if fault.kind in kinds
        and not fault.skipped
        and fault.at <= ended
        and fault.until + 2 >= began
        and (fault.target == attempt.node.name or any(name.startswith(run) for name in fault.struck))
    ]


def attempts_of(played: Round) -> list[Attempt]:
    """All attempts of the round, by job and number."""
    rows = Attempt.objects.filter(job__in=played.ids.values()).select_related("job", "node")
    return list(rows.order_by("job_id", "number"))


def _in_time(check: Callable[[], list[str]]) -> list[str]:
    """The check's last word; it may come right within LATE_S."""
    deadline = time.monotonic() + LATE_S
    while (found := check()) and time.monotonic() < deadline:
        time.sleep(0.3)
    return found


def _work(played: Round) -> dict[int, Work]:
    works = {work.key: work for work in played.work}
    return {job: works[key] for key, job in played.ids.items()}


def _unexplained(played: Round) -> Iterator[str]:
    attempts = defaultdict(list)
    for attempt in attempts_of(played):
        attempts[attempt.job_id].append(attempt)
    for job in Job.objects.filter(pk__in=played.ids.values()):
        work = _work(played)[job.pk]
        name = f"#{job.pk} {job.name}"
        if Status(job.status) not in FINAL:
            continue  # said elsewhere
        reason = Reason(job.reason)
        hurt = any(caused(attempt, CAUSES.get(reason, frozenset()), played.injected) for attempt in attempts[job.pk])
        if final_status(reason.outcome) != job.status:
            yield f"{name} is {job.status}, but {reason} gives {final_status(reason.outcome)}"
        if reason not in work.ends and not (reason in work.hurt_ends and hurt):
            yield f"{name} ended as {reason} ({job.detail}), which no fault explains"
        if [attempt.number for attempt in attempts[job.pk]] != list(range(1, job.attempt_number + 1)):
            yield f"{name} has attempts {[attempt.number for attempt in attempts[job.pk]]} of {job.attempt_number}"
        for attempt in attempts[job.pk]:
            if attempt.finished_at is None:
                yield f"{name} attempt {attempt.number} has no end"
                continue
            reason = Reason(attempt.reason)
            own = reason in work.ends or (job.name.startswith("crash-once") and attempt.number == 1)
            never_ran = attempt.started_at is None and job.reason == Reason.CANCELLED  # stopped before its order came
            if not own and not never_ran and reason is not Reason.CANCELLED:
                kinds = CAUSES.get(reason, frozenset())
                if not caused(attempt, kinds, played.injected):
                    yield f"{attempt} on {attempt.node.name} ended as {reason} ({attempt.detail}) without a cause"


def _illegal_moves(played: Round) -> Iterator[str]:
    for job in Job.objects.filter(pk__in=played.ids.values()).prefetch_related("transitions"):
        status = ""
        for change in job.transitions.all():
            if change.old == change.new and change.old == status:
                continue  # a remark
            legal = not status if change.new == Status.QUEUED and not change.old else change.old == status
            if not legal or (change.old and Status(change.new) not in MOVES[Status(change.old)]):
                yield f"#{job.pk} {job.name} went from {status!r} to {change.new!r} (said {change.old!r})"
            status = change.new
        if status != job.status:
            yield f"#{job.pk} {job.name} is {job.status}, its timeline ends at {status}"


def _double_allocations() -> list[str]:
    held: dict[int, list[tuple[float, float, str]]] = defaultdict(list)
    for allocation in Allocation.objects.select_related("attempt", "accelerator__node"):
        until = allocation.released_at.timestamp() if allocation.released_at else float("inf")
        since = allocation.attempt.dispatched_at.timestamp()
        held[allocation.accelerator_id].append((since, until, str(allocation)))
    released = Allocation.objects.filter(released_at=None, attempt__finished_at__isnull=False)
    return [overlap for spans in held.values() for overlap in _overlaps(spans)] + [
        f"{allocation} is held by an attempt that has ended" for allocation in released
    ]


def _double_children(stack: Stack, played: Round) -> Iterator[str]:
    jobs = {str(job) for job in played.ids.values()}
    held: dict[str, list[tuple[float, float, str]]] = defaultdict(list)
    for path in stack.witness.iterdir():
        node, device, run = path.name.split(".")
        if run.split("-")[0] not in jobs:
            continue  # an earlier round's
        times = [float(line.split()[1]) for line in path.read_text().splitlines()]
        held[f"{node}.{device}"].append((times[0], times[-1], f"{run} on {node} device {device}"))
    for spans in held.values():
        yield from _overlaps(spans)


def _overlaps(spans: list[tuple[float, float, str]]) -> Iterator[str]:
    spans.sort()
    for (_, until, first), (since, _, second) in itertools.pairwise(spans):
        if since < until:
            yield f"{first} and {second} overlap by {until - since:.3f} s"


def _late_writes(stack: Stack, played: Round) -> Iterator[str]:
    for attempt in attempts_of(played):
        if attempt.finished_at is None or attempt.reason not in (Reason.NODE_LOST, Reason.NEVER_STARTED):
            continue
        ended = attempt.finished_at.timestamp()
        kinds = ("artifact", "checkpoint")
        for event in AttemptEvent.objects.filter(attempt=attempt, type__in=kinds, at__gt=ended + WRITE_S):
            yield f"{attempt} said {event.type} {event.at - ended:.1f} s after it had lost its lease"
        folder = stack.home / "store" / attempt.order["result_uri"].removeprefix("store://")
        for path in folder.rglob("*"):
            late_s = path.stat().st_ctime - ended
            if path.is_file() and late_s > WRITE_S:
                yield f"{attempt} stored {path.relative_to(folder)} {late_s:.1f} s after it had lost its lease"
    for adapter in Adapter.objects.filter(job_number__in=played.ids.values()):
        last = Attempt.objects.get(job_id=adapter.job_number, number=F("job__attempt_number"))
        if not adapter.uri.startswith(last.order["result_uri"]):
            yield f"adapter {adapter.name} is {adapter.uri}, which the last attempt ({last}) did not write"


def spools(stack: Stack, played: Round) -> Iterator[tuple[int, int, Path]]:
    """(job, attempt, spool) of every run directory of the round."""
    jobs = set(played.ids.values())
    for node in NODES:
        for path in sorted(stack.runs_dir(node).glob(f"*/{SPOOL_FILE}")):
            job, number = path.parent.name.split("-")[:2]
            if int(job) in jobs:
                yield int(job), int(number), path


def envelopes(path: Path) -> list[Envelope]:
    """The whole lines of a spool."""
    return [Envelope.model_validate_json(line) for line in path.read_text().splitlines() if line.endswith("}")]


def _lost_metrics(stack: Stack, played: Round) -> Iterator[str]:
    for job, number, path in spools(stack, played):
        spooled = {
            (envelope.seq, name): value
            for envelope in envelopes(path)
            if isinstance(envelope.event, Metric)
            for name, value in envelope.event.values.items()
        }
        stored = {
            (seq, name): value
            for seq, name, value in MetricPoint.objects.filter(attempt__job_id=job, attempt__number=number).values_list(
                "seq", "name", "value"
            )
        }
        if lost := sorted(spooled.keys() - stored.keys()):
            yield f"job {job} attempt {number}: {len(lost)} of {len(spooled)} values aren't stored, first {lost[0]}"
        if strange := sorted(stored.keys() - spooled.keys()):
            yield f"job {job} attempt {number}: {len(strange)} values are stored that no spool has, first {strange[0]}"
        if differ := [key for key in spooled.keys() & stored.keys() if spooled[key] != stored[key]]:
            yield f"job {job} attempt {number}: {len(differ)} values differ, first {differ[0]}"
        ends = [envelope.seq for envelope in envelopes(path) if isinstance(envelope.event, Finished)]
        if len(ends) != 1:
            yield f"job {job} attempt {number}: its spool has {len(ends)} ends"


def _wrong_losses(played: Round) -> Iterator[str]:
    for job, work in _work(played).items():
        if not work.resumable:
            continue
        expected = course.losses(work.spec["seed"], work.spec["max_steps"])
        points = MetricPoint.objects.filter(attempt__job_id=job, name="loss").values_list("step", "value")
        seen = defaultdict(set)
        for step, value in points:
            seen[step].add(value)
        if wrong := [step for step, values in seen.items() if values != {expected.get(step)}]:
            yield f"job {job} ({work.key}): the loss of step {min(wrong)} is {seen[min(wrong)]}"
        if Job.objects.get(pk=job).status != Status.SUCCEEDED:
            continue
        if missing := sorted(expected.keys() - seen.keys()):
            yield f"job {job} ({work.key}) succeeded without a loss of steps {missing[:5]} ({len(missing)} in all)"
        results = AttemptEvent.objects.filter(attempt__job_id=job, type="result", payload__name="training")
        finals = {json.dumps(row.payload["values"]["final_loss"]) for row in results}
        if finals != {json.dumps(expected[work.spec["max_steps"]])}:
            yield f"job {job} ({work.key}): its final loss is {finals}"


def _left_processes(stack: Stack) -> list[str]:
    return [f"process {process.pid} of a run is left" for process in stack.processes_of_runs()]


def _left_messages(stack: Stack, played: Round) -> Iterator[str]:
    client = stack.redis.client()
    left = set(client.hgetall(LEASES)) - {EPOCH_FIELD}  # type: ignore[arg-type]
    if jobs := left & {str(job) for job in played.ids.values()}:
        yield f"leases of ended jobs are left: {sorted(jobs)}"
    for job in played.ids.values():
        try:
            waiting = client.xpending(job_stream(job), INGEST_GROUP)
        except redis.ResponseError:
            continue  # no stream, no group
        if waiting["pending"]:  # type: ignore[index]
            yield f"job {job}: {waiting['pending']} entries were read and never acknowledged"  # type: ignore[index]
