"""Preflights in the portal: submitted from a form, a button or REST; kept on the node's page and shown on the job's."""

from typing import Any

import pytest
from django.contrib.auth.models import User
from django.test import Client
from django.utils import timezone

from portal.cli.output import print_job
from portal.fleet import selectors
from portal.fleet.models import Node, PreflightReport
from portal.jobs import orders, services
from portal.jobs.models import Allocation, Attempt, Job
from portal.jobs.scheduler import Placement
from portal.telemetry.record import record
from portal.telemetry.selectors import snapshot
from tests.portal import factories as make
from tests.portal.api_client import Caller, refusal
from workers.contract.events import EVENT, Envelope

pytestmark = pytest.mark.django_db

OK = {"name": "packages", "state": "ok", "words": "torch 2.13.0: as this Liftoff needs them."}
SLOW = {
    "name": "disk read",
    "state": "warn",
    "words": "400 MB/s on 256 MiB of the model's files.",
    "to_do": "Keep models on an NVMe disk.",
    "value": 4e8,
    "unit": "bytes/s",
}
FULL = {"name": "disk space", "state": "fail", "words": "0.5 GiB are free.", "to_do": "Free space on this disk."}


@pytest.fixture
def user() -> User:
    return make.make_user("ada")


@pytest.fixture
def client(user: User) -> Client:
    client = Client()
    client.force_login(user)
    return client


def text(answer: Any) -> str:
    return answer.content.decode()


def running(node: Node, kind: str = "preflight") -> Attempt:
    """A running attempt of that kind of job on the node, whose devices are free again."""
    Allocation.objects.filter(accelerator__node=node).update(released_at=timezone.now())
    spec: dict[str, Any] = {"resources": {"node": node.name}}
    if kind == "preflight":
        spec["model"] = None
    return make.make_attempt(make.make_job(kind=kind, spec=spec), node=node)


def tell(attempt: Attempt, *events: dict[str, Any]) -> None:
    """Record what the attempt's node says, from where it left off."""
    attempt.refresh_from_db()
    record(
        [
            Envelope(job=attempt.job_id, attempt=attempt.number, seq=seq, at=1.0, event=EVENT.validate_python(event))
            for seq, event in enumerate(events, attempt.last_seq + 1)
        ]
    )


def report(*lines: dict[str, Any], at: float = 1_700_000_000.0) -> dict[str, Any]:
    return {"type": "result", "name": "preflight", "values": {"at": at, "took_s": 2.5, "lines": list(lines)}}


def test_a_report_is_kept_on_its_nodes_page(client: Client) -> None:
    node, other = make.make_node("n1"), make.make_node("n2")
    assert "None has run here yet" in text(client.get("/nodes/n1/"))
    attempt = running(node)
    tell(attempt, report(OK, SLOW))
    page = text(client.get("/nodes/n1/"))
    assert "400 MB/s on 256 MiB" in page
    assert "Keep models on an NVMe disk." in page
    assert f'<a href="/jobs/{attempt.job_id}/">job #{attempt.job_id}</a>' in page
    assert 'data-status="warn"' in page
    assert "None has run here yet" in text(client.get(f"/nodes/{other.name}/"))
    tell(running(node, "launch"), report(OK))
    newest = text(client.get("/nodes/n1/"))
    assert "400 MB/s" not in newest
    assert "as this Liftoff needs them" in newest


def test_a_report_told_twice_is_kept_once_and_what_is_none_is_dropped() -> None:
    node = make.make_node("n1")
    attempt = running(node)
    tell(attempt, report(OK, FULL))
    tell(attempt, report(OK))
    kept = PreflightReport.objects.get()
    assert (kept.node, kept.job_number, kept.attempt_number, kept.state) == (node, attempt.job_id, 1, "fail")
    assert (kept.took_s, kept.at.year) == (2.5, 2023)
    for broken in ({"lines": 3}, {"at": 1, "took_s": 1, "lines": [{**OK, "state": "fine"}]}, {}):
        tell(running(node), {"type": "result", "name": "preflight", "values": broken}, {"type": "phase", "name": "on"})
    assert PreflightReport.objects.count() == 1
    assert Job.objects.latest("pk").phase == "on"


def test_the_newest_report_of_every_node() -> None:
    first, second, _ = (make.make_node(name) for name in ("n1", "n2", "n3"))
    for node, lines in ((first, [OK]), (second, [OK]), (first, [FULL])):
        tell(running(node), report(*lines))
    assert {report.node.name: report.state for report in selectors.latest_preflights().values()} == {
        "n1": "fail",
        "n2": "ok",
    }
    newest = selectors.latest_preflight(first)
    assert newest
    assert newest.state == "fail"


@pytest.mark.parametrize("kind", ["preflight", "launch"])
def test_the_jobs_page_shows_each_line_and_what_to_do(client: Client, kind: str) -> None:
    attempt = running(make.make_node("n1"), kind)
    assert 'id="preflight"' not in text(client.get(f"/jobs/{attempt.job_id}/"))
    tell(attempt, report(OK, SLOW, FULL))
    for query in ("", "?part=state"):
        page = text(client.get(f"/jobs/{attempt.job_id}/{query}"))
        assert "1 fail, 1 warn, 1 ok" in page
        assert "Free space on this disk." in page
    tell(attempt, {"type": "finished", "reason": "preflight_failed", "detail": "disk space: 0.5 GiB are free."})
    page = text(client.get(f"/jobs/{attempt.job_id}/"))
    assert "The node is not ready for this job" in page
    attempt.job.refresh_from_db()
    assert (attempt.job.status, attempt.job.reason) == ("failed", "preflight_failed")


def test_a_launchs_report_is_folded_while_all_is_well(client: Client) -> None:
    for lines, folded in (([OK], True), ([OK, SLOW], False)):
        attempt = running(make.make_node(), "launch")
        tell(attempt, report(*lines))
        page = text(client.get(f"/jobs/{attempt.job_id}/"))
        assert ('<details class="card mb-3" id="preflight">' in page) is folded


def test_the_button_submits_a_preflight_of_the_free_devices(client: Client, user: User) -> None:
    node = make.make_node("n1", devices=4, kind="cuda")
    held = make.make_attempt(make.make_job(kind="launch"), node=node)
    held.allocations.filter(accelerator__index__gte=1).delete()
    answer = client.post("/nodes/n1/preflight/")
    job = Job.objects.latest("pk")
    assert answer["Location"] == f"/jobs/{job.pk}/"
    assert (job.kind, job.name, job.owner) == ("preflight", "Preflight of n1", user)
    assert (job.spec["resources"]["node"], job.spec["resources"]["devices"], job.spec["model"]) == ("n1", 3, None)
    page = text(client.get(f"/jobs/{job.pk}/"))
    assert "<dt>Model</dt>" not in page
    assert client.get("/nodes/n1/preflight/").status_code == 405
    assert client.post("/nodes/nowhere/preflight/").status_code == 404
    assert Client().post("/nodes/n1/preflight/")["Location"].startswith("/login/")


def test_a_node_without_devices_offers_no_button(client: Client) -> None:
    make.make_node("n1", devices=0)
    assert "Run preflight" not in text(client.get("/nodes/n1/"))


def test_the_form_needs_a_node_and_no_model(client: Client) -> None:
    assert 'There is no node yet; <a href="/nodes/">' in text(client.get("/jobs/new/?kind=preflight"))
    make.make_node("n1")
    make.make_node("n2")
    make.make_model("tiny")
    page = text(client.get("/jobs/new/?kind=preflight&resources__node=n2"))
    assert "Check a node" in page
    assert '<option value="n2" selected>n2</option>' in page
    refused = client.post("/jobs/new/?kind=preflight", {"resources__devices": "1"})
    assert refused.status_code == 422
    error = text(refused).split('id="error-resources__node">')[1].split("</div>")[0]
    assert "A preflight checks one node; name it." in error
    client.post("/jobs/new/?kind=preflight", {"resources__node": "n1", "model": "tiny"})
    client.post("/jobs/new/?kind=preflight", {"resources__node": "n1"})
    with_model, without = Job.objects.order_by("pk")
    assert (with_model.name, with_model.spec["model"]) == ("Preflight of n1 for tiny", "tiny")
    assert (without.name, without.spec["model"]) == ("Preflight of n1", None)
    clone = text(client.get(f"/jobs/new/?from={with_model.pk}"))
    assert '<option value="tiny" selected>tiny</option>' in clone
    assert "Preflight of n1" in text(client.get("/jobs/?kind=preflight"))


def test_a_launch_asks_whether_to_skip_it(client: Client) -> None:
    make.make_model("tiny")
    assert "Skip preflight" in text(client.get("/jobs/new/?kind=launch"))
    client.post("/jobs/new/?kind=launch", {"model": "tiny", "skip_preflight": "on"})
    client.post("/jobs/new/?kind=launch", {"model": "tiny"})
    assert [job.spec["skip_preflight"] for job in Job.objects.order_by("pk")] == [True, False]


def test_an_order_without_a_model_is_built_stored_and_built_again(user: User) -> None:
    node = make.make_node("n1")
    job, _ = services.submit(user, {"kind": "preflight", "resources": {"node": "n1"}})
    assert services.allocate(Placement(job.pk, node.pk, (node.accelerators.get().pk,)))
    order = orders.rebuild(Attempt.objects.get())
    assert (order.model, order.serve_token, order.spec.kind) == (None, None, "preflight")


def test_rest_submits_one_and_tells_a_nodes_newest(user: User) -> None:
    call = Caller(user)
    node = make.make_node("n1")
    assert call.get("/nodes/n1").json()["preflight"] is None
    assert refusal(call.post("/jobs", {"kind": "preflight"}))["field"] == "resources.node"
    unknown = refusal(call.post("/jobs", {"kind": "preflight", "resources": {"node": "n2"}}))
    assert "did you mean n1" in unknown["message"]
    made = call.post("/jobs", {"kind": "preflight", "resources": {"node": "n1"}})
    assert (made.status_code, made.json()["spec"]["model"]) == (201, None)
    attempt = make.make_attempt(Job.objects.get(), node=node)
    tell(attempt, report(OK, SLOW))
    told = call.get("/nodes/n1").json()["preflight"]
    assert (told["job"], told["attempt"], told["state"], told["took_s"]) == (attempt.job_id, 1, "warn", 2.5)
    assert [line["to_do"] for line in told["lines"]] == ["", "Keep models on an NVMe disk."]
    assert call.get("/nodes").json()["items"][0]["preflight"] == told
    assert call.get("/jobs", kind="preflight").json()["count"] == 1


def test_the_terminal_shows_a_line_a_check(capsys: pytest.CaptureFixture[str]) -> None:
    attempt = running(make.make_node("n1"))
    tell(attempt, report(OK, SLOW))
    print_job(snapshot(Job.objects.get(pk=attempt.job_id)))
    said = capsys.readouterr().out
    assert "  ok    packages: torch 2.13.0" in said
    assert "  warn  disk read: 400 MB/s" in said
    assert "→ Keep models on an NVMe disk." in said


def test_a_chat_with_a_preflight_leads_to_a_launch(client: Client) -> None:
    attempt = running(make.make_node("n1"))
    assert "Launch a model to chat with it." in text(client.get(f"/chat/{attempt.job_id}/"))
