"""Who goes first: priority, a team's share, and room made by a job that allows it."""

from datetime import timedelta

import pytest
from django.contrib.auth.models import Group
from django.utils import timezone
from pytest_django.fixtures import Settings

from portal.jobs import loop
from portal.jobs.models import Allocation, Attempt, Job
from portal.jobs.scheduler import Policy
from tests.portal.factories import make_attempt, make_job, make_node, make_user

pytestmark = pytest.mark.django_db


@pytest.fixture(autouse=True)
def broker(live_redis: object) -> None:
    """Orders can be sent."""


def started() -> list[int]:
    return list(Job.objects.filter(status="dispatched").values_list("pk", flat=True))


def test_a_higher_priority_goes_first_though_it_came_later() -> None:
    make_node("n1", last_seen_at=timezone.now())
    low, high = make_job(), make_job(spec={"priority": 50})
    assert loop.tick() == 1
    assert started() == [high.pk]
    low.refresh_from_db()
    assert low.queue_position == 1
    assert f"#{high.pk}" in low.waiting_for


def test_the_team_that_used_less_goes_first() -> None:
    node = make_node("n1", last_seen_at=timezone.now())
    busy, idle = make_user(), make_user()
    busy.groups.add(Group.objects.create(name="busy"))
    idle.groups.add(Group.objects.create(name="idle"))
    ended = make_attempt(make_job(busy), node=node)
    Attempt.objects.filter(pk=ended.pk).update(dispatched_at=timezone.now() - timedelta(hours=9))
    Allocation.objects.filter(attempt=ended).update(released_at=timezone.now())
    Attempt.objects.filter(pk=ended.pk).update(finished_at=timezone.now(), reason="completed")
    Job.objects.filter(pk=ended.job_id).update(status="succeeded", finished_at=timezone.now())
    make_job(busy)
    later = make_job(idle)
    assert loop.tick() == 1
    assert started() == [later.pk]


@pytest.mark.parametrize("allowed", [True, False])
def test_a_preemptible_job_makes_room_only_where_both_the_job_and_the_policy_allow_it(
    settings: Settings, allowed: bool
) -> None:
    settings.LIFTOFF_SCHEDULING = Policy(preempts=True, patience_s=0)
    running = make_attempt(make_job(spec={"preemptible": allowed}), node=make_node("n1", last_seen_at=timezone.now()))
    make_job(spec={"priority": 90})
    loop.tick()
    running.refresh_from_db()
    assert (running.preempt_asked_at is not None) is allowed
