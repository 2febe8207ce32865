"""The playground's page: which models it offers, and what it says where there are none."""

from datetime import timedelta

import pytest
from django.contrib.auth.models import User
from django.test import Client
from django.utils import timezone

from portal.jobs.ending import finish
from portal.serving.idle import stop_idle
from portal.serving.services import mark_ready
from tests.portal.factories import make_attempt, make_job, make_node
from workers.contract.reasons import Reason

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.usefixtures("live_redis")]


@pytest.fixture
def page(user: User) -> Client:
    page = Client()
    page.force_login(user)
    return page


def launched(user: User, name: str, **spec: object) -> int:
    attempt = make_attempt(make_job(user, kind="launch", spec=spec), node=make_node(address="10.0.0.5"))
    assert mark_ready(attempt, "http://10.0.0.5:9000", name)
    return attempt.job_id


def read(page: Client, query: str = "") -> str:
    answer = page.get(f"/playground/{query}")
    assert answer.status_code == 200
    return answer.content.decode()


def test_without_a_launch_it_leads_to_one(page: Client) -> None:
    html = read(page)
    assert "No model is launched" in html
    assert 'href="/jobs/new/?kind=launch"' in html


def test_it_offers_every_launch_and_chooses_the_one_it_was_opened_for(page: Client, user: User) -> None:
    older, newer = launched(user, "tuned"), launched(user, "tuned", quantization="int8")
    base = launched(user, "base")
    html = read(page, f"?model=job-{older}&with=base")
    assert f'<option value="tuned">tuned · launch #{newer}, int8</option>' in html
    assert f'<option value="job-{older}" selected>tuned · launch #{older}</option>' in html
    assert f'<option value="base" selected>base · launch #{base}</option>' in html


def test_one_that_sleeps_is_offered_too(page: Client, user: User) -> None:
    job = launched(user, "tuned", idle_stop_minutes=1)
    stop_idle(timezone.now() + timedelta(minutes=2))
    finish(job, 1, Reason.CANCELLED)
    assert f"tuned · launch #{job}, asleep" in read(page)


def test_it_is_for_who_signed_in() -> None:
    assert Client().get("/playground/").headers["Location"] == "/login/?next=/playground/"
