"""Shapes against the truth: Transformers' own model of the same config, built without memory on the meta device."""

from collections import Counter
from types import ModuleType
from typing import Any

import pytest

from portal.planner import models
from portal.planner.families import FAMILIES, shape_from_config
from portal.planner.shapes import ModelShape
from tests.conftest import missing

ENCODERS = {"bert", "roberta", "xlm-roberta"}
SMALL = {
    "vocab_size": 320,
    "hidden_size": 96,
    "intermediate_size": 200,
    "num_hidden_layers": 5,
    "num_attention_heads": 6,
    "num_key_value_heads": 2,
    "max_position_embeddings": 128,
}
CLASSIC = {name: value for name, value in SMALL.items() if name != "num_key_value_heads"}
GPT = {name: value for name, value in CLASSIC.items() if name != "intermediate_size"}
LATENT = {
    "num_key_value_heads": 6,
    "kv_lora_rank": 24,
    "qk_nope_head_dim": 16,
    "qk_rope_head_dim": 8,
    "v_head_dim": 20,
    "moe_intermediate_size": 56,
    "n_routed_experts": 8,
    "num_experts_per_tok": 3,
    "n_group": 1,
    "topk_group": 1,
    "first_k_dense_replace": 2,
    "n_shared_experts": 2,
}
SLIDING = ["sliding_attention", "full_attention", "sliding_attention", "sliding_attention", "full_attention"]

VARIANTS: list[dict[str, Any]] = [
    {**SMALL, "model_type": "llama"},
    {**SMALL, "model_type": "llama", "attention_bias": True, "mlp_bias": True, "tie_word_embeddings": True},
    {**SMALL, "model_type": "llama", "head_dim": 40, "num_key_value_heads": None},
    {**SMALL, "model_type": "mistral", "head_dim": 32, "sliding_window": None},
    {**SMALL, "model_type": "ministral", "head_dim": 24, "layer_types": SLIDING},
    {**SMALL, "model_type": "mixtral", "num_local_experts": 6, "num_experts_per_tok": 2},
    {**SMALL, "model_type": "qwen2", "use_sliding_window": True, "max_window_layers": 2, "tie_word_embeddings": True},
    {**SMALL, "model_type": "qwen2_moe", "num_experts": 6, "decoder_sparse_step": 2, "mlp_only_layers": [1]},
    {**SMALL, "model_type": "qwen2_moe", "num_experts": 6, "moe_intermediate_size": 48, "qkv_bias": False},
    {**SMALL, "model_type": "qwen3", "head_dim": 24, "attention_bias": True},
    {**SMALL, "model_type": "qwen3_moe", "num_experts": 6, "num_experts_per_tok": 2, "mlp_only_layers": [0, 4]},
    {**SMALL, "model_type": "qwen3_moe", "num_experts": 0},
    {**SMALL, "model_type": "gemma", "head_dim": 32},
    {**SMALL, "model_type": "gemma2", "attention_bias": True, "tie_word_embeddings": False},
    {**SMALL, "model_type": "gemma3_text", "head_dim": 32, "sliding_window": 16, "sliding_window_pattern": 3},
    {**CLASSIC, "model_type": "phi", "qk_layernorm": True},
    {**SMALL, "model_type": "phi", "tie_word_embeddings": True},
    {**SMALL, "model_type": "phi3"},
    {**SMALL, **LATENT, "model_type": "deepseek_v2", "q_lora_rank": None, "mlp_bias": True},
    {**SMALL, **LATENT, "model_type": "deepseek_v2", "q_lora_rank": 40, "attention_bias": True},
    {**SMALL, **LATENT, "model_type": "deepseek_v3", "q_lora_rank": 40},
    {**SMALL, **LATENT, "model_type": "deepseek_v3", "q_lora_rank": None, "first_k_dense_replace": 9},
    {"model_type": "gpt2", "n_embd": 96, "n_layer": 3, "n_head": 6, "n_positions": 64, "vocab_size": 320},
    {**GPT, "model_type": "gpt2", "n_inner": 100, "tie_word_embeddings": False},
    {**CLASSIC, "model_type": "gpt_neox", "attention_bias": False},
    {**GPT, "model_type": "opt", "ffn_dim": 300, "word_embed_proj_dim": 48, "do_layer_norm_before": False},
    {**GPT, "model_type": "opt", "enable_bias": False, "layer_norm_elementwise_affine": False},
    {"model_type": "bloom", "hidden_size": 96, "n_layer": 3, "n_head": 6, "vocab_size": 320},
    {**GPT, "model_type": "falcon", "bias": True},
    {**GPT, "model_type": "falcon", "new_decoder_architecture": True, "num_kv_heads": 2},
    {**GPT, "model_type": "falcon", "multi_query": False, "parallel_attn": False, "ffn_hidden_size": 100},
    {**CLASSIC, "model_type": "bert", "type_vocab_size": 3},
    {**SMALL, "model_type": "gpt_oss", "num_local_experts": 4, "num_experts_per_tok": 2},
    {**SMALL, "model_type": "olmo2"},
    {**SMALL, "model_type": "starcoder2", "use_bias": False},
    {**SMALL, "model_type": "cohere", "use_qk_norm": True},
    {**SMALL, "model_type": "cohere2", "sliding_window_pattern": 2},
    {**SMALL, "model_type": "glm4", "head_dim": 24},
    {**SMALL, "model_type": "glm4_moe", "n_routed_experts": 4, "num_experts_per_tok": 2, "use_qk_norm": True},
    {**SMALL, "model_type": "smollm3", "mlp_bias": True},
]

WINDOWED = [v for v in VARIANTS if v["model_type"] in ("gemma2", "gemma3_text", "cohere2", "gpt_oss", "ministral")] + [
    {**SMALL, "model_type": "qwen2", "use_sliding_window": True, "max_window_layers": 3, "sliding_window": 40},
    {**SMALL, "model_type": "qwen3", "use_sliding_window": True, "max_window_layers": 9, "sliding_window": 40},
    {**SMALL, "model_type": "qwen2_moe", "use_sliding_window": True, "max_window_layers": 4, "sliding_window": 40},
]
FULL_SIZE = (
    "llama-3.1-405b qwen-2.5-72b qwen-3-8b qwen-3-30b-a3b mistral-nemo-12b mixtral-8x22b gemma-2-27b gemma-3-27b phi-2 "
    "phi-4 deepseek-v2-lite deepseek-v3 gpt-oss-20b gpt-2-xl gpt-3-175b gpt-neox-20b opt-66b bloom-176b falcon-40b "
    "bert-base smollm2-135m"
)


@pytest.fixture(scope="module")
def transformers() -> ModuleType:
    try:
        import transformers
    except ImportError:
        missing("torch and transformers are not installed")
    return transformers


def built(transformers: ModuleType, config: dict[str, Any]) -> Any:
    """Transformers' model of this config, with shapes and no memory."""
    import torch

    fields = {"pad_token_id": 0, **{name: value for name, value in config.items() if name != "model_type"}}
    settings = transformers.AutoConfig.for_model(config["model_type"], **fields)
    kind = transformers.AutoModel if config["model_type"] in ENCODERS else transformers.AutoModelForCausalLM
    with torch.device("meta"):
        return kind.from_config(settings)


def counted(model: Any) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


def ours(config: dict[str, Any]) -> ModelShape:
    return shape_from_config(config, "ours")


@pytest.mark.parametrize("family", FAMILIES)
def test_a_config_of_nothing_but_its_family_has_the_defaults_of_transformers(
    transformers: ModuleType, family: str
) -> None:
    # Three of them can't be built by themselves: a token goes to no experts, and two heads have no width.
    head = {"head_dim": 128}
    mended = {"deepseek_v2": {"num_experts_per_tok": 6}, "glm4_moe": head, "ministral": head}
    config: dict[str, Any] = {"model_type": family, **mended.get(family, {})}
    model = built(transformers, config)
    shape = ours(config)
    assert shape.parameters == counted(model)
    assert shape.depth == model.config.num_hidden_layers
    assert shape.context == getattr(model.config, "max_position_embeddings", shape.context)


@pytest.mark.parametrize("config", VARIANTS, ids=lambda config: config["model_type"])
def test_every_variant_is_exact_to_the_parameter(transformers: ModuleType, config: dict[str, Any]) -> None:
    model = built(transformers, config)
    shape = ours(config)
    assert shape.parameters == counted(model)
    assert shape.tied == (config["model_type"] not in ENCODERS and model.config.tie_word_embeddings)
    assert sum(layer.count * layer.parameters for layer in shape.layers) == counted(_layers(model))
    assert shape.layer_parameters == max(counted(layer) for layer in _layers(model))


@pytest.mark.parametrize(
    "config", [v for v in VARIANTS if v["model_type"] not in ENCODERS], ids=lambda config: config["model_type"]
)
def test_the_linear_layers_are_those_that_transformers_builds(transformers: ModuleType, config: dict[str, Any]) -> None:
    model = built(transformers, config)
    assert _linear(ours(config)) == _built_linear(model)


@pytest.mark.parametrize("name", FULL_SIZE.split())
def test_built_in_models_are_exact_at_full_size(transformers: ModuleType, name: str) -> None:
    assert models.shape(name).parameters == counted(built(transformers, models.MODELS[name]))


@pytest.mark.parametrize("config", WINDOWED, ids=lambda config: config["model_type"])
def test_windows_are_those_of_transformers_layer_types(transformers: ModuleType, config: dict[str, Any]) -> None:
    settings = built(transformers, config).config
    windowed = settings.layer_types.count("sliding_attention")
    windows = Counter({layer.attention.window: layer.count for layer in ours(config).layers})
    assert windows == +Counter({settings.sliding_window: windowed, None: len(settings.layer_types) - windowed})


def test_the_text_part_of_a_multimodal_model_is_exact(transformers: ModuleType) -> None:
    import torch

    text = {**SMALL, "model_type": "gemma3_text", "head_dim": 16}
    with torch.device("meta"):
        model = transformers.Gemma3ForConditionalGeneration(transformers.Gemma3Config(text_config=text))
    assert ours({"model_type": "gemma3", "text_config": text}).parameters == counted(model.model.language_model)


def _layers(model: Any) -> Any:
    """The list of transformer layers, wherever the family keeps it."""
    import torch

    return next(module for module in model.modules() if isinstance(module, torch.nn.ModuleList))


def _linear(shape: ModelShape) -> Counter[tuple[int, ...]]:
    """(out, in) of every linear layer → how many."""
    found: Counter[tuple[int, ...]] = Counter()
    for tensor in shape.tensors:
        if tensor.linear:
            found[tensor.shape] += tensor.count
    return found


def _built_linear(model: Any) -> Counter[tuple[int, ...]]:
    """The same of a built model: linear modules, GPT-2's transposed ones, and experts out of their fused tensors."""
    import torch
    from transformers.pytorch_utils import Conv1D

    found: Counter[tuple[int, ...]] = Counter()
    tied = model.config.tie_word_embeddings
    for name, module in model.named_modules():
        if isinstance(module, torch.nn.Linear) and not (tied and name == "lm_head"):
            found[tuple(module.weight.shape)] += 1
        elif isinstance(module, Conv1D):
            found[tuple(reversed(module.weight.shape))] += 1
        elif name.endswith(".experts"):
            experts, *fused = module.gate_up_proj.shape
            into = model.config.hidden_size
            out = fused[1] if fused[0] == into and fused[1] != into else fused[0]
            found[out // 2, into] += 2 * experts
            found[into, out // 2] += experts
    return found
