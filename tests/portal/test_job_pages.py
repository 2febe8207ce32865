"""The job pages as a signed-in user gets them: list, form, page, stop, clone."""

import json
from typing import Any

import pytest
from django.db import connection
from django.test import Client
from django.test.utils import CaptureQueriesContext
from django.utils import timezone

from portal.jobs.models import Job
from portal.pages.templatetags.liftoff import figure
from portal.telemetry.models import AttemptEvent
from portal.telemetry.selectors import snapshot
from tests.portal import factories as make

pytestmark = pytest.mark.django_db


@pytest.fixture
def client(client: Client) -> Client:
    client.force_login(make.make_user("ada"))
    return client


def text(answer: Any) -> str:
    return str(answer.content.decode())


@pytest.mark.parametrize("path", ["/", "/jobs/", "/jobs/new/", "/jobs/new/?kind=launch", "/jobs/?status=live&page=99"])
def test_pages_answer_when_there_is_nothing_yet(client: Client, path: str) -> None:
    assert client.get(path).status_code == 200


@pytest.mark.parametrize("path", ["/", "/jobs/", "/jobs/new/", "/jobs/1/"])
def test_a_stranger_is_asked_to_sign_in(path: str) -> None:
    answer = Client().get(path)
    assert (answer.status_code, answer["Location"].split("?")[0]) == (302, "/login/")


def test_an_unknown_job_is_not_found(client: Client) -> None:
    assert client.get("/jobs/12345/").status_code == 404
    assert client.get("/jobs/new/?from=99").status_code == 404


def test_the_list_filters_and_says_why_a_job_waits(client: Client) -> None:
    make.make_job(name="alpha", status="queued", waiting_for="Waits for 1 device, held by job #7.", queue_position=1)
    make.make_job(name="omega", status="failed", reason="out_of_memory", finished_at=timezone.now())
    whole = text(client.get("/jobs/"))
    assert "held by job #7" in whole
    assert "ran out of memory" in whole
    assert "omega" not in text(client.get("/jobs/?status=live"))
    assert "alpha" not in text(client.get("/jobs/?search=omega"))
    assert "No job matches" in text(client.get("/jobs/?search=nothing"))


def test_a_long_list_has_pages(client: Client) -> None:
    user, spec = make.make_user(), make.make_job().spec
    Job.objects.bulk_create(Job(name=f"job {n}", kind="finetune", spec=spec, owner=user) for n in range(60))
    first = text(client.get("/jobs/"))
    assert "1–25 of 61" in first
    assert "Older" in first
    assert "job 0" in text(client.get("/jobs/?page=3"))


def test_a_search_that_finds_a_page_of_jobs_looks_through_them_once(client: Client) -> None:
    """Counting would be a second look at every name there is."""
    make.make_job(name="the one")
    make.make_job(name="another")
    with CaptureQueriesContext(connection) as seen:
        found = text(client.get("/jobs/?search=the+one"))
    assert "the one" in found
    assert not any("COUNT(" in query["sql"] for query in seen.captured_queries if "jobs_job" in query["sql"])


def form_values(**changes: str) -> dict[str, str]:
    return {"model": "tiny", "dataset": "cases", "learning_rate": "0.001", "lora__rank": "4", **changes}


@pytest.fixture
def catalog() -> None:
    make.make_model("tiny")
    make.make_dataset("cases")


@pytest.mark.usefixtures("catalog")
def test_the_form_submits_what_it_says(client: Client) -> None:
    values = form_values(deepspeed__zero_stage="2", resources__labels="zone=a", evaluate="on", name="mine")
    values["resources__preferred_labels"] = "tier=fast, disk=nvme"
    values["deepspeed__offload_optimizer"] = "cpu"
    values["deepspeed__config"] = '{"zero_optimization": {"reduce_bucket_size": 1000}}'
    answer = client.post("/jobs/new/?kind=finetune", values)
    job = Job.objects.get()
    assert answer["Location"] == f"/jobs/{job.pk}/"
    assert (job.name, job.spec["lora"]["rank"], job.spec["learning_rate"]) == ("mine", 4, 0.001)
    assert (job.spec["deepspeed"]["zero_stage"], job.spec["deepspeed"]["offload_optimizer"]) == (2, "cpu")
    assert job.spec["deepspeed"]["config"] == {"zero_optimization": {"reduce_bucket_size": 1000}}
    assert "reduce_bucket_size&quot;: 1000" in text(client.get(f"/jobs/{job.pk}/"))
    assert job.spec["resources"]["labels"] == {"zone": "a"}
    assert job.spec["resources"]["preferred_labels"] == {"tier": "fast", "disk": "nvme"}
    clone = text(client.get(f"/jobs/new/?from={job.pk}"))
    assert 'name="resources__preferred_labels" value="tier=fast, disk=nvme"' in clone
    assert (job.spec["evaluate"], job.spec["packing"]) == (True, False)


@pytest.mark.usefixtures("catalog")
@pytest.mark.parametrize(
    ("field", "value", "sentence"),
    [
        ("learning_rate", "-1", "out of range; it must be more than 0"),
        ("micro_batch", "many", "is not a whole number"),
        ("context_length", "99999", "more than tiny can hold"),
        ("model", "tinny", "did you mean tiny"),
        ("lora__rank", "0", "at least 1"),
        ("resources__labels", "nonsense", "write key=value"),
        ("resources__preferred_labels", "nonsense", "write key=value"),
        ("beta2", "1", "less than 1"),
        ("deepspeed__config", "{", "is no JSON"),
        ("deepspeed__config", '{"train_batch_size": 8}', "train_batch_size is set by micro_batch"),
    ],
)
def test_a_refusal_is_at_its_field_and_keeps_what_was_entered(
    client: Client, field: str, value: str, sentence: str
) -> None:
    values = form_values(name="my precious", deepspeed__zero_stage="1", **{field: value})
    answer = client.post("/jobs/new/?kind=finetune", values)
    assert answer.status_code == 422
    page = text(answer)
    error = page.split(f'id="error-{field}">')[1].split("</div>")[0]
    assert sentence in error
    assert "my precious" in page
    assert not Job.objects.exists()


@pytest.mark.usefixtures("catalog")
def test_a_clone_starts_from_the_old_values(client: Client) -> None:
    client.post("/jobs/new/?kind=finetune", form_values(seed="7", lora__rank="64"))
    old = Job.objects.get()
    page = text(client.get(f"/jobs/new/?from={old.pk}"))
    assert 'name="seed" value="7"' in page
    assert 'name="lora__rank" value="64"' in page
    client.post(f"/jobs/new/?from={old.pk}", form_values(seed="8"))
    assert Job.objects.latest("pk").cloned_from == old


def test_a_waiting_job_is_stopped_by_post_only(client: Client) -> None:
    job = make.make_job(status="queued")
    assert client.get(f"/jobs/{job.pk}/cancel/").status_code == 405
    client.post(f"/jobs/{job.pk}/cancel/")
    job.refresh_from_db()
    assert job.status == "cancelled"


def test_the_job_page_shows_results_and_the_reason(client: Client) -> None:
    attempt = make.make_attempt(make.make_job())
    job = attempt.job
    Job.objects.filter(pk=job.pk).update(
        status="failed", reason="nan_loss", detail="step 3: loss is nan", attempt_number=attempt.number
    )
    for seq, (name, f1) in enumerate((("test_before", 0.125), ("test_after", 0.875)), 1):
        payload = {"name": name, "values": {"macro_f1": f1, "rows": 8}}
        AttemptEvent.objects.create(attempt=attempt, seq=seq, at=0, type="result", payload=payload)
    for query in ("", "?part=state"):
        page = text(client.get(f"/jobs/{job.pk}/{query}"))
        assert "The loss became NaN" in page
        assert "step 3: loss is nan" in page
        assert "0.125" in page
        assert "0.875" in page
    assert "<html" not in text(client.get(f"/jobs/{job.pk}/?part=state"))


def test_a_run_that_says_less_than_usual_is_shown_as_far_as_it_goes(client: Client) -> None:
    attempt = make.make_attempt(make.make_job())
    payload = {"name": "training", "values": {"steps": 12, "seconds": "long"}}
    AttemptEvent.objects.create(attempt=attempt, seq=1, at=0, type="result", payload=payload)
    page = text(client.get(f"/jobs/{attempt.job_id}/"))
    assert "<dt>Steps</dt><dd>12</dd>" in page
    assert "<dt>Trainable parameters</dt><dd>—</dd>" in page
    assert "Best checkpoint" not in page
    payload = {"name": "best_checkpoint", "values": {"step": 10, "loss": 1.25}}
    AttemptEvent.objects.create(attempt=attempt, seq=2, at=0, type="result", payload=payload)
    assert "<dt>Best checkpoint</dt><dd>step 10, loss 1.25</dd>" in text(client.get(f"/jobs/{attempt.job_id}/"))


def test_the_job_page_knows_what_it_has_drawn(client: Client) -> None:
    job = make.make_attempt(make.make_job()).job
    for query in ("", "?part=state"):
        page = text(client.get(f"/jobs/{job.pk}/{query}"))
        drawn = json.loads(page.split('id="job-drawn"')[1].split(">", 1)[1].split("</script>")[0])
        newest = snapshot(job)
        assert drawn["status"] == "running"
        assert drawn == {key: newest[key] for key in drawn}


def test_progress_of_a_long_run_is_written_out(client: Client) -> None:
    job = make.make_attempt(make.make_job()).job
    Job.objects.filter(pk=job.pk).update(progress_done=12345, progress_total=20000, progress_unit="steps")
    for path in ("/", "/jobs/", f"/jobs/{job.pk}/"):
        assert "12,345 of 20,000 steps" in text(client.get(path))


@pytest.mark.parametrize(
    ("value", "shown"),
    [(0.93414, "0.9341"), (2e-4, "0.0002"), (12345.6, "12,346"), (80, "80"), (2442240, "2,442,240"), (None, "—")],
)
def test_figures_read_well(value: Any, shown: str) -> None:
    assert figure(value) == shown


@pytest.mark.parametrize(("kind", "wanted"), [("finetune", ["model", "dataset"]), ("launch", ["model"])])
def test_a_form_that_nothing_can_be_chosen_in_leads_to_adding(client: Client, kind: str, wanted: list[str]) -> None:
    path = f"/jobs/new/?kind={kind}"
    for what in wanted:
        assert f'There is no {what} yet; <a href="/{what}s/new/">' in text(client.get(path))
    make.make_model()
    make.make_dataset()
    assert "There is no" not in text(client.get(path))


def test_an_adapter_is_offered_with_the_model_it_is_for(client: Client) -> None:
    make.make_adapter("tuned", base_model=make.make_model("base"))
    assert '<option value="tuned">tuned (on base)</option>' in text(client.get("/jobs/new/?kind=launch"))


def test_a_device_out_of_reach_is_not_called_free(client: Client) -> None:
    make.make_node("gone", online=False)
    page = text(client.get("/"))
    assert "Device 0: out of reach" in page
    assert "Device 0: free" not in page


def test_every_hint_and_error_of_the_form_is_tied_to_its_field(client: Client) -> None:
    page = text(client.post("/jobs/new/?kind=finetune", {"learning_rate": "-1"}))
    for described in page.split('aria-describedby="')[1:]:
        for target in described.split('"')[0].split():
            assert f'id="{target}"' in page


def test_a_job_of_several_attempts_shows_each_with_its_node_and_where_it_began(client: Client) -> None:
    job = make.make_job()
    first = make.make_attempt(job, node=make.make_node("n1"), reason="node_lost", finished_at=timezone.now())
    assert 'id="attempts"' not in text(client.get(f"/jobs/{job.pk}/"))
    first.allocations.update(released_at=timezone.now())
    make.make_attempt(job, node=make.make_node("n2"), order={"resume": {"uri": "store://c", "step": 40}})
    page = text(client.get(f"/jobs/{job.pk}/"))
    table = page.split('id="attempts"')[1].split("</table>")[0]
    assert all(words in table for words in ("/nodes/n1/", "/nodes/n2/", "resumed from step 40", "stopped reporting"))
    assert "2, resumed from step 40" in page


def test_a_nodes_page_tells_what_happened_there(client: Client) -> None:
    node = make.make_node("n1")
    assert 'id="events"' not in text(client.get("/nodes/n1/"))
    for n in range(25):
        node.events.create(text=f"Lost job #{n}, attempt 1.")
    page = text(client.get("/nodes/n1/"))
    assert "Lost job #24" in page
    assert "Lost job #4," not in page


def test_rest_tells_of_every_attempt() -> None:
    job = make.make_job()
    make.make_attempt(job, node=make.make_node("n1"), reason="node_lost", finished_at=timezone.now())
    make.make_attempt(job, node=make.make_node("n2"), order={"resume": {"uri": "store://c", "step": 40}})
    first, second = snapshot(job)["attempts"]
    assert (first["node"], first["reason"], first["resumed_from"]) == ("n1", "node_lost", None)
    assert (second["number"], second["reason"], second["resumed_from"]) == (2, None, 40)


@pytest.mark.parametrize(("status", "said"), [("queued", "; chat with it once it is ready."), ("cancelled", ".</div>")])
def test_a_launch_that_ended_is_not_said_to_become_ready(client: Client, status: str, said: str) -> None:
    job = make.make_job(kind="launch", status=status)
    assert f"A launch has no results{said}" in text(client.get(f"/jobs/{job.pk}/"))
