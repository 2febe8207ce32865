"""Many answers at a time, against the library's own one at a time."""

import asyncio
import json
import random
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.tiny_model import CONTEXT, TEXT
from workers.contract.order import ModelInput
from workers.runtimes.models import load_model
from workers.runtimes.serve.engine import Ask, Broken, Piece, Refused, Stream
from workers.runtimes.serve.transformers.choosing import Drawing, choose
from workers.runtimes.serve.transformers.engine import TransformersEngine
from workers.runtimes.serve.transformers.forward import Apart, Forward, Reading, Together, why_apart
from workers.runtimes.serve.transformers.rows import Row, compact

LENGTHS = (3, 9, 1, 24, 17, 60, 5, 12)

Make = Callable[..., TransformersEngine]


@pytest.fixture(scope="module")
def loaded(tiny: Path) -> tuple[Any, Any]:
    model, tokenizer = load_model(ModelInput(name="tiny", uri=str(tiny)), torch.float32, "cpu")
    model.generation_config.eos_token_id = -1  # never ends by itself
    with torch.inference_mode():
        assert why_apart(model)[0] is None
    return model, tokenizer


@pytest.fixture
def make(loaded: tuple[Any, Any]) -> Iterator[Make]:
    engines: list[TransformersEngine] = []

    def begin(most: int = 16, queue: int = 32, forward: Forward | None = None) -> TransformersEngine:
        model, tokenizer = loaded
        forward = forward or Together(model, most, CONTEXT)
        engine = TransformersEngine(model, tokenizer, forward, context_length=CONTEXT, most=most, queue=queue)
        engines.append(engine)
        return engine

    yield begin
    for engine in engines:
        engine.close()


def asks(tokenizer: Any, **settings: Any) -> list[Ask]:
    """Prompts and answers of many lengths."""
    return [
        Ask(
            tokenizer(TEXT[at % len(TEXT)] * (1 + at % 3))["input_ids"], LENGTHS[at % len(LENGTHS)], seed=at, **settings
        )
        for at in range(20)
    ]


async def said(stream: Stream) -> list[Piece]:
    return [piece async for piece in stream.pieces()]


def text(pieces: Sequence[Piece]) -> str:
    return "".join(piece.text for piece in pieces)


def all_of(engine: TransformersEngine, wanted: Sequence[Ask]) -> list[str]:
    async def together() -> list[list[Piece]]:
        return list(await asyncio.gather(*(said(engine.stream(ask)) for ask in wanted)))

    return [text(pieces) for pieces in asyncio.run(together())]


def generated(loaded: tuple[Any, Any], ask: Ask) -> str:
    """By the library's `generate`, greedily."""
    model, tokenizer = loaded
    prompt = torch.tensor([ask.prompt])
    model.set_attn_implementation("sdpa")
    made = model.generate(
        prompt, attention_mask=torch.ones_like(prompt), max_new_tokens=ask.max_tokens, do_sample=False
    )
    return str(tokenizer.decode(made[0, len(ask.prompt) :], skip_special_tokens=True))


def test_twenty_asked_sixteen_at_a_time_say_what_each_would_say_alone(loaded: tuple[Any, Any], make: Make) -> None:
    wanted = asks(loaded[1])
    plain = [generated(loaded, ask) for ask in wanted]
    assert all_of(make(), wanted) == plain
    assert all_of(make(most=3), wanted) == plain  # they join and leave while others run
    loaded[0].set_attn_implementation("sdpa")
    assert all_of(make(forward=Apart(loaded[0])), wanted) == plain


def test_a_seed_draws_the_same_alone_and_among_others(loaded: tuple[Any, Any], make: Make) -> None:
    wanted = asks(loaded[1], temperature=1.5, top_p=0.9)
    engine = make()
    among = all_of(engine, wanted)
    assert [all_of(engine, [ask])[0] for ask in wanted[:4]] == among[:4]
    assert len(set(among)) > 10


def test_a_long_prompt_is_read_in_pieces_while_others_speak(
    loaded: tuple[Any, Any], make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("workers.runtimes.serve.transformers.engine.READ_AT_ONCE", 7)
    wanted = asks(loaded[1])
    assert all_of(make(most=5), wanted) == [generated(loaded, ask) for ask in wanted]


class Counting(Together):
    """Remembers how many tokens each answer had read before it, and how many it read."""

    def __init__(self, model: Any, slots: int) -> None:
        super().__init__(model, slots, CONTEXT)
        self.read: list[tuple[int, int]] = []

    def __call__(self, readings: Sequence[Reading]) -> torch.Tensor:
        self.read += [(reading.start, len(reading.tokens)) for reading in readings]
        return super().__call__(readings)

    def prompts(self) -> list[tuple[int, int]]:
        """Those of more than one token."""
        return [read for read in self.read if read[1] > 1]


def test_a_beginning_that_a_slot_holds_is_not_read_again(loaded: tuple[Any, Any], make: Make) -> None:
    draw = random.Random(3)
    start = draw.choices(range(1, 200), k=40)
    wanted = [Ask([*start, *draw.choices(range(1, 200), k=5 + at)], 4) for at in range(4)]
    talk, other = Ask([*start, 7, 8, 9], 6), Ask(draw.choices(range(200, 250), k=30), 4)
    plain = [generated(loaded, ask) for ask in (*wanted, talk, other)]
    forward = Counting(loaded[0], 4)
    engine = make(most=4, forward=forward)
    assert all_of(engine, wanted) == plain[:4]
    assert forward.prompts() == [(0, 45), (40, 6), (40, 7), (40, 8)]  # asked at once: the others wait for the first
    assert all_of(engine, [talk]) == plain[4:5]
    assert forward.prompts()[4:] == [(40, 3)]  # what is over has left it
    assert all_of(engine, [other]) == plain[5:]
    assert forward.prompts()[5:] == [(0, 30)]


@pytest.mark.parametrize("seed", range(4))
def test_beginnings_of_any_kind_change_no_answer(loaded: tuple[Any, Any], make: Make, seed: int) -> None:
    draw = random.Random(seed)
    starts = [draw.choices(range(1, 200), k=draw.randint(10, 60)) for _ in range(3)]
    wanted = []
    for _ in range(24):
        start = draw.choice(starts)
        prompt = start[: draw.randint(1, len(start))] + draw.choices(range(1, 200), k=draw.randint(0, 9))
        wanted.append(Ask(prompt, draw.randint(1, 12)))
    plain = [generated(loaded, ask) for ask in wanted]
    engine = make(most=5)
    assert all_of(engine, wanted) == plain
    assert all_of(engine, wanted[::-1]) == plain[::-1]


def test_who_leaves_is_dropped_at_the_next_step(loaded: tuple[Any, Any], make: Make) -> None:
    model, tokenizer = loaded
    steps: list[int] = []
    hook = model.register_forward_hook(lambda *_: steps.append(1))
    engine = make()
    prompt = tokenizer(TEXT[0])["input_ids"]

    async def leave_then_ask_again() -> list[Piece]:
        async for _ in engine.stream(Ask(prompt, 200)).pieces():
            break
        return await said(engine.stream(Ask(prompt, 3)))

    try:
        assert asyncio.run(leave_then_ask_again())[-1].tokens == 3
    finally:
        hook.remove()
    assert engine.idle
    assert len(steps) < 100


def test_a_full_queue_refuses_at_once_and_who_waits_is_answered(loaded: tuple[Any, Any], make: Make) -> None:
    engine = make(most=1, queue=1)
    ask = Ask(loaded[1](TEXT[0])["input_ids"], 30)

    async def crowd() -> tuple[str, list[int]]:
        begun = [engine.stream(ask), engine.stream(ask)]
        with pytest.raises(Refused) as refused:
            engine.stream(ask)
        answers = await asyncio.gather(*map(said, begun))
        return refused.value.why, [pieces[-1].tokens for pieces in answers]

    assert asyncio.run(crowd()) == ("full", [30, 30])


def test_draining_ends_what_runs_and_begins_nothing(loaded: tuple[Any, Any], make: Make) -> None:
    engine = make()
    ask = Ask(loaded[1](TEXT[0])["input_ids"], 20)

    async def drain() -> int:
        begun = engine.stream(ask)
        engine.drain()
        with pytest.raises(Refused, match="stopping"):
            engine.stream(ask)
        return (await said(begun))[-1].tokens

    assert asyncio.run(drain()) == 20


@pytest.mark.parametrize("how", ["crash", "close"])
def test_what_breaks_off_is_said_to_all_who_wait(loaded: tuple[Any, Any], make: Make, how: str) -> None:
    plain = Together(loaded[0], 2, CONTEXT)

    class Breaks:
        steps = 0

        def __call__(self, readings: Any) -> torch.Tensor:
            self.steps += 1
            if how == "crash" and self.steps > 5:
                raise RuntimeError("the device fell off")
            return plain(readings)

        keeps, move = plain.keeps, plain.move

    engine = make(most=2, forward=Breaks())
    ask = Ask(loaded[1](TEXT[0])["input_ids"], 200)

    async def follow(first: Callable[[], Awaitable[None]]) -> list[BaseException | list[Piece]]:
        streams = [engine.stream(ask) for _ in range(3)]  # one of them waits
        await first()
        return list(await asyncio.gather(*map(said, streams), return_exceptions=True))

    async def close() -> None:
        if how == "close":
            await asyncio.to_thread(engine.close)

    ends = asyncio.run(follow(close))
    assert [type(end) for end in ends] == [Broken] * 3
    assert ("fell off" in str(ends[0])) == (how == "crash")
    assert (engine.failure is not None) == (how == "crash")


def test_likelihoods_are_the_models_own(loaded: tuple[Any, Any], make: Make) -> None:
    model, tokenizer = loaded
    prompt = tokenizer(TEXT[1])["input_ids"]
    engine = make()
    pieces = asyncio.run(_ask(engine, Ask(prompt, 3, logprobs=2)))
    made = [each for piece in pieces for each in piece.made]
    scores = model(input_ids=torch.tensor([prompt])).logits[0, -1].log_softmax(-1)
    assert len(made) == 3
    assert made[0].chosen.logprob == pytest.approx(float(scores.max()), abs=1e-4)
    assert [each.logprob for each in made[0].top] == pytest.approx(scores.topk(2).values.tolist(), abs=1e-4)


def test_an_answer_is_held_to_a_schema(loaded: tuple[Any, Any], make: Make) -> None:
    pytest.importorskip("llguidance")
    schema = {"type": "object", "properties": {"kind": {"enum": ["bug", "refund"]}}, "required": ["kind"]}
    schema["additionalProperties"] = False
    engine = make()
    engine._ends = frozenset([loaded[1].eos_token_id])
    ask = Ask(loaded[1](TEXT[0])["input_ids"], 100, temperature=1, seed=3, schema=json.dumps(schema))
    assert json.loads(text(asyncio.run(_ask(engine, ask))))["kind"] in ("bug", "refund")
    assert engine.problem_of_schema(json.dumps(schema)) == ""
    assert engine.problem_of_schema(json.dumps({"type": "soup"}))


def test_embeddings_are_the_mean_of_the_last_states(loaded: tuple[Any, Any], make: Make) -> None:
    model, tokenizer = loaded
    prompt = tokenizer(TEXT[1])["input_ids"]
    (vector,) = asyncio.run(make().embed([prompt]))
    model.set_attn_implementation("sdpa")
    states = model(input_ids=torch.tensor([prompt]), output_hidden_states=True).hidden_states[-1][0]
    assert vector == pytest.approx(states.mean(0).tolist(), abs=1e-4)


async def _ask(engine: TransformersEngine, ask: Ask) -> list[Piece]:
    return await said(engine.stream(ask))


@pytest.mark.parametrize(("top_p", "possible"), [(0.4, {0}), (0.6, {0, 1}), (0.95, {0, 1, 2}), (1.0, {0, 1, 2, 3})])
def test_the_nucleus_holds_the_likeliest_until_their_mass_is_reached(top_p: float, possible: set[int]) -> None:
    scores = torch.tensor([[0.5, 0.3, 0.15, 0.05]]).log()
    drawing = Drawing(Ask([1], 1, temperature=1, top_p=top_p, seed=5))
    drawn = [choose(scores, [drawing])[0].token for _ in range(400)]
    assert set(drawn) == possible
    share = 0.5 / sum([0.5, 0.3, 0.15, 0.05][token] for token in possible)
    assert drawn.count(0) / 400 == pytest.approx(share, abs=0.1)


def test_slots_close_up_and_prompts_being_read_stay_last() -> None:
    async def rows() -> AsyncIterator[Row]:
        for slot, read in enumerate((5, 5, 5, 5, 2, 0)):
            row = Row(Stream(Ask([1, 2, 3], 9)), None, frozenset())
            row.slot, row.read = slot, read
            yield row

    async def collect() -> list[Row]:
        return [row async for row in rows()]

    all_rows = asyncio.run(collect())
    held = {row.slot: row for row in all_rows}

    def move(source: int, target: int, tokens: int) -> None:
        assert tokens == held[source].read
        held[target] = held.pop(source)

    left = [all_rows[at] for at in (1, 3, 4, 5)]
    for gone in (0, 2):
        del held[gone]
    closed = compact(left, move)
    assert [row.slot for row in closed] == [0, 1, 2, 3]
    assert all(held[row.slot] is row for row in closed)
    assert [row.reading_prompt for row in closed] == [False, False, True, True]
