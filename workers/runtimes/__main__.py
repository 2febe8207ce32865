"""`python -m workers.runtimes RUN_DIR`: carry out RUN_DIR/order.json; exit 0, or 1 after a Failed event.

Events go as JSON lines to the descriptor in LIFTOFF_EVENTS_FD, or to standard output by hand. Turns exceptions into
reasons and SIGTERM into an orderly end. Doesn't know what the runtimes do.
"""

import argparse
import errno
import os
import signal
import sys
import traceback
import warnings
from pathlib import Path
from types import FrameType

from workers.contract.reasons import Reason
from workers.runtimes.base import STOPPED_EXIT, Emitter, Run, RunFailed, load_order
from workers.runtimes.ranks import run_ranks, wants_ranks
from workers.runtimes.registry import runtime_for


def main(arguments: list[str] | None = None) -> int:
    """Exit status: 0 when the run completed, 1 otherwise."""
    parser = argparse.ArgumentParser(prog="python -m workers.runtimes", description="Run one job by hand.")
    parser.add_argument("run_dir", type=Path, help="folder with order.json; results go to its output/")
    run_dir = parser.parse_args(arguments).run_dir.resolve()
    emitter = Emitter.from_environment(os.environ)
    try:
        run = Run(order=load_order(run_dir), run_dir=run_dir, emitter=emitter)
        _end_on_sigterm(run)
        _prepare_environment(run)
        if wants_ranks(run.order):
            run_ranks(run)
        else:
            runtime_for(run.order.spec.kind)(run)
    except RunFailed as error:
        run_failed = error
    except Exception as error:
        traceback.print_exc()
        run_failed = explain(error)
    else:
        return 0
    from workers.contract.events import Failed

    emitter.emit(Failed(reason=run_failed.reason, detail=run_failed.detail))
    return 1


def explain(error: Exception) -> RunFailed:
    """The reason behind an exception no runtime expected."""
    if isinstance(error, RunFailed):
        return error
    text = str(error).strip() or "no message"
    # PyTorch raises OutOfMemoryError on an accelerator, but a plain RuntimeError from the CPU allocator.
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError" or "DefaultCPUAllocator" in text:
        return RunFailed(Reason.OUT_OF_MEMORY, text.splitlines()[0])
    if isinstance(error, FileNotFoundError):
        return RunFailed(Reason.ARTIFACT_MISSING, text)
    # Safetensors says in words what others say by number.
    if getattr(error, "errno", None) == errno.ENOSPC or os.strerror(errno.ENOSPC) in text:
        return RunFailed(Reason.DISK_FULL, text.splitlines()[0])
    return RunFailed(Reason.CRASHED, f"{type(error).__name__}: {text.splitlines()[0]}")


def _end_on_sigterm(run: Run) -> None:
    def end(_signal: int, _frame: FrameType | None) -> None:
        if not run.on_stop:
            sys.exit(STOPPED_EXIT)
        for stop in run.on_stop:
            stop()

    signal.signal(signal.SIGTERM, end)


def _prepare_environment(run: Run) -> None:
    """Settings that libraries read when they are imported. What the supervisor has set stays."""
    # A library's word to its callers about its next version says nothing to who reads the run's log.
    warnings.simplefilter("ignore", FutureWarning)
    if run.order.model is None or run.order.model.format != "hub":
        os.environ.setdefault("HF_HUB_OFFLINE", "1")
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")  # progress is told in events
    os.environ.setdefault("HF_DATASETS_DISABLE_PROGRESS_BARS", "1")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    os.environ.setdefault("CUDA_DEVICE_ORDER", "PCI_BUS_ID")  # the order in which the probe counts devices
    if run.device_kind == "cuda":
        os.environ.setdefault("CUDA_VISIBLE_DEVICES", ",".join(str(device.index) for device in run.order.devices))
    else:
        os.environ["CUDA_VISIBLE_DEVICES"] = ""
        os.environ.setdefault("DS_ACCELERATOR", "cpu")


if __name__ == "__main__":
    sys.exit(main())
