"""A load test against a real server that streams: where the ramp stops and why, and what is told of it."""

import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.workers.runtimes.conftest import ROOT, STARTER_LABELS, Child, Told, read_events, write_rows
from tests.workers.runtimes.streaming_server import Decide, StreamingServer, refusal
from workers.contract.load_report import LoadReport
from workers.contract.load_test import LoadTestSpec
from workers.contract.order import DatasetInput, Order
from workers.contract.reasons import Reason
from workers.runtimes.base import Emitter, Run, RunFailed
from workers.runtimes.load_test.asking import Answer
from workers.runtimes.load_test.figures import step_of
from workers.runtimes.load_test.prompts import BUILT_IN, conversations
from workers.runtimes.load_test.runtime import load_test

TOKEN = "open-sesame"


@pytest.fixture
def serving() -> Iterator[Callable[[Decide], StreamingServer]]:
    """Start servers; all end with the test."""
    servers: list[StreamingServer] = []

    def start(decide: Decide) -> StreamingServer:
        servers.append(StreamingServer(decide, TOKEN))
        return servers[-1]

    yield start
    for server in servers:
        server.close()


def order(url: str, **spec: Any) -> dict[str, Any]:
    quick = {"step_requests": 8, "concurrency": 4, "target": {"bound_ms": 1000}}
    return {
        "job": 9,
        "attempt": 1,
        "node": "here",
        "spec": {"kind": "load_test", "launch": 8, **quick, **spec},
        "devices": [],
        "result_uri": "store://runs/9",
        "target": {"job": 8, "attempt": 1, "url": url, "model": "tiny"},
        "serve_token": TOKEN,
    }


class Carried:
    """One that was carried out in this process."""

    def __init__(self, folder: Path, raw: dict[str, Any]) -> None:
        self.failed: RunFailed | None = None
        with (folder / "events").open("wb") as file:
            try:
                load_test(Run(Order.model_validate(raw), folder, Emitter(file.fileno())))
            except RunFailed as error:
                self.failed = error
        self.told = read_events(folder / "events")

    @property
    def report(self) -> LoadReport:
        return last_report(self.told)


def last_report(told: Told) -> LoadReport:
    return LoadReport.model_validate([event.values for event in told.of("result")][-1])


@pytest.fixture
def tested(tmp_path: Path) -> Callable[[dict[str, Any]], Carried]:
    return lambda raw: Carried(tmp_path, raw)


def test_the_ramp_stops_at_the_step_that_misses_the_target(
    serving: Callable[[Decide], StreamingServer],
    tested: Callable[[dict[str, Any]], Carried],
    capfd: pytest.CaptureFixture[str],
) -> None:
    server = serving(lambda under_way, _: 1.2 if under_way > 2 else 0.0)
    found = tested(order(server.url, concurrency=16, max_tokens=5))
    report = found.report
    assert (report.stopped, [step.concurrency for step in report.steps]) == ("target_missed", [1, 2, 4])
    assert report.why.startswith("At 4 at a time the P99 of the end-to-end latency was ")
    assert report.why.endswith("the target is below 1000 ms.")
    assert report.best is not None
    assert report.best.concurrency in (1, 2)
    assert server.most_under_way == 4
    for step in report.steps:
        assert (step.answers, step.errors, step.whole) == (8, {}, True)
        assert step.e2e
        assert step.ttft
        assert step.tpot
        assert step.ttft.p99_s <= step.e2e.p99_s
        assert step.tokens_out_per_s / step.requests_per_s == pytest.approx(3)
        assert step.tokens_in_per_s / step.requests_per_s == pytest.approx(7)
    assert {(body["model"], body["max_tokens"], body["stream"]) for body in server.bodies} == {("tiny", 5, True)}
    assert found.told.phases() == ["warming up", "1 at a time", "2 at a time", "4 at a time"]
    log = capfd.readouterr().err
    assert "straight at its engine" in log
    assert "Ended: the target was missed." in log
    assert TOKEN not in log + json.dumps([event.model_dump() for event in found.told.events])


def test_the_most_at_a_time_ends_a_ramp_that_meets_its_target(
    serving: Callable[[Decide], StreamingServer], tested: Callable[[dict[str, Any]], Carried]
) -> None:
    server = serving(lambda *_: 0.0)
    report = tested(order(server.url, concurrency=3, step_requests=0, step_s=1, target={"bound_ms": 60_000})).report
    assert (report.stopped, [step.concurrency for step in report.steps]) == ("reached", [1, 2, 3])
    assert report.why == "3 at a time met the target; no more was asked for."
    assert all(step.seconds >= 1 for step in report.steps)


def test_too_many_errors_stop_it_and_are_told_by_kind(
    serving: Callable[[Decide], StreamingServer], tested: Callable[[dict[str, Any]], Carried]
) -> None:
    server = serving(lambda under_way, _: refusal(429, "Too many wait.", "engine_full") if under_way > 1 else 0.0)
    report = tested(order(server.url)).report
    assert (report.stopped, [step.concurrency for step in report.steps]) == ("errors", [1, 2])
    assert set(report.steps[-1].errors) == {"full"}
    assert "full)" in report.why
    assert report.best == report.steps[0]


def test_an_answer_that_breaks_off_is_an_error_while_the_launch_is_well(
    serving: Callable[[Decide], StreamingServer], tested: Callable[[dict[str, Any]], Carried]
) -> None:
    server = serving(lambda _, body: "break" if body["messages"][0]["content"] == "two" else 0.0)
    report = tested(order(server.url, prompts="one...\n\ntwo\n", concurrency=1)).report
    assert report.stopped == "errors"
    assert (report.steps[0].answers, report.steps[0].errors) == (4, {"broken": 4})


def test_a_launch_that_goes_away_leaves_what_was_measured(
    serving: Callable[[Decide], StreamingServer], tested: Callable[[dict[str, Any]], Carried]
) -> None:
    server = serving(
        lambda under_way, _: refusal(503, "This launch is stopping.", "engine_stopping") if under_way > 1 else 0.0
    )
    report = tested(order(server.url)).report
    assert report.stopped == "launch_gone"
    assert report.why == "#8 went away at 2 at a time (This launch is stopping)."
    assert [step.concurrency for step in report.steps if step.whole] == [1]
    assert report.best == report.steps[0]


def test_a_launch_that_is_gone_at_the_start_fails_the_job(
    serving: Callable[[Decide], StreamingServer], tested: Callable[[dict[str, Any]], Carried]
) -> None:
    server = serving(lambda *_: 0.0)
    server.close()
    failed = tested(order(server.url)).failed
    assert failed is not None
    assert failed.reason is Reason.LAUNCH_GONE
    assert failed.detail.startswith(f"launch: #8 does not answer (nothing answers at {server.url}")
    another = serving(lambda *_: 0.0)
    wrong = tested({**order(another.url), "serve_token": "old"}).failed
    assert wrong is not None
    assert wrong.reason is Reason.LAUNCH_GONE


def too_long(_: int, body: dict[str, Any]) -> Any:
    if len(body["messages"][0]["content"]) <= 200:
        return 0.0
    said = "max_tokens: 64 and a prompt of 90 tokens are beyond the context of 128; use at most 38."
    return refusal(400, said, "context_length_exceeded")


def test_a_prompt_beyond_the_context_is_refused_before_anything_is_measured(
    serving: Callable[[Decide], StreamingServer], tested: Callable[[dict[str, Any]], Carried]
) -> None:
    failed = tested(order(serving(too_long).url, prompts=f"short\n{'long ' * 60}")).failed
    assert failed is not None
    assert failed.reason is Reason.INVALID_INPUT
    assert failed.detail.startswith("max_tokens: 64 and a prompt of 90 tokens are beyond the context of 128; use at")
    assert "The prompt begins 'long long" in failed.detail


def test_of_the_built_in_prompts_those_that_fit_are_asked(
    serving: Callable[[Decide], StreamingServer], tested: Callable[[dict[str, Any]], Carried]
) -> None:
    server = serving(too_long)
    report = tested(order(server.url, concurrency=1, step_requests=20)).report
    fitting = [prompt for prompt in BUILT_IN if len(prompt) <= 200]
    assert report.asked == f"{len(fitting)} of {len(BUILT_IN)} built-in prompts"
    assert report.steps[0].errors == {}
    asked = [body["messages"][0]["content"] for body in server.bodies]
    assert set(asked[-20:]) == set(fitting)


def test_a_cancelled_one_says_what_it_measured_and_ends_in_order(
    serving: Callable[[Decide], StreamingServer], tmp_path: Path
) -> None:
    server = serving(lambda under_way, _: 60.0 if under_way > 1 else 0.0)
    child = Child(tmp_path / "run", order(server.url))
    try:
        until = time.monotonic() + 60
        while server.most_under_way < 2 and time.monotonic() < until:
            time.sleep(0.05)
        child.process.terminate()
        assert child.wait(30) == 0, child.log()
    finally:
        child.kill()
    report = last_report(child.told())
    assert (report.stopped, report.why) == ("cancelled", "It was stopped at 2 at a time.")
    assert [step.concurrency for step in report.steps if step.whole] == [1]
    assert TOKEN not in child.log()


def test_it_needs_neither_torch_nor_celery() -> None:
    names = "torch transformers celery redis django"
    code = f"import sys, workers.runtimes.load_test.runtime; print([n for n in '{names}'.split() if n in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_figures_of_a_step_are_exact() -> None:
    answers = [Answer(sent=0, first=0.1 * n, last=0.1 * n + 0.4, tokens_in=10, tokens_out=5) for n in range(1, 101)]
    step = step_of(4, [*answers, Answer(0, 20, 20, 1, 1)], ["full", "full", "timeout"], 0.0, 20.0, True)
    assert step.ttft
    assert step.tpot
    assert step.e2e
    assert (step.ttft.p50_s, step.ttft.p99_s) == pytest.approx((5.1, 10.0))  # the 51st and the 100th of 101
    assert (step.tpot.p50_s, step.tpot.p99_s) == pytest.approx((0.1, 0.1))  # 0.4 s for the four tokens after the first
    assert step.e2e.p95_s == pytest.approx(10.0)
    assert (step.requests_per_s, step.tokens_out_per_s) == pytest.approx((101 / 20, 501 / 20))
    assert step.errors == {"full": 2, "timeout": 1}
    assert step.error_share == pytest.approx(3 / 104)


@pytest.mark.parametrize(
    ("format", "row", "said"),
    [
        ("text", {"text": "Once"}, [("user", "Once")]),
        ("prompt_completion", {"prompt": "Two?", "completion": "2"}, [("user", "Two?")]),
        ("preference", {"prompt": "Two?", "chosen": "2", "rejected": "3"}, [("user", "Two?")]),
        (
            "messages",
            {"messages": [{"role": "user", "content": "Two?"}, {"role": "assistant", "content": "2"}]},
            [("user", "Two?")],
        ),
    ],
)
def test_a_row_is_asked_up_to_its_answer(tmp_path: Path, format: str, row: dict[str, Any], said: Any) -> None:
    path = write_rows(tmp_path / "rows.jsonl", [row, row])
    dataset = DatasetInput.model_validate({"name": "d", "format": format, "train_uri": str(path), "sha256": "0"})
    asked, words = conversations(LoadTestSpec(launch=8, dataset="d"), dataset)
    assert [[(one["role"], one["content"]) for one in messages] for messages in asked] == [said, said]
    assert words == "2 rows of dataset d"


def test_a_labelled_row_is_asked_as_it_was_trained(tmp_path: Path) -> None:
    path = write_rows(tmp_path / "rows.jsonl", [{"text": "Where is it?", "label": "delivery"}])
    given = {"name": "d", "format": "text_label", "train_uri": "/nowhere", "test_uri": str(path), "sha256": "0"}
    dataset = DatasetInput.model_validate({**given, "labels": STARTER_LABELS})
    ((system, user),), _ = conversations(LoadTestSpec(launch=8, dataset="d"), dataset)
    assert (system["role"], user["content"]) == ("system", "Where is it?")


def test_a_row_that_is_not_of_its_format_is_named(tmp_path: Path) -> None:
    path = write_rows(tmp_path / "rows.jsonl", [{"text": "a"}, {"label": "b"}])
    dataset = DatasetInput.model_validate({"name": "d", "format": "text", "train_uri": str(path), "sha256": "0"})
    with pytest.raises(RunFailed, match=r"^dataset: row 2 is not as format text needs it"):
        conversations(LoadTestSpec(launch=8, dataset="d"), dataset)
