"""The `liftoff` command against a portal that answers over HTTP."""

import io
import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from django.contrib.auth.models import User

from portal.accounts.services import create_token
from portal.asgi import application
from portal.catalog import store
from portal.cli import jobs as job_commands
from portal.cli import main
from portal.jobs.models import Job
from portal.serving.models import Endpoint
from portal.serving.services import mark_ready
from portal.telemetry.models import AttemptEvent, LogLine, MetricPoint
from tests.portal.factories import make_attempt, make_dataset, make_job, make_model, make_node, make_user
from tests.portal.servers import FakeModel, serving

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture
def user() -> User:
    return make_user("ada")


@pytest.fixture(autouse=True)
def portal(user: User, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("LIFTOFF_TOKEN", create_token(user, "terminal")[1])
    with serving(application) as url:
        monkeypatch.setenv("LIFTOFF_URL", url)
        yield


@pytest.fixture
def spec(tmp_path: Path) -> str:
    make_model("tiny", context_length=512)
    make_dataset("tickets")
    path = tmp_path / "spec.json"
    path.write_text(json.dumps({"kind": "finetune", "model": "tiny", "dataset": "tickets"}))
    return str(path)


class World:
    """Stands in for the clock of a watching command: at each pause the next step happens."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.steps: list[Callable[[], Any]] = []
        clock = SimpleNamespace(sleep=lambda _: self.steps.pop(0)(), monotonic=time.monotonic)
        monkeypatch.setattr(job_commands, "time", clock)


@pytest.fixture
def world(monkeypatch: pytest.MonkeyPatch) -> World:
    return World(monkeypatch)


def test_submit_sets_values_and_prints_the_job(
    spec: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    changes = ("lora.rank=8", "name=eight", "deepspeed.zero_stage=1", 'resources.labels.zone="a"')
    sets = [argument for change in changes for argument in ("--set", change)]
    assert main(["submit", spec, *sets, "--json"]) == 0
    job = json.loads(capsys.readouterr().out)
    assert (job["name"], job["spec"]["lora"]["rank"], job["spec"]["deepspeed"]["zero_stage"]) == ("eight", 8, 1)
    assert job["spec"]["resources"]["labels"] == {"zone": "a"}
    monkeypatch.setattr(sys, "stdin", io.StringIO(Path(spec).read_text()))
    assert main(["submit", "-"]) == 0
    assert "queued" in capsys.readouterr().out


def test_submit_says_which_nodes_it_must_and_should_have(spec: str, capsys: pytest.CaptureFixture[str]) -> None:
    wishes = ["--label", "zone=a", "--label", "gen=5", "--prefer", "tier=fast"]
    assert main(["submit", spec, *wishes, "--json"]) == 0
    resources = json.loads(capsys.readouterr().out)["spec"]["resources"]
    assert resources["labels"] == {"zone": "a", "gen": "5"}
    assert resources["preferred_labels"] == {"tier": "fast"}


def test_the_same_key_gives_the_same_job(spec: str) -> None:
    for _ in range(2):
        assert main(["submit", spec, "--idempotency-key", "k"]) == 0
    assert Job.objects.count() == 1


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--set", "learning_rate=-1"], "learning_rate: -1 is out of range; it must be more than 0."),
        (["--set", "lora.rnk=8"], "did you mean rank"),
        (["--set", "seed"], "path=value"),
        (["--label", "fast"], "--label: 'fast' is no label; write key=value"),
        (["--set", "model=tinny"], "did you mean tiny"),
    ],
)
def test_what_is_refused_is_said_in_sentences(
    spec: str, arguments: list[str], sentence: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["submit", spec, *arguments]) == 2
    captured = capsys.readouterr()
    assert sentence in captured.err
    assert captured.out == ""
    assert Job.objects.count() == 0


def test_a_spec_that_cannot_be_read_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "bad.json").write_text("{")
    for name, words in (("none.json", "can't be read"), ("bad.json", "is not JSON")):
        assert main(["submit", str(tmp_path / name)]) == 2
        assert words in capsys.readouterr().err


def test_wrong_usage_unknown_tokens_and_no_portal_have_their_exit_status(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as stopped:
        main(["dance"])
    assert stopped.value.code == 2
    assert main(["status", "7"]) == 2
    assert "there is no job #7" in capsys.readouterr().err
    monkeypatch.setenv("LIFTOFF_TOKEN", "lift_wrong")
    assert main(["jobs"]) == 2
    assert "LIFTOFF_TOKEN" in capsys.readouterr().err
    monkeypatch.setenv("LIFTOFF_URL", "not a url")
    assert main(["jobs"]) == 2
    monkeypatch.setenv("LIFTOFF_URL", "http://127.0.0.1:9")
    assert main(["jobs"]) == 4
    assert "can't be reached" in capsys.readouterr().err


@pytest.mark.parametrize(("end", "status"), [("succeeded", 0), ("failed", 1), ("cancelled", 1)])
def test_wait_follows_a_job_to_its_end(
    spec: str, world: World, end: str, status: int, capsys: pytest.CaptureFixture[str]
) -> None:
    reason = {"succeeded": "completed", "failed": "crashed", "cancelled": "cancelled"}[end]
    world.steps = [
        lambda: Job.objects.update(status="running", phase="training", progress_done=1, progress_total=4),
        lambda: Job.objects.update(progress_done=2),
        lambda: Job.objects.update(status=end, reason=reason, phase=""),
    ]
    assert main(["submit", spec, "--wait"]) == status
    captured = capsys.readouterr()
    assert captured.err.splitlines()[1:] == ["queued  Waits for the scheduler.", "running  training", end]
    assert f"tiny on tickets: {end}" in captured.out
    assert not world.steps


def test_wait_bears_a_short_absence_of_the_portal(spec: str, world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    def away() -> None:
        monkeypatch.setattr(job_commands.Portal, "get", absent)

    def absent(*_: Any, **__: Any) -> Any:
        raise job_commands.Problem("away", status=4)

    def back() -> None:
        monkeypatch.setattr(job_commands.Portal, "get", get)
        Job.objects.update(status="succeeded", reason="completed")

    get = job_commands.Portal.get
    world.steps = [away, lambda: None, back]
    assert main(["submit", spec, "--wait"]) == 0


def test_wait_for_a_launch_ends_when_it_answers(
    spec: str, tmp_path: Path, world: World, user: User, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "launch.json").write_text(json.dumps({"kind": "launch", "model": "tiny", "context_length": 512}))

    def ready() -> None:
        attempt = make_attempt(Job.objects.get())
        Endpoint.objects.create(attempt=attempt, url="http://127.0.0.1:9", model_name="tiny")

    world.steps = [ready]
    assert main(["submit", str(tmp_path / "launch.json"), "--wait"]) == 0
    assert "answers as tiny" in capsys.readouterr().out


@pytest.fixture
def watched(user: User) -> Job:
    """A running job with two steps, two lines and an artifact."""
    job = make_job(user, name="run")
    attempt = make_attempt(job, node=make_node("n1"))
    for step in (1, 2):
        MetricPoint.objects.create(attempt=attempt, seq=step, name="loss", step=step, at=step, value=1 / step)
        LogLine.objects.create(attempt=attempt, seq=10 + step, at=step, stream="out", text=f"line {step}")
    uri = f"store://jobs/{job.pk}/1/adapter"
    store.put(f"{uri}/weights.safetensors", b"weights")
    payload = {"name": "adapter", "kind": "adapter", "uri": uri, "bytes": 7, "sha256": None}
    AttemptEvent.objects.create(attempt=attempt, seq=20, at=3, type="artifact", payload=payload)
    return job


def test_status_metrics_events_and_lists(watched: Job, capsys: pytest.CaptureFixture[str]) -> None:
    def said(*arguments: str) -> str:
        assert main([*arguments]) == 0
        return capsys.readouterr().out

    number = str(watched.pk)
    assert "running" in said("status", number)
    assert "on n1: cpu:0 Device 0" in said("status", number)
    assert json.loads(said("status", number, "--json"))["id"] == watched.pk
    assert said("metrics", number).splitlines()[1].split() == ["loss", "2", "1", "0.5", "0.5", "1"]
    assert list(json.loads(said("metrics", number, "--names", "loss", "--json"))) == ["loss"]
    events = [json.loads(line) for line in said("events", number).splitlines()]
    assert [event["type"] for event in events] == ["metric", "metric", "log", "log", "artifact"]
    assert len(said("events", number, "--since", "1.12").splitlines()) == 1
    assert said("logs", number, "-n", "1") == "line 2\n"
    assert "run" in said("jobs", "--status", "live")
    assert "0 of 1" in said("nodes")
    assert "LlamaForCausalLM" in said("models")
    assert "text_label" in said("datasets")
    for listing in ("jobs", "nodes", "models", "datasets"):
        assert isinstance(json.loads(said(listing, "--json")), list)
    assert "cancelling" in said("cancel", number)


def test_logs_are_followed_to_the_end(watched: Job, world: World, capsys: pytest.CaptureFixture[str]) -> None:
    def second_attempt() -> None:
        attempt = make_attempt(Job.objects.get(pk=watched.pk))
        LogLine.objects.create(attempt=attempt, seq=1, at=9, stream="out", text="again")
        Job.objects.update(status="succeeded", reason="completed")

    world.steps = [second_attempt]
    assert main(["logs", str(watched.pk), "-f"]) == 0
    assert capsys.readouterr().out == "line 1\nline 2\nagain\n"


def test_artifacts_are_listed_and_fetched(watched: Job, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["artifacts", str(watched.pk)]) == 0
    assert "weights.safetensors" in capsys.readouterr().out
    assert main(["artifacts", str(watched.pk), "--download", str(tmp_path / "out")]) == 0
    assert (tmp_path / "out/1/adapter/weights.safetensors").read_bytes() == b"weights"


def test_no_artifact_is_written_outside_the_folder(
    watched: Job, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    store.put("store://jobs/evil", b"x")
    event = AttemptEvent.objects.get()
    event.payload = {**event.payload, "name": "../../../up", "uri": "store://jobs/evil"}
    event.save()
    assert main(["artifacts", str(watched.pk), "--download", str(tmp_path / "a/b")]) == 2
    assert "outside" in capsys.readouterr().err
    assert not (tmp_path / "up").exists()


def test_a_dataset_is_added_and_bad_rows_are_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = [json.dumps({"text": f"t{i}", "label": "ab"[i % 2]}) for i in range(20)]
    (tmp_path / "train.jsonl").write_text("\n".join(rows[:16]))
    (tmp_path / "test.jsonl").write_text("\n".join(rows[16:]))
    files = [str(tmp_path / "train.jsonl"), "--test", str(tmp_path / "test.jsonl")]
    assert main(["dataset", "add", "mine", *files]) == 0
    assert "16 training and 4 test rows" in capsys.readouterr().out
    (tmp_path / "train.jsonl").write_text("\n".join([*rows, "{}"]))
    assert main(["dataset", "add", "other", files[0]]) == 2
    assert "21" in capsys.readouterr().err
    assert main(["dataset", "add", "third", str(tmp_path / "none")]) == 2


def test_shards_are_added_where_they_lie(own_store: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (own_store / "corpus").mkdir()
    for part in range(3):
        (own_store / f"corpus/{part}.txt").write_text("a line\nanother\n")
    assert main(["dataset", "add", "corpus", f"file://{own_store}/corpus"]) == 0
    assert "6 training (about, in 3 shards) and 0 test rows" in capsys.readouterr().out


def test_chat_prints_the_answer_as_it_comes(user: User, capsys: pytest.CaptureFixture[str]) -> None:
    attempt = make_attempt(make_job(user, kind="launch"), node=make_node(address="127.0.0.1"))
    with serving(FakeModel()) as url:
        mark_ready(attempt, url, "tuned")
        assert main(["chat", "tuned", "hello"]) == 0
        assert capsys.readouterr().out == "onetwo\n"
        assert main(["chat", "tuned", "hello", "--json"]) == 0
        assert json.loads(capsys.readouterr().out)["choices"][0]["message"]["content"] == "Hi."
        assert main(["chat", "tuned", "break"]) == 1
        assert "broke off" in capsys.readouterr().err
    assert main(["chat", "other", "hello"]) == 2
    assert "launched now: tuned" in capsys.readouterr().err


def test_the_client_runs_without_django() -> None:
    program = "import sys, portal.cli; sys.exit(any(name.split('.')[0] == 'django' for name in sys.modules))"
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0
