"""What the commands print: tables, jobs, progress, JSON. Knows nothing of where it comes from."""

import json
import sys
from collections.abc import Sequence
from typing import Any

from workers.contract.load_report import RESULT as LOAD_TEST
from workers.contract.load_report import LoadReport, Times
from workers.contract.preflight import RESULT, Report
from workers.contract.quantize import RESULT as QUANTIZED
from workers.contract.quantize import QuantizeReport
from workers.contract.sweep import RESULT as SWEEP
from workers.contract.sweep import Sweep


def print_json(value: Any) -> None:
    """Indented, for people and programs."""
    print(json.dumps(value, indent=2, ensure_ascii=False))


def print_table(heads: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
    """Columns as wide as their widest cell; None is a dash."""
    cells = [list(heads), *[["–" if cell is None else str(cell) for cell in row] for row in rows]]
    widths = [max(len(row[column]) for row in cells) for column in range(len(heads))]
    for row in cells:
        print("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())


class Ticker:
    """The line that changes: rewritten in place on a terminal, a new line a change elsewhere. On standard error."""

    def __init__(self) -> None:
        self._shown = ""
        self._live = sys.stderr.isatty()

    def show(self, job: dict[str, Any]) -> None:
        """Draw the job's progress, if it looks different from before."""
        line = progress(job, bar=self._live)
        if line == self._shown:
            return
        self._shown = line
        print(f"\r\033[K{line}" if self._live else line, end="" if self._live else "\n", file=sys.stderr, flush=True)

    def end(self) -> None:
        """Leave the line."""
        if self._live and self._shown:
            print(file=sys.stderr)


def progress(job: dict[str, Any], *, bar: bool) -> str:
    """One line: status, phase, and with `bar` what changes often: work done and time to go."""
    words = [job["status"], job["phase"]]
    if job["queue"]:
        words.append(job["queue"]["waiting_for"])
    done, total = job["progress"]["done"], job["progress"]["total"]
    if bar and total:
        filled = round(24 * min(done / total, 1))
        words.append(f"[{'█' * filled}{'·' * (24 - filled)}] {done:g}/{total:g} {job['progress']['unit']}")
        if job["progress"]["eta_s"] is not None:
            words.append(f"{job['progress']['eta_s']:.0f} s to go")
    return "  ".join(word for word in words if word)


def print_preflight(report: Report) -> None:
    """A line for each check, and what to do below those that aren't ok."""
    for line in report.lines:
        print(f"  {line.state:<4}  {line.name}: {line.words}")
        if line.to_do:
            print(f"        → {line.to_do}")


def print_sweep(sweep: Sweep) -> None:
    """Bus bandwidth by size and number of processes, then what each doubling cost."""
    counts = sorted({one.ranks for one in sweep.sums})
    found = {(one.bytes, one.ranks): f"{one.bus_bytes_per_s / 1e6:.4g}" for one in sweep.sums}
    sizes = sorted({one.bytes for one in sweep.sums})
    print(f"  {sweep.backend}, {sweep.between}; bus bandwidth in MB/s:")
    heads = ["bytes", *(f"{ranks} processes" for ranks in counts)]
    print_table(heads, [[size, *(found.get((size, ranks)) for ranks in counts)] for size in sizes])
    for one in sweep.doublings:
        print(f"  {one.before.ranks} to {one.after.ranks} processes: {one.overhead:+.1%} a training step per doubling")


def print_load_test(report: LoadReport) -> None:
    """A row for each number of requests at a time, and the highest rate that meets the target. Times are P99, ms."""

    def p99(times: Times | None) -> str:
        return f"{times.p99_s * 1000:.4g}" if times else "–"

    heads = ["at a time", "requests/s", "tokens/s out", "ttft p99", "tpot p99", "e2e p99", "answers", "errors"]
    rows = [
        [
            step.concurrency,
            f"{step.requests_per_s:.4g}",
            f"{step.tokens_out_per_s:.4g}",
            *map(p99, (step.ttft, step.tpot, step.e2e)),
            step.answers,
            step.errors_in_words or "none",
        ]
        for step in report.steps
    ]
    print(f"  {report.asked}; target: {report.target.figure} p99 below {report.target.bound_ms:g} ms")
    print_table(heads, rows)
    print(f"  highest rate that meets the target: {report.best_in_words}. {report.why}".rstrip())


def print_quantized(report: QuantizeReport) -> None:
    """What it made beside what it was made of."""

    def figure(value: float | None) -> str:
        return "–" if value is None else f"{value:.4g}"

    before, after = report.before, report.after
    rows = [
        ["bytes", str(before.bytes), str(after.bytes)],
        ["perplexity", figure(before.perplexity), figure(after.perplexity)],
        ["tokens/s", figure(before.tokens_per_s), figure(after.tokens_per_s)],
    ]
    print(f"  {report.layers} layers quantized on {report.device} in {report.took_s:.4g} s")
    print(f"  calibrated on {report.calibrated_on}; perplexity of {report.measured_on}")
    print_table(["", "before", "after"], rows)
    if report.unmeasured:
        print(f"  {report.unmeasured}")


def print_job(job: dict[str, Any]) -> None:
    """A job on a few lines."""
    print(f"Job #{job['id']} {job['name']}: {progress(job, bar=True)}")
    if job["sentence"]:
        print(f"  {job['sentence']} {job['detail']}".rstrip())
    if job["node"]:
        print(f"  on {job['node']}: {', '.join(job['devices'])}")
    for name, values in job["results"].items():
        if name == RESULT:
            print_preflight(Report.model_validate(values))
        elif name == SWEEP:
            print_sweep(Sweep.model_validate(values))
        elif name == LOAD_TEST:
            print_load_test(LoadReport.model_validate(values))
        elif name == QUANTIZED:
            print_quantized(QuantizeReport.model_validate(values))
        else:
            print(f"  {name}: " + ", ".join(f"{key} {value}" for key, value in values.items()))
    if job["adapter"]:
        print(f"  adapter: {job['adapter']}")
    if job.get("made_model"):
        print(f"  model: {job['made_model']}")
    if job["endpoint"]:
        print(f"  answers as {job['endpoint']['model']}: liftoff chat {job['endpoint']['model']} 'Hello'")
