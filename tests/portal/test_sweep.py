"""All-reduce sweeps in the portal: submitted from a node's page, REST or the terminal; kept, drawn and judged."""

from typing import Any

import pytest
from django.contrib.auth.models import User
from django.test import Client
from pytest_django.fixtures import Settings

from portal.accounts.services import create_token
from portal.asgi import application
from portal.cli import main
from portal.cli.output import print_job
from portal.fleet import selectors
from portal.fleet.models import SweepReport
from portal.jobs.models import Job
from portal.pages.sweep_chart import drawing
from portal.planner.rules import Rules
from portal.telemetry.selectors import snapshot
from tests.portal import factories as make
from tests.portal.api_client import Caller, refusal
from tests.portal.servers import serving
from tests.portal.test_preflight import running, tell, text
from workers.contract.sweep import Sweep

pytestmark = pytest.mark.django_db

MIB = 2**20


def sweep(*, slower: float = 1.08, at: float = 1_700_000_000.0) -> dict[str, Any]:
    """Two and four processes; each doubling makes the step longer by so much."""
    return {
        "at": at,
        "took_s": 12.0,
        "backend": "gloo",
        "between": "up to 4 processes of one thread, over the loopback",
        "step": "4 fp32 matrices",
        "sums": [
            {"ranks": ranks, "bytes": size, "seconds": size / 1e9 + 1e-4}
            for ranks in (2, 4)
            for size in (1024, 64 * 1024, 64 * MIB)
        ],
        "steps": [{"ranks": ranks, "seconds": 0.3 * slower**power} for power, ranks in enumerate((1, 2, 4))],
    }


def result(**values: Any) -> dict[str, Any]:
    return {"type": "result", "name": "all_reduce_sweep", "values": sweep(**values)}


@pytest.fixture
def user() -> User:
    return make.make_user("ada")


@pytest.fixture
def client(user: User) -> Client:
    client = Client()
    client.force_login(user)
    return client


def test_bus_bandwidth_and_overhead_per_doubling() -> None:
    measured = Sweep.model_validate(sweep() | {"steps": [{"ranks": 1, "seconds": 1.0}, {"ranks": 4, "seconds": 1.21}]})
    assert measured.sums[2].bus_bytes_per_s == pytest.approx(64 * MIB / (64 * MIB / 1e9 + 1e-4))
    assert measured.sums[5].bus_bytes_per_s == pytest.approx(1.5 * 64 * MIB / (64 * MIB / 1e9 + 1e-4))
    (doubling,) = measured.doublings
    assert doubling.overhead == pytest.approx(0.1)  # 1.21 = 1.1 x 1.1, over two doublings


def test_a_sweep_is_kept_once_and_a_broken_one_hinders_nothing() -> None:
    node = make.make_node("n1")
    attempt = running(node)
    tell(attempt, result())
    tell(attempt, result(slower=2))
    kept = SweepReport.objects.get()
    assert (kept.node, kept.job_number, kept.attempt_number, kept.at.year) == (node, attempt.job_id, 1, 2023)
    for broken in ({}, sweep() | {"sums": []}, sweep() | {"sums": [{"ranks": 1, "bytes": 1, "seconds": 1}]}):
        event = {"type": "result", "name": "all_reduce_sweep", "values": broken}
        tell(running(node), event, {"type": "phase", "name": "on"})
    assert SweepReport.objects.count() == 1
    tell(running(node), result(slower=1.5))
    assert [one.overhead for one in _newest(node).scaling] == pytest.approx([0.5, 0.5])


def _newest(node: Any) -> Any:
    report = selectors.latest_sweep(node)
    assert report
    return drawing(Sweep.model_validate(report.sweep), Rules(), report)


def test_the_node_and_the_job_show_it_beside_the_guides_share(client: Client, settings: Settings) -> None:
    attempt = running(make.make_node("n1"))
    assert "None has run here yet. It sums messages" in text(client.get("/nodes/n1/"))
    tell(attempt, result(slower=1.2))
    for page in ("/nodes/n1/", f"/jobs/{attempt.job_id}/", f"/jobs/{attempt.job_id}/?part=state"):
        shown = text(client.get(page))
        assert '<svg class="scatter sweep"' in shown
        assert shown.count("<circle") == 6
        assert "64 MiB between 4: 1.5 GB/s, 67.2 ms" in shown
        assert "expects 5.0% to 12% for each doubling" in shown
        assert "300 ms → 360 ms" in shown
    settings.LIFTOFF_RULES = Rules(nccl_share=0.01, nccl_share_most=0.3)
    assert "expects 1.0% to 30% for each doubling" in text(client.get("/nodes/n1/"))


def test_a_doubling_within_the_guides_share_is_ok() -> None:
    shown = drawing(Sweep.model_validate(sweep(slower=1.1)), Rules())
    assert [one.state for one in shown.scaling] == ["ok", "ok"]
    shown = drawing(Sweep.model_validate(sweep(slower=1.2)), Rules())
    assert [one.state for one in shown.scaling] == ["warn", "warn"]


@pytest.mark.parametrize(("kind", "devices"), [("cuda", 3), ("cpu", 1)])
def test_the_button_asks_for_a_device_a_process_where_they_are_gpus(
    client: Client, user: User, kind: str, devices: int
) -> None:
    make.make_node("n1", devices=4 if kind == "cuda" else 1, kind=kind, cores=8)
    answer = client.post("/nodes/n1/sweep/", {"processes": "3"})
    job = Job.objects.get()
    assert answer["Location"] == f"/jobs/{job.pk}/"
    assert (job.kind, job.name, job.owner) == ("preflight", "All-reduce sweep of n1", user)
    assert (job.spec["sweep_processes"], job.spec["resources"]["devices"]) == (3, devices)


@pytest.mark.parametrize("processes", ["many", "1000", "-1"])
def test_a_number_that_is_none_is_refused_in_a_sentence(client: Client, processes: str) -> None:
    make.make_node("n1", cores=8)
    page = text(client.post("/nodes/n1/sweep/", {"processes": processes}, follow=True))
    assert "processes: " in page
    assert not Job.objects.exists()


def test_one_gpu_alone_offers_no_sweep(client: Client) -> None:
    make.make_node("n1", devices=1, kind="cuda")
    page = text(client.get("/nodes/n1/"))
    assert "Run sweep" not in page
    assert "One device has nobody to join." in page


def test_rest_tells_the_newest(user: User) -> None:
    call = Caller(user)
    node = make.make_node("n1")
    assert "there is no all-reduce sweep of node" in refusal(call.get("/nodes/n1/sweep"), 404)["message"]
    asked = {"kind": "preflight", "sweep_processes": 2, "resources": {"node": "n1"}}
    assert call.post("/jobs", asked).status_code == 201
    tell(running(node), result())
    told = call.get("/nodes/n1/sweep").json()
    assert len(told["bus_bytes_per_s"]) == len(told["sweep"]["sums"]) == 6
    assert [(one["before"], one["after"], round(one["overhead"], 3)) for one in told["scaling"]] == [
        (1, 2, 0.08),
        (2, 4, 0.08),
    ]


def test_the_terminal_shows_a_row_a_size(capsys: pytest.CaptureFixture[str]) -> None:
    attempt = running(make.make_node("n1"))
    tell(attempt, result())
    print_job(snapshot(Job.objects.get(pk=attempt.job_id)))
    said = capsys.readouterr().out
    assert "bytes     2 processes  4 processes" in said
    assert "67108864  998.5        1498" in said
    assert "1 to 2 processes: +8.0% a training step per doubling" in said


@pytest.mark.django_db(transaction=True)
def test_the_terminal_submits_one(
    user: User, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    make.make_node("n1", devices=4, kind="cuda")
    monkeypatch.setenv("LIFTOFF_TOKEN", create_token(user, "terminal")[1])
    with serving(application) as url:
        monkeypatch.setenv("LIFTOFF_URL", url)
        assert main(["sweep", "n1", "--processes", "4"]) == 0
        assert main(["sweep", "n2"]) == 2
    job = Job.objects.get()
    assert (job.spec["sweep_processes"], job.spec["resources"]["devices"]) == (4, 4)
    said = capsys.readouterr()
    assert f"Job #{job.pk} All-reduce sweep of n1: queued." in said.out
    assert "there is no node 'n2'" in said.err
