"""A word to stop that comes while the processes vote on it."""

from types import SimpleNamespace
from typing import Any

import pytest

from workers.contract.finetune import FinetuneSpec
from workers.runtimes.finetune import checkpoints


def test_a_word_that_comes_during_the_vote_is_heard_in_the_next_one(monkeypatch: pytest.MonkeyPatch) -> None:
    run: Any = SimpleNamespace(finetune_spec=FinetuneSpec(model="m", dataset="d"))
    other: Any = SimpleNamespace()
    saver = checkpoints.Saver(run, other, other, {}, lambda _: None)
    votes: list[bool] = []

    def vote(wanted: bool) -> bool:
        votes.append(wanted)
        saver.ask()  # as the signal's handler does
        return wanted

    monkeypatch.setattr(checkpoints, "any_wants", vote)
    stops = []
    for step in (1, 2):
        control = SimpleNamespace(should_save=False, should_training_stop=False)
        saver.on_step_end(None, SimpleNamespace(global_step=step), control)
        stops.append(control.should_training_stop)
    assert votes == stops == [False, True]
