"""The table of states and the enum of reasons."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from portal.jobs.lifecycle import FINAL, HOLDS_DEVICES, MOVES, Status, final_status, may_move, sources
from portal.jobs.retries import ALWAYS, LONGEST_BACKOFF_S, retry_in_s
from workers.contract.reasons import Outcome, Reason
from workers.contract.resources import RetryPolicy


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


def test_only_what_had_devices_goes_back_to_the_queue_and_never_what_a_user_stops() -> None:
    assert set(sources(Status.QUEUED)) == HOLDS_DEVICES - {Status.CANCELLING}


policies = st.builds(
    RetryPolicy,
    max_attempts=st.integers(1, 20),
    backoff_s=st.floats(0, 3600),
    after_kill=st.booleans(),
    after_crash=st.booleans(),
)


@given(policies, st.sampled_from(Reason), st.integers(1, 25))
def test_a_policy_is_kept_to(policy: RetryPolicy, reason: Reason, tries: int) -> None:
    wait_s = retry_in_s(policy, reason, tries)
    if wait_s is None:
        return
    assert reason.outcome is Outcome.FAILED
    assert 0 <= wait_s <= LONGEST_BACKOFF_S
    if reason is Reason.PREEMPTED:
        assert wait_s == 0
        return
    assert tries < policy.max_attempts
    assert reason in ALWAYS | {Reason.KILLED, Reason.CRASHED}
    assert reason is not Reason.KILLED or policy.after_kill
    assert reason is not Reason.CRASHED or policy.after_crash


@given(policies)
def test_a_back_off_never_shortens(policy: RetryPolicy) -> None:
    waits = [retry_in_s(policy, Reason.NODE_LOST, n) for n in range(1, policy.max_attempts)]
    assert None not in waits
    assert waits == sorted(waits, key=lambda wait_s: wait_s or 0)
    assert waits[:1] in ([], [policy.backoff_s])


@pytest.mark.parametrize("reason", [Reason.OUT_OF_MEMORY, Reason.COMPLETED, Reason.CANCELLED, Reason.INVALID_INPUT])
def test_what_would_only_happen_again_is_not_tried_again(reason: Reason) -> None:
    assert retry_in_s(RetryPolicy(max_attempts=20, after_kill=True, after_crash=True), reason, 1) is None


@pytest.mark.parametrize("reason", list(Reason))
def test_every_reason_is_a_sentence_with_a_final_status(reason: Reason) -> None:
    assert final_status(reason.outcome) in FINAL
    assert reason.sentence[0].isupper()
    assert reason.sentence.endswith(".")
