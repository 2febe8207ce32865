"""What a GGUF header says of a model → the config.json that it was converted from, as far as shapes need it.

Knows no files: the facts were read elsewhere, under the names of the catalog's profiles.
"""

from collections.abc import Mapping
from typing import Any

from portal.planner.families.fields import shown
from workers.contract.errors import Refused

GGUF: dict[str, str] = {
    "bert": "bert",
    "bloom": "bloom",
    "cohere2": "cohere2",
    "command-r": "cohere",
    "gemma": "gemma",
    "gemma2": "gemma2",
    "gemma3": "gemma3_text",
    "glm4": "glm4",
    "gpt2": "gpt2",
    "gptneox": "gpt_neox",
    "granite": "granite",
    "llama": "llama",
    "mistral3": "mistral",
    "olmo2": "olmo2",
    "phi2": "phi",
    "phi3": "phi3",
    "qwen2": "qwen2",
    "qwen2moe": "qwen2_moe",
    "qwen3": "qwen3",
    "qwen3moe": "qwen3_moe",
    "smollm3": "smollm3",
    "starcoder2": "starcoder2",
}
"""general.architecture of llama.cpp (gguf's constants.py, MODEL_ARCH_NAMES) → Transformers' model_type."""
FIELDS = {
    "layers": "num_hidden_layers",
    "hidden_size": "hidden_size",
    "heads": "num_attention_heads",
    "kv_heads": "num_key_value_heads",
    "intermediate_size": "intermediate_size",
    "vocab_size": "vocab_size",
    "context_length": "max_position_embeddings",
}
HEADER = {
    "attention.key_length": "head_dim",
    "attention.sliding_window": "sliding_window",
    "expert_used_count": "num_experts_per_tok",
    "expert_feed_forward_length": "moe_intermediate_size",
    "expert_shared_feed_forward_length": "shared_expert_intermediate_size",
}
"""Fields of a GGUF header after the architecture's name (gguf's constants.py, Keys) → fields of a config.json."""
EXPERTS = {"llama": "num_local_experts", "qwen2moe": "num_experts", "qwen3moe": "num_experts"}
"""Architectures with mixtures that can be planned → what their configs call the number of experts."""
NEEDED = ("layers", "hidden_size", "heads")


def config_from_facts(facts: Mapping[str, Any], header: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """A config for shape_from_config from `architecture`, `layers`, `hidden_size`, `heads`, `kv_heads`,
    `intermediate_size`, `vocab_size`, `context_length`, `experts` and `tied` (or `tied_embeddings`), and from what the
    GGUF `header` adds to them.

    What both leave out is the family's default. Raises Refused at 'model' for an architecture that can't be planned
    from so little: latent attention, and mixtures but Mixtral and Qwen's.
    """
    kind = facts.get("architecture")
    experts = facts.get("experts")
    if not isinstance(kind, str) or kind not in GGUF or (experts and kind not in EXPERTS):
        raise Refused.at(
            "model",
            shown(kind),
            f"model: the facts of a {shown(kind)} model are too few to plan with; give its config.json. "
            f"GGUF files can be planned of {', '.join(GGUF)}.",
        )
    missing = [name for name in NEEDED if facts.get(name) is None]
    if missing:
        raise Refused.at(
            "model", missing[0], f"model: it doesn't say its {missing[0].replace('_', ' ')}; give its config.json."
        )
    config = {theirs: facts[ours] for ours, theirs in FIELDS.items() if facts.get(ours) is not None}
    known = header or {}
    config |= {theirs: known[f"{kind}.{name}"] for name, theirs in HEADER.items() if f"{kind}.{name}" in known}
    tied = facts.get("tied", facts.get("tied_embeddings"))
    if tied is not None:
        config["tie_word_embeddings"] = tied
    if experts:
        config[EXPERTS[kind]] = experts
    model_type = "mixtral" if experts and kind == "llama" else GGUF[kind]
    return {**config, "model_type": model_type, "torch_dtype": "bfloat16"}
