"""Shapes from configs: what a user reads of a config that makes no sense, and what layers and caches are made of."""

import json
import math
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from portal.planner import models
from portal.planner.families import FAMILIES, config_from_facts, shape_from_config
from portal.planner.shapes import ModelShape
from workers.contract.errors import FieldError, Refused

LLAMA: dict[str, Any] = models.MODELS["llama-3-8b"]
MIXTRAL: dict[str, Any] = models.MODELS["mixtral-8x7b"]
DEEPSEEK: dict[str, Any] = models.MODELS["deepseek-v3"]
GPT2: dict[str, Any] = models.MODELS["gpt-2"]


def shaped(config: Any) -> ModelShape:
    return shape_from_config(config, "mine")


def refusal(config: Any) -> str:
    """The one sentence that a config is refused with."""
    with pytest.raises(Refused) as refused:
        shaped(config)
    (error,) = refused.value.errors
    assert error.field == "config"
    json.dumps(error.value)
    return error.message


@pytest.mark.parametrize(
    ("base", "change", "said"),
    [
        (LLAMA, {"num_attention_heads": 0}, "num_attention_heads is 0; it must be a whole number from 1"),
        (LLAMA, {"num_attention_heads": -32}, "num_attention_heads is -32"),
        (LLAMA, {"num_attention_heads": 31.5}, "num_attention_heads is 31.5"),
        (LLAMA, {"num_attention_heads": "32"}, "num_attention_heads is '32'"),
        (LLAMA, {"num_attention_heads": True}, "num_attention_heads is true"),
        (LLAMA, {"num_attention_heads": None}, "num_attention_heads is missing or null"),
        (LLAMA, {"num_attention_heads": [[[]]]}, "num_attention_heads is a list"),
        (LLAMA, {"hidden_size": 4097}, "hidden_size is 4,097; it must be divisible by the 32 attention heads"),
        (LLAMA, {"num_key_value_heads": 5}, "num_key_value_heads is 5; it must divide the 32 attention heads"),
        (LLAMA, {"num_key_value_heads": 64}, "num_key_value_heads is 64; it must divide the 32 attention heads"),
        (LLAMA, {"num_hidden_layers": 10**12}, "it must be a whole number from 1 to 10,000"),
        (LLAMA, {"num_hidden_layers": 10**5000}, "num_hidden_layers is a number of more than 38 digits"),
        (LLAMA, {"vocab_size": 2**40}, "vocab_size is 1,099,511,627,776"),
        (
            LLAMA,
            {"hidden_size": 2**20, "intermediate_size": 2**24, "num_hidden_layers": 9999},
            "parameters; use at most",
        ),
        (LLAMA, {"tie_word_embeddings": "yes"}, "tie_word_embeddings is 'yes'; it must be true or false"),
        (LLAMA, {"layer_types": ["full_attention"]}, "layer_types names 1 layers of 32"),
        (
            LLAMA,
            {"layer_types": ["linear_attention"] * 32},
            "only full_attention, sliding_attention, chunked_attention",
        ),
        (LLAMA, {"layer_types": ["full_attention"] * 10**6}, "it must be a list of at most 32 items"),
        (LLAMA, {"layer_types": ["sliding_attention"] * 32}, "sliding_window is missing or null"),
        (MIXTRAL, {"num_experts_per_tok": 9}, "num_experts_per_tok is 9; it must be at most num_local_experts, 8"),
        (MIXTRAL, {"num_local_experts": 0}, "num_local_experts is 0"),
        (DEEPSEEK, {"kv_lora_rank": 0}, "kv_lora_rank is 0"),
        (DEEPSEEK, {"n_routed_experts": 4}, "num_experts_per_tok is 8; it must be at most n_routed_experts, 4"),
        (models.MODELS["qwen-3-30b-a3b"], {"mlp_only_layers": ["0"]}, "it must be a list of layer numbers"),
        (GPT2, {"n_head": 7}, "n_embd is 768; it must be divisible by the 7 attention heads"),
        (GPT2, {"n_layer": 0}, "n_layer is 0"),
    ],
)
def test_a_value_that_makes_no_sense_gets_one_sentence(base: dict[str, Any], change: dict[str, Any], said: str) -> None:
    message = refusal({**base, **change})
    assert said in message
    assert message.startswith("config: ")
    assert len(message) < 300


@pytest.mark.parametrize("config", [None, [], "llama", 7, 1.5, True])
def test_what_is_no_object_is_said_to_be_none(config: Any) -> None:
    assert "not an object with named fields" in refusal(config)


def test_a_huge_object_is_refused_unread() -> None:
    assert "it has 500,000 fields" in refusal({f"mamba_{number}": number for number in range(500_000)})


def test_a_deep_object_is_read_no_deeper_than_needed() -> None:
    deep: Any = []
    for _ in range(100_000):
        deep = [deep]
    assert shaped({**LLAMA, "rope_scaling": deep}).parameters == 8_030_261_248
    assert "hidden_size is a list" in refusal({**LLAMA, "hidden_size": deep})


@pytest.mark.parametrize(
    "config", [{}, {"model_type": "resnet"}, {"model_type": "t5", "d_model": 512}, {"model_type": 3}]
)
def test_an_unknown_family_is_refused_with_the_known_ones(config: dict[str, Any]) -> None:
    message = refusal(config)
    assert all(family in message for family in FAMILIES)


def test_an_unknown_family_with_llama_s_fields_is_planned_like_llama_and_says_so() -> None:
    shape = shaped({**LLAMA, "model_type": "helium", "rms_norm_eps": 1e-6})
    assert shape.parameters == models.shape("llama-3-8b").parameters
    assert shape.family == "helium"
    assert "'helium' is not a known family" in shape.assumed
    assert "llama" in shape.assumed


def test_an_unknown_mixture_is_planned_like_the_one_it_resembles() -> None:
    latent = shaped({**DEEPSEEK, "model_type": "kimi_k2"})
    assert latent.parameters == models.shape("deepseek-v3").parameters
    assert "deepseek_v3" in latent.assumed
    routed = shaped({**models.MODELS["qwen-3-30b-a3b"], "model_type": "qwen9_moe"})
    assert routed.active_parameters == models.shape("qwen-3-30b-a3b").active_parameters


@pytest.mark.parametrize(
    ("odd", "said"),
    [
        ({"mamba_d_state": 16}, "has layers other than attention ('mamba_d_state')"),
        ({"attn_layer_period": 8}, "has layers other than attention ('attn_layer_period')"),
        ({"layer_types": ["linear_attention"] * 32}, "layer_types has 'linear_attention'"),
    ],
)
def test_an_unknown_family_with_layers_other_than_attention_is_refused(odd: dict[str, Any], said: str) -> None:
    assert said in refusal({**LLAMA, "model_type": "hybrid", **odd})


def test_a_multimodal_config_is_planned_for_its_text_part() -> None:
    text = {"model_type": "gemma3_text", "hidden_size": 3840, "intermediate_size": 15360, "num_hidden_layers": 48}
    text |= {"num_attention_heads": 16, "num_key_value_heads": 8, "sliding_window": 1024}
    shape = shaped({"model_type": "gemma3", "text_config": text, "torch_dtype": "bfloat16", "vision_config": {}})
    assert shape.parameters == models.shape("gemma-3-12b").parameters
    assert shape.dtype == "bfloat16"
    assert "text part" in shape.assumed


def test_sliding_layers_keep_no_more_than_their_window() -> None:
    mistral, gemma2, gemma3 = (models.shape(name) for name in ("mistral-7b", "gemma-2-2b", "gemma-3-4b"))
    assert mistral.kv_elements(100_000) == mistral.kv_elements(4096)
    assert sorted((layer.attention.window or 0, layer.count) for layer in gemma2.layers) == [(0, 13), (4096, 13)]
    assert gemma2.kv_elements(8192) == 13 * (4096 + 8192) * 2 * 4 * 256
    assert sorted((layer.attention.window or 0, layer.count) for layer in gemma3.layers) == [(0, 5), (1024, 29)]


def test_qwen_s_windows_begin_where_the_config_says() -> None:
    config = {**models.MODELS["qwen-2.5-7b"], "sliding_window": 1000}
    assert shaped(config).kv_elements(5000) == shaped({**config, "sliding_window": None}).kv_elements(5000)
    windowed = shaped({**config, "use_sliding_window": True, "max_window_layers": 20})
    assert sorted((layer.attention.window or 0, layer.count) for layer in windowed.layers) == [(0, 20), (1000, 8)]


def test_latent_attention_caches_its_latent_and_not_its_heads() -> None:
    shape = models.shape("deepseek-v3")
    attention = shape.layers[0].attention
    assert attention.kv_width == 512 + 64
    assert (attention.head_dim, attention.value_dim) == (192, 128)


def test_dense_layers_shared_and_routed_experts_are_told_apart() -> None:
    shape = models.shape("deepseek-v3")
    dense, sparse = sorted(shape.layers, key=lambda layer: layer.mlp.experts)
    assert (dense.count, dense.mlp.width, dense.mlp.active_width) == (3, 18432, 18432)
    assert (sparse.count, sparse.mlp.experts, sparse.mlp.experts_per_token) == (58, 256, 8)
    assert sparse.mlp.active_width == 9 * 2048
    routed = sum(t.parameters for t in shape.tensors if t.role == "expert")
    assert routed == 58 * 256 * 3 * 7168 * 2048
    expert = next(t for t in shape.tensors if t.name == "layers.mlp.experts.down_proj.weight")
    assert (expert.shape, expert.count, expert.linear) == ((7168, 2048), 58 * 256, True)
    assert shape.layer_parameters == sparse.parameters > dense.parameters


def test_names_leave_out_the_numbers_and_inner_ones_begin_with_layers() -> None:
    for name in models.names():
        shape = models.shape(name)
        assert not any(part.isdigit() for tensor in shape.tensors for part in tensor.name.split("."))
        inside = sum(tensor.parameters for tensor in shape.tensors if tensor.name.startswith("layers."))
        assert inside == sum(layer.count * layer.parameters for layer in shape.layers)


def test_a_tied_head_counts_once() -> None:
    tied = shaped({**LLAMA, "tie_word_embeddings": True})
    assert models.shape("llama-3-8b").parameters - tied.parameters == 128256 * 4096
    assert tied.tied
    assert not any(tensor.role == "head" for tensor in tied.tensors)


def test_an_encoder_has_neither_cache_of_a_decoder_nor_scores() -> None:
    bert = models.shape("bert-base")
    assert (bert.causal, bert.logits, bert.norm) == (False, False, "layer")


@pytest.mark.parametrize(
    ("name", "facts"),
    [
        ("smollm2-135m", {"architecture": "llama", "layers": 30, "hidden_size": 576, "heads": 9, "kv_heads": 3,
                          "intermediate_size": 1536, "vocab_size": 49152, "context_length": 8192, "tied": True}),
        ("qwen-2.5-7b", {"architecture": "qwen2", "layers": 28, "hidden_size": 3584, "heads": 28, "kv_heads": 4,
                         "intermediate_size": 18944, "vocab_size": 152064, "context_length": 131072,
                         "tied_embeddings": False}),
        ("qwen-3-8b", {"architecture": "qwen3", "layers": 36, "hidden_size": 4096, "heads": 32, "kv_heads": 8,
                       "intermediate_size": 12288, "vocab_size": 151936, "context_length": 40960}),
        ("mixtral-8x7b", {"architecture": "llama", "layers": 32, "hidden_size": 4096, "heads": 32, "kv_heads": 8,
                          "intermediate_size": 14336, "vocab_size": 32000, "context_length": 32768, "experts": 8,
                          "tied": False}),
        ("gemma-2-2b", {"architecture": "gemma2", "layers": 26, "hidden_size": 2304, "heads": 8, "kv_heads": 4,
                        "intermediate_size": 9216, "vocab_size": 256000, "context_length": 8192, "tied": True}),
        ("gpt-2", {"architecture": "gpt2", "layers": 12, "hidden_size": 768, "heads": 12, "kv_heads": 12,
                   "intermediate_size": 3072, "vocab_size": 50257, "context_length": 1024, "tied": True}),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)  # fmt: skip
def test_a_gguf_file_s_facts_make_the_same_shape(name: str, facts: dict[str, Any]) -> None:
    shape, known = shaped(config_from_facts(facts)), models.shape(name)
    assert shape.parameters == known.parameters
    assert (shape.context, shape.kv_elements(1000)) == (known.context, known.kv_elements(1000))


def test_a_gguf_header_adds_head_width_window_and_experts() -> None:
    mixture = {"architecture": "qwen3moe", "layers": 48, "hidden_size": 2048, "heads": 32, "kv_heads": 4,
               "intermediate_size": 6144, "vocab_size": 151936, "context_length": 40960, "experts": 128,
               "tied": False}  # fmt: skip
    header = {"qwen3moe.attention.key_length": 128, "qwen3moe.expert_feed_forward_length": 768,
              "qwen3moe.expert_used_count": 8}  # fmt: skip
    nemo = {"architecture": "llama", "layers": 40, "hidden_size": 5120, "heads": 32, "kv_heads": 8,
            "intermediate_size": 14336, "vocab_size": 131072, "context_length": 131072, "tied": False}  # fmt: skip

    assert shaped(config_from_facts(mixture, header)).parameters == models.shape("qwen-3-30b-a3b").parameters
    assert (
        shaped(config_from_facts(nemo, {"llama.attention.key_length": 128})).parameters
        == models.shape("mistral-nemo-12b").parameters
        < shaped(config_from_facts(nemo)).parameters
    )


@pytest.mark.parametrize(
    ("facts", "said"),
    [
        ({"architecture": "dbrx", "experts": 16}, "give its config.json"),
        ({"architecture": "deepseek2"}, "give its config.json"),
        ({"architecture": "whisper"}, "GGUF files can be planned of bert"),
        ({}, "give its config.json"),
        ({"architecture": "llama", "layers": 2, "hidden_size": None, "heads": 2}, "it doesn't say its hidden size"),
    ],
)
def test_facts_that_are_too_few_are_refused(facts: dict[str, Any], said: str) -> None:
    with pytest.raises(Refused, match=said) as refused:
        config_from_facts(facts)
    assert refused.value.errors[0].field == "model"


def assert_never_more_than_a_sentence(error: FieldError) -> None:
    assert error.field == "config"
    assert error.message.startswith("config: ")
    assert error.message.endswith(".")
    assert "\n" not in error.message
    assert len(error.message) < 600
    json.dumps(error.value)


FIELD_NAMES = sorted(
    {name for config in models.MODELS.values() for name in config}
    | {name for family in FAMILIES.values() for name in (*family.defaults, *family.aliases.values())}
    | {"layer_types", "text_config", "mlp_only_layers", "use_sliding_window", "qk_layernorm", "dtype", "attention_bias"}
)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8) | st.sampled_from(sorted(FAMILIES)),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.sampled_from(FIELD_NAMES), inner, max_size=4),
    max_leaves=8,
)
COUNTS = st.integers(-1, 70) | st.sampled_from([96, 128, 4096, 10**6, 10**12])


@settings(max_examples=400, deadline=None)
@given(
    base=st.sampled_from([*models.MODELS.values(), *({"model_type": family} for family in FAMILIES)]),
    changed=st.dictionaries(st.sampled_from(FIELD_NAMES), JSON | COUNTS, min_size=1, max_size=6),
    removed=st.sets(st.sampled_from(FIELD_NAMES), max_size=4),
)
def test_any_change_of_a_config_makes_a_shape_or_a_sentence(
    base: dict[str, Any], changed: dict[str, Any], removed: set[str]
) -> None:
    config = {name: value for name, value in base.items() if name not in removed} | changed
    try:
        shape = shaped(config)
    except Refused as refused:
        (error,) = refused.errors
        assert_never_more_than_a_sentence(error)
        return
    assert 0 < shape.active_parameters <= shape.parameters <= 10**14
    assert shape.depth == sum(layer.count for layer in shape.layers) <= 10_000
    assert 0 <= shape.linear_parameters <= shape.parameters
    assert 0 < shape.kv_elements(1) <= shape.kv_elements(1000)
    assert all(tensor.count > 0 and math.prod(tensor.shape) > 0 for tensor in shape.tensors)


@settings(max_examples=100, deadline=None)
@given(JSON)
def test_anything_at_all_makes_a_shape_or_a_sentence(config: Any) -> None:
    try:
        assert shaped(config).parameters > 0
    except Refused as refused:
        (error,) = refused.errors
        assert_never_more_than_a_sentence(error)
