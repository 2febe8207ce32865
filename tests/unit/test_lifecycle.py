"""The table of states and the enum of reasons."""

import pytest

from portal.jobs.lifecycle import FINAL, MOVES, Status, final_status, may_move, sources
from workers.contract.reasons import Reason


def test_nothing_leaves_a_final_state() -> None:
    assert all(not may_move(final, new) for final in FINAL for new in Status)


def test_every_state_is_reachable_and_leads_to_an_end() -> None:
    reached, frontier = {Status.QUEUED}, [Status.QUEUED]
    while frontier:
        for new in MOVES[frontier.pop()] - reached:
            reached.add(new)
            frontier.append(new)
    assert reached == set(Status)
    for status in set(Status) - FINAL:
        assert MOVES[status] & FINAL, f"{status} can never end"


def test_a_cancelled_queue_entry_never_runs() -> None:
    assert Status.CANCELLED not in sources(Status.RUNNING)
    assert not may_move(Status.CANCELLING, Status.RUNNING)


@pytest.mark.parametrize("reason", list(Reason))
def test_every_reason_is_a_sentence_with_a_final_status(reason: Reason) -> None:
    assert final_status(reason.outcome) in FINAL
    assert reason.sentence[0].isupper()
    assert reason.sentence.endswith(".")
