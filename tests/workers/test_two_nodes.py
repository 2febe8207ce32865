"""Two worker processes with nothing in common but Redis and the store: what one made, the other goes on from."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.s3_server import s3_server
from tests.workers.conftest import make_order
from tests.workers.test_celery_worker import Node
from workers.artifacts import FsspecStore
from workers.contents import measure, sha256_of
from workers.contract.order import Order
from workers.contract.reasons import Reason


@pytest.fixture(params=["mount", "s3"])
def store(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[tuple[str, FsspecStore]]:
    """(root, what an admin's machine sees of it)"""
    if request.param == "mount":
        monkeypatch.setenv("LIFTOFF_STORE_IS_AFAR", "1")
        root = f"file://{tmp_path}/mounted"
        yield root, FsspecStore(root, (), tmp_path / "admin")
        return
    with s3_server() as server:
        for name, value in server.environment.items():
            monkeypatch.setenv(name, value)
        root = f"{server.root}-{tmp_path.name}"
        yield root, FsspecStore(root, (), tmp_path / "admin")


@pytest.fixture
def nodes(
    store: tuple[str, FsspecStore], tmp_path: Path, redis_url: str, monkeypatch: pytest.MonkeyPatch
) -> Iterator[list[Node]]:
    monkeypatch.setenv("LIFTOFF_STORE", store[0])
    made = []
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        made.append(Node(tmp_path / name, redis_url))
    try:
        for node in made:
            node.start()
        yield made
    finally:
        for node in made:
            node.end()


@pytest.fixture
def inputs(store: tuple[str, FsspecStore], tmp_path: Path) -> dict[str, Any]:
    """A model and a dataset in the store, with the hashes that the catalog would know."""
    raw = make_order(tmp_path / "seed")
    model, train = tmp_path / "seed/models/tiny", tmp_path / "seed/datasets/train.jsonl"
    _, sha256 = store[1].put(model, "store://models/tiny")
    store[1].put(train, "store://datasets/train.jsonl")
    return {
        "model": raw["model"] | {"sha256": sha256},
        "dataset": raw["dataset"] | {"sha256": sha256_of(train, Path("/dev/null"))},
        "spec": raw["spec"],
    }


def _run(node: Node, behaviour: str, inputs: dict[str, Any], **more: Any) -> int:
    """Order a run of the fake child; its job, which has completed."""
    job = node.send(behaviour, **{**inputs, "spec": inputs["spec"] | {"name": behaviour}, **more})
    assert node.finished(job).reason is Reason.COMPLETED
    return job


def test_one_goes_on_from_what_the_other_made(nodes: list[Node], inputs: dict[str, Any]) -> None:
    first, second = nodes
    checkpoint = [it.event for it in first.events(_run(first, "checkpoints", inputs)) if it.event.type == "checkpoint"][
        -1
    ]
    made = first.events(_run(first, "train", inputs))
    adapter = next(it.event for it in made if it.event.type == "artifact" and it.event.kind == "adapter")
    job = _run(
        second,
        "print_environment",
        inputs,
        adapter={"name": "x", "uri": adapter.uri, "sha256": adapter.sha256},
        resume={"uri": checkpoint.uri, "step": checkpoint.step, "sha256": checkpoint.sha256},
    )
    (written,) = (second.folder / "runs" / second.name).glob(f"{job}-*/order.json")
    local = Order.model_validate_json(written.read_text())
    for path in (local.model.uri, local.dataset.train_uri, local.adapter.uri, local.resume.uri):
        assert Path(path).is_relative_to(second.folder / "cache")
    assert measure(Path(local.adapter.uri)) == (adapter.bytes, adapter.sha256)
    assert measure(Path(local.resume.uri)) == (checkpoint.bytes, checkpoint.sha256)
    said = "".join(it.event.text for it in second.events(job) if it.event.type == "log")
    assert "LIFTOFF_RUN" in said
    assert "AWS_" not in said
