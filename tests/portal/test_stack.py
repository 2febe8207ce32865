"""The processes of one machine are stopped in turn, each with the time it needs: real children."""

import sys
from pathlib import Path

import pytest

from portal.local import stack as local
from portal.local.stack import Stack
from tests.stack import poll
from workers.contract.stopping import STOP_GRACE_S, longest_stop_s

SAVES = """
import pathlib, signal, sys, time
def save(*_):
    time.sleep(float(sys.argv[2]))
    pathlib.Path(sys.argv[1], "saved").touch()
    sys.exit(0)
signal.signal(signal.SIGTERM, save)
pathlib.Path(sys.argv[1], "ready").touch()
while True:
    time.sleep(60)
"""


def started(tmp_path: Path, saves_s: float, stop_s: float) -> Stack:
    stack = Stack(tmp_path / "logs")
    stack.start("saver", [sys.executable, "-c", SAVES, str(tmp_path), str(saves_s)], stop_s=stop_s)
    poll((tmp_path / "ready").exists, "the child")
    return stack


def test_a_part_that_needs_longer_to_save_its_work_is_waited_for(tmp_path: Path) -> None:
    stack = started(tmp_path, saves_s=1, stop_s=30)
    stack.stop()
    assert (tmp_path / "saved").exists()


def test_a_deaf_one_is_killed_when_its_time_is_up(tmp_path: Path) -> None:
    stack = started(tmp_path, saves_s=600, stop_s=0.2)
    process = stack.parts[0].process
    stack.stop()
    assert process.returncode == -9
    assert not (tmp_path / "saved").exists()


@pytest.mark.parametrize("grace", ["", "0", "3", "120", "wrong"])
def test_a_worker_has_as_long_as_it_may_need(grace: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LIFTOFF_STOP_GRACE_S", grace)
    needs_s = longest_stop_s(float(grace) if grace.isdecimal() else STOP_GRACE_S)
    assert local.worker_stop_s() > needs_s
