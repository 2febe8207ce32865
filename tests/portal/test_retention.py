"""What of finished jobs goes, and that nothing goes which a live job or the catalog needs: real rows, real files."""

import io
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from django.core.exceptions import ImproperlyConfigured
from django.core.management import call_command
from django.db import OperationalError
from django.utils import timezone
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from pytest_django.fixtures import Settings

from portal import environment
from portal.accounts.models import AuditEntry
from portal.catalog import store
from portal.catalog.models import Adapter
from portal.fleet.models import NodeEvent
from portal.fleet.services import note
from portal.jobs.models import Attempt, Job
from portal.telemetry import retention
from portal.telemetry import sweeper as sweeper_module
from portal.telemetry.models import AttemptEvent, LogLine, MetricPoint
from portal.telemetry.retention import sweep_once
from portal.telemetry.sweeper import Sweeper
from tests.portal.factories import make_adapter, make_attempt, make_dataset, make_job, make_model, make_node
from workers.contract.keeping import Limit
from workers.contract.names import UnsafeURI

pytestmark = pytest.mark.django_db(transaction=True)

NOW = datetime(2026, 11, 25, 12, tzinfo=timezone.get_default_timezone())


@pytest.fixture(autouse=True)
def limits(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> dict[str, Limit]:
    """30 days of everything, and no limit of size, until a test says otherwise."""
    monkeypatch.setattr(retention, "PAUSE_S", 0)
    rows = Limit(30, 0, "ROWS")
    settings.LIFTOFF_KEEP = dict.fromkeys(("metrics", "logs", "events", "nodes"), rows) | {
        "results": Limit(30, 0, "GIB")
    }
    return settings.LIFTOFF_KEEP  # type: ignore[no-any-return]


def run(
    *,
    days_ago: float = 0,
    status: str = "succeeded",
    job: Job | None = None,
    files: tuple[str, ...] = (),
    rows: int = 0,
) -> Attempt:
    """An attempt that ended so long ago, with the files in its folder of the store and rows of every kind."""
    job = job or make_job()
    attempt = make_attempt(job, node=make_node(), status=status)
    folder = f"store://jobs/{job.pk}-{attempt.number}-{'abcd'[attempt.number % 4]}{attempt.pk}"
    ended = NOW - timedelta(days=days_ago)
    Attempt.objects.filter(pk=attempt.pk).update(order={"result_uri": folder}, finished_at=ended)
    live = status in ("queued", "dispatched", "running", "cancelling")
    Job.objects.filter(pk=job.pk).update(finished_at=None if live else ended)
    for name in files:
        store.put(f"{folder}/{name}", b"x" * 1000)
    add_rows(attempt, rows)
    attempt.refresh_from_db()
    return attempt


def add_rows(attempt: Attempt, rows: int) -> None:
    for seq in range(rows):
        MetricPoint.objects.create(attempt=attempt, seq=seq, name="loss", at=0, value=1)
        LogLine.objects.create(attempt=attempt, seq=seq, at=0, stream="out", text="hello")
        AttemptEvent.objects.create(attempt=attempt, seq=seq, at=0, type="phase", payload={})


def folder(attempt: Attempt) -> str:
    return str(attempt.order["result_uri"])


def files(attempt: Attempt) -> list[str]:
    """What is left in its folder."""
    return [name for name, _ in store.files(folder(attempt))]


def rows(attempt: Attempt) -> tuple[int, int, int]:
    """Its metrics, log lines and events."""
    return attempt.metric_points.count(), attempt.log_lines.count(), attempt.events.count()


class TestRows:
    def test_what_is_too_old_goes_and_the_rest_stays(self) -> None:
        old, young = run(days_ago=31, rows=3), run(days_ago=29, rows=3)
        sweep = sweep_once(NOW)
        assert (rows(old), rows(young)) == ((0, 0, 0), (3, 3, 3))
        assert [str(item) for item in sweep.gone] == [
            f"{kind} of job #{old.job_id}, attempt 1: 3 rows; older than 30 days"
            for kind in ("metrics", "logs", "events")
        ]
        assert Job.objects.filter(pk=old.job_id).exists()

    def test_a_live_jobs_rows_stay_and_those_of_its_earlier_attempts(self) -> None:
        first = run(days_ago=100, status="failed", rows=2)
        second = run(days_ago=90, status="running", job=first.job, rows=2)
        assert sweep_once(NOW).gone == []
        assert rows(first) == rows(second) == (2, 2, 2)

    def test_each_kind_has_its_own_limit(self, limits: dict[str, Limit]) -> None:
        limits.update(metrics=Limit(5, 0, "ROWS"), events=Limit(0, 0, "ROWS"))
        old = run(days_ago=10, rows=2)
        ancient = run(days_ago=1000, rows=2)
        sweep_once(NOW)
        assert rows(old) == (0, 2, 2)
        assert rows(ancient) == (0, 0, 2)

    def test_events_that_say_what_an_adapter_was_made_of_stay_while_it_is_in_the_catalog(self) -> None:
        attempt = run(days_ago=100, rows=2)
        adapter = make_adapter(job_number=attempt.job_id)
        sweep_once(NOW)
        assert rows(attempt) == (0, 0, 2)
        adapter.delete()
        sweep_once(NOW)
        assert rows(attempt) == (0, 0, 0)

    def test_beyond_the_number_of_rows_the_oldest_go_first(self, limits: dict[str, Limit]) -> None:
        limits["logs"] = Limit(0, 7, "ROWS")
        live = run(status="running", rows=3)
        oldest, older, newest = (run(days_ago=days, rows=3) for days in (3, 2, 1))
        sweep = sweep_once(NOW)
        assert [rows(attempt)[1] for attempt in (live, oldest, older, newest)] == [3, 0, 0, 3]
        assert {item.why for item in sweep.gone} == {"more than 7 rows"}

    def test_what_ended_just_now_stays_even_if_it_is_too_much(self, limits: dict[str, Limit]) -> None:
        limits["logs"] = Limit(0, 1, "ROWS")
        attempt = run(days_ago=0.01, rows=3)
        assert sweep_once(NOW).gone == []
        assert rows(attempt) == (3, 3, 3)

    def test_one_call_does_bounded_work_and_says_that_there_is_more(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(retention, "BATCH_ROWS", 2)
        monkeypatch.setattr(retention, "MOST_ROWS", 5)
        attempts = [run(days_ago=40 - number, rows=4) for number in range(2)]
        counts = []
        for _ in range(5):
            sweep = sweep_once(NOW)
            counts.append(sum(rows(attempt)[0] for attempt in attempts))
            if not sweep.more:
                break
        assert counts == [3, 0]
        assert [rows(attempt) for attempt in attempts] == [(0, 0, 0)] * 2
        assert not sweep.more


class TestResults:
    def test_what_is_too_old_goes_with_its_folder(self) -> None:
        made = ("manifest.json", "merged/model.safetensors", "checkpoints/step-5/state.bin")
        old, young = run(days_ago=31, files=made), run(days_ago=1, files=made)
        sweep = sweep_once(NOW)
        assert files(old) == []
        assert not store.exists(folder(old))
        assert len(files(young)) == 3
        assert {(item.what, item.size) for item in sweep.gone} == {
            (f"{folder(old)}/{name}", 1000) for name in ("manifest.json", "merged", "checkpoints")
        }

    def test_an_adapter_of_the_catalog_stays_with_its_manifest_and_the_checkpoints_beside_it_go(self) -> None:
        attempt = run(
            days_ago=100, files=("manifest.json", "adapter/weights.safetensors", "checkpoints/step-5/state.bin")
        )
        adapter = make_adapter("support", uri=f"{folder(attempt)}/adapter", job_number=attempt.job_id)
        sweep_once(NOW)
        assert files(attempt) == ["adapter/weights.safetensors", "manifest.json"]
        adapter.delete()
        sweep_once(NOW)
        assert files(attempt) == []

    def test_a_model_and_a_dataset_that_lie_among_results_stay(self, own_store: Path) -> None:
        merged, whole, split = (run(days_ago=100, files=("out/model.safetensors", "rest.bin")) for _ in range(3))
        make_model(uri=f"{folder(merged)}/out")
        make_model(uri=f"file://{own_store}/store/{folder(whole).removeprefix('store://')}")  # by its path, above both
        make_dataset(train_uri=f"{folder(split)}/out/model.safetensors", test_uri="")
        sweep_once(NOW)
        assert files(merged) == ["out/model.safetensors"]
        assert len(files(whole)) == 2
        assert files(split) == ["out/model.safetensors"]

    def test_a_live_jobs_folders_stay_and_the_checkpoint_of_another_job_that_it_goes_on_from(self) -> None:
        made = ("checkpoints/step-5/state.bin", "rest.bin")
        source = run(days_ago=100, status="failed", files=made)
        first = run(days_ago=90, status="failed", files=made)
        second = run(days_ago=80, status="running", job=first.job, files=made)
        order = {**second.order, "resume": {"uri": f"{folder(source)}/checkpoints/step-5", "step": 5}}
        Attempt.objects.filter(pk=second.pk).update(order=order)
        sweep_once(NOW)
        assert files(first) == files(second) == list(made)
        assert files(source) == ["checkpoints/step-5/state.bin"]

    def test_a_waiting_job_keeps_what_its_spec_names(self) -> None:
        source = run(days_ago=100, files=("checkpoints/step-5/state.bin",))
        waiting = make_job()
        Job.objects.filter(pk=waiting.pk).update(
            spec={**waiting.spec, "from": [f"{folder(source)}/checkpoints/step-5"]}
        )
        sweep_once(NOW)
        assert len(files(source)) == 1
        Job.objects.filter(pk=waiting.pk).update(status="cancelled", finished_at=NOW)
        sweep_once(NOW)
        assert files(source) == []

    def test_folders_that_no_attempt_was_told_to_fill_are_somebody_elses(self) -> None:
        attempt = run(days_ago=100, files=("a.bin",))
        others = [
            f"store://jobs/{attempt.job_id}-1-zzzz",
            "store://jobs/notes",
            "store://jobs/99999-1-ab",
            "store://models/m",
        ]
        for uri in others:
            store.put(f"{uri}/b.bin", b"x")
        sweep_once(NOW)
        assert files(attempt) == []
        assert all(store.exists(f"{uri}/b.bin") for uri in others)

    def test_beyond_the_size_the_oldest_go_first(self, limits: dict[str, Limit]) -> None:
        limits["results"] = Limit(0, 2500, "GIB")
        attempts = [run(days_ago=days, files=("a.bin",)) for days in (4, 3, 2, 1)]
        make_adapter(uri=f"{folder(attempts[0])}/a.bin")
        sweep_once(NOW)
        assert [len(files(attempt)) for attempt in attempts] == [1, 0, 0, 1]

    def test_more_results_than_one_call_removes(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(retention, "MOST_RESULTS", 2)
        attempts = [run(days_ago=100 - number, files=("a.bin",)) for number in range(3)]
        assert sweep_once(NOW).more
        assert [len(files(attempt)) for attempt in attempts] == [0, 0, 1]
        assert not sweep_once(NOW).more
        assert [len(files(attempt)) for attempt in attempts] == [0, 0, 0]

    def test_a_link_goes_and_what_it_leads_to_stays(self, own_store: Path) -> None:
        attempt = run(days_ago=100, files=("a.bin",))
        elsewhere = own_store / "elsewhere"
        elsewhere.mkdir()
        (elsewhere / "precious.bin").write_bytes(b"x")
        place = own_store / "store" / folder(attempt).removeprefix("store://")
        (place / "link").symlink_to(elsewhere)
        sweep_once(NOW)
        assert (elsewhere / "precious.bin").exists()
        assert not place.exists()

    def test_nothing_outside_the_store_is_ever_deleted(self, own_store: Path) -> None:
        (own_store / "precious.bin").write_bytes(b"x")
        (own_store / "store").mkdir()
        (own_store / "store" / "way-out").symlink_to(own_store)
        for uri in (f"file://{own_store}/precious.bin", "store://../precious.bin", "store://way-out/precious.bin"):
            with pytest.raises(UnsafeURI):
                store.remove(uri)
        assert (own_store / "precious.bin").exists()

    def test_a_store_that_is_away_hinders_nothing_else(self, settings: Settings) -> None:
        attempt = run(days_ago=100, files=("a.bin",), rows=1)
        settings.LIFTOFF_STORE = "file:///proc/1/nowhere"
        sweep_once(NOW)
        assert rows(attempt) == (0, 0, 0)


class TestSayingSo:
    def test_a_sweep_that_deleted_is_in_the_audit_log_and_one_that_did_not_is_not(self) -> None:
        run(days_ago=31, rows=2, files=("a.bin",))
        sweep_once(NOW)
        (entry,) = AuditEntry.objects.filter(action="sweep")
        assert entry.user is None
        assert entry.detail == "2 rows of metrics, 2 rows of logs, 2 rows of events, 1 results (0.0 MiB)"
        sweep_once(NOW)
        assert AuditEntry.objects.filter(action="sweep").count() == 1

    def test_a_dry_run_lists_what_would_go_and_why_and_deletes_nothing(self) -> None:
        attempt = run(days_ago=10_000, rows=2, files=("a.bin",))
        output = io.StringIO()
        call_command("sweep", "--dry-run", stdout=output)
        assert rows(attempt) == (2, 2, 2)
        assert files(attempt) == ["a.bin"]
        assert not AuditEntry.objects.filter(action="sweep").exists()
        said = output.getvalue()
        assert f"metrics of job #{attempt.job_id}, attempt 1: 2 rows; older than 30 days\n" in said
        assert f"{folder(attempt)}/a.bin: 0.0 MiB; older than 30 days\n" in said
        assert "Would delete 2 rows of metrics" in said

    def test_the_command_goes_on_until_all_is_done(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(retention, "MOST_ROWS", 3)
        monkeypatch.setattr(retention, "MOST_RESULTS", 1)
        attempts = [run(days_ago=10_000, rows=4, files=("a.bin", "b.bin")) for _ in range(2)]
        output = io.StringIO()
        call_command("sweep", stdout=output)
        assert [(rows(attempt), files(attempt)) for attempt in attempts] == [((0, 0, 0), [])] * 2
        output = io.StringIO()
        call_command("sweep", stdout=output)
        assert output.getvalue() == "Nothing is beyond the limits.\n"

    def test_a_limit_that_is_none_is_refused_when_the_portal_starts(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("LIFTOFF_KEEP_LOGS_ROWS", "many")
        with pytest.raises(ImproperlyConfigured, match=r"^LIFTOFF_KEEP_LOGS_ROWS: 'many' is no limit; .*\.$"):
            environment.keep("LOGS", days=1, size=1, unit="ROWS")


class TestNodeEvents:
    @staticmethod
    def happened(*days_ago: float) -> None:
        for days in days_ago:
            event = note(make_node(), f"{days:g} days ago")
            NodeEvent.objects.filter(pk=event.pk).update(at=NOW - timedelta(days=days))

    @staticmethod
    def told() -> list[str]:
        return list(NodeEvent.objects.order_by("pk").values_list("text", flat=True))

    def test_what_happened_long_ago_is_told_no_more(self) -> None:
        self.happened(100, 31, 29, 1)
        sweep = sweep_once(NOW)
        assert self.told() == ["29 days ago", "1 days ago"]
        assert [str(item) for item in sweep.gone] == ["what happened to nodes: 2 rows; older than 30 days"]

    def test_beyond_the_number_of_rows_the_oldest_go(self, limits: dict[str, Limit]) -> None:
        limits["nodes"] = Limit(0, 2, "ROWS")
        self.happened(3, 2, 1)
        assert [item.why for item in sweep_once(NOW, dry_run=True).gone] == ["more than 2 rows"]
        assert len(self.told()) == 3
        sweep_once(NOW)
        assert self.told() == ["2 days ago", "1 days ago"]

    def test_more_than_one_call_does_is_done_by_the_next(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(retention, "MOST_ROWS", 2)
        monkeypatch.setattr(retention, "BATCH_ROWS", 1)
        self.happened(90, 80, 70)
        assert sweep_once(NOW).more
        assert not sweep_once(NOW).more
        assert self.told() == []


class TestHourly:
    """The leading controller's own sweep."""

    def test_soon_after_it_leads_and_then_every_hour(self) -> None:
        seconds = 0.0
        sweeper = Sweeper(clock=lambda: seconds, now=lambda: NOW)
        swept = []
        for _ in range(3 * 60):
            if sweeper.step(leads=True):
                swept.append(seconds)
            seconds += 60
        assert swept == [60, 3660, 7260]

    def test_one_that_stands_by_deletes_nothing(self) -> None:
        old = run(days_ago=31, rows=1)
        seconds = 0.0
        sweeper = Sweeper(clock=lambda: seconds, now=lambda: NOW)
        for seconds in range(0, 10_000, 100):  # noqa: B007
            assert not sweeper.step(leads=False)
        assert rows(old) == (1, 1, 1)

    def test_what_one_call_left_is_done_at_once(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(retention, "MOST_ROWS", 2)
        monkeypatch.setattr(retention, "BATCH_ROWS", 1)
        old = run(days_ago=31, rows=5)
        sweeper = Sweeper(first_s=0, now=lambda: NOW)
        assert sweeper.step(leads=True)
        assert rows(old) == (0, 0, 0)

    def test_an_outage_is_no_end_of_it(self, monkeypatch: pytest.MonkeyPatch) -> None:
        seconds = 0.0
        sweeper = Sweeper(first_s=0, clock=lambda: seconds, now=lambda: NOW)
        with monkeypatch.context() as broken:
            broken.setattr(sweeper_module, "sweep_once", _away)
            assert sweeper.step(leads=True)
        old = run(days_ago=31, rows=1)
        seconds = 3600
        sweeper.step(leads=True)
        assert rows(old) == (0, 0, 0)


def _away(now: datetime) -> None:
    raise OperationalError("the database is away")


STATUSES = st.sampled_from(["succeeded", "failed", "running", "cancelling"])
RUNS = st.lists(st.tuples(STATUSES, st.integers(0, 60), st.booleans(), st.booleans(), st.integers(0, 3)), max_size=5)


@hypothesis_settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(RUNS, st.integers(0, 40), st.integers(0, 4000), st.integers(0, 8))
def test_whatever_the_limits_what_is_needed_is_there_afterwards(
    limits: dict[str, Limit], drawn: list[tuple[Any, ...]], days: int, size: int, row_limit: int
) -> None:
    Adapter.objects.all().delete()  # of the example before
    Job.objects.all().delete()
    for kind in limits:
        limits[kind] = Limit(days, size) if kind == "results" else Limit(days, row_limit, "ROWS")
    needed: list[tuple[Attempt, list[str], int]] = []
    for status, days_ago, has_adapter, resumed, count in drawn:
        attempt = run(days_ago=days_ago, status=status, files=("adapter/w.bin", "checkpoints/step-1/s.bin"), rows=count)
        live = status in ("running", "cancelling")
        stays = ["adapter/w.bin"] * (has_adapter or live) + ["checkpoints/step-1/s.bin"] * (resumed or live)
        if has_adapter:
            make_adapter(uri=f"{folder(attempt)}/adapter", job_number=attempt.job_id)
        if resumed:
            uri = f"{folder(attempt)}/checkpoints/step-1"
            order = {"resume": {"uri": uri, "step": 1}, "result_uri": "store://jobs/none"}
            make_attempt(make_job(), node=make_node(), order=order)
        needed.append((attempt, stays, count * live))
    while sweep_once(NOW).more:
        pass
    for attempt, stays, count in needed:
        assert set(stays) <= set(files(attempt))
        assert all(left >= count for left in rows(attempt))
