"""What a run says it took: of its work alone, with the first step left out of the median."""

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.conftest import missing
from tests.workers.runtimes.conftest import Told, finetune_order
from workers.contract.measured import Measured
from workers.contract.order import Device
from workers.runtimes.base import Run
from workers.runtimes.measuring import CLEAR, Meter, forget_peak, peak_resident_bytes, resident_bytes

CPU = (Device(kind="cpu", index=0, name="A CPU"),)
MIB = 2**20


class Clock:
    """Seconds that pass when told to."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def test_the_median_step_is_of_those_after_the_first() -> None:
    clock = Clock()
    meter = Meter(CPU, clock)
    meter.begin()
    for seconds, tokens in ((50.0, 400), (2.0, 200), (4.0, 240), (2.0, 180)):
        clock.now += seconds
        meter.saw(tokens, 2)
        meter.step()

    measured = meter.measured()

    assert measured is not None
    assert (measured.step_s, measured.steps) == (2.0, 3)
    assert measured.step_tokens == 200
    assert measured.tokens_per_s == pytest.approx(620 / 8)
    assert measured.sequence_tokens == 200
    assert measured.device == "A CPU"


def test_accumulated_micro_batches_are_one_step() -> None:
    clock = Clock()
    meter = Meter(CPU, clock)
    meter.begin()
    for _ in range(3):
        for _ in range(2):
            clock.now += 1
            meter.saw(64, 4)
        meter.step()

    measured = meter.measured()

    assert measured is not None
    assert (measured.step_s, measured.step_tokens, measured.sequence_tokens) == (2.0, 128, 16)


def test_answers_are_measured_by_the_token() -> None:
    meter = Meter(CPU)
    meter.begin()
    meter.answered(30, 0.5)
    meter.answered(90, 0.1)
    meter.answered(60, 0.2)

    measured = meter.measured()

    assert measured is not None
    assert (measured.sequence_tokens, measured.step_s, measured.step_tokens) == (90, 0.2, 1)


def test_a_run_that_saw_nothing_says_nothing() -> None:
    meter = Meter(CPU)
    meter.begin()

    assert meter.measured() is None


def test_the_peak_is_of_what_came_after_it_was_forgotten() -> None:
    if not CLEAR.exists():
        missing("this system can't start the peak of a process anew")
    first = bytearray(300 * MIB)
    first[::4096] = b"x" * len(first[::4096])
    del first
    forget_peak()
    low = peak_resident_bytes()
    second = bytearray(100 * MIB)
    second[::4096] = b"x" * len(second[::4096])

    assert low < resident_bytes() + MIB
    assert 90 * MIB < peak_resident_bytes() - low < 200 * MIB
    del second


def test_a_fine_tune_reports_what_it_took(tiny: Path, finetuned: Callable[..., tuple[Run, Told]]) -> None:
    _, told = finetuned(finetune_order(tiny, max_steps=4, gradient_accumulation=2))

    measured = Measured.model_validate(told.result("measured"))

    assert measured.basis == "rss"
    assert measured.steps == 3
    assert 0 < measured.baseline_bytes < measured.peak_bytes
    assert 8 <= measured.sequence_tokens <= 200
    assert measured.step_s is not None
    assert measured.step_s > 0
    assert measured.step_tokens is not None
    assert measured.step_tokens <= 2 * 2 * measured.sequence_tokens
