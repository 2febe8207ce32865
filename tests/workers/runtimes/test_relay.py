"""Answers that come from a server of their own, a real one: our own API before the transformers engine."""

import asyncio
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest
import torch

from tests.tiny_model import CONTEXT, TEXT
from tests.workers.conftest import eventually
from workers.contract.launch import LaunchSpec
from workers.contract.order import ModelInput
from workers.runtimes.models import load_model
from workers.runtimes.serve.api import make_app
from workers.runtimes.serve.engine import Ask, Broken, Engine, Piece, Refused
from workers.runtimes.serve.relay import RelayEngine
from workers.runtimes.serve.runtime import Server, listen
from workers.runtimes.serve.tally import Tally
from workers.runtimes.serve.transformers.engine import TransformersEngine
from workers.runtimes.serve.transformers.forward import Together

TOKEN = "open-sesame"


class Behind(NamedTuple):
    """The engine that makes the answers, and where its server is."""

    engine: TransformersEngine
    url: str


@pytest.fixture(scope="module")
def behind(tiny: Path) -> Iterator[Behind]:
    model, tokenizer = load_model(ModelInput(name="tiny", uri=str(tiny)), torch.float32, "cpu")
    model.generation_config.eos_token_id = -1  # never ends by itself
    engine = TransformersEngine(model, tokenizer, Together(model, 4, CONTEXT), context_length=CONTEXT, most=4, queue=4)
    listener, ready = listen("127.0.0.1"), threading.Event()
    server = Server(make_app(engine, LaunchSpec(model="tiny"), "tiny", TOKEN, Tally()), ready.set)
    thread = threading.Thread(target=lambda: asyncio.run(server.serve(sockets=[listener])))
    thread.start()
    assert ready.wait(30)
    yield Behind(engine, f"http://127.0.0.1:{listener.getsockname()[1]}")
    server.should_exit = True
    thread.join()
    engine.close()


def relay(behind: Behind, *, died: Exception | None = None, most: int = 4, queue: int = 4) -> RelayEngine:
    return RelayEngine(
        behind.url,
        "tiny",
        behind.engine._tokenizer,
        context_length=CONTEXT,
        most=most,
        queue=queue,
        died=lambda: died,
        stop=lambda: None,
        api_key=TOKEN,
    )


async def said(engine: Engine, ask: Ask) -> list[Piece]:
    return [piece async for piece in engine.stream(ask).pieces()]


def test_it_passes_on_what_the_server_says(behind: Behind) -> None:
    prompt = behind.engine.tokens(TEXT[0])
    for ask in (Ask(prompt, 12), Ask(prompt, 12, temperature=1.2, top_p=0.9, seed=3), Ask(prompt, 3, logprobs=2)):
        straight, relayed = asyncio.run(said(behind.engine, ask)), asyncio.run(said(relay(behind), ask))
        assert "".join(piece.text for piece in relayed) == "".join(piece.text for piece in straight)
        assert relayed[-1].finish_reason == "length"
        made = [[each for piece in pieces for each in piece.made] for pieces in (straight, relayed)]
        assert made[0] == made[1]
        assert len(made[1]) == (3 if ask.logprobs is not None else 0)
    assert relayed[-1].tokens == 3


def test_who_leaves_ends_the_answer_behind(behind: Behind) -> None:
    async def leave() -> None:
        async for _ in relay(behind).stream(Ask(behind.engine.tokens(TEXT[0]), 200)).pieces():
            assert not behind.engine.idle
            break
        await asyncio.sleep(0)  # the task that is cancelled closes its connection

    asyncio.run(leave())
    eventually(lambda: behind.engine.idle, within_s=10)


def test_a_refusal_of_the_server_is_said_to_who_waits(behind: Behind) -> None:
    ask = Ask(behind.engine.tokens(TEXT[0]), CONTEXT)
    with pytest.raises(Broken, match=r"refused \(400\): .*beyond the context of 256"):
        asyncio.run(said(relay(behind), ask))


def test_a_server_that_ended_or_is_full_takes_nothing_new(behind: Behind) -> None:
    async def ask_twice(engine: RelayEngine) -> None:
        engine.stream(Ask([1, 2], 100))
        engine.stream(Ask([1, 2], 100))

    with pytest.raises(Refused, match=r"vLLM ended with status 1") as refused:
        asyncio.run(said(relay(behind, died=RuntimeError("vLLM ended with status 1")), Ask([1, 2], 2)))
    assert refused.value.why == "failed"
    with pytest.raises(Refused) as full:
        asyncio.run(ask_twice(relay(behind, most=1, queue=0)))
    assert full.value.why == "full"


def test_what_is_broken_off_is_said_to_who_waits(behind: Behind) -> None:
    async def close() -> None:
        engine = relay(behind)
        stream = engine.stream(Ask(behind.engine.tokens(TEXT[0]), 200))
        engine.close()
        with pytest.raises(Broken, match="stopped before the answer's end"):
            [piece async for piece in stream.pieces()]
        with pytest.raises(Refused, match="stopping"):
            engine.stream(Ask([1, 2], 2))

    asyncio.run(close())
