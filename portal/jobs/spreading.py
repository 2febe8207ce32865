"""Whether a model can be spread over devices as a fine-tune asks: what only its shape and its files can forbid.

What can't be had with any model is the contract's. Writes nothing; knows no devices.
"""

from collections.abc import Iterator
from contextlib import suppress

from portal.catalog.models import ModelProfile
from portal.jobs.plan_names import shape_of
from portal.planner.combinations import uneven
from portal.planner.shapes import ModelShape
from workers.contract.errors import FieldError, Refused
from workers.contract.finetune import FinetuneSpec
from workers.contract.parallel import PIPELINED, ParallelSettings


def check(spec: FinetuneSpec) -> None:
    """Raises Refused where the spec's model can't be spread as it asks."""
    if spec.parallel.split == 1:
        return
    model = ModelProfile.objects.filter(name=spec.model).first()
    if model is not None and (found := refusals(model, spec.parallel)):
        raise Refused(found)


def refusals(model: ModelProfile, parallel: ParallelSettings) -> list[FieldError]:
    """Why the model can't be spread so, each at its field; none for a model whose shape isn't known."""
    if parallel.split == 1:
        return []
    found: list[FieldError] = []
    degrees = {"parallel.tensor": parallel.tensor, "parallel.pipeline": parallel.pipeline}
    if model.source == ModelProfile.Source.GGUF:
        field = next(name for name, degree in degrees.items() if degree > 1)
        sentence = f"{model.name} is a GGUF file, which every process reads whole; convert it to safetensors, or use 1."
        return [FieldError(field, degrees[field], f"{field}: {sentence}")]
    with suppress(Refused):
        for field, sentence in _unfit(shape_of(model), parallel):
            if field not in [error.field for error in found]:
                found.append(FieldError(field, degrees[field], f"{field}: {sentence}"))
    return found


def _unfit(shape: ModelShape, parallel: ParallelSettings) -> Iterator[tuple[str, str]]:
    if parallel.pipeline > 1 and shape.family not in PIPELINED:
        yield (
            "parallel.pipeline",
            f"{shape.name} is of the family {shape.family}, whose layers can't be cut into stages; use 1, or a model "
            f"of {', '.join(PIPELINED)}.",
        )
    for axis, sentence in uneven(shape, parallel.tensor, parallel.pipeline):
        yield f"parallel.{axis}", sentence
    if shape.kv_heads % parallel.tensor:  # the planner's other engines copy them
        yield (
            "parallel.tensor",
            f"{parallel.tensor} tensor-parallel devices can't share the {shape.kv_heads} key-value heads of "
            f"{shape.name} evenly; use a divisor of {shape.kv_heads}.",
        )
