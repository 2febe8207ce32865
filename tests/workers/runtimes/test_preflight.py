"""A preflight: what each check says of a good and of a bad node, and that none of them ever ends it."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from packaging.requirements import Requirement

from tests.workers.runtimes.conftest import Child, Told, launch_order, read_events
from tests.workers.test_probe import FakeNvml, gpus
from workers.contract.order import ModelInput, Order
from workers.contract.preflight import Line, Report
from workers.contract.reasons import Reason
from workers.contract.spec import JOB_SPEC
from workers.contract.sweep import Sweep
from workers.disk import Reading, measure, read_files
from workers.nvml import Clocks, Nvml
from workers.runtimes.base import Emitter, Run, RunFailed
from workers.runtimes.preflight import (
    clocks,
    collective,
    driver,
    memory,
    packages,
    processes,
    runtime,
    storage,
    sweep,
)
from workers.runtimes.preflight.case import Case, case_of
from workers.runtimes.preflight.processes import Foreign
from workers.runtimes.preflight.weights import read_weights

GIB = 2**30
MIB = 2**20
ASKED = {
    text.split("=")[0].split(">")[0]: Requirement(text)
    for text in ("torch==2.13.0", "transformers==5.24.0", "bitsandbytes==0.50.2", "accelerate==1.15.0", "peft==0.21.2")
}
INSTALLED = {"torch": "2.13.0+cpu", "transformers": "5.24.0", "accelerate": "1.15.0", "bitsandbytes": "0.50.2"}
NODE = {"kind": "preflight", "resources": {"node": "here"}}


def preflight_order(model: Path | None = None, **spec: Any) -> dict[str, Any]:
    order = launch_order(model or Path("/"), spec={**NODE, **spec})
    if model is None:
        del order["model"]
    return order


@pytest.fixture
def checked(tmp_path: Path) -> Callable[[dict[str, Any]], tuple[RunFailed | None, Told]]:
    """Carry out the preflight of an order in this process: how it ended, and what it told."""

    def carry_out(order: dict[str, Any]) -> tuple[RunFailed | None, Told]:
        failed = None
        with (tmp_path / "events").open("wb") as file:
            run = Run(Order.model_validate(order), tmp_path, Emitter(file.fileno()))
            try:
                runtime.before_launch(run)
            except RunFailed as error:
                failed = error
        return failed, read_events(tmp_path / "events")

    return carry_out


def report(told: Told) -> dict[str, Line]:
    """Lines by name."""
    return {line.name: line for line in Report.model_validate(told.result("preflight")).lines}


# Packages


def judged(spec: dict[str, Any], installed: dict[str, str], asked: dict[str, Requirement] | None = None) -> Line:
    return packages.check(JOB_SPEC.validate_python(spec), None, installed, ASKED if asked is None else asked)


def test_packages_as_liftoff_needs_them_are_ok() -> None:
    line = judged({"kind": "launch", "model": "m", "quantization": "nf4"}, INSTALLED)
    assert line.state == "ok"
    assert "torch 2.13.0+cpu" in line.words
    assert line.to_do == ""


@pytest.mark.parametrize(
    ("spec", "missing", "state"),
    [
        ({"kind": "launch", "model": "m", "quantization": "int8"}, "bitsandbytes", "fail"),
        ({"kind": "launch", "model": "m", "adapter": "a"}, "peft", "fail"),
        ({"kind": "finetune", "model": "m", "dataset": "d", "deepspeed": {}}, "deepspeed", "fail"),
        ({"kind": "launch", "model": "m"}, "torch", "fail"),
        (NODE, "bitsandbytes", "warn"),
    ],
)
def test_a_missing_package_stops_only_the_job_that_needs_it(spec: dict[str, Any], missing: str, state: str) -> None:
    everything = {**dict.fromkeys(packages.OPTIONAL, "99"), **INSTALLED, "peft": "0.21.2"}
    line = judged(spec, {name: version for name, version in everything.items() if name != missing})
    assert line.state == state
    assert f"{missing} is not installed" in line.words
    assert f"pip install '{missing}" in line.to_do


def test_a_package_nobody_asks_for_may_be_missing() -> None:
    plain = {"torch": "2.13.0", "transformers": "5.24.0"}
    assert judged({"kind": "launch", "model": "m"}, plain).state == "ok"


def test_older_than_pinned_fails_and_newer_is_untried() -> None:
    launch = {"kind": "launch", "model": "m"}
    old = judged(launch, {**INSTALLED, "transformers": "5.9.0"})
    assert (old.state, old.to_do) == ("fail", "Run in the worker's environment: pip install 'transformers==5.24.0'")
    assert "transformers 5.9.0 is older than Liftoff needs (==5.24.0)" in old.words
    new = judged(launch, {**INSTALLED, "transformers": "5.100.0"})
    assert new.state == "warn"
    assert "untried" in new.words


def test_the_pins_are_read_from_liftoffs_own_metadata() -> None:
    asked = packages.requirements()
    assert str(asked["bitsandbytes"].specifier).startswith("==")
    assert "Django" not in asked  # the portal's, not the worker's
    assert judged({"kind": "launch", "model": "m"}, INSTALLED, {}).state == "warn"


# Driver, CUDA, NCCL


def build(**changes: Any) -> driver.TorchBuild:
    full = {"version": "2.13.0+cu126", "cuda": "12.6", "devices": 3, "architectures": ("sm_80", "sm_90", "compute_90")}
    return driver.TorchBuild(**{**full, "nccl": (2, 27, 5), **changes})


@pytest.mark.parametrize(
    ("built", "state", "words", "to_do"),
    [
        (build(), "ok", "torch 2.13.0+cu126 for CUDA 12.6, driver 570.10 for CUDA up to 12.8", ""),
        (
            build(cuda="13.0"),
            "fail",
            "too old for this torch",
            "Install driver 580 or newer, or a torch built for CUDA 12",
        ),
        (build(cuda="12.9"), "warn", "minor version compatibility", "Update the driver"),
        (build(version="2.13.0+cpu", cuda=None), "fail", "built for the CPU", "Install a torch built for CUDA 12.8"),
        (build(devices=1), "fail", "PyTorch sees 1 of the 3 devices", "nvidia-smi"),
        (build(architectures=("sm_100",)), "fail", "no code for cuda:0 NVIDIA H100 80GB HBM3 (9.0)", "other devices"),
    ],
)
def test_torch_must_match_the_driver(built: driver.TorchBuild, state: str, words: str, to_do: str) -> None:
    line = driver.check(built, "cuda", 3, gpus())
    assert (line.state, words in line.words, to_do in line.to_do) == (state, True, True), line


def test_a_gpu_job_without_a_driver_fails_and_a_cpu_job_needs_none() -> None:
    assert driver.check(build(), "cuda", 1, None).state == "fail"
    assert driver.check(build(cuda=None), "cpu", 1, None).state == "ok"


@pytest.mark.parametrize(
    ("architectures", "capability", "runs"),
    [
        (("sm_80",), "8.6", True),
        (("sm_86",), "8.0", False),
        (("sm_80",), "9.0", False),
        (("compute_80",), "9.0", True),
        (("compute_90",), "8.0", False),
        (("sm_90a",), "9.0", True),
        (("sm_100",), "10.0", True),
        ((), "9.0", True),
        (("sm_80",), None, True),
    ],
)
def test_binary_code_stays_within_its_major_and_ptx_goes_on(
    architectures: tuple[str, ...], capability: str | None, runs: bool
) -> None:
    assert driver.runs_on(architectures, capability) is runs


def test_nccl_is_the_one_torch_was_built_with() -> None:
    assert driver.check_nccl(build(), 2, {"nvidia-nccl-cu12": "2.27.5"}).state == "ok"
    other = driver.check_nccl(build(), 2, {"nvidia-nccl-cu12": "2.21.5"})
    assert (other.state, "LD_LIBRARY_PATH" in other.to_do) == ("warn", True)
    stray = driver.check_nccl(build(), 2, {"nvidia-nccl-cu13": "2.28.9"})
    assert (stray.state, "pip uninstall nvidia-nccl-cu13" in stray.to_do) == ("warn", True)
    assert driver.check_nccl(build(nccl=None), 1, {}).state == "ok"
    assert driver.check_nccl(build(nccl=None), 2, {}).state == "fail"


# Memory and who holds it

SOMEBODY = Foreign(4242, "python3", "eve", 30 * GIB)


def test_less_free_than_the_weights_take_fails_and_names_who_holds_the_rest() -> None:
    line = memory.judge("memory (cuda:0)", 50 * GIB, 80 * GIB, 60 * GIB, 0, [SOMEBODY])
    assert line.state == "fail"
    assert "50.0 GiB of 80.0 GiB are free; the weights alone take 60.0 GiB" in line.words
    assert "Stop python3 (pid 4242, user eve) 30.0 GiB" in line.to_do
    assert line.value == 50 * GIB


@pytest.mark.parametrize(
    ("free", "weights", "asked", "state"),
    [
        (79 * GIB, 10 * GIB, 0, "ok"),
        (79 * GIB, None, 0, "ok"),
        (79 * GIB, None, 80 * GIB, "fail"),
        (20 * GIB, 18 * GIB, 0, "warn"),  # less than 15% of the free memory is left beside them
        (4 * GIB, None, 0, "warn"),
    ],
)
def test_free_memory_is_held_against_what_was_allocated(free: int, weights: int | None, asked: int, state: str) -> None:
    assert memory.judge("memory", free, 80 * GIB, weights, asked, []).state == state


def test_large_strangers_are_a_warning_on_a_gpu_and_named_on_a_cpu() -> None:
    gpu = memory.judge_others([SOMEBODY], needed_free=False, device_kind="cuda")
    assert (gpu.state, gpu.to_do.endswith("kill 4242"), gpu.value) == ("warn", True, 30 * GIB)
    cpu = memory.judge_others([SOMEBODY], needed_free=False, device_kind="cpu")
    assert (cpu.state, "pid 4242" in cpu.words) == ("ok", True)
    assert memory.judge_others([SOMEBODY], needed_free=True, device_kind="cpu").state == "warn"
    assert memory.judge_others([], needed_free=True, device_kind="cpu").state == "ok"
    small = Foreign(7, "Xorg", "root", 5 * MIB)
    assert memory.judge_others([small], needed_free=False, device_kind="cuda").state == "ok"


class Held(FakeNvml):
    """Device 0 is held by this process and by two others, one of which no one can see from here."""

    def nvmlDeviceGetComputeRunningProcesses_v3(self, handle: int) -> list[Any]:
        return [self.process(os.getpid(), GIB), self.process(1, 3 * GIB), self.process(2**22 - 1, None)][: 3 - handle]

    def nvmlDeviceGetGraphicsRunningProcesses_v3(self, handle: int) -> list[Any]:
        return []


def gpu_case(tmp_path: Path, indices: tuple[int, ...], library: FakeNvml | None = None) -> Case:
    devices = [{"kind": "cuda", "index": index} for index in indices]
    order = Order.model_validate({**preflight_order(), "devices": devices})
    return Case(order, tmp_path, Nvml(library or Held(), {}), None, brief=False)


def test_gpus_are_judged_one_by_one_and_this_run_is_no_stranger(tmp_path: Path) -> None:
    first, second, others = memory.check(gpu_case(tmp_path, (0, 1)))
    assert (first.name, first.state) == ("memory (cuda:0)", "ok")
    assert "79.0 GiB of 80.0 GiB are free" in first.words
    assert second.value == 78 * GIB
    assert others.state == "warn"
    assert f"(pid 1, user {psutil.Process(1).username()}) 6.0 GiB" in others.words  # over both devices
    assert "cannot see (pid 4194303) an unknown amount" in others.words
    assert str(os.getpid()) not in others.words


@pytest.fixture
def stranger() -> Iterator[int]:
    """Process id of an orphan that holds 64 MiB."""
    code = "import time; held = bytearray(b'x') * (64 * 2**20); print(flush=True); time.sleep(300)"
    script = f'"{sys.executable}" -c "{code}" & echo $!; read line'
    shell = subprocess.Popen(["sh", "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert shell.stdin
    assert shell.stdout
    pid = int(shell.stdout.readline())
    shell.stdout.readline()  # it holds its memory now
    shell.stdin.close()
    shell.wait()
    yield pid
    os.kill(pid, signal.SIGKILL)


def test_a_strangers_memory_is_named_and_ones_own_is_not(stranger: int) -> None:
    held = b"x" * (64 * MIB)
    found = {foreign.pid: foreign for foreign in processes.in_memory(48 * MIB)}
    assert stranger in found
    assert (found[stranger].bytes or 0) > 64 * MIB
    assert os.getpid() not in found
    assert len(held) == 64 * MIB


def test_this_machines_memory_is_read() -> None:
    free, total = memory.available_memory()
    assert 0 < free <= total


# Disk


def test_files_are_read_past_the_cache_within_bounds(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name).write_bytes(os.urandom(9 * MIB + 7))
    files = [tmp_path / "a", tmp_path / "b"]
    whole = read_files(files, most_s=60)
    assert whole.bytes == 2 * (9 * MIB + 7)
    assert whole.bytes_per_s > 0
    assert read_files(files, most_bytes=8 * MIB, most_s=60).bytes == 8 * MIB
    assert read_files(files, most_s=0).bytes == 0
    assert measure(tmp_path) > 0
    assert sorted(tmp_path.iterdir()) == files
    with pytest.raises(OSError, match="none"):
        read_files([tmp_path / "none"])


def test_a_slow_disk_is_a_warning_with_the_seconds_a_load_takes() -> None:
    slow = storage.judge_read(Reading(256 * MIB, 1.0), 26 * GIB)
    assert slow.state == "warn"
    assert "268 MB/s" in slow.words
    assert "reading all 26.0 GiB from disk takes about 104 s" in slow.words
    assert "NVMe" in slow.to_do
    assert slow.value == 256 * MIB
    assert storage.judge_read(Reading(256 * MIB, 0.1), 26 * GIB).state == "ok"
    assert "may be slower" in storage.judge_read(Reading(256 * MIB, 0.1, cached=True), 26 * GIB).words
    few = storage.judge_read(Reading(MIB, 0.5), MIB)
    assert (few.state, few.value) == ("ok", None)


@pytest.mark.parametrize(
    ("free", "checkpoint", "state"),
    [
        (100 * GIB, None, "ok"),
        (100 * GIB, 2 * GIB, "ok"),
        (100 * GIB, 20 * GIB, "warn"),
        (5 * GIB, None, "warn"),
        (GIB // 2, None, "fail"),
        (3 * GIB, 4 * GIB, "fail"),
    ],
)
def test_room_is_judged_by_the_checkpoints_it_has_to_hold(free: int, checkpoint: int | None, state: str) -> None:
    line = storage.judge_space(free, checkpoint, 16)
    assert (line.state, line.value) == (state, free)
    assert bool(line.to_do) is (state != "ok")


# Weights


def test_the_files_headers_tell_the_models_size(tiny: Path) -> None:
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    weights = read_weights(ModelInput(name="tiny", uri=str(tiny)))
    assert weights is not None
    model = AutoModelForCausalLM.from_pretrained(tiny)
    parameters = sum(parameter.numel() for parameter in model.parameters())
    assert weights.parameters == parameters
    assert weights.loaded_bytes("auto", "cpu", "none") == 4 * parameters
    assert weights.loaded_bytes("auto", "cuda", "none") == 2 * parameters
    packed = sum(rows * columns for rows, columns in weights.matrices)
    assert weights.loaded_bytes("bf16", "cuda", "int8") == packed + 2 * (parameters - packed)
    lora = get_peft_model(model, LoraConfig(r=16, target_modules="all-linear"))
    trained = sum(parameter.numel() for parameter in lora.parameters() if parameter.requires_grad)
    assert weights.lora_checkpoint_bytes(16) == 12 * trained


# All-reduce


def test_two_processes_join_and_the_bus_bandwidth_is_nccl_tests(tmp_path: Path) -> None:
    measured = collective.all_reduce("gloo", 2, tmp_path)
    assert [one.bytes for one in measured] == [64 * 1024, MIB, 16 * MIB, 64 * MIB]
    assert all(one.seconds > 0 for one in measured)
    assert list(tmp_path.iterdir()) == []
    assert collective.Measured(64 * MIB, 0.5, 2).bus_bytes_per_s == 128 * MIB
    assert collective.Measured(64 * MIB, 1.0, 8).bus_bytes_per_s == 2 * 7 / 8 * 64 * MIB


def test_processes_that_do_not_join_are_a_failed_line_and_none_is_left(tmp_path: Path) -> None:
    with pytest.raises(collective.NotJoined, match=r"rank \d ended with status 1"):
        collective.all_reduce("pigeon", 2, tmp_path)
    with pytest.raises(collective.NotJoined, match="had not ended after 0 s"):
        collective.all_reduce("gloo", 2, tmp_path, limit_s=0)
    line = collective.failed(collective.NotJoined("rank 1 ended with status 1"))
    assert (line.state, "rank 1" in line.words, "NCCL_DEBUG" in line.to_do) == ("fail", True, True)


def test_a_slow_link_is_a_warning_by_its_kind(tmp_path: Path) -> None:
    ten_gb = [collective.Measured(10 * 10**9, 1.0, 2)]
    assert collective.judge(ten_gb, "pcie", "2 devices").state == "ok"
    slow = collective.judge(ten_gb, "nvlink", "2 devices")
    assert (slow.state, slow.value, "topo" in slow.to_do) == ("warn", 10e9, True)
    assert collective.check(gpu_case(tmp_path, (0,))).state == "ok"  # alone
    assert collective._links(gpu_case(tmp_path, (0, 1))) == {"nvlink"}
    assert collective._links(gpu_case(tmp_path, (0, 1, 2))) == {"nvlink", "host", "pcie"}


# Clocks


def test_heat_and_power_that_slow_a_gpu_are_named(tmp_path: Path) -> None:
    line = clocks.check(gpu_case(tmp_path, (0, 1)))
    assert line.state == "warn"
    assert "Cuda:1 is slowed by heat (hardware thermal slowdown)" in line.words
    assert "345 MHz of 1980" in line.words
    assert clocks.check(gpu_case(tmp_path, (0,))).state == "ok"
    assert "doesn't say" in clocks.judge_gpus({0: Clocks(None, None, None)}).words


@pytest.mark.parametrize(
    ("now", "most", "state"), [(3000, 3600, "ok"), (1200, 3600, "warn"), (2000, None, "ok"), (None, None, "ok")]
)
def test_a_busy_core_below_its_clock_is_slowed(now: float | None, most: float | None, state: str) -> None:
    line = clocks.judge_cpu(now, most, "powersave")
    assert line.state == state
    assert bool(line.to_do) is (state == "warn")


# The whole of it


def test_a_launchs_preflight_says_a_line_a_check(tiny: Path, checked: Any) -> None:
    failed, told = checked(launch_order(tiny))
    assert failed is None
    assert told.phases() == ["preflight"]
    lines = report(told)
    assert set(lines) == {
        "packages", "memory (RAM)", "other processes", "driver and CUDA", "disk read", "all-reduce", "clocks"
    }  # fmt: skip
    assert all(line.to_do for line in lines.values() if line.state != "ok")
    assert told.of("progress")[-1].done == len(lines) - 1  # memory is one check of two lines


def test_a_launch_that_cannot_have_its_memory_is_stopped_before_it_loads(tiny: Path, tmp_path: Path) -> None:
    spec = {"kind": "launch", "model": "tiny", "resources": {"min_memory_gib": 2048}}
    child = Child(tmp_path, launch_order(tiny, spec=spec))
    assert child.wait() == 1, child.log()
    told = child.told()
    assert told.phases() == ["preflight"]
    assert report(told)["memory (RAM)"].state == "fail"
    assert told.events[-1].reason == Reason.PREFLIGHT_FAILED
    assert "the job asks for 2.0 TiB" in told.events[-1].detail


def test_a_launch_may_skip_it(tiny: Path, tmp_path: Path) -> None:
    spec = {"kind": "launch", "model": "tiny", "skip_preflight": True, "precision": "fp16"}
    child = Child(tmp_path, launch_order(tiny, spec=spec))
    assert child.wait() == 1, child.log()  # for the precision, which the CPU hasn't
    assert child.told().phases() == ["loading model"]


def test_a_preflight_is_a_job_of_its_own_that_needs_no_model(tmp_path: Path) -> None:
    child = Child(tmp_path, preflight_order())
    assert child.wait(240) == 0, child.log()
    lines = report(child.told())
    assert {"disk read", "disk space", "all-reduce"} <= set(lines)
    assert "gloo" in lines["all-reduce"].words
    assert (lines["disk read"].value or 0) > 0
    assert json.loads((tmp_path / "order.json").read_text())["spec"] == NODE


def test_a_check_that_breaks_is_a_line_that_says_so(tiny: Path, checked: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(_: Case) -> list[Line]:
        raise ZeroDivisionError("division by zero")

    monkeypatch.setattr(memory, "check", broken)
    monkeypatch.setattr(clocks, "busy_core", lambda: (1 / 0, None, ""))
    failed, told = checked(launch_order(tiny))
    assert failed is None
    lines = report(told)
    assert (lines["memory"].state, "ZeroDivisionError" in lines["memory"].words) == ("warn", True)
    assert lines["clocks"].state == "warn"
    assert lines["packages"].state in ("ok", "warn")


def test_files_that_say_nothing_are_left_to_the_loader_before_a_launch(tmp_path: Path, checked: Any) -> None:
    broken = tmp_path / "broken"
    broken.mkdir()
    (broken / "model.safetensors").write_bytes(b"\xff" * 64)
    failed, told = checked(launch_order(broken))
    assert failed is None
    assert report(told)["disk read"].state == "ok"


def test_files_that_say_nothing_fail_a_preflight_of_the_model(tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "model.safetensors").write_bytes(b"\xff" * 64)
    with (tmp_path / "events").open("wb") as file:
        run = Run(Order.model_validate(preflight_order(tmp_path / "model")), tmp_path, Emitter(file.fileno()))
        case = case_of(run, brief=False)
    (model,) = runtime._checks(case)[0][1]()
    assert (model.name, model.state) == ("model", "fail")
    assert "claims" in model.words


# An all-reduce sweep


def test_a_sweep_measures_every_size_and_a_step_with_each_number_of_processes(tmp_path: Path) -> None:
    child = Child(tmp_path, preflight_order(sweep_processes=2))
    assert child.wait(240) == 0, child.log()
    told = child.told()
    found = Sweep.model_validate(told.result("all_reduce_sweep"))
    assert [one.bytes for one in found.sums] == [1024 * 2**power for power in range(17)]
    assert {one.ranks for one in found.sums} == {2}
    assert [step.ranks for step in found.steps] == [1, 2]
    assert found.backend == "gloo"
    assert "16 MiB" in found.step
    assert told.phases() == ["all-reduce sweep"]


def test_processes_double_up_to_the_most() -> None:
    assert [sweep.doublings(most) for most in (2, 4, 6)] == [[1, 2], [1, 2, 4], [1, 2, 4, 6]]


def test_a_sweep_of_one_gpu_is_refused(tmp_path: Path) -> None:
    order = preflight_order(sweep_processes=4) | {"devices": [{"kind": "cuda", "index": 0}]}
    with (tmp_path / "events").open("wb") as file, pytest.raises(RunFailed, match="nobody to join"):
        runtime.preflight(Run(Order.model_validate(order), tmp_path, Emitter(file.fileno())))
