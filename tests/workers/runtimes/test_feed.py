"""A fine-tune on streamed data: ranks and processes share it, a stop goes on to the bit, memory stays flat."""

import itertools
import json
import os
import signal
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import fsspec
import psutil
import pytest

from tests.s3_server import s3_server
from tests.workers.runtimes.conftest import Told, finetune_order, write_rows
from tests.workers.runtimes.test_checkpoints import assert_same, figures, interrupted, losses, resumed, weights
from tests.workers.runtimes.test_ranks import carried_out
from workers.contract.finetune import FinetuneSpec
from workers.contract.order import DatasetInput
from workers.runtimes.base import Run, RunFailed
from workers.runtimes.finetune.feed import AUTO_BYTES, Feed, Rank, is_streamed
from workers.runtimes.finetune.samples import make_samples
from workers.runtimes.finetune.shards import find_shards, read_rows

Finetuned = Callable[..., tuple[Run, Told]]
TEXT = DatasetInput(name="d", format="text", train_uri="", sha256="0")
STREAMED = {"streaming": "on", "workers": 2, "shuffle_buffer": 5}


@pytest.fixture
def corpus(tmp_path: Path) -> dict[str, Any]:
    """Forty rows of several lengths in three shards."""
    folder = tmp_path / "corpus"
    folder.mkdir()
    for part, count in enumerate((3, 20, 17)):
        rows = [{"text": f"case {part} {n} " + "and so on " * (n % 5)} for n in range(count)]
        write_rows(folder / f"part-{part}.jsonl", rows)
    return {"name": "d", "format": "text", "sha256": "0", "train_uri": str(folder), "test_uri": str(folder)}


@pytest.fixture
def tokenizer(tiny: Path) -> Any:
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(tiny)


def spec(**settings: Any) -> FinetuneSpec:
    return FinetuneSpec.model_validate(
        {"model": "m", "dataset": "d", "micro_batch": 2, "context_length": 64, "data": STREAMED, **settings}
    )


def texts(feed: Feed, count: int, tokenizer: Any) -> list[list[str]]:
    """What `count` batches say."""
    return [tokenizer.batch_decode(batch["ids"]) for batch in itertools.islice(feed, count)]


def as_lists(examples: Sequence[dict[str, Any]]) -> Any:
    return {"ids": [example["input_ids"] for example in examples]}


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"packing": True, "context_length": 24},
        {"data": {**STREAMED, "batching": "shuffled"}, "context_length": 16},
        {"data": {"streaming": "off", "batching": "by_length"}},
        {"data": {"streaming": "off"}, "packing": True},
    ],
)
def test_a_run_that_goes_on_equals_one_that_was_not_interrupted(
    tiny: Path, tmp_path: Path, corpus: dict[str, Any], finetuned: Finetuned, settings: dict[str, Any]
) -> None:
    recipe: dict[str, Any] = {"data": STREAMED, "context_length": 64, **settings}
    order = finetune_order(tiny, corpus, max_steps=16, gradient_accumulation=3, lora={"dropout": 0.1}, **recipe)
    _, whole = finetuned(order, "whole")

    class StopsAt(Run):
        def progress(self, done: float, total: float, unit: str, eta_s: float | None = None) -> None:
            super().progress(done, total, unit, eta_s)
            if unit == "steps" and done == 7:
                os.kill(os.getpid(), signal.SIGTERM)

    first = interrupted(StopsAt, order, tmp_path / "first")
    _, second = finetuned(resumed(order, tmp_path / "first", 7), "second")
    assert losses(first, second) == losses(whole)
    assert figures(second) == figures(whole)
    assert_same(weights(tmp_path / "second"), weights(tmp_path / "whole"))


def test_two_processes_read_what_one_does_and_one_goes_on_for_them(
    tiny: Path, tmp_path: Path, corpus: dict[str, Any]
) -> None:
    """With as many readers in all, and as many samples in a step."""
    recipe: dict[str, Any] = {"max_steps": 6, "context_length": 64, "checkpoint_every": 3, "evaluate": False}

    def order(processes: int) -> dict[str, Any]:
        each = 2 // processes
        data = {"streaming": "on", "workers": each}
        given = finetune_order(tiny, corpus, gradient_accumulation=each, data=data, **recipe)
        return {**given, "devices": [{"kind": "cpu", "index": index} for index in range(processes)]}

    one, two = (carried_out(order(processes), tmp_path / f"of-{processes}").told() for processes in (1, 2))
    assert two.metric("loss") == pytest.approx(one.metric("loss"), rel=1e-4)
    assert two.metric("epoch") == pytest.approx(one.metric("epoch"))
    later = carried_out(resumed(order(1), tmp_path / "of-2", 3), tmp_path / "later").told()
    assert later.metric("loss") == pytest.approx(one.metric("loss")[3:], rel=1e-4)


def test_epochs_are_as_many_steps_as_their_rows_fill(tiny: Path, corpus: dict[str, Any], finetuned: Finetuned) -> None:
    run, told = finetuned(finetune_order(tiny, corpus, max_steps=0, epochs=1.5, micro_batch=4, data=STREAMED))
    assert told.result("training")["steps"] == 15  # 40 rows, one and a half times, 4 a step
    assert told.metric("epoch")[-1] == pytest.approx(1.5)
    assert json.loads((run.output_dir / "manifest.json").read_text())["dataset"]["train_rows"] == 40


@pytest.mark.parametrize("data", [STREAMED, {"streaming": "off"}], ids=["streamed", "in_memory"])
def test_an_epoch_of_long_texts_has_all_of_their_parts(
    tiny: Path, corpus: dict[str, Any], tokenizer: Any, finetuned: Finetuned, data: dict[str, Any]
) -> None:
    rows = read_rows(find_shards(corpus["train_uri"]))
    parts = len(make_samples(rows, TEXT, tokenizer, 8))
    recipe: dict[str, Any] = {"context_length": 8, "max_steps": 0, "epochs": 1, "micro_batch": 16, "evaluate": False}
    run, told = finetuned(finetune_order(tiny, corpus, data=data, **recipe))
    assert parts > 2 * len(rows)
    assert told.result("training")["steps"] == -(-parts // 16)
    assert told.metric("epoch")[-1] == pytest.approx(1, abs=0.15)  # steps are whole
    assert json.loads((run.output_dir / "manifest.json").read_text())["dataset"]["train_rows"] == len(rows)


def test_four_ranks_of_two_workers_see_each_row_once_an_epoch(corpus: dict[str, Any], tokenizer: Any) -> None:
    shards = find_shards(corpus["train_uri"])
    feeds = [Feed(spec(micro_batch=1), shards, TEXT, tokenizer, as_lists, Rank(rank, 4)) for rank in range(4)]
    for _ in range(2):
        seen = Counter(text for feed in feeds for batch in texts(feed, 10, tokenizer) for text in batch)
        assert len(seen) == 40
        assert set(seen.values()) == {1}
    assert [feed.epoch for feed in feeds] == [2, 2, 2, 2]


@pytest.mark.parametrize("processes", [1, 2, 4])
def test_the_order_does_not_depend_on_the_cores(
    monkeypatch: pytest.MonkeyPatch, corpus: dict[str, Any], tokenizer: Any, processes: int
) -> None:
    given = spec(data={**STREAMED, "workers": 4})

    def order(cores: int) -> list[list[str]]:
        monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(cores)))
        feed = Feed(given, find_shards(corpus["train_uri"]), TEXT, tokenizer, as_lists)
        return texts(feed, 12, tokenizer)

    assert order(processes + 1) == order(1)


def test_two_ranks_share_the_batches_of_one_and_either_goes_on_after_the_other(
    monkeypatch: pytest.MonkeyPatch, corpus: dict[str, Any], tokenizer: Any
) -> None:
    shards = find_shards(corpus["train_uri"])

    def feed(rank: int = 0, of: int = 1) -> Feed:
        # Four readers in all, so that one rank has what two have together.
        return Feed(spec(data={**STREAMED, "workers": 4 // of}), shards, TEXT, tokenizer, as_lists, Rank(rank, of))

    alone = feed()
    whole = texts(alone, 6, tokenizer)
    state = json.loads(json.dumps(alone.state()))
    whole += texts(alone, 6, tokenizer)

    pair = [feed(0, 2), feed(1, 2)]
    shared = [texts(one, 3, tokenizer) for one in pair]
    assert [batch for both in zip(*shared, strict=True) for batch in both] == whole[:6]
    for one in pair:
        one.go_on(state)
    shared = [texts(one, 3, tokenizer) for one in pair]
    assert [batch for both in zip(*shared, strict=True) for batch in both] == whole[6:]


@pytest.mark.parametrize("cores", [1, 3])
def test_shards_afar_are_read_as_those_at_hand(
    monkeypatch: pytest.MonkeyPatch, corpus: dict[str, Any], tokenizer: Any, cores: int
) -> None:
    """In this process, and in two others."""
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(cores)))
    near = Feed(spec(), find_shards(corpus["train_uri"]), TEXT, tokenizer, as_lists)
    with s3_server() as s3, monkeypatch.context() as environment:
        for name, value in s3.environment.items():
            environment.setenv(name, value)
        place = f"{s3.root}/corpus-{cores}"
        fsspec.filesystem("s3").put(corpus["train_uri"], place, recursive=True)
        afar = Feed(spec(), find_shards(place), TEXT, tokenizer, as_lists)
        assert texts(afar, 12, tokenizer) == texts(near, 12, tokenizer)


def test_a_state_of_other_data_is_refused(corpus: dict[str, Any], tokenizer: Any) -> None:
    state = Feed(spec(), find_shards(corpus["train_uri"]), TEXT, tokenizer, as_lists).state()
    write_rows(Path(corpus["train_uri"]) / "part-9.jsonl", [{"text": "new"}])
    with pytest.raises(RunFailed, match="not those that the checkpoint was trained on"):
        Feed(spec(), find_shards(corpus["train_uri"]), TEXT, tokenizer, as_lists).go_on(state)


@pytest.mark.parametrize("cores", [1, 3])
def test_a_row_that_does_not_fit_ends_the_run_with_its_place(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, tokenizer: Any, cores: int
) -> None:
    """In this process, and in two others."""
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(cores)))
    path = write_rows(tmp_path / "a.jsonl", [{"text": "fine"}, {"txt": "x"}, {"text": None}])
    with pytest.raises(RunFailed, match=r"row [23] of a\.jsonl has no 'text', which format text needs"):
        texts(Feed(spec(), find_shards(str(path)), TEXT, tokenizer, as_lists), 9, tokenizer)


def test_large_data_is_streamed_unless_the_spec_says_otherwise(tmp_path: Path) -> None:
    with (tmp_path / "large.jsonl").open("wb") as file:
        file.truncate(AUTO_BYTES + 1)  # sparse
    write_rows(tmp_path / "small.jsonl", [{"text": "a"}])
    with (tmp_path / "zipped.jsonl.gz").open("wb") as file:
        file.truncate(AUTO_BYTES // 2)
    assert is_streamed(spec(data={}), find_shards(str(tmp_path / "zipped.jsonl.gz")))
    large, small = find_shards(str(tmp_path / "large.jsonl")), find_shards(str(tmp_path / "small.jsonl"))
    assert [is_streamed(spec(data={}), shards) for shards in (large, small)] == [True, False]
    assert [is_streamed(spec(data={"streaming": "off"}), shards) for shards in (large, small)] == [False, False]
    assert [is_streamed(spec(data={"streaming": "on"}), shards) for shards in (large, small)] == [True, True]


def large_corpus(folder: Path, mebibytes: int) -> None:
    """Shards of 32 MiB, each line a kibibyte."""
    words = "a synthetic corpus says the same thing over and over again " * 20
    block = b"".join((json.dumps({"text": f"{n} {words}"})[:1020] + '"}\n').encode() for n in range(1024))
    for part in range(mebibytes // 32):
        with (folder / f"part-{part:03}.jsonl").open("wb") as file:
            for _ in range(32 * 2**20 // len(block)):
                file.write(block)


def bytes_held() -> int:
    """What this process and its children have in memory, what they share counted once."""
    processes = [psutil.Process(), *psutil.Process().children(recursive=True)]
    return sum(process.memory_full_info().pss for process in processes)


def test_memory_stays_flat_whatever_the_size(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, tokenizer: Any) -> None:
    """A stretch of each part of the corpus. LIFTOFF_TEST_CORPUS_MIB=2048 gives it the size that users are promised."""
    size = int(os.environ.get("LIFTOFF_TEST_CORPUS_MIB", "64"))
    large_corpus(tmp_path, size)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(5)))
    before, peak = bytes_held(), 0
    feed = Feed(spec(micro_batch=64, data={"workers": 4}), find_shards(str(tmp_path)), TEXT, tokenizer, as_lists)
    readers, parts = feed.reading.readers, max(2, size // 256)
    for part in range(parts):
        rows = feed.reading.rows // readers * part // parts
        cursors = [list(feed.reading.at(reader, rows)) for reader in range(readers)]
        feed.go_on({**feed.state(), "cursors": cursors, "batches": 0})
        for number, batch in enumerate(itertools.islice(feed, 16)):
            assert len(batch["ids"]) == 64
            if number % 5 == 0:
                peak = max(peak, bytes_held() - before)
    print(f"{size} MiB in {len(feed.reading.shards)} shards: {peak / 2**20:.0f} MiB at most, in 5 processes")
    assert 0 < peak < 300 * 2**20
