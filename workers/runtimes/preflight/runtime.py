"""A preflight from its first check to its report: as a job of its own, or as the first phase of a launch.

A check that can't be made is a line that says so, and never the end of the preflight. Doesn't know what is done about
a report.
"""

import time
import traceback
from collections.abc import Callable

from workers.contract.preflight import RESULT, Line, Report
from workers.contract.reasons import Reason
from workers.contract.spec import PreflightSpec
from workers.runtimes.base import Run, RunFailed
from workers.runtimes.preflight import clocks, collective, driver, memory, packages, storage, weights
from workers.runtimes.preflight.case import Case, case_of
from workers.runtimes.preflight.lines import line
from workers.runtimes.preflight.sweep import sweep

PHASE = "preflight"
_SHOWN_FAILURES = 3

Check = Callable[[], list[Line]]


def preflight(run: Run) -> None:
    """Carry out a preflight job: its checks, or its sweep. Raises RunFailed(preflight_failed) when a line fails."""
    if isinstance(run.order.spec, PreflightSpec) and run.order.spec.sweep_processes:
        sweep(run, run.order.spec)
        return
    run.phase(PHASE)
    _end_on_failure(examine(run, case_of(run, brief=False)))


def before_launch(run: Run) -> Report:
    """The automatic preflight: seconds, and nothing written. Raises RunFailed(preflight_failed) when a line fails."""
    run.phase(PHASE)
    report = examine(run, case_of(run, brief=True))
    _end_on_failure(report)
    return report


def examine(run: Run, case: Case) -> Report:
    """Make every check and say the report."""
    at, start = time.time(), time.monotonic()
    checks = _checks(case)
    lines: list[Line] = []
    for done, (name, check) in enumerate(checks):
        run.progress(done, len(checks), "checks")
        lines += _made(name, check)
    run.progress(len(checks), len(checks), "checks")
    report = Report(at=at, took_s=round(time.monotonic() - start, 3), lines=tuple(lines))
    run.result(RESULT, report.model_dump(mode="json"))
    return report


def _checks(case: Case) -> list[tuple[str, Check]]:
    """(name, check), memory before whatever takes some of it."""
    order, kind, wanted = case.order, case.device_kind, len(case.order.devices)
    checks: list[tuple[str, Check]] = [
        (packages.NAME, lambda: [packages.check(order.spec, order.model)]),
        (memory.NAME, lambda: memory.check(case)),
        (driver.NAME, lambda: [driver.check(driver.torch_build(), kind, wanted, case.nvml)]),
    ]
    if kind == "cuda":
        checks.append((driver.NCCL, lambda: [driver.check_nccl(driver.torch_build(), wanted)]))
    checks.append((storage.READ, lambda: [storage.check_read(case)]))
    if not case.brief:
        checks.append((storage.SPACE, lambda: [storage.check_space(case)]))
    if order.model is not None and not case.brief:  # before a launch, the loader says more of a broken model
        checks.insert(0, (weights.NAME, lambda: [weights.check(case.weights, case.unreadable)]))
    return [
        *checks,
        (collective.NAME, lambda: [collective.check(case)]),
        (clocks.NAME, lambda: [clocks.check(case)]),
    ]


def _made(name: str, check: Check) -> list[Line]:
    try:
        return check()
    except collective.NotJoined as error:
        return [collective.failed(error)]
    except Exception as error:
        traceback.print_exc()
        said = str(error).strip().splitlines()
        words = f"This could not be checked ({type(error).__name__}: {said[0] if said else 'no message'})."
        return [line(name, "warn", words, "The job's log has the whole error.")]


def _end_on_failure(report: Report) -> None:
    failed = report.failed
    if not failed:
        return
    detail = " ".join(f"{found.name}: {found.words} {found.to_do}".strip() for found in failed[:_SHOWN_FAILURES])
    more = f" And {len(failed) - _SHOWN_FAILURES} more." if len(failed) > _SHOWN_FAILURES else ""
    raise RunFailed(Reason.PREFLIGHT_FAILED, detail + more)
