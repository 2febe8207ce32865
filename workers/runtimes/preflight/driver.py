"""Driver, CUDA and NCCL: whether this torch can use the devices it was given.

The judgements are pure; `torch_build` alone asks torch. Doesn't know what runs on the devices.
"""

from dataclasses import dataclass
from importlib import metadata

from workers.contract.events import DeviceProfile
from workers.contract.preflight import Line
from workers.nvml import Nvml
from workers.runtimes.preflight.lines import line

NAME = "driver and CUDA"
NCCL = "NCCL"

# The oldest driver that runs a CUDA major (NVIDIA, CUDA Compatibility, table 1: minor version compatibility).
_LEAST_DRIVER = {11: 450, 12: 525, 13: 580}


@dataclass(frozen=True)
class TorchBuild:
    """What this torch was built for and what it sees. `cuda` None: a build for the CPU."""

    version: str
    cuda: str | None = None
    devices: int = 0
    architectures: tuple[str, ...] = ()
    nccl: tuple[int, ...] | None = None


def torch_build() -> TorchBuild:
    """Of the torch of this process; makes no context on any device."""
    import torch

    if torch.version.cuda is None:
        return TorchBuild(torch.__version__)
    nccl = torch.cuda.nccl.version() if torch.distributed.is_nccl_available() else None
    return TorchBuild(
        version=torch.__version__,
        cuda=torch.version.cuda,
        devices=torch.cuda.device_count() if torch.cuda.is_available() else 0,
        architectures=tuple(torch.cuda.get_arch_list()),
        nccl=tuple(nccl) if nccl else None,
    )


def check(build: TorchBuild, device_kind: str, wanted: int, nvml: Nvml | None) -> Line:
    """The line on driver, CUDA and the devices' architectures; `wanted`: devices the job was given."""
    if device_kind == "cpu":
        return line(NAME, "ok", f"torch {build.version} on the CPU; no driver is asked for.")
    if nvml is None or nvml.driver is None:
        return line(
            NAME, "fail", "No NVIDIA driver answers, though the job was given GPUs.",
            "Install the driver; nvidia-smi must list the devices.",
        )  # fmt: skip
    has = f"torch {build.version} for CUDA {build.cuda}, driver {nvml.driver} for CUDA up to {nvml.cuda}"
    if build.cuda is None:
        return line(
            NAME, "fail", f"torch {build.version} is built for the CPU, and the job was given {wanted} GPUs.",
            f"Install a torch built for CUDA {nvml.cuda or 'of this driver'} or older in the worker's environment.",
        )  # fmt: skip
    built, runs = _numbers(build.cuda), _numbers(nvml.cuda or "0")
    if built[0] > runs[0]:
        least = _LEAST_DRIVER.get(built[0])
        newer = f"driver {least} or newer" if least else "a newer driver"
        to_do = f"Install {newer}, or a torch built for CUDA {runs[0]}."
        return line(NAME, "fail", f"The driver is too old for this torch: {has}.", to_do)
    if build.devices < wanted:
        return line(
            NAME, "fail", f"PyTorch sees {build.devices} of the {wanted} devices ({has}).",
            "Look at nvidia-smi and CUDA_VISIBLE_DEVICES; after a driver update, reboot the node.",
        )  # fmt: skip
    strangers = [device for device in nvml.devices() if not runs_on(build.architectures, device.compute_capability)]
    if strangers:
        names = ", ".join(f"{_place(device)} {device.name} ({device.compute_capability})" for device in strangers)
        return line(
            NAME, "fail", f"This torch has no code for {names}; it has {', '.join(build.architectures)}.",
            "Install a torch built for that compute capability, or use other devices.",
        )  # fmt: skip
    if built > runs:
        return line(
            NAME, "warn", f"{has}: works by minor version compatibility, but not for code compiled while running.",
            f"Update the driver to one for CUDA {build.cuda}.",
        )  # fmt: skip
    return line(NAME, "ok", f"{has}; {build.devices} device{'s' if build.devices != 1 else ''} seen.")


def check_nccl(build: TorchBuild, wanted: int, wheels: dict[str, str] | None = None) -> Line:
    """The line on NCCL, for a job on GPUs. `wheels`: installed nvidia-nccl-cu* packages; None: ask."""
    wheels = _wheels() if wheels is None else wheels
    if build.nccl is None:
        if wanted == 1:
            return line(NCCL, "ok", "This torch has no NCCL, which only several GPUs need.")
        return line(NCCL, "fail", "This torch has no NCCL, which joins the GPUs.", "Install torch from a CUDA index.")
    loaded = ".".join(map(str, build.nccl))
    major = _numbers(build.cuda or "0")[0]
    for wheel, version in wheels.items():
        if wheel != f"nvidia-nccl-cu{major}":
            return line(
                NCCL, "warn", f"torch loads NCCL {loaded} for CUDA {build.cuda}, and {wheel} {version} lies beside it.",
                f"Run in the worker's environment: pip uninstall {wheel}",
            )  # fmt: skip
        if _numbers(version)[:3] != build.nccl[:3]:
            return line(
                NCCL, "warn", f"torch loads NCCL {loaded}, but {wheel} {version} is installed.",
                "Another NCCL comes first: look at LD_LIBRARY_PATH and LD_PRELOAD.",
            )  # fmt: skip
    return line(NCCL, "ok", f"NCCL {loaded} for CUDA {build.cuda}.")


def runs_on(architectures: tuple[str, ...], capability: str | None) -> bool:
    """Whether code for one of `architectures` (sm_90, compute_120) runs on a device of that compute capability.

    Binary code runs on the same major with an equal or newer minor; PTX on anything newer (CUDA C++ Programming Guide,
    binary and PTX compatibility). True where either isn't known.
    """
    if not architectures or not capability:
        return True
    device = _numbers(capability)
    for architecture in architectures:
        kind, _, digits = architecture.partition("_")
        digits = digits.rstrip("af")
        if not digits.isdecimal():
            continue
        built = (int(digits[:-1]), int(digits[-1]))
        if built <= device and (kind == "compute" or built[0] == device[0]):
            return True
    return False


def _wheels() -> dict[str, str]:
    found = {}
    for wheel in ("nvidia-nccl-cu11", "nvidia-nccl-cu12", "nvidia-nccl-cu13"):
        try:
            found[wheel] = metadata.version(wheel)
        except metadata.PackageNotFoundError:
            continue
    return found


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(part) if part.isdecimal() else 0 for part in version.split("."))


def _place(device: DeviceProfile) -> str:
    return f"{device.kind}:{device.index}"
