"""Real runs, each in a process of its own that was forked with the libraries imported, two at a time with a core each.

Knows nothing of predictions.
"""

import os
from collections.abc import Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from tests.bench.planner.cases import Case
from tests.bench.planner.one import measure

PRELOADED = [
    "transformers.models.llama.modeling_llama",
    "workers.runtimes.finetune.trainer",
    "workers.runtimes.models",
    "bitsandbytes",
    "tests.bench.planner.one",
]


def run(cases: Iterable[Case], folders: dict[str, Path]) -> Iterator[dict[str, Any]]:
    """What `measure` says of each case, in order, as soon as it is there."""
    os.environ["DS_ACCELERATOR"] = "cpu"
    context = get_context("forkserver")
    context.set_forkserver_preload(PRELOADED)
    workers = os.cpu_count() or 1
    with ProcessPoolExecutor(workers, mp_context=context, max_tasks_per_child=1) as pool:
        yield from pool.map(measure, *zip(*((case, folders[case.model]) for case in cases), strict=True))
