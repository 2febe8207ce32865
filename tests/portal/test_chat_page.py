"""The chat page: what it offers for a model that answers, and what it says where none does."""

import pytest
from django.contrib.auth.models import User
from django.test import Client
from django.utils.html import escape

from portal.jobs.models import Attempt
from portal.serving.models import Endpoint
from portal.serving.selectors import request_name
from tests.portal.factories import make_adapter, make_attempt, make_dataset, make_job, make_model, make_node, make_user
from workers.contract.prompts import label_instruction

pytestmark = pytest.mark.django_db


@pytest.fixture
def user() -> User:
    return make_user("ada")


@pytest.fixture
def page(client: Client, user: User) -> Client:
    client.force_login(user)
    return client


def ready(user: User, model_name: str = "tuned", **spec: object) -> Attempt:
    """A running launch that answers."""
    attempt = make_attempt(make_job(user, kind="launch", spec=spec), node=make_node())
    Endpoint.objects.create(attempt=attempt, url="http://127.0.0.1:9000", model_name=model_name)
    return attempt


def read(page: Client, job: int) -> str:
    answer = page.get(f"/chat/{job}/")
    assert answer.status_code == 200
    return answer.content.decode()


def test_it_offers_the_launch_s_own_settings(page: Client, user: User) -> None:
    attempt = ready(user, temperature=0.3, top_p=0.8, max_tokens=77, context_length=999)
    html = read(page, attempt.job_id)
    for shown in ('value="0.3"', 'value="0.8"', 'value="77"', "999 tokens", f'data-model="job-{attempt.job_id}"'):
        assert shown in html


def test_an_adapter_of_labelled_texts_brings_the_words_it_was_trained_with(page: Client, user: User) -> None:
    model = make_model()
    adapter = make_adapter(base_model=model, dataset=make_dataset("tickets"))
    html = read(page, ready(user, model=model.name, adapter=adapter.name).job_id)
    assert escape(label_instruction(["billing", "login"])) in html
    assert "trained with on tickets" in html
    assert "The invoice is wrong" in html


def test_an_adapter_of_other_data_brings_none(page: Client, user: User) -> None:
    model = make_model()
    adapter = make_adapter(base_model=model, dataset=make_dataset(format="messages", labels=[]))
    for attempt in (ready(user, model=model.name, adapter=adapter.name), ready(user, model=model.name)):
        html = read(page, attempt.job_id)
        assert "billing" not in html
        assert "Said to the model before everything else" in html


def test_what_a_dataset_holds_is_text_and_no_markup(page: Client, user: User) -> None:
    model = make_model()
    rows = [{"text": "<script>alert(1)</script>", "label": "x"}]
    adapter = make_adapter(base_model=model, dataset=make_dataset(preview=rows, labels=["<b>x"]))
    html = read(page, ready(user, model=model.name, adapter=adapter.name).job_id)
    assert "<script>alert" not in html
    assert "<b>x" not in html


def test_a_queued_launch_says_what_it_waits_for(page: Client, user: User) -> None:
    job = make_job(user, kind="launch", waiting_for="Every device of node-1 is held by job #7.")
    html = read(page, job.pk)
    assert "Not ready yet" in html
    assert "held by job #7" in html
    assert f'href="/jobs/{job.pk}/"' in html


def test_a_loading_launch_says_its_phase(page: Client, user: User) -> None:
    job = make_attempt(make_job(user, kind="launch")).job
    job.phase = "loading model"
    job.save()
    html = read(page, job.pk)
    assert "loading model" in html
    assert 'id="chat-wait"' in html


def test_an_ended_launch_says_why_and_offers_another(page: Client, user: User) -> None:
    job = make_job(user, kind="launch", status="failed", reason="out_of_memory", detail="2 GiB more were wanted.")
    html = read(page, job.pk)
    assert "This launch has ended" in html
    assert job.get_sentence() in html
    assert "2 GiB more were wanted." in html
    assert f'href="/jobs/new/?from={job.pk}"' in html
    assert 'id="chat-wait"' not in html


def test_an_earlier_attempt_s_address_is_not_chatted_with(page: Client, user: User) -> None:
    attempt = ready(user)
    make_attempt(attempt.job)
    assert "Not ready yet" in read(page, attempt.job_id)


def test_a_fine_tune_leads_to_launching_its_adapter(page: Client, user: User) -> None:
    job = make_job(user, status="succeeded")
    adapter = make_adapter(job_number=job.pk)
    html = read(page, job.pk)
    assert "serves no model" in html
    assert f"kind=launch&amp;model={adapter.base_model.name}&amp;adapter={adapter.name}" in html


def test_the_name_to_ask_for_is_the_launch_s_number_once_a_newer_one_has_its_name(user: User) -> None:
    older = ready(user, "tuned").endpoint
    assert request_name(older) == "tuned"
    newer = ready(user, "tuned").endpoint
    assert request_name(older) == f"job-{older.attempt.job_id}"
    assert request_name(newer) == "tuned"


def test_it_is_for_who_signed_in_and_for_jobs_there_are(client: Client, user: User) -> None:
    assert client.get("/chat/1/").headers["Location"] == "/login/?next=/chat/1/"
    client.force_login(user)
    assert client.get("/chat/999999/").status_code == 404
    assert client.post("/chat/999999/").status_code == 405
