"""The twelve jobs of a round: what each is asked to do, when, and every way it may rightly end."""

import random
from dataclasses import dataclass, replace
from typing import Any

from workers.contract.reasons import Reason

EVERY = 5
"""Steps between checkpoints."""

_UNHURT = frozenset({Reason.COMPLETED})
_PATIENT = {"max_attempts": 20, "backoff_s": 0.1, "after_kill": True}
"""Tried again after everything but an error of its own."""


@dataclass(frozen=True)
class Work:
    """One job. It is submitted `at_s` seconds into the round, and stopped at `cancel_at_s`, if that is set.

    `ends`: the reasons it may end for, whatever happens around it. `hurt_ends`: those that it may end for besides
    when a fault struck one of its attempts.
    """

    key: str
    spec: dict[str, Any]
    at_s: float
    ends: frozenset[Reason]
    hurt_ends: frozenset[Reason] = frozenset()
    cancel_at_s: float | None = None
    resumable: bool = False
    """Its losses are those of `course`, whatever happened."""


def jobs(seed: int, real: bool = False, stretch: float = 1.0) -> list[Work]:
    """The jobs of the round with this seed, in order of submission; `real` adds a fine-tune of a tiny model.

    `stretch`: how much later and longer they are than those of a short round.
    """
    draw = random.Random(seed ^ 0x5EED)
    full_disk = frozenset({Reason.CRASHED, Reason.DISK_FULL})
    made = [
        *(_work(draw, "train", _UNHURT, full_disk, resumable=True) for _ in range(4)),
        _work(draw, "train", _UNHURT, full_disk, resumable=True, checkpoint_every=0),
        # Its policy doesn't try again what was killed.
        _work(draw, "train", _UNHURT, full_disk | {Reason.KILLED}, resumable=True, retry={"backoff_s": 0.1}),
        _work(draw, "noisy", _UNHURT, full_disk, resumable=True, max_steps=600, checkpoint_every=200),
        _work(draw, "crash-once", _UNHURT, full_disk, resumable=True, retry={**_PATIENT, "after_crash": True}),
        _work(draw, "crash", frozenset({Reason.CRASHED})),
        _work(draw, "nan", frozenset({Reason.NAN_LOSS}), full_disk),
        _launch(draw, full_disk),
        _check(draw, full_disk),
    ]
    if real:
        made.append(_real(full_disk))
    return sorted((_stretched(work, stretch) for work in made), key=lambda work: work.at_s)


def _stretched(work: Work, stretch: float) -> Work:
    """Trainings have more steps; what is brief stays so."""
    steps = {"max_steps": int(work.spec["max_steps"] * stretch)} if work.key.startswith(("train", "crash-once")) else {}
    cancel_at_s = work.cancel_at_s and round(work.cancel_at_s * stretch, 2)
    return replace(work, spec=work.spec | steps, at_s=round(work.at_s * stretch, 2), cancel_at_s=cancel_at_s)


def _work(
    draw: random.Random,
    behaviour: str,
    ends: frozenset[Reason],
    hurt_ends: frozenset[Reason] = frozenset(),
    *,
    resumable: bool = False,
    **changes: Any,
) -> Work:
    seed = draw.randrange(2**31)
    spec = {
        "kind": "finetune",
        "name": f"{behaviour} {seed}",
        "model": "tiny",
        "dataset": "tiny-cases",
        "adapter": f"adapter-{seed}",
        "seed": seed,
        "context_length": 64,
        "max_steps": draw.randrange(20, 50),
        "checkpoint_every": EVERY,
        "retry": _PATIENT,
        **changes,
    }
    return Work(f"{behaviour}-{seed}", spec, round(draw.uniform(0, 4), 2), ends, hurt_ends, resumable=resumable)


def _launch(draw: random.Random, hurt_ends: frozenset[Reason]) -> Work:
    at_s = draw.uniform(0, 2)
    spec = {"kind": "launch", "name": "serve", "model": "tiny", "context_length": 64, "max_tokens": 8}
    spec["retry"] = _PATIENT
    cancel_at_s = round(at_s + draw.uniform(2, 12), 2)
    return Work(f"serve-{draw.random()}", spec, round(at_s, 2), frozenset({Reason.CANCELLED}), hurt_ends, cancel_at_s)


def _check(draw: random.Random, hurt_ends: frozenset[Reason]) -> Work:
    node = draw.choice(["north", "south"])
    spec = {"kind": "preflight", "name": "check", "model": "tiny", "resources": {"node": node}, "retry": _PATIENT}
    return Work(f"check-{draw.random()}", spec, round(draw.uniform(0, 4), 2), _UNHURT, hurt_ends)


def _real(hurt_ends: frozenset[Reason]) -> Work:
    spec = {
        "kind": "finetune",
        "name": "real fine-tune",
        "model": "real",
        "dataset": "real-cases",
        "adapter": "adapter-real",
        "max_steps": 12,
        "micro_batch": 2,
        "context_length": 64,
        "learning_rate": 0.01,
        "evaluate": False,
        "checkpoint_every": 3,
        "retry": {**_PATIENT, "after_crash": True},
    }
    return Work("real", spec, 0.0, _UNHURT, hurt_ends)
