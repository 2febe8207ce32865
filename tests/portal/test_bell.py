"""Submitting a job, and its end, ring the leading controller."""

import threading
import time

import pytest
import redis
from pytest_django.fixtures import Settings

from portal.jobs import bell, services
from tests.portal.factories import make_attempt, make_dataset, make_job, make_model, make_user
from workers.contract.reasons import Reason

LONG_S = 30.0


@pytest.mark.django_db(transaction=True)
def test_who_waits_hears_of_a_new_job_at_once_and_of_many_once(live_redis: "redis.Redis") -> None:
    spec = {"kind": "finetune", "model": make_model().name, "dataset": make_dataset().name}
    user = make_user()
    for _ in range(3):
        services.submit(user, spec)
    stop, began = threading.Event(), time.monotonic()
    assert not bell.wait(stop, LONG_S)
    assert time.monotonic() - began < LONG_S / 2
    assert not live_redis.exists(bell.BELL)


@pytest.mark.django_db(transaction=True)
def test_who_waits_hears_that_a_device_is_free(live_redis: "redis.Redis") -> None:
    attempt = make_attempt(make_job(make_user()))
    stop, began = threading.Event(), time.monotonic()
    assert services.finish(attempt.job_id, attempt.number, Reason.COMPLETED)
    assert not bell.wait(stop, LONG_S)
    assert time.monotonic() - began < LONG_S / 2


def test_without_redis_the_time_passes_and_a_stop_is_heard(settings: Settings) -> None:
    settings.REDIS_URL = "redis://127.0.0.1:1/0"
    bell.ring()
    stop = threading.Event()
    assert not bell.wait(stop, 0.05)
    stop.set()
    assert bell.wait(stop, LONG_S)
