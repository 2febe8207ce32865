"""How long a round's disturbed jobs took to run again, what of that was waiting, and how much work was done twice."""

from collections.abc import Callable
from dataclasses import dataclass
from itertools import groupby, pairwise

from portal.jobs.models import Allocation, Attempt
from portal.jobs.retries import retry_in_s
from tests.chaos.faults import Injected
from tests.chaos.invariants import CAUSES, attempts_of, caused
from tests.chaos.rounds import Round
from tests.chaos.schedule import Kind
from tests.chaos.stack import CONTROLLERS, DEVICES, NODES, Stack
from workers.contract.reasons import Reason
from workers.contract.spec import JOB_SPEC

_DELAYS_NOBODY = frozenset({Kind.KILL_CHILD, Kind.KILL_WEB, Kind.REPEAT_ORDERS, Kind.REPEAT_EVENTS})
_NODE_DOWN = frozenset({Kind.KILL_WORKER, Kind.STOP_WORKER, Kind.PAUSE_WORKER})
_CONTROLLER_DOWN = frozenset({Kind.KILL_CONTROLLER, Kind.PAUSE_CONTROLLER})
_STORES_DOWN = frozenset({Kind.RESTART_REDIS, Kind.EMPTY_REDIS, Kind.RESTART_POSTGRES, Kind.CRASH_POSTGRES})

Span = tuple[float, float]


@dataclass(frozen=True)
class Recovery:
    """One attempt that a fault ended, and the next of the same job that ran. Seconds and steps.

    `recovery_s` counts from the fault, or from the dispatch to what it had hit, to the first step of the child. In it
    are `backoff_s`, which its policy asks for, `busy_s`, in which others held every device it may have, and `away_s`,
    in which other faults held down what nothing runs without: Redis, the database, both controllers or all nodes.
    `alone`: no other fault that could delay it. `seed`: of its round.
    """

    seed: int
    fault: Kind
    recovery_s: float
    noticed_s: float
    backoff_s: float
    busy_s: float
    away_s: float
    alone: bool
    lost_steps: int
    every: int

    @property
    def own_s(self) -> float:
        """What the recovery itself took."""
        return self.recovery_s - self.backoff_s - self.busy_s - self.away_s


def recoveries(stack: Stack, played: Round) -> list[Recovery]:
    """Of every attempt that a fault ended and that had a successor which ran."""
    found = []
    held = _held(played)
    for _, of_job in groupby(attempts_of(played), key=lambda attempt: attempt.job_id):
        attempts = list(of_job)
        for at, before in enumerate(attempts):
            later = [number for number in range(at + 1, len(attempts)) if attempts[number].started_at]
            causes = caused(before, CAUSES.get(Reason(before.reason), frozenset()), played.injected)
            if causes and later:
                chain = attempts[at : later[0] + 1]
                found.append(_recovery(stack, played, held, causes[-1], chain))
    return found


def _recovery(
    stack: Stack, played: Round, held: dict[str, list[Span]], fault: Injected, chain: list[Attempt]
) -> Recovery:
    before, after = chain[0], chain[-1]
    assert before.finished_at
    began = max(fault.at, before.dispatched_at.timestamp())
    ran = _ran_at(stack, after)
    spec = JOB_SPEC.validate_python(before.order["spec"])
    nodes = [spec.resources.node] if spec.resources.node else list(NODES)
    down = _Down(played.injected)
    backoff_s = busy_s = 0.0
    for ended, next_ in pairwise(chain):
        assert ended.finished_at
        since, until = ended.finished_at.timestamp(), next_.dispatched_at.timestamp()
        backoff = min(retry_in_s(spec.retry, Reason(ended.reason), ended.number) or 0.0, until - since)
        backoff_s += backoff
        busy_s += _measure(
            (since + backoff, until),
            [*down.spans, *(one for node in nodes for one in held[node])],
            lambda at: (
                not down.away(at, nodes)
                and all(down.node(node, at) or _covering(held[node], at) >= DEVICES for node in nodes)
            ),
        )
    others = [one for one in played.injected if one is not fault and not one.skipped]
    return Recovery(
        played.seed,
        fault.kind,
        ran - began,
        max(before.finished_at.timestamp() - began, 0.0),
        backoff_s,
        busy_s,
        _measure((began, ran), down.spans, lambda at: down.away(at, nodes)),
        not any(one.at < ran and one.until > began for one in others if one.kind not in _DELAYS_NOBODY),
        max(_last_step(stack, before, fault.at) - _resumed_at(after), 0),
        int(before.order["spec"].get("checkpoint_every", 0)),
    )


class _Down:
    """What faults hold down, and when."""

    def __init__(self, injected: list[Injected]) -> None:
        self._faults = [fault for fault in injected if not fault.skipped]
        self.spans = [(fault.at, fault.until) for fault in self._faults]

    def node(self, node: str, at: float) -> bool:
        return any(fault.target == node for fault in self._at(at, _NODE_DOWN))

    def away(self, at: float, nodes: list[str]) -> bool:
        """Whether something is down that nothing runs without."""
        controllers = {fault.target for fault in self._at(at, _CONTROLLER_DOWN)}
        return (
            bool(self._at(at, _STORES_DOWN))
            or controllers == set(CONTROLLERS)
            or all(self.node(node, at) for node in nodes)
        )

    def _at(self, at: float, kinds: frozenset[Kind]) -> list[Injected]:
        return [fault for fault in self._faults if fault.kind in kinds and fault.at <= at < fault.until]


def _measure(span: Span, edges: list[Span], holds: Callable[[float], bool]) -> float:
    """For how long of the span something holds that changes only at the edges."""
    inside = sorted({edge for pair in edges for edge in pair if span[0] < edge < span[1]})
    return sum(
        until - since
        for since, until in pairwise([span[0], *inside, span[1]])
        if until > since and holds((since + until) / 2)
    )


def _held(played: Round) -> dict[str, list[Span]]:
    """Node → when one of its devices was held."""
    rows = Allocation.objects.filter(attempt__job__in=played.ids.values()).select_related("attempt__node")
    found: dict[str, list[Span]] = {node: [] for node in NODES}
    for row in rows:
        until = row.released_at.timestamp() if row.released_at else float("inf")
        found[row.attempt.node.name].append((row.attempt.dispatched_at.timestamp(), until))
    return found


def _ran_at(stack: Stack, attempt: Attempt) -> float:
    """When its child made its first step; what the portal heard of a child that leaves no witness."""
    for path in stack.witness.glob(f"*.{attempt.job_id}-{attempt.number}-*"):
        return float(path.read_text().split()[1])
    assert attempt.started_at
    return attempt.started_at.timestamp()


def _covering(spans: list[Span], moment: float) -> int:
    return sum(since <= moment < until for since, until in spans)


def _resumed_at(attempt: Attempt) -> int:
    return attempt.resumed_from() or 0


def _last_step(stack: Stack, attempt: Attempt, before: float) -> int:
    """The last step that its child had done when the fault came; 0 when none."""
    for path in stack.witness.glob(f"*.{attempt.job_id}-{attempt.number}-*"):
        steps = [line.split() for line in path.read_text().splitlines()]
        return max((int(step) for step, at in steps if float(at) <= before), default=0)
    return 0


def percentile(values: list[float], share: float) -> float | None:
    """The value that `share` of them don't exceed; None of nothing."""
    ordered = sorted(values)
    return round(ordered[min(int(share * len(ordered)), len(ordered) - 1)], 3) if ordered else None
