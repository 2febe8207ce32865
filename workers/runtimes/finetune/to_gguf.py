"""A model of the Llama family as one GGUF file, for llama.cpp and what speaks its format.

Names of tensors and keys are the gguf package's. Knows nothing of adapters: give it a whole model.
"""

import json
from pathlib import Path
from typing import Any

import torch

from workers.contract.export import gguf_refusal

LLAMA_3 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|"
    r"\s+(?!\S)|\s+"
)
"""How Llama 3 splits text before it is encoded."""
NORMAL, CONTROL = 1, 3
"""Kinds of token that GGUF tells apart."""


def refusal(model: Any, tokenizer: Any) -> str:
    """Why the model can't be written so, in one sentence; '' where it can."""
    if sentence := gguf_refusal(model.config.to_dict()):
        return sentence
    if not _splits_as(tokenizer):
        return "its tokenizer is none that this writer knows: byte-level BPE as GPT-2, Llama 3 or SmolLM have it."
    return ""


def write_gguf(path: Path, model: Any, tokenizer: Any, name: str) -> None:
    """Write it in the model's own precision: fp32, else fp16. Raises OSError."""
    import gguf

    config = model.config
    half = model.dtype != torch.float32
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_name(name)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_dimension_count(config.head_dim)
    writer.add_rope_freq_base(config.rope_parameters["rope_theta"])
    writer.add_vocab_size(config.vocab_size)
    writer.add_file_type(gguf.LlamaFileType.MOSTLY_F16 if half else gguf.LlamaFileType.ALL_F32)
    _add_tokenizer(writer, tokenizer, config.vocab_size)
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.LLAMA, config.num_hidden_layers)
    tied = config.tie_word_embeddings
    for key, weight in model.state_dict().items():
        if tied and key == "lm_head.weight":
            continue
        heads = {"q_proj": config.num_attention_heads, "k_proj": config.num_key_value_heads}.get(key.split(".")[-2])
        value = _turned(weight, heads) if heads else weight
        matrix = half and value.dim() > 1  # llama.cpp keeps vectors in fp32
        numbers = value.to(torch.float16 if matrix else torch.float32).cpu().contiguous().numpy()
        writer.add_tensor(names.get_name(key, try_suffixes=(".weight", ".bias")), numbers)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def _turned(weight: torch.Tensor, heads: int) -> torch.Tensor:
    """GGUF has the two halves that a rotation mixes side by side, Transformers one after the other."""
    halves = weight.reshape(heads, 2, weight.shape[0] // heads // 2, *weight.shape[1:])
    return halves.swapaxes(1, 2).reshape(weight.shape)


def _add_tokenizer(writer: Any, tokenizer: Any, size: int) -> None:
    added = tokenizer.added_tokens_decoder.items()
    special = {*tokenizer.all_special_ids, *(number for number, token in added if token.special)}
    known = {number: text for text, number in tokenizer.get_vocab().items()}
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(_splits_as(tokenizer))
    writer.add_token_list([known.get(number, f"[unused{number}]") for number in range(size)])
    writer.add_token_types([CONTROL if number in special or number not in known else NORMAL for number in range(size)])
    merges = _core(tokenizer)["merges"]
    writer.add_token_merges([merge if isinstance(merge, str) else " ".join(merge) for merge in merges])
    for kind in ("bos", "eos", "pad"):
        if (number := getattr(tokenizer, f"{kind}_token_id")) is not None:
            getattr(writer, f"add_{kind}_token_id")(number)
    if isinstance(tokenizer.chat_template, str):
        writer.add_chat_template(tokenizer.chat_template)


def _core(tokenizer: Any) -> dict[str, Any]:
    return dict(_parts(tokenizer)["model"])


def _parts(tokenizer: Any) -> dict[str, Any]:
    return dict(json.loads(tokenizer.backend_tokenizer.to_str()))


def _splits_as(tokenizer: Any) -> str:
    """llama.cpp's name for how text is split before it is encoded; '' for a way that has none here."""
    if not hasattr(tokenizer, "backend_tokenizer") or _core(tokenizer)["type"] != "BPE":
        return ""
    split = _parts(tokenizer)["pre_tokenizer"] or {}
    steps = split.get("pretokenizers", [split])
    kinds = [step.get("type") for step in steps]
    if kinds == ["ByteLevel"]:
        return "gpt-2"
    if kinds == ["Digits", "ByteLevel"]:
        return "smollm"
    if kinds == ["Split", "ByteLevel"] and steps[0]["pattern"].get("Regex") == LLAMA_3:
        return "llama-bpe"
    return ""
