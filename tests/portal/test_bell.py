"""Submitting a job rings the leading controller."""

import threading
import time

import pytest
import redis
from pytest_django.fixtures import Settings

from portal.jobs import bell, services
from tests.portal.factories import make_dataset, make_model, make_user

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


def test_without_redis_the_time_passes_and_a_stop_is_heard(settings: Settings) -> None:
    settings.REDIS_URL = "redis://127.0.0.1:1/0"
    bell.ring()
    stop = threading.Event()
    assert not bell.wait(stop, 0.05)
    stop.set()
    assert bell.wait(stop, LONG_S)
