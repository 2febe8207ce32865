"""A served model, asked over HTTP like OpenAI's."""

import json
import signal
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import httpx
import pytest

from tests.tiny_model import CONTEXT
from tests.workers.conftest import eventually
from tests.workers.runtimes.conftest import Child, Told, finetune_order, launch_order
from workers.contract.startup import StartUp
from workers.runtimes.base import Run
from workers.runtimes.serve.runtime import listen

HELLO = [{"role": "user", "content": "Where is my parcel?"}]


class Served(NamedTuple):
    child: Child
    http: httpx.Client


def start(run_dir: Path, order: dict[str, Any]) -> Served:
    child = Child(run_dir, order)
    eventually(lambda: child.told().of("ready") or child.process.poll() is not None, within_s=120)
    assert child.process.poll() is None, child.log()
    (ready,) = child.told().of("ready")
    headers = {"Authorization": f"Bearer {order['serve_token']}"}
    return Served(child, httpx.Client(base_url=ready.url, headers=headers, timeout=60))


@pytest.fixture(scope="module")
def served(tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    spec = {"kind": "launch", "model": "tiny", "max_tokens": 6, "context_length": CONTEXT}
    serving = start(tmp_path_factory.mktemp("serve"), launch_order(tiny, spec=spec))
    yield serving
    serving.http.close()
    serving.child.kill()


def ask(served: Served, **body: Any) -> httpx.Response:
    return served.http.post("/v1/chat/completions", json={"messages": HELLO, **body})


def streamed(served: Served, **body: Any) -> list[dict[str, Any]]:
    """Chunks of a streamed answer, whose end is checked."""
    text = ask(served, stream=True, **body).text
    lines = [line.removeprefix("data: ") for line in text.split("\n\n") if line]
    assert lines[-1] == "[DONE]"
    return [json.loads(line) for line in lines[:-1]]


def test_it_says_what_it_serves(served: Served) -> None:
    (ready,) = served.child.told().of("ready")
    assert ready.model == "tiny"
    assert served.http.get("/health").json() == {"status": "ok"}
    (model,) = served.http.get("/v1/models").json()["data"]
    assert (model["id"], model["object"]) == ("tiny", "model")


def test_it_tells_how_long_each_step_of_its_start_took(served: Served, tiny: Path) -> None:
    ready = StartUp.model_validate(served.child.told().results("start")[0])
    assert ready.read_bytes == sum(file.stat().st_size for file in tiny.glob("*.safetensors"))
    assert ready.preflight_s
    assert 0 < ready.load_s < ready.ready_s
    assert (ready.disk_bytes_per_s, ready.first_token_s) == (None, None)  # too small to judge a disk by
    ask(served, max_tokens=1)
    eventually(lambda: len(served.child.told().results("start")) == 2, within_s=10)
    asked = StartUp.model_validate(served.child.told().results("start")[1])
    assert asked.first_token_s
    assert asked.model_copy(update={"first_token_s": None}) == ready


def test_it_answers_whole(served: Served) -> None:
    body = ask(served, model="tiny", max_tokens=5, temperature=0).json()
    (choice,) = body["choices"]
    assert body["object"] == "chat.completion"
    assert choice["message"]["role"] == "assistant"
    assert choice["finish_reason"] in ("stop", "length")
    usage = body["usage"]
    assert 1 <= usage["completion_tokens"] <= 5
    assert usage["prompt_tokens"] > 5
    assert usage["total_tokens"] == usage["prompt_tokens"] + usage["completion_tokens"]


def test_a_streamed_answer_is_the_whole_one_in_pieces(served: Served) -> None:
    whole = ask(served, max_tokens=8, temperature=0).json()
    chunks = streamed(served, max_tokens=8, temperature=0)
    assert chunks[0]["choices"][0]["delta"] == {"role": "assistant", "content": ""}
    text = "".join(chunk["choices"][0]["delta"].get("content", "") for chunk in chunks[:-1])
    assert text == whole["choices"][0]["message"]["content"]
    assert chunks[-2]["choices"][0]["finish_reason"] == whole["choices"][0]["finish_reason"]
    assert chunks[-1]["choices"] == []
    assert chunks[-1]["usage"] == whole["usage"]


def test_the_launch_gives_the_defaults(served: Served) -> None:
    assert ask(served).json()["usage"]["completion_tokens"] <= 6


def test_the_seed_decides_what_is_drawn(served: Served) -> None:
    drawn = [ask(served, seed=seed, temperature=2, top_p=1, max_tokens=12).json()["choices"] for seed in (3, 3, 4)]
    assert drawn[0] == drawn[1]
    assert drawn[0] != drawn[2]


def test_a_stop_string_ends_the_answer_before_it(served: Served) -> None:
    whole = ask(served, max_tokens=12, temperature=0).json()["choices"][0]["message"]["content"]
    at = len(whole) // 2
    stop = whole[at : at + 2]
    choice = ask(served, max_tokens=12, temperature=0, stop=stop).json()["choices"][0]
    assert choice["message"]["content"] == whole[: whole.index(stop)]
    assert choice["finish_reason"] == "stop"


@pytest.mark.parametrize(
    ("body", "param", "status"),
    [
        ({"messages": []}, "messages", 400),
        ({"messages": [{"role": "king", "content": "x"}]}, "messages", 400),
        ({"messages": [{"role": "user", "content": "long " * 400}]}, "messages", 400),
        ({"temperature": 2.1}, "temperature", 400),
        ({"temperature": -0.1}, "temperature", 400),
        ({"top_p": 0}, "top_p", 400),
        ({"top_p": 1.1}, "top_p", 400),
        ({"max_tokens": 0}, "max_tokens", 400),
        ({"max_tokens": CONTEXT}, "max_tokens", 400),
        ({"max_completion_tokens": CONTEXT}, "max_completion_tokens", 400),
        ({"n": 0}, "n", 400),
        ({"n": 17}, "n", 400),
        ({"presence_penalty": 1}, "presence_penalty", 400),
        ({"tools": [{"type": "function"}]}, "tools", 400),
        ({"seed": -1}, "seed", 400),
        ({"model": "other"}, "model", 404),
    ],
)
def test_a_bad_parameter_is_named(served: Served, body: dict[str, Any], param: str, status: int) -> None:
    answer = ask(served, **body)
    assert answer.status_code == status
    error = answer.json()["error"]
    assert (error["type"], error["param"]) == ("invalid_request_error", param)
    assert param in error["message"]


@pytest.mark.parametrize("path", ["/v1/models", "/docs", "/nowhere"])
@pytest.mark.parametrize("header", [None, "Bearer wrong", "open-sesame"])
def test_without_the_token_nothing_is_shown(served: Served, path: str, header: str | None) -> None:
    headers = {} if header is None else {"Authorization": header}
    answer = httpx.get(f"{served.http.base_url}{path}", headers=headers)
    assert answer.status_code == 401
    assert answer.json()["error"]["code"] == "invalid_api_key"


def test_each_answer_is_counted(served: Served) -> None:
    used = ask(served, max_tokens=3).json()["usage"]["completion_tokens"]

    def counted() -> Told | None:
        told = served.child.told()
        return (
            told if (told.metric("tokens_out_total") or [0])[-1] >= used and told.metric("running")[-1] == 0 else None
        )

    told = eventually(counted)
    assert told.metric("requests_total")[-1] >= 1
    assert told.metric("tokens_in_total")[-1] > 5
    assert told.metric("ttft_s")[-1] > 0


def test_several_answers_to_one_request_are_drawn_apart(served: Served) -> None:
    body = ask(served, n=3, seed=3, temperature=2, top_p=1, max_tokens=12).json()
    texts = [choice["message"]["content"] for choice in body["choices"]]
    assert [choice["index"] for choice in body["choices"]] == [0, 1, 2]
    assert len(set(texts)) > 1
    assert (
        texts[0]
        == ask(served, seed=3, temperature=2, top_p=1, max_tokens=12).json()["choices"][0]["message"]["content"]
    )


def test_plain_text_is_gone_on_with_and_made_into_vectors(served: Served) -> None:
    body = served.http.post("/v1/completions", json={"prompt": "Where is", "max_tokens": 4, "logprobs": 2}).json()
    (choice,) = body["choices"]
    assert body["object"] == "text_completion"
    assert len(choice["logprobs"]["tokens"]) == body["usage"]["completion_tokens"]
    vectors = served.http.post("/v1/embeddings", json={"input": ["one", "two"]}).json()["data"]
    assert [len(vector["embedding"]) for vector in vectors] == [64, 64]


def test_each_token_is_sent_at_once() -> None:
    with (
        listen("127.0.0.1") as listener,
        socket.create_connection(listener.getsockname()),
        listener.accept()[0] as accepted,
    ):
        assert accepted.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)


def test_sigterm_lets_an_answer_end(tiny: Path, tmp_path: Path, finetuned: Callable[..., tuple[Run, Told]]) -> None:
    run, _ = finetuned(finetune_order(tiny, evaluate=False), "train")
    adapter = {"name": "tuned", "uri": str(run.output_dir / "adapter")}
    spec = {"kind": "launch", "model": "tiny", "adapter": "tuned", "quantization": "int8"}
    served = start(tmp_path / "serve", launch_order(tiny, adapter=adapter, spec=spec))
    try:
        assert served.http.get("/v1/models").json()["data"][0]["id"] == "tuned"
        body = {"messages": HELLO, "stream": True, "max_tokens": 4, "temperature": 0}
        with served.http.stream("POST", "/v1/chat/completions", json=body) as answer:
            lines = answer.iter_lines()
            next(lines)
            served.child.process.send_signal(signal.SIGTERM)
            assert [line for line in lines if line][-1] == "data: [DONE]"
        assert served.child.wait(60) == 0
    finally:
        served.http.close()
        served.child.kill()
    told = served.child.told()
    assert told.of("failed") == []
    assert told.result("measured")["sequence_tokens"] > 4
