"""A retried attempt goes on from the latest checkpoint, whether the store has it or only this node's disk."""

import json
from pathlib import Path
from typing import Any

import pytest

from tests.workers.conftest import Bench
from workers.artifacts import FsspecStore
from workers.contract.names import CHECKPOINTS_DIR
from workers.contract.order import Order
from workers.contract.reasons import Reason
from workers.nearby import hear
from workers.spool import run_dir_name
from workers.uploads import LEAVING
from workers.whole import check_whole, write_whole


def leave(bench: Bench, step: int, token: str = "one", job: int = 1, heard: bool = True) -> Path:
    """A checkpoint in the run directory of an earlier attempt, which its supervisor heard of."""
    folder = bench.runs_dir / run_dir_name(job, 1, token) / CHECKPOINTS_DIR
    if heard:
        folder.mkdir(parents=True, exist_ok=True)
        hear(folder.parent, step)
    return write_whole(folder, step, lambda fresh: (fresh / "state").write_text(f"{token} {step}") and None)[0]


def retried(bench: Bench, **changes: Any) -> Order:
    return bench.order(attempt=2, token="two", **{"earlier": ("one",), **changes})


def stored(bench: Bench, step: int) -> dict[str, Any]:
    uri = f"store://runs/1-1/checkpoints/step-{step}"
    write_whole(bench.store_dir / "runs/1-1/checkpoints", step, lambda fresh: None)
    return {"uri": uri, "step": step}


def went_on(bench: Bench, order: Order) -> tuple[int, str]:
    """(the step that its child was given, the line that says where from)."""
    assert bench.run("go_on", order) is Reason.COMPLETED
    *_, given = [json.loads(line) for line in bench.log() if line.startswith(("{", "null"))]
    said = [line for line in bench.log() if line.startswith("Goes on")]
    *_, started = bench.events("started")
    assert started.resumed_from == (given["step"] if given else 0)
    if given:
        check_whole(Path(given["uri"]), given["step"])
    return started.resumed_from, said[-1] if said else ""


@pytest.mark.parametrize("leaving", [False, True])
def test_what_never_reached_the_store_is_gone_on_from_and_reaches_it_now(bench: Bench, leaving: bool) -> None:
    """`leaving`: the worker was killed while that was on its way."""
    folder = leave(bench, 10)
    if leaving:
        folder.rename(folder.parent / LEAVING)
    step, said = went_on(bench, retried(bench, resume=stored(bench, 5)))
    assert (step, said) == (
        10,
        "Goes on from step 10: attempt 1 left that on this node; the store's is of step 5.",
    )
    (told,) = bench.events("checkpoint")
    assert (told.step, told.uri) == (10, "store://runs/1-2/checkpoints/step-10")
    check_whole(bench.store_dir / "runs/1-2/checkpoints/step-10", 10)


def test_without_one_in_the_store_the_nodes_counts_all_the_same(bench: Bench) -> None:
    leave(bench, 4)
    assert went_on(bench, retried(bench)) == (
        4,
        "Goes on from step 4: attempt 1 left that on this node; the store has none.",
    )


def test_a_later_one_in_the_store_is_taken(bench: Bench) -> None:
    leave(bench, 4)
    assert went_on(bench, retried(bench, resume=stored(bench, 5))) == (
        5,
        "Goes on from step 5, which is in the store at store://runs/1-1/checkpoints/step-5.",
    )
    assert bench.events("checkpoint") == []


def test_one_that_is_torn_is_passed_over_for_the_one_before(bench: Bench) -> None:
    leave(bench, 4)
    (leave(bench, 6) / "state").write_text("half of it")
    assert went_on(bench, retried(bench))[0] == 4


def test_one_that_nobody_heard_of_is_passed_over_for_what_was_told_before_it_is_lost(bench: Bench) -> None:
    leave(bench, 4)
    leave(bench, 6, heard=False)
    assert went_on(bench, retried(bench))[0] == 4


def test_what_a_run_told_of_but_could_not_store_is_gone_on_from(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(FsspecStore, "put", full)
        assert bench.run("checkpoint_and_crash", bench.order(token="one")) is Reason.CRASHED
    assert went_on(bench, retried(bench))[0] == 3


def test_those_of_other_jobs_and_of_other_databases_are_not_taken(bench: Bench) -> None:
    leave(bench, 4, job=2)
    leave(bench, 6, token="stranger")
    assert went_on(bench, retried(bench)) == (0, "")


def test_a_third_attempt_finds_what_the_second_went_on_from(bench: Bench) -> None:
    leave(bench, 4)
    assert went_on(bench, retried(bench))[0] == 4
    (bench.runs_dir / "1-1-one").rename(bench.runs_dir / "swept")
    third = bench.order(attempt=3, token="three", earlier=("one", "two"))
    assert went_on(bench, third) == (
        4,
        "Goes on from step 4: attempt 2 left that on this node; the store has none.",
    )
