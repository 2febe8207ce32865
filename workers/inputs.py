"""Turns the URIs of an order into paths on this node, through the artifact store.

Doesn't know where the store is nor what the inputs hold.
"""

import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from workers.afar import ArtifactDamaged, ArtifactMissing, NoRoom, StoreUnreachable
from workers.artifacts import ArtifactStore
from workers.contents import sha256_of
from workers.contract import events
from workers.contract.base import Contract
from workers.contract.events import AnyEvent, Log, Phase
from workers.contract.names import ORDER_FILE, UnsafeURI
from workers.contract.order import DatasetInput, Order, ResumeInput
from workers.copies import Progress
from workers.nearby import RESUME_DIR, left_here
from workers.parts import joined
from workers.whole import Torn

Part = TypeVar("Part", bound=Contract)
Say = Callable[[AnyEvent], object]
"""Told what is fetched from afar and how far it has come; what it raises ends that."""
_TELL_S = 1.0


def localised(order: Order, store: ArtifactStore, say: Say, run_dir: Path) -> Order:
    """The same order with local paths, checked against the hashes it names where they had to be copied.

    Raises ArtifactMissing or UnsafeURI, with the field's name in the sentence. The run goes on from the latest
    checkpoint that this node holds or that was ordered; one that isn't there or is damaged is left out. `say` is told
    which it is.
    """
    fetching = _Fetching(store, say)
    changes: dict[str, object] = {}
    if order.model:
        changes["model"] = fetching.part(order.model, "model", order.model.sha256)
    if order.dataset:
        changes["dataset"] = fetching.dataset(order.dataset)
    if order.adapter:
        changes["adapter"] = fetching.part(order.adapter, "adapter", order.adapter.sha256)
    changes["resume"] = fetching.checkpoint(order, run_dir)
    return order.model_copy(update=changes)


def write_order(order: Order, run_dir: Path) -> None:
    """RUN_DIR/order.json, readable by this user only: it may hold a serving token."""
    path = run_dir / ORDER_FILE
    path.touch(mode=0o600)
    path.write_text(order.model_dump_json(indent=2))


class _Fetching:
    def __init__(self, store: ArtifactStore, say: Say) -> None:
        self._store = store
        self._say = say

    def part(self, part: Part, field: str, sha256: str | None = None, attribute: str = "uri") -> Part:
        """The part with a local path in place of that URI."""
        try:
            path = self._store.fetch(getattr(part, attribute), sha256, self._progress(field))
        except (ArtifactMissing, UnsafeURI) as error:
            raise type(error)(f"{field}: {error}") from error
        return part.model_copy(update={attribute: path})

    def dataset(self, dataset: DatasetInput) -> DatasetInput:
        """Both splits; their one hash is over the content of both, of a folder of shards over names and sizes only."""
        local = self.part(dataset, "dataset", attribute="train_uri")
        if local.test_uri:
            local = self.part(local, "dataset", attribute="test_uri")
        paths = [local.train_uri, *filter(None, [local.test_uri])]
        copies = [path for path in paths if self._store.is_copy(path)]
        if copies and not Path(local.train_uri).is_dir() and not _holds(paths, dataset.sha256):
            for path in copies:
                self._store.discard(path)
            raise ArtifactDamaged(f"dataset: {dataset.train_uri!r} and its test split have another hash than stored.")
        return local

    def checkpoint(self, order: Order, run_dir: Path) -> ResumeInput | None:
        """What the run goes on from."""
        ordered = order.resume
        stored = f"the store's is of step {ordered.step}" if ordered else "the store has none"
        if left := left_here(order, run_dir):
            self._log(f"Goes on from step {left[0].step}: attempt {left[1]} left that on this node; {stored}.")
            return left[0]
        if ordered is None:
            return None
        try:
            resume = self.part(ordered, "resume", ordered.sha256)
            if ordered.parts:
                further = [self.part(part, "resume", part.sha256) for part in ordered.parts]
                paths = [Path(resume.uri), *(Path(part.uri) for part in further)]
                whole = joined(paths, run_dir / RESUME_DIR / f"step-{ordered.step}")
                resume = ResumeInput(uri=str(whole), step=ordered.step)
        except (StoreUnreachable, NoRoom):
            raise
        except (ArtifactMissing, Torn) as error:
            # The run can still begin at its beginning.
            self._log(f"The checkpoint of step {ordered.step} can't be had; training begins at the beginning: {error}")
            return None
        self._log(f"Goes on from step {ordered.step}, which is in the store at {ordered.uri}.")
        return resume

    def _log(self, text: str) -> None:
        self._say(Log(stream="supervisor", text=text))

    def _progress(self, field: str) -> Progress:
        told_at: float | None = None

        def progress(done: int, total: int) -> None:
            nonlocal told_at
            now = time.monotonic()
            if told_at is None:
                self._say(Phase(name=f"fetching {field}"))
            elif now - told_at < _TELL_S and done < total:
                return
            told_at = now
            self._say(events.Progress(done=round(done / 2**20, 1), total=round(total / 2**20, 1), unit="MiB"))

        return progress


def _holds(splits: list[str], sha256: str) -> bool:
    """As the catalog counts it: train, NUL, test, either of which may be empty."""
    train, *test = map(Path, splits)
    return sha256_of(train, *(test or [Path("/dev/null")])) == sha256
