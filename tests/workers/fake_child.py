"""A child process for tests: `fake_child.py BEHAVIOUR`, or the behaviour named by order.json's spec.name.

Hardly more than the standard library, so that it starts at once.
"""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

from workers.whole import write_whole


def say(**event: object) -> None:
    """One event line to the supervisor."""
    os.write(int(os.environ["LIFTOFF_EVENTS_FD"]), (json.dumps(event) + "\n").encode())


def train() -> None:
    say(type="phase", name="training")
    for step in range(1, 4):
        say(type="metric", step=step, values={"loss": 3.0 / step})
    print("saved", flush=True)
    adapter = Path("output/adapter")
    adapter.mkdir(parents=True)
    (adapter / "adapter_config.json").write_text("{}")
    (adapter / "adapter_model.safetensors").write_bytes(b"weights")
    Path("output/manifest.json").write_text('{"seed": 42}')
    Path("output/notes.txt").write_text("n")


def many() -> None:
    for step in range(1, 2001):
        say(type="metric", step=step, values={"loss": float(step)})


def fail() -> None:
    say(type="failed", reason="nan_loss", detail="The loss was NaN at step 3; token hf_abcdefghijklmnop.")
    sys.exit(1)


def crash() -> None:
    print("about to divide", flush=True)
    print(1 / 0)


def kill_itself() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def say_too_much() -> None:
    say(type="finished", reason="completed")
    say(type="started", pid=1)
    say(type="unheard_of", x=1)
    say(type="metric", step=1, values={"loss": float("nan"), "grad_norm": 1.0})
    os.write(int(os.environ["LIFTOFF_EVENTS_FD"]), b"not json\n")
    sys.exit(1)


def print_environment() -> None:
    print(json.dumps(dict(os.environ)), flush=True)


def leak() -> None:
    order = json.loads(Path("order.json").read_text())
    print(f"serving with {order['serve_token']}", flush=True)
    print("Authorization: Bearer abcdef0123456789", flush=True)
    print("hub token hf_abcdefghijklmnopqrst", flush=True)
    print("key AKIAABCDEFGHIJKLMNOP password=hunter2secret", flush=True)
    print("redis://user:pa55word@host:6379/0", flush=True)


def flood() -> None:
    for number in range(20_000):
        print("line", number)
    say(type="metric", step=1, values={"loss": 1.0})
    print("the very last line", flush=True)


def bar() -> None:
    for done in range(101):
        sys.stderr.write(f"\r{done}%|####| {done}/100")
        sys.stderr.flush()
    sys.stderr.write("\n")


def ignore_sigterm() -> None:
    """With a grandchild in a session of its own, as torchrun's ranks have."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    own_session = subprocess.Popen(["sleep", "300"], start_new_session=True)
    orphan = subprocess.run(
        ["sh", "-c", "setsid sleep 300 >/dev/null 2>&1 & echo $!"], capture_output=True, text=True, check=True
    )
    say(type="result", name="pids", values={"pids": [os.getpid(), own_session.pid, int(orphan.stdout)]})
    time.sleep(300)


def fail_at_sigterm() -> None:
    def end(*_: object) -> None:
        say(type="failed", reason="crashed", detail="Interrupted in the middle of a step.")
        sys.exit(1)

    signal.signal(signal.SIGTERM, end)
    say(type="result", name="pids", values={"pids": [os.getpid()]})
    time.sleep(300)


def checkpoint(step: int, best: bool = False) -> None:
    """As a runtime does: a folder that is whole before it is told."""
    write_whole(Path("checkpoints"), step, lambda fresh: (fresh / "state").write_text(str(step)) and None)
    say(type="checkpoint", step=step, uri="../../elsewhere", bytes=1, loss=1.0, best=best)


def checkpoints(best: int = 0) -> None:
    """One after the other, each when the one before it has left for the store."""
    for step in range(1, 5):
        checkpoint(step, step == best)
        while list(Path("checkpoints").iterdir()):
            time.sleep(0.01)
    train()


def checkpoints_of_which_the_first_is_best() -> None:
    checkpoints(best=1)


def checkpoint_and_crash() -> None:
    checkpoint(3)
    sys.exit(1)


def save_at_sigterm(seconds: float = 0.0, status: int = 1) -> None:
    def end(*_: object) -> None:
        time.sleep(seconds)
        checkpoint(7)
        sys.exit(status)

    signal.signal(signal.SIGTERM, end)
    say(type="result", name="pids", values={"pids": [os.getpid()]})
    time.sleep(300)


def save_slowly_at_sigterm() -> None:
    """Longer than a cancel would wait."""
    save_at_sigterm(seconds=4)


def complete_at_sigterm() -> None:
    signal.signal(signal.SIGTERM, lambda *_: (train(), sys.exit(0)))
    say(type="result", name="pids", values={"pids": [os.getpid()]})
    time.sleep(300)


def print_resume() -> None:
    print(json.dumps(json.loads(Path("order.json").read_text())["resume"]), flush=True)


def go_on() -> None:
    """Says what it goes on from, and is done when its first checkpoint has left for the store."""
    print_resume()
    while list(Path("checkpoints").glob("*")):
        time.sleep(0.01)


def many_events() -> None:
    """More than anyone could want: 60,000 steps, and a value said over and over."""
    for step in range(60_000):
        say(type="metric", step=step, values={"loss": float(step)})
        say(type="progress", done=step, total=60_000)
    say(type="result", name="last", values={"step": 59_999})


def endless_events() -> None:
    print("x" * 300, flush=True)
    while True:
        say(type="result", name="big", values={"text": "x" * 10_000})


def endless_log() -> None:
    for number in range(20_000):
        print("y" * 390, number, flush=True)


def link_out() -> None:
    Path("output").mkdir()
    Path("output/passwords").symlink_to("/etc/passwd")


if __name__ == "__main__":
    behaviour = sys.argv[1] if len(sys.argv) > 1 else json.loads(Path("order.json").read_text())["spec"]["name"]
    globals()[behaviour]()
