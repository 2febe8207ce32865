"""llama.cpp on a GGUF file, where it is installed: it says what the transformers engine says of the same file."""

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from tests.tiny_model import CONTEXT, TEXT
from tests.workers.conftest import eventually
from tests.workers.runtimes.conftest import launch_order
from workers.contract.launch import LaunchSpec
from workers.contract.order import ModelInput, Order
from workers.runtimes.base import Emitter, Run, RunFailed
from workers.runtimes.finetune.to_gguf import write_gguf
from workers.runtimes.models import load_model
from workers.runtimes.serve.engine import Ask, Broken, Engine, Piece, Refused, Stream
from workers.runtimes.serve.engines import choose, loader

pytest.importorskip("llama_cpp", reason="llama-cpp-python is not installed; pip install '.[llama]' compiles it")


@pytest.fixture(scope="module")
def gguf(tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("gguf") / "tiny.gguf"
    model, tokenizer = load_model(ModelInput(name="tiny", uri=str(tiny)), torch.float32, "cpu")
    write_gguf(path, model, tokenizer, "tiny")
    return path


def load(gguf: Path, folder: Path, engine: str, **spec: object) -> Engine:
    """By the launch's own loader."""
    folder.mkdir(exist_ok=True)
    asked = {"kind": "launch", "model": "tiny", "engine": engine, "context_length": CONTEXT, "max_tokens": 8, **spec}
    model = {"name": "tiny", "uri": str(gguf), "format": "gguf" if gguf.is_file() else "safetensors"}
    order = Order.model_validate(launch_order(gguf, spec=asked) | {"model": model})
    with (folder / "events").open("wb") as events:
        return loader(engine)(Run(order, folder, Emitter(events.fileno())))


@pytest.fixture(scope="module")
def llama(gguf: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engine]:
    engine = load(gguf, tmp_path_factory.mktemp("llama"), "llama_cpp", queue=1)
    yield engine
    engine.close()


async def all_of(stream: Stream) -> list[Piece]:
    return [piece async for piece in stream.pieces()]


async def said(engine: Engine, ask: Ask) -> list[Piece]:
    return await all_of(engine.stream(ask))


def text(pieces: list[Piece]) -> str:
    return "".join(piece.text for piece in pieces)


def test_it_says_what_the_transformers_engine_says(llama: Engine, gguf: Path, tmp_path: Path) -> None:
    plain = load(gguf, tmp_path / "plain", "transformers")
    try:
        for words in TEXT:
            ask = Ask(plain.tokens(words), 24)
            assert llama.tokens(words) == ask.prompt
            ours, theirs = asyncio.run(said(llama, ask)), asyncio.run(said(plain, ask))
            assert text(ours) == text(theirs)
            assert (ours[-1].tokens, ours[-1].finish_reason) == (theirs[-1].tokens, theirs[-1].finish_reason)
    finally:
        plain.close()


def test_a_seed_draws_the_same_again_and_another_seed_something_else(llama: Engine) -> None:
    prompt = llama.tokens(TEXT[0])
    drawn = [text(asyncio.run(said(llama, Ask(prompt, 24, temperature=1.5, seed=seed)))) for seed in (1, 1, 2)]
    assert drawn[0] == drawn[1] != drawn[2]


def test_a_stop_string_ends_it_and_is_not_said(llama: Engine) -> None:
    prompt = llama.tokens(TEXT[0])
    whole = text(asyncio.run(said(llama, Ask(prompt, 24))))
    stop = whole[6:8]
    pieces = asyncio.run(said(llama, Ask(prompt, 24, stop=(stop,))))
    assert text(pieces) == whole[: whole.index(stop)]
    assert pieces[-1].finish_reason == "stop"


def test_who_leaves_gives_way_to_who_waits_and_a_full_queue_refuses(llama: Engine) -> None:
    prompt = llama.tokens(TEXT[0])

    async def crowd() -> tuple[str, list[Piece]]:
        first = llama.stream(Ask(prompt, 200, temperature=1))
        begun = first.pieces()
        await anext(begun)
        waiting = llama.stream(Ask(prompt, 3))
        with pytest.raises(Refused) as refused:
            llama.stream(Ask(prompt, 3))
        await begun.aclose()  # type: ignore[attr-defined]
        return refused.value.why, await all_of(waiting)

    why, pieces = asyncio.run(crowd())
    assert (why, pieces[-1].tokens) == ("full", 3)
    eventually(lambda: llama.idle, within_s=10)


def test_closing_says_so_to_who_waits(gguf: Path, tmp_path: Path) -> None:
    engine = load(gguf, tmp_path / "closing", "llama_cpp")

    async def close() -> list[BaseException | list[Piece]]:
        streams = [engine.stream(Ask(engine.tokens(TEXT[0]), 200, temperature=1, seed=seed)) for seed in (1, 2)]
        ends = [asyncio.create_task(all_of(stream)) for stream in streams]
        await asyncio.sleep(0)
        await asyncio.to_thread(engine.close)
        with pytest.raises(Refused, match="stopping"):
            engine.stream(Ask([1], 1))
        return list(await asyncio.gather(*ends, return_exceptions=True))

    assert [type(end) for end in asyncio.run(close())] == [Broken, Broken]


def test_it_is_chosen_for_a_gguf_file_and_refuses_what_it_does_not_do(gguf: Path, tiny: Path, tmp_path: Path) -> None:
    source = ModelInput(name="tiny", uri=str(gguf), format="gguf")
    assert choose(LaunchSpec(model="tiny"), source, "cpu")[0] == "llama_cpp"
    with pytest.raises(RunFailed, match=r"^engine: llama_cpp reads GGUF files, and 'tiny' is none; use transformers"):
        load(tiny, tmp_path / "folder", "llama_cpp")
    with pytest.raises(RunFailed, match=r"^quantization: a GGUF file is quantized already; use none"):
        load(gguf, tmp_path / "int8", "llama_cpp", quantization="int8")
