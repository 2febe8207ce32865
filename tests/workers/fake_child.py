"""A child process for tests: `fake_child.py BEHAVIOUR`, or the behaviour named by order.json's spec.name.

Standard library only, so that it starts at once.
"""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path


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


def link_out() -> None:
    Path("output").mkdir()
    Path("output/passwords").symlink_to("/etc/passwd")


if __name__ == "__main__":
    behaviour = sys.argv[1] if len(sys.argv) > 1 else json.loads(Path("order.json").read_text())["spec"]["name"]
    globals()[behaviour]()
