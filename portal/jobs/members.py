"""The nodes of an attempt on several: each has its order and its lease, tells its parts of checkpoints and its own end.

The only writer of Member. An attempt ends with all its nodes, with its first one when that completes, or a lease after
the first bad end. Knows nothing of events.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from django.db import transaction
from django.utils import timezone

from portal.jobs.ending import finish
from portal.jobs.leases import lease_s
from portal.jobs.models import Attempt, Member
from portal.jobs.scheduler import Placement
from workers.contract.order import CheckpointPart, Order, ResumeInput
from workers.contract.reasons import Outcome, Reason

LINES = 100
"""Of the output of a further node, the last ones are kept."""
PARTS = 3
"""Of a node's parts of checkpoints, the newest are remembered; its worker keeps two in the store."""


def join(claimed: Iterable[tuple[Attempt, Placement, Sequence[Order]]]) -> None:
    """Give each new attempt on several nodes its members."""
    Member.objects.bulk_create(
        Member(attempt=attempt, rank=rank, node_id=node, order=order.model_dump(mode="json"))
        for attempt, placement, team in claimed
        if len(team) > 1
        for rank, ((node, _), order) in enumerate(zip(placement.parts, team, strict=True))
    )


def heard(member: Member, last_seq: int, lines: Sequence[str]) -> None:
    """A further node has said more. What it said before, or again, changes nothing."""
    if last_seq > member.last_seq:
        member.last_seq, member.output = last_seq, [*member.output, *lines][-LINES:]
        member.save(update_fields=["last_seq", "output"])


def part_stored(attempt: Attempt, rank: int, *, step: int, uri: str, sha256: str | None) -> None:
    """A node's part of a checkpoint is in the store; once all parts are, the checkpoint is whole."""
    with transaction.atomic():
        held = Attempt.objects.select_for_update().only("checkpoint").get(pk=attempt.pk)
        members = list(Member.objects.filter(attempt=attempt).order_by("rank"))
        part = ResumeInput(uri=uri, step=step, sha256=sha256).model_dump(mode="json", exclude={"parts"})
        others = [old for old in members[rank].parts if old["step"] != step]
        members[rank].parts = sorted([*others, part], key=lambda one: int(one["step"]))[-PARTS:]
        members[rank].save(update_fields=["parts"])
        whole = set.intersection(*({int(one["step"]) for one in member.parts} for member in members))
        newest = max(whole, default=0)
        if newest > (held.checkpoint["step"] if held.checkpoint else 0):
            first, *further = [one for member in members for one in member.parts if one["step"] == newest]
            parts = tuple(CheckpointPart.model_validate(one) for one in further)
            held.checkpoint = ResumeInput.model_validate({**first, "parts": parts}).model_dump(mode="json")
            held.save(update_fields=["checkpoint"])


@dataclass(frozen=True)
class End:
    """How a node of an attempt ended."""

    rank: int
    reason: Reason
    detail: str


def verdict(ends: Sequence[End]) -> End:
    """Which of the ends, the first said before the others, is the attempt's: the first node's if that completed.

    Else the first bad one that isn't only the echo of another node's.
    """
    first_node = next((end for end in ends if end.rank == 0 and end.reason is Reason.COMPLETED), None)
    bad = [end for end in ends if end.reason.outcome is not Outcome.SUCCEEDED]
    causes = [end for end in bad if end.reason is not Reason.PEER_LOST]
    return first_node or (causes or bad or list(ends))[0]


def ended(attempt: Attempt, rank: int, reason: Reason, detail: str, now: datetime | None = None) -> None:
    """A node's supervisor has ended its run. Ends the attempt if it was the last, or all that counted."""
    said = Member.objects.filter(attempt=attempt, rank=rank, finished_at=None)
    if said.update(finished_at=now or timezone.now(), reason=reason, detail=detail):
        _end_if_over(attempt, every=True)


def end_overdue(now: datetime | None = None) -> int:
    """End the attempts of which a node ended badly a lease ago and others go on; how many."""
    since = (now or timezone.now()) - timedelta(seconds=lease_s())
    bad = Member.objects.filter(attempt__finished_at=None, finished_at__lt=since).exclude(reason=Reason.COMPLETED)
    overdue = Attempt.objects.filter(pk__in=bad.values("attempt"))
    return sum(_end_if_over(attempt, every=False) for attempt in overdue.only("job_id", "number"))


def _end_if_over(attempt: Attempt, *, every: bool) -> bool:
    """`every`: wait for all nodes, unless the first one has completed."""
    members = list(Member.objects.filter(attempt=attempt).select_related("node").defer("order", "output", "parts"))
    over = sorted((one for one in members if one.finished_at), key=lambda one: (one.finished_at, one.rank))
    end = verdict([End(one.rank, Reason(one.reason), one.detail) for one in over])
    if every and len(over) < len(members) and (end.rank != 0 or end.reason is not Reason.COMPLETED):
        return False
    detail = f"Node {members[end.rank].node.name}: {end.detail}" if end.detail else ""
    return finish(attempt.job_id, attempt.number, end.reason, detail)


def nodes_of(attempt: Attempt) -> list[str]:
    """The names of the nodes that run it."""
    if attempt.nodes == 1:
        return [attempt.node.name]
    live = Member.objects.filter(attempt=attempt, finished_at=None).order_by("rank")
    return list(live.values_list("node__name", flat=True))
