"""Versions of what is installed against what this Liftoff asks for, read from its own package metadata.

A pinned version is the least one: older fails, newer is untried. Imports none of the packages it judges.
"""

from collections.abc import Mapping
from importlib import metadata

from packaging.requirements import Requirement
from packaging.version import Version

from workers.contract.finetune import FinetuneSpec
from workers.contract.launch import LaunchSpec
from workers.contract.order import ModelInput
from workers.contract.preflight import Line
from workers.contract.spec import JobSpec
from workers.runtimes.preflight.lines import line

NAME = "packages"
LIFTOFF = "liftoff"
OPTIONAL = {
    "accelerate": "fine-tunes and quantized launches",
    "datasets": "fine-tunes",
    "trl": "fine-tunes",
    "peft": "fine-tunes and adapters",
    "bitsandbytes": "int8 and nf4",
    "deepspeed": "fine-tunes with DeepSpeed",
    "gguf": "GGUF models",
}
"""Package → what can't run without it; torch and transformers nothing can do without."""
QUANTIZERS = {
    "int8": ("accelerate", "bitsandbytes"),
    "nf4": ("accelerate", "bitsandbytes"),
    "torchao_int8": ("accelerate", "torchao"),
    "torchao_int4": ("accelerate", "torchao"),
}
"""What a launch's quantization needs; an engine that quantizes by itself brings its own."""
EXTRAS = ("worker", "torchao")
"""Of Liftoff, whose versions are judged."""


def needed(spec: JobSpec, model: ModelInput | None) -> tuple[list[str], list[str]]:
    """(packages the job can't do without, packages that are checked but may be missing)."""
    packages = ["torch", "transformers"]
    if model is not None and model.format == "gguf":
        packages.append("gguf")
    if isinstance(spec, FinetuneSpec):
        packages += ["accelerate", "datasets", "peft", "trl", *(["deepspeed"] if spec.deepspeed else [])]
    elif isinstance(spec, LaunchSpec):
        packages += ["peft"] if spec.adapter else []
        packages += QUANTIZERS.get(spec.quantization, ())
    else:
        return packages, [name for name in OPTIONAL if name not in packages]
    return packages, []


def requirements() -> dict[str, Requirement]:
    """Package → what Liftoff's worker and its extras ask of it; empty when Liftoff is not installed as a package."""
    try:
        listed = metadata.requires(LIFTOFF) or []
    except metadata.PackageNotFoundError:
        return {}
    parsed = [Requirement(text) for text in listed]
    return {
        asked.name: asked
        for asked in parsed
        if asked.marker is None or any(asked.marker.evaluate({"extra": extra}) for extra in EXTRAS)
    }


def installed(names: list[str]) -> dict[str, str]:
    """Package → version, of those that are installed."""
    found = {}
    for name in names:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


def check(
    spec: JobSpec,
    model: ModelInput | None,
    found: Mapping[str, str] | None = None,
    asked: Mapping[str, Requirement] | None = None,
) -> Line:
    """The line. `found` and `asked` None: those of this environment."""
    must, may = needed(spec, model)
    found = installed([*must, *may]) if found is None else found
    asked = requirements() if asked is None else asked
    fails: list[str] = []
    warns: list[str] = []
    install: list[str] = []
    for name in (*must, *may):
        requirement = asked.get(name)
        wanted = str(requirement.specifier) if requirement else ""
        if name not in found:
            where = fails if name in must else warns
            where.append(f"{name} is not installed" + (f"; without it, no {OPTIONAL[name]}." if name in may else "."))
        elif not requirement or requirement.specifier.contains(found[name], prereleases=True):
            continue
        elif _older(found[name], requirement):
            (fails if name in must else warns).append(f"{name} {found[name]} is older than Liftoff needs ({wanted}).")
        else:
            warns.append(f"{name} {found[name]} is untried with this Liftoff ({wanted}).")
        install.append(f"'{name}{wanted}'")
    versions = ", ".join(f"{name} {version}" for name, version in found.items())
    words = " ".join([*fails, *warns, f"Installed: {versions}." if versions else "None of them is installed."])
    if not asked:
        warns.append("unknown")
        words = f"Liftoff is not installed as a package here, so the versions it needs can't be read. {words}"
    if not fails and not warns:
        return line(NAME, "ok", f"{versions}: as this Liftoff needs them.")
    to_do = f"Run in the worker's environment: pip install {' '.join(install)}" if install else "Run make worker again."
    return line(NAME, "fail" if fails else "warn", words, to_do)


def _older(version: str, requirement: Requirement) -> bool:
    """Whether the version is below the least that the requirement names."""
    least = [Version(part.version) for part in requirement.specifier if part.operator in ("==", ">=", "~=", "===")]
    return bool(least) and Version(version).release < max(least).release
