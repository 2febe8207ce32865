"""A checkpoint that several nodes wrote is put together of their parts, and is whole only with all of them."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.workers.conftest import Bench
from workers.contract.order import Order
from workers.inputs import localised
from workers.whole import check_whole, write_whole

Store = Callable[[int, int], dict[str, Any]]


@pytest.fixture
def part(bench: Bench, tmp_path: Path) -> Store:
    """Put a node's part of a checkpoint in the store; where it is, and its hash."""

    def stored(rank: int, step: int) -> dict[str, Any]:
        def fill(fresh: Path) -> None:
            (fresh / "shards").mkdir()
            (fresh / "shards" / f"{rank}.pt").write_text(f"of {rank}")

        folder, _ = write_whole(tmp_path / f"node-{rank}", step, fill)
        uri = f"store://jobs/7-1-ab/{rank}"
        _, sha256 = bench.store.put(folder, uri)
        return {"uri": uri, "sha256": sha256}

    return stored


def resumed(bench: Bench, tmp_path: Path, *parts: dict[str, Any]) -> tuple[Order, list[str]]:
    """What a node is given of a checkpoint of step 5, and what is said of it."""
    said: list[Any] = []
    order = bench.order(resume={**parts[0], "step": 5, "parts": parts[1:]})
    (tmp_path / "run").mkdir()
    return localised(order, bench.store, said.append, tmp_path / "run"), [one.text for one in said if one.type == "log"]


def test_its_files_are_those_of_all_its_parts(bench: Bench, tmp_path: Path, part: Store) -> None:
    order, _ = resumed(bench, tmp_path, part(0, 5), part(1, 5), part(2, 5))
    assert order.resume is not None
    folder = Path(order.resume.uri)
    check_whole(folder, 5)
    assert [path.read_text() for path in sorted(folder.glob("shards/*"))] == ["of 0", "of 1", "of 2"]


def test_a_part_that_is_missing_or_of_another_step_makes_the_run_begin_anew(
    bench: Bench, tmp_path: Path, part: Store
) -> None:
    order, said = resumed(bench, tmp_path, part(0, 5), {"uri": "store://jobs/7-1-ab/none"})
    assert order.resume is None
    assert "training begins at the beginning" in said[-1]
    (tmp_path / "run").rmdir()
    order, said = resumed(bench, tmp_path, part(0, 5), part(1, 4))
    assert order.resume is None
    assert "different steps" in said[-1]
