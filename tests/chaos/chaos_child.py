"""The child of a chaos round: cheap, and its losses known beforehand (`tests.chaos.course`).

What it does is the first word of the job's name. It checkpoints and resumes as the contract says, and leaves a line of
its own in the witness folder for each step, which no lost lease keeps it from writing. Standard library only.
"""

import hashlib
import json
import os
import shutil
import signal
import sys
import time
from pathlib import Path
from typing import Any

from tests.chaos import course

STEP_S = 0.1
STOPPED_EXIT = 1
LOG_LINES = 20_000
"""Of the noisy one."""

_stopping = False


def main() -> None:
    signal.signal(signal.SIGTERM, _on_sigterm)
    order = json.loads(Path("order.json").read_text())
    behaviour = order["spec"]["name"].split()[0]
    {
        "train": train,
        "noisy": noisy,
        "crash": crash,
        "crash-once": crash_once,
        "nan": nan,
        "serve": serve,
        "check": check,
        "real": real,
    }[behaviour](order)


def say(**event: object) -> None:
    """One event line to the supervisor, whole."""
    data = (json.dumps(event) + "\n").encode()
    descriptor = int(os.environ["LIFTOFF_EVENTS_FD"])
    while data:
        data = data[os.write(descriptor, data) :]


def train(order: dict[str, Any], step_s: float = STEP_S) -> None:
    """Steps with a loss each, a checkpoint every so often and at a stop, an adapter at the end."""
    spec, resume = order["spec"], order["resume"]
    state, done = course.start(spec["seed"]), 0
    if resume:
        state, done = _restore(Path(resume["uri"]), resume["step"])
    say(type="phase", name="training")
    steps, every = spec["max_steps"], spec["checkpoint_every"]
    for step in range(done + 1, steps + 1):
        time.sleep(step_s)
        state = course.advance(state, step)
        _witness(order, step)
        say(type="metric", step=step, values={"loss": course.loss(state, step)})
        say(type="progress", done=step, total=steps)
        if (every and step % every == 0) or _stopping:
            _save(state, step)
        if _stopping:
            sys.exit(STOPPED_EXIT)
    say(type="result", name="training", values={"final_loss": course.loss(state, steps), "steps": steps})
    adapter = Path("output/adapter")
    adapter.mkdir(parents=True)
    (adapter / "adapter_config.json").write_text("{}")
    (adapter / "adapter_model.safetensors").write_bytes(state.to_bytes(8, "little"))
    Path("output/manifest.json").write_text(json.dumps({"seed": spec["seed"]}))


def noisy(order: dict[str, Any]) -> None:
    """Prints far more than anyone reads, and has many more steps than it has time for."""
    for number in range(LOG_LINES):
        print(f"line {number} of a job that says too much about too little", flush=number % 1000 == 0)
    train(order, step_s=0.002)


def crash(order: dict[str, Any]) -> None:
    _witness(order, 0)
    time.sleep(STEP_S)
    print(1 / 0)


def crash_once(order: dict[str, Any]) -> None:
    """Its policy has it tried again after a crash."""
    if order["attempt"] == 1:
        crash(order)
    train(order)


def nan(order: dict[str, Any]) -> None:
    _witness(order, 0)
    say(type="metric", step=1, values={"loss": 9.0})
    say(type="failed", reason="nan_loss", detail="The loss was NaN at step 2.")
    sys.exit(1)


def serve(order: dict[str, Any]) -> None:
    """Serves until it is stopped."""
    say(type="ready", url="http://127.0.0.1:9", model=order["model"]["name"])
    step = 0
    while not _stopping:
        time.sleep(STEP_S)
        step += 1
        _witness(order, step)


def check(order: dict[str, Any]) -> None:
    _witness(order, 0)
    line = {"name": "disk read", "state": "ok", "words": "It reads."}
    say(type="result", name="preflight", values={"at": time.time(), "took_s": 0.1, "lines": [line]})


def real(_order: dict[str, Any]) -> None:
    """The runtime a user gets, in this very process."""
    os.execv(sys.executable, [sys.executable, "-m", "workers.runtimes", os.getcwd()])


def _save(state: int, step: int) -> None:
    """Whole or not there: written aside, synced, renamed."""
    folder, fresh = Path(f"checkpoints/step-{step}"), Path(f"checkpoints/.step-{step}")
    shutil.rmtree(fresh, ignore_errors=True)
    fresh.mkdir(parents=True)
    data = json.dumps({"state": state, "step": step}).encode()
    try:
        _write(fresh / "state.json", data)
        _write(fresh / "checkpoint.json", json.dumps(_manifest(data, step)).encode())
        shutil.rmtree(folder, ignore_errors=True)
        fresh.rename(folder)
    except OSError as error:  # a full disk: the one before it stays
        print(f"The checkpoint of step {step} could not be saved: {error}", flush=True)
        return
    for old in sorted(Path("checkpoints").glob("step-*"), key=lambda path: int(path.name[5:]))[:-2]:
        shutil.rmtree(old, ignore_errors=True)
    say(type="checkpoint", step=step, uri=str(folder), bytes=len(data))


def _restore(folder: Path, step: int) -> tuple[int, int]:
    """State and step. A torn checkpoint ends the run: its last loss would be wrong."""
    data = (folder / "state.json").read_bytes()
    manifest = json.loads((folder / "checkpoint.json").read_text())
    kept = json.loads(data)
    if manifest != _manifest(data, step) or kept["step"] != step:
        say(type="failed", reason="invalid_input", detail=f"The checkpoint of step {step} is torn.")
        sys.exit(1)
    return kept["state"], step


def _manifest(data: bytes, step: int) -> dict[str, Any]:
    """As `workers.whole` reads it."""
    return {"version": 1, "step": step, "files": {"state.json": {"bytes": len(data), "sha256": _sha256(data)}}}


def _write(path: Path, data: bytes) -> None:
    with path.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def _witness(order: dict[str, Any], step: int) -> None:
    """<home>/witness/<node>.<device>.<job>-<attempt>-<token>: a line a step, past the supervisor and the spool."""
    folder = Path(order["model"]["uri"]).parents[2] / "witness"
    device = order["devices"][0]["index"]
    name = f"{order['node']}.{device}.{order['job']}-{order['attempt']}-{order['token']}"
    with (folder / name).open("a") as file:
        file.write(f"{step} {time.time():.3f}\n")


def _on_sigterm(*_: object) -> None:
    global _stopping
    _stopping = True


if __name__ == "__main__":
    main()
