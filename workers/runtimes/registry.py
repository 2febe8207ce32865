"""Which runtime carries out which kind of spec: one line a runtime.

Knows their names only; a runtime's module, and the libraries it needs, load when it is asked for.
"""

from importlib import import_module
from typing import cast

from workers.contract.reasons import Reason
from workers.runtimes.base import RunFailed, Runtime

RUNTIMES = {
    "finetune": "workers.runtimes.finetune.runtime:finetune",
    "launch": "workers.runtimes.serve.runtime:serve",
    "export": "workers.runtimes.export.runtime:export",
    "quantize": "workers.runtimes.quantize.runtime:quantize",
    "preflight": "workers.runtimes.preflight.runtime:preflight",
    "load_test": "workers.runtimes.load_test.runtime:load_test",
}


def runtime_for(kind: str) -> Runtime:
    """The runtime for `spec.kind`. Raises RunFailed(unsupported_spec) for a kind nobody carries out."""
    if kind not in RUNTIMES:
        known = ", ".join(sorted(RUNTIMES))
        raise RunFailed(Reason.UNSUPPORTED_SPEC, f"spec.kind: {kind!r} is not one this worker runs; it runs {known}.")
    module, name = RUNTIMES[kind].split(":")
    return cast(Runtime, getattr(import_module(module), name))
