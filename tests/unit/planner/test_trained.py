"""What is trained, against the truth: PEFT's adapters and frozen parameters of Transformers' own models, as the runtime
chooses them, without memory on the meta device."""

from types import ModuleType
from typing import Any

import pytest

from portal.planner.devices import DEVICES
from portal.planner.families import shape_from_config
from portal.planner.memory import estimate
from portal.planner.models import shape as built_in
from portal.planner.request import Method, Workload
from portal.planner.shapes import ModelShape
from portal.planner.states import places, states
from portal.planner.trained import lora_parameters, lowest, names, trains_head, whole
from tests.unit.planner.test_shapes_against_transformers import ENCODERS, SMALL, VARIANTS, built, transformers
from workers.contract.finetune import FinetuneSpec

__all__ = ["transformers"]

DECODERS = [config for config in VARIANTS if config["model_type"] not in ENCODERS]
LLAMA = {**SMALL, "model_type": "llama"}
MIXTURES = [v for v in VARIANTS if v["model_type"].endswith(("moe", "mixtral", "gpt_oss", "v2", "v3"))]
TARGETS = ("all-linear", "q_proj, v_proj", "experts", "o_proj, down_proj", "layers.[13].self_attn.*", "layers.0.mlp.*")
OF_MIXTURES = ("all-linear", "o_proj", "experts", "layers.[13].self_attn.*")
LAYERS = (
    "layers.4.*",
    "layers.1, lm_head",
    "*.q_proj",
    "embed_tokens",
    "norm",
    "layers.[0-2].mlp",
    "*.layers.3.*.bias",
)


def trainable(model: Any) -> int:
    return sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)


def spec(**fields: Any) -> FinetuneSpec:
    return FinetuneSpec.model_validate({"model": "m", "dataset": "d", **fields})


def ours(config: dict[str, Any]) -> ModelShape:
    return shape_from_config(config, "ours")


def chosen(model: Any, asked: FinetuneSpec) -> int | None:
    """Parameters that the runtime trains of it; None where it refuses to."""
    from peft import get_peft_model

    from workers.runtimes.base import RunFailed
    from workers.runtimes.finetune.trained import choose_trained

    try:
        adapters = choose_trained(asked, model)
    except RunFailed:
        return None
    return trainable(get_peft_model(model, adapters) if adapters else model)


@pytest.mark.parametrize("config", DECODERS, ids=lambda config: config["model_type"])
def test_parameters_have_the_names_of_transformers(transformers: ModuleType, config: dict[str, Any]) -> None:
    shape = ours(config)
    assert {name for tensor in shape.tensors for name in names(shape, tensor)} == {
        name for name, _ in built(transformers, config).named_parameters()
    }


@pytest.mark.parametrize("config", [LLAMA, *MIXTURES], ids=lambda config: config["model_type"])
def test_adapters_are_as_many_numbers_as_pefts(transformers: ModuleType, config: dict[str, Any]) -> None:
    for targets in TARGETS if config is LLAMA else OF_MIXTURES:
        lora = {"rank": 4, "target_modules": targets}
        real = chosen(built(transformers, config), spec(lora=lora))
        assert (lora_parameters(ours(config), 4, targets) or None) == real, targets


@pytest.mark.parametrize("config", DECODERS, ids=lambda config: config["model_type"])
def test_named_layers_are_as_many_parameters_as_the_runtime_trains(
    transformers: ModuleType, config: dict[str, Any]
) -> None:
    for layers in LAYERS:
        real = chosen(built(transformers, config), spec(method="partial", trained_layers=layers))
        found = sum(tensor.parameters for tensor in whole(ours(config), layers))
        if "," in layers and real is None:  # one of them is no layer of this model, which the run refuses
            continue
        assert (found or None) == real, layers


def test_gradients_and_optimizer_are_of_the_named_layers_alone() -> None:
    shape, method = built_in("llama-3-8b"), Method(precision="bf16")
    everything, some = Workload(goal="full"), Workload(goal="full", trained_layers="layers.30.*, layers.31.*")
    two = 2 * shape.layers[0].parameters

    full, part = (states(shape, work, method, places(shape, method)[0], foreach=True) for work in (everything, some))
    assert (full.trainable, part.trainable) == (shape.parameters, two)
    assert part.weights == full.weights
    assert part.gradients == 2 * two
    assert part.optimizer == full.optimizer * two // shape.parameters


def test_layers_below_the_first_trained_one_keep_nothing() -> None:
    shape = built_in("llama-3-8b")
    assert [lowest(shape, layers) for layers in ("", "layers.30", "embed_tokens, layers.30", "norm")] == [0, 30, 0, 32]
    assert [trains_head(shape, layers) for layers in ("", "lm_head", "layers.30")] == [True, True, False]

    def activations(layers: str) -> int:
        workload = Workload(goal="full", context=8192, batch=16, trained_layers=layers)
        memory = estimate(shape, workload, Method(micro_batch=16), DEVICES["a100-80"])
        return next(line.expected for line in memory.lines if line.name == "activations")

    assert 0 < activations("layers.30") < activations("") / 8


def test_a_pattern_that_meets_nothing_of_an_unknown_family_is_planned_as_all_of_it() -> None:
    odd = shape_from_config({**LLAMA, "model_type": "odd", "rms_norm_eps": 1e-5}, "odd")
    assert whole(odd, "blocks.3") == odd.tensors
    assert whole(ours(LLAMA), "blocks.3") == ()
