"""The built-in models, against what was published of them."""

import re

import pytest

from portal.planner import models
from workers.contract.errors import Refused

HUB = "the hub's count of the safetensors files"

PUBLISHED: dict[str, tuple[int, str]] = {
    "llama-2-7b": (6_738_415_616, HUB),
    "llama-2-13b": (13_015_864_320, HUB),
    "llama-2-70b": (68_976_648_192, HUB),
    "llama-3-8b": (8_030_261_248, HUB),
    "llama-3-70b": (70_553_706_496, HUB),
    "llama-3.1-405b": (405_853_388_800, HUB),
    "llama-3.2-1b": (1_235_814_400, HUB),
    "llama-3.2-3b": (3_212_749_824, HUB),
    "smollm2-135m": (134_515_008, HUB),
    "smollm2-360m": (361_821_120, HUB),
    "smollm2-1.7b": (1_711_376_384, HUB),
    "qwen-2.5-0.5b": (494_032_768, HUB),
    "qwen-2.5-1.5b": (1_543_714_304, HUB),
    "qwen-2.5-3b": (3_085_938_688, HUB),
    "qwen-2.5-7b": (7_615_616_512, HUB),
    "qwen-2.5-14b": (14_770_033_664, HUB),
    "qwen-2.5-32b": (32_763_876_352, HUB),
    "qwen-2.5-72b": (72_706_203_648, HUB),
    "qwen-3-4b": (4_022_468_096, HUB),
    "qwen-3-8b": (8_190_735_360, HUB),
    "qwen-3-14b": (14_768_307_200, HUB),
    "qwen-3-32b": (32_762_123_264, HUB),
    "qwen-3-30b-a3b": (30_532_122_624, HUB),
    "qwen-3-235b-a22b": (235_093_634_560, HUB),
    "mistral-7b": (7_241_732_096, HUB),
    "mistral-nemo-12b": (12_247_782_400, HUB),
    "mistral-small-24b": (23_572_403_200, HUB),
    "mixtral-8x7b": (46_702_792_704, HUB),
    "mixtral-8x22b": (140_620_634_112, HUB),
    "gemma-2-2b": (2_614_341_888, HUB),
    "gemma-2-9b": (9_241_705_984, HUB),
    "gemma-2-27b": (27_227_128_320, HUB),
    "gemma-3-1b": (999_885_952, HUB),
    "phi-2": (2_779_683_840, HUB),
    "phi-3-mini": (3_821_079_552, HUB),
    "phi-4": (14_659_507_200, HUB),
    "deepseek-v2-lite": (15_706_484_224, HUB),
    "deepseek-v2": (235_741_434_880, HUB),
    # The main model's 671,026,419,200 numbers hold one correction per expert of 58 layers that no gradient reaches;
    # Transformers keeps those among its buffers.
    "deepseek-v3": (671_026_419_200 - 58 * 256, "README_WEIGHTS.md of deepseek-ai/DeepSeek-V3"),
    "gpt-2": (124_439_808, "Transformers' GPT2LMHeadModel of openai-community/gpt2"),
    "gpt-2-xl": (1_557_611_200, "Transformers' GPT2LMHeadModel of openai-community/gpt2-xl"),
    "gpt-neox-20b": (20_554_567_680, "the model card of EleutherAI/gpt-neox-20b"),
    "bert-base": (109_482_240, "Transformers' BertModel of google-bert/bert-base-uncased, without the MLM head"),
    "bert-large": (335_141_888, "Transformers' BertModel of google-bert/bert-large-uncased"),
    "bloom-176b": (176_247_271_424, "the model card of bigscience/bloom"),
    "falcon-7b": (6_921_720_704, HUB),
}
VISION = 416_866_032
"""Parameters of Gemma 3's SigLIP tower: vision_tower in the weights of every size but 1B."""
GEMMA_3 = {"gemma-3-4b": 4_300_079_472, "gemma-3-12b": 12_187_325_040, "gemma-3-27b": 27_432_406_640}
"""The hub's counts of the whole multimodal models."""
ACTIVE = {
    "mixtral-8x7b": (12.9e9, "arXiv:2401.04088: 'only uses 13B active parameters'; 12.9B in the announcement"),
    "mixtral-8x22b": (39e9, "the announcement of Mixtral 8x22B"),
    "qwen-3-30b-a3b": (3.3e9, "the model card of Qwen/Qwen3-30B-A3B"),
    "qwen-3-235b-a22b": (22e9, "the model card of Qwen/Qwen3-235B-A22B"),
    "deepseek-v2": (21e9, "arXiv:2405.04434"),
    "deepseek-v3": (37e9, "arXiv:2412.19437"),
}
KV_BYTES_PER_TOKEN = {
    "deepseek-v3": 70_272,
    "qwen-2.5-72b": 327_680,
    "llama-3.1-405b": 516_096,
}
"""bf16, arXiv:2505.09343, table 1: 70.272, 327.680 and 516.096 KB."""
ASKED_FOR = (
    "llama-2-7b llama-2-13b llama-2-70b llama-3-8b llama-3-70b llama-3.1-8b llama-3.1-70b llama-3.1-405b llama-3.2-1b "
    "llama-3.2-3b qwen-2.5-0.5b qwen-2.5-1.5b qwen-2.5-7b qwen-2.5-14b qwen-2.5-32b qwen-2.5-72b qwen-3-0.6b "
    "qwen-3-1.7b qwen-3-4b qwen-3-8b qwen-3-14b qwen-3-32b qwen-3-30b-a3b qwen-3-235b-a22b mistral-7b mixtral-8x7b "
    "mixtral-8x22b gemma-2-2b gemma-2-9b gemma-2-27b gemma-3-1b gemma-3-4b gemma-3-12b gemma-3-27b phi-2 phi-3-mini "
    "phi-4 deepseek-v2 deepseek-v2-lite deepseek-v3 gpt-2 gpt-2-xl gpt-3-175b bert-base smollm2-135m smollm2-360m "
    "smollm2-1.7b gpt-neox-20b"
)


@pytest.mark.parametrize("name", PUBLISHED)
def test_parameters_are_the_published_ones(name: str) -> None:
    count, source = PUBLISHED[name]
    assert models.shape(name).parameters == count, source


@pytest.mark.parametrize("name", GEMMA_3)
def test_the_text_part_of_gemma_3_is_the_whole_less_its_eyes(name: str) -> None:
    shape = models.shape(name)
    projector = 1152 * shape.hidden + 1152
    assert shape.parameters == GEMMA_3[name] - VISION - projector


def test_gpt_3_has_the_175_billion_of_its_paper() -> None:
    shape = models.shape("gpt-3-175b")
    assert shape.parameters == pytest.approx(175e9, rel=0.005)
    assert (shape.depth, shape.hidden, shape.heads, shape.context) == (96, 12288, 96, 2048)
    assert {layer.attention.head_dim for layer in shape.layers} == {128}


@pytest.mark.parametrize("name", ACTIVE)
def test_active_parameters_are_the_published_ones(name: str) -> None:
    count, source = ACTIVE[name]
    assert models.shape(name).active_parameters == pytest.approx(count, rel=0.02), source


@pytest.mark.parametrize("name", KV_BYTES_PER_TOKEN)
def test_the_kv_cache_of_a_token_is_the_published_one(name: str) -> None:
    assert models.shape(name).kv_elements(1) * 2 == KV_BYTES_PER_TOKEN[name]


def test_the_kv_cache_of_llama_3_8b_at_8k_is_one_gib() -> None:
    assert models.shape("llama-3-8b").kv_elements(8192) * 2 == 2**30


def test_every_model_that_was_asked_for_is_there() -> None:
    assert set(ASKED_FOR.split()) <= set(models.names())


@pytest.mark.parametrize("name", models.names())
def test_every_built_in_model_says_where_it_is_from_and_assumes_nothing(name: str) -> None:
    assert re.fullmatch(r"[a-z0-9]+([.-][a-z0-9]+)*", name)
    assert re.fullmatch(
        r"https://(huggingface\.co/[^/]+/[^/]+/blob/main/config\.json|arxiv\.org/abs/[\d.]+)", models.SOURCES[name]
    )
    shape = models.shape(name)
    assert shape.name == name
    assert shape.assumed == ""
    assert shape.family == models.MODELS[name]["model_type"]


@pytest.mark.parametrize(
    ("wrong", "near"), [("llama3-8b", "llama-3-8b"), ("Qwen-3-8B", "qwen-3-8b"), ("mixtral", "mixtral-8x7b")]
)
def test_an_unknown_name_is_answered_with_the_nearest_ones(wrong: str, near: str) -> None:
    with pytest.raises(Refused) as refused:
        models.shape(wrong)
    assert refused.value.errors[0].field == "model"
    assert near in str(refused.value)
