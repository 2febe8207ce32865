"""A streamed dataset: every row once an epoch whoever reads it, and gone on with at the very sample."""

import gzip
import itertools
import json
import tempfile
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from workers.runtimes.base import RunFailed
from workers.runtimes.finetune.packing import Pack
from workers.runtimes.finetune.samples import Sample
from workers.runtimes.finetune.shards import Shard, counted, find_shards, parse, raw_rows, read_rows
from workers.runtimes.finetune.stream import Arrangement, Cursor, Item, Reader, Reading

SIZES = st.lists(st.integers(0, 40), min_size=1, max_size=9).filter(lambda sizes: sum(sizes) >= 8)


def written(folder: Path, sizes: Sequence[int]) -> list[Shard]:
    """Shards of so many rows, of every kind in turn; a row's text is its number, and a tail of its own length."""
    number = itertools.count()
    for index, size in enumerate(sizes):
        texts = [f"{n} {'x' * (n % 7)}" for n in itertools.islice(number, size)]
        lines = "".join(json.dumps({"text": text}) + "\n" + "\n" * (index % 2) for text in texts).encode()
        name = folder / f"part-{index}"
        match index % 4:
            case 0:
                name.with_suffix(".jsonl").write_bytes(lines)
            case 1:
                name.with_suffix(".jsonl.gz").write_bytes(gzip.compress(lines))
            case 2:
                name.with_suffix(".txt").write_text("".join(text + "\n" for text in texts))
            case _:
                table = pa.table({"text": pa.array(texts, pa.string())})
                pq.write_table(table, name.with_suffix(".parquet"), row_group_size=5)
    return [counted(shard) for shard in find_shards(str(folder))]


def sample(row: dict[str, Any], where: str) -> list[Sample]:
    number, tail = row["text"].split(" ")
    return [Sample([int(number), *([0] * len(tail))], [0] * (1 + len(tail)), [])]


def parts(row: dict[str, Any], where: str) -> list[Sample]:
    """Up to seven samples of a row, each with the row's number and its own."""
    number, tail = row["text"].split(" ")
    count = 1 + len(tail)
    return [Sample([int(number), part, *[0] * (part % 3)], [], [], share=1 / count) for part in range(count)]


def numbers(shard: Shard) -> list[int]:
    return [int(parse(raw, shard, 1)["text"].split(" ")[0]) for raw in raw_rows(shard)]


def samples_in(items: Sequence[Item]) -> list[Sample]:
    return [one for item in items for one in (item.samples if isinstance(item, Pack) else [item])]


def ids(items: Sequence[Item]) -> list[int]:
    return [one.input_ids[0] for one in samples_in(items)]


of_any_plan = given(
    sizes=SIZES,
    window=st.integers(1, 30),
    batch=st.integers(1, 5),
    arrangement=st.sampled_from(["shuffled", "by_length", "packed"]),
)


def reading(shards: list[Shard], arrangement: Arrangement = "shuffled", window: int = 7, batch: int = 3) -> Reading:
    return Reading(shards, 8, window, batch, arrangement, capacity=12, seed=5)


@settings(max_examples=60, deadline=None)
@of_any_plan
def test_eight_readers_see_each_row_once_an_epoch_and_go_on_anywhere(
    sizes: list[int], window: int, batch: int, arrangement: Arrangement
) -> None:
    """Four ranks of two workers, over fewer and more shards, empty ones too."""
    with tempfile.TemporaryDirectory() as folder:
        plan = reading(written(Path(folder), sizes), arrangement, window, batch)
        epochs: list[Counter[int]] = [Counter(), Counter()]
        for number in range(plan.readers):
            first, stop = plan.share(number)
            share = stop - first
            wanted = 2 * share
            batches = []
            for items, cursor in Reader(plan, number, sample).batches():
                batches.append((items, cursor))
                if plan.given(number, cursor) >= wanted:
                    break
            seen = [one for items, _ in batches for one in ids(items)]
            epochs[0].update(seen[:share])
            epochs[1].update(seen[share:wanted])
            assert len(seen) == plan.given(number, batches[-1][1])
            for index in {0, len(batches) // 2, len(batches) - 1}:
                rest = batches[index + 1 :]
                again = itertools.islice(Reader(plan, number, sample).batches(batches[index][1]), len(rest))
                assert list(again) == rest
        everything = Counter(range(sum(sizes)))
        assert epochs == [everything, everything]


@settings(max_examples=60, deadline=None)
@of_any_plan
def test_each_part_of_a_divided_row_comes_once_an_epoch_and_any_part_is_gone_on_from(
    sizes: list[int], window: int, batch: int, arrangement: Arrangement
) -> None:
    with tempfile.TemporaryDirectory() as folder:
        plan = reading(written(Path(folder), sizes), arrangement, window, batch)
        epochs: list[Counter[tuple[int, ...]]] = [Counter(), Counter()]
        orders = [[row for shard in plan.order(epoch) for row in numbers(shard)] for epoch in (0, 1)]
        for number in range(plan.readers):
            batches = []
            for items, cursor in Reader(plan, number, parts).batches():
                batches.append((items, cursor))
                if cursor.window >= 2 * plan.windows(number):
                    break
            seen = [tuple(one.input_ids[:2]) for items, _ in batches for one in samples_in(items)]
            for epoch, order in enumerate(orders):
                owed = sum(1 + row % 7 for row in order[slice(*plan.share(number))])
                epochs[epoch].update(seen[:owed])
                del seen[:owed]
            for before, (_, cursor) in itertools.pairwise(batches):
                assert plan.given(number, cursor) > plan.given(number, before[1])
            for index in {0, len(batches) // 3, len(batches) // 2, len(batches) - 1}:
                rest = batches[index + 1 :]
                again = itertools.islice(Reader(plan, number, parts).batches(batches[index][1]), len(rest))
                assert list(again) == rest
        everything = Counter((row, part) for row in range(sum(sizes)) for part in range(1 + row % 7))
        assert epochs == [everything, everything]


def test_epochs_and_seeds_differ_and_a_window_of_one_row_keeps_the_order(tmp_path: Path) -> None:
    shards = written(tmp_path, [20, 20, 20, 20])

    def first_epochs(plan: Reading) -> list[list[int]]:
        batches = Reader(plan, 0, sample).batches()
        return [[one for items, _ in itertools.islice(batches, 40) for one in ids(items)] for _ in range(2)]

    one, other = Reading(shards, 1, 50, 2, "shuffled", 9, 1), Reading(shards, 1, 50, 2, "shuffled", 9, 2)
    first, second = first_epochs(one)
    assert sorted(first) == sorted(second) == list(range(80))
    assert first != second
    assert first_epochs(other)[0] != first
    assert first_epochs(one) == [first, second]
    assert first_epochs(Reading(shards, 1, 1, 2, "shuffled", 9, 1)) == [list(range(80))] * 2


def test_batches_by_length_hold_like_lengths(tmp_path: Path) -> None:
    plan = Reading(written(tmp_path, [140]), 1, 70, 5, "by_length", 9, 1)
    batches = [items for items, _ in itertools.islice(Reader(plan, 0, sample).batches(), 28)]
    lengths = [[len(item.input_ids) for item in items if isinstance(item, Sample)] for items in batches]
    assert all(max(batch) - min(batch) <= 1 for batch in lengths)
    assert [max(batch) for batch in lengths] != sorted(max(batch) for batch in lengths)


def test_packs_are_full_and_hold_each_sample_whole(tmp_path: Path) -> None:
    plan = Reading(written(tmp_path, [200]), 1, 200, 1, "packed", 20, 1)
    packs = [item for items, _ in itertools.islice(Reader(plan, 0, sample).batches(), 40) for item in items]
    assert max(map(len, packs)) <= 20
    assert sum(map(len, packs)) / len(packs) > 19


def test_a_place_is_found_by_the_rows_given_out(tmp_path: Path) -> None:
    plan = Reading(written(tmp_path, [50]), 3, 7, 1, "shuffled", 9, 1)
    for number in range(3):
        for _, cursor in itertools.islice(Reader(plan, number, sample).batches(), 45):
            given_out = plan.given(number, cursor)
            after = [items for items, _ in itertools.islice(Reader(plan, number, sample).batches(cursor), 5)]
            found = plan.at(number, given_out)
            assert [items for items, _ in itertools.islice(Reader(plan, number, sample).batches(found), 5)] == after


def test_rows_of_a_shard_from_any_one_on(tmp_path: Path) -> None:
    for shard in written(tmp_path, [23, 23, 23, 23]):
        whole = list(raw_rows(shard))
        assert shard.rows == len(whole) == 23
        assert [list(raw_rows(shard, start)) for start in (0, 4, 5, 22, 23, 30)] == [
            whole[start:] for start in (0, 4, 5, 22, 23, 30)
        ]


def test_only_data_files_of_a_folder_count(tmp_path: Path) -> None:
    for name in ("README.md", ".hidden.jsonl", "_SUCCESS", "b/two.jsonl", "one.jsonl", "b/_temporary/x.jsonl"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text('{"text": "a"}\n')
    assert [shard.name for shard in find_shards(str(tmp_path))] == ["b/two.jsonl", "one.jsonl"]
    assert [shard.name for shard in find_shards(str(tmp_path / "one.jsonl"), str(tmp_path / "b"))] == [
        "one.jsonl",
        "two.jsonl",
    ]


@pytest.mark.parametrize(
    ("name", "content", "complaint"),
    [
        ("a.jsonl", b'{"text": "x"}\n{"text": \n', "row 2 of a.jsonl is not JSON"),
        ("a.jsonl", b"[1]\n", "row 1 of a.jsonl is not a JSON object"),
        ("a.txt", b"\xff\xfe\n", "row 1 of a.txt is not UTF-8"),
        ("a.jsonl.gz", b"no gzip", "a.jsonl.gz can't be read"),
        ("a.parquet", b"no parquet", "a.parquet can't be read"),
        ("a.jsonl", b"\n", "a.jsonl has no rows"),
        ("a.csv", b"", "there is no JSONL, text or Parquet file"),
    ],
)
def test_what_is_wrong_with_a_file_is_said_in_a_sentence(
    tmp_path: Path, name: str, content: bytes, complaint: str
) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(RunFailed) as failed:
        read_rows([counted(shard) for shard in find_shards(str(tmp_path))])
    assert complaint in failed.value.detail
    assert "\n" not in failed.value.detail


def test_a_cursor_outlives_json() -> None:
    cursor = Cursor(3, 4, 9)
    assert Cursor(*json.loads(json.dumps(list(cursor)))) == cursor
