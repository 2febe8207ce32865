"""Turns the URIs of an order into paths on this node, through the artifact store.

Doesn't know where the store is nor what the inputs hold.
"""

from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from workers.artifacts import ArtifactMissing, ArtifactStore
from workers.contract.names import ORDER_FILE, UnsafeURI
from workers.contract.spec import Contract, Order

Part = TypeVar("Part", bound=Contract)


def localised(order: Order, store: ArtifactStore, say: Callable[[str], object]) -> Order:
    """The same order with local paths. Raises ArtifactMissing or UnsafeURI, with the field's name in the sentence.

    A checkpoint that isn't there is left out, and `say` told so.
    """
    changes: dict[str, object] = {}
    if order.model:
        changes["model"] = _fetched(order.model, "uri", "model", store)
    if order.dataset:
        dataset = _fetched(order.dataset, "train_uri", "dataset", store)
        changes["dataset"] = _fetched(dataset, "test_uri", "dataset", store) if dataset.test_uri else dataset
    if order.adapter:
        changes["adapter"] = _fetched(order.adapter, "uri", "adapter", store)
    if order.resume:
        try:
            changes["resume"] = _fetched(order.resume, "uri", "resume", store)
        except ArtifactMissing as error:
            # The run can still begin at its beginning.
            say(f"The checkpoint of step {order.resume.step} can't be had; training begins at the beginning: {error}")
            changes["resume"] = None
    return order.model_copy(update=changes)


def write_order(order: Order, run_dir: Path) -> None:
    """RUN_DIR/order.json, readable by this user only: it may hold a serving token."""
    path = run_dir / ORDER_FILE
    path.touch(mode=0o600)
    path.write_text(order.model_dump_json(indent=2))


def _fetched(part: Part, attribute: str, field: str, store: ArtifactStore) -> Part:
    try:
        return part.model_copy(update={attribute: store.fetch(getattr(part, attribute))})
    except (ArtifactMissing, UnsafeURI) as error:
        raise type(error)(f"{field}: {error}") from error
