"""Reads what a model says of itself: config.json and safetensors headers, a GGUF header, or a hub's records.

Never loads weights and never runs a model's code. Knows nothing of the database.
"""

import json
import struct
from dataclasses import asdict, dataclass, field
from math import isfinite, prod
from typing import Any

from portal.catalog import store
from workers.contract.checkpoint import stored_as
from workers.contract.errors import Refused

MAX_CONFIG_BYTES = 5 * 2**20
MAX_HEADER_BYTES = 100 * 2**20


@dataclass
class Facts:
    """Architecture facts; None where the model doesn't say. Bytes, tokens, counts."""

    architecture: str = ""
    layers: int | None = None
    hidden_size: int | None = None
    heads: int | None = None
    kv_heads: int | None = None
    intermediate_size: int | None = None
    vocab_size: int | None = None
    context_length: int | None = None
    experts: int | None = None
    tied_embeddings: bool = False
    parameters: int | None = None
    disk_bytes: int | None = None
    dtype: str = ""
    config: dict[str, Any] = field(default_factory=dict)
    """The model's config.json, or the architecture's own fields of a GGUF header."""

    def fields(self) -> dict[str, Any]:
        """As keyword arguments of a ModelProfile."""
        return asdict(self)


def from_config(config: dict[str, Any]) -> Facts:
    """Facts of a Transformers config, by the names its families use. Raises Refused at `uri` for nonsense."""
    text = config.get("text_config")
    inner: dict[str, Any] = {**config, **text} if isinstance(text, dict) else config

    def count(*names: str) -> int | None:
        for name in names:
            value = inner.get(name)
            if value is None:
                continue
            if not isinstance(value, int) or isinstance(value, bool) or not 0 < value < 2**31:
                raise Refused.at(
                    "uri",
                    value,
                    f"uri: the model's config.json says {name} = {value!r}; it must be a positive whole number.",
                )
            return value
        return None

    heads = count("num_attention_heads", "n_head", "n_heads")
    quantized = stored_as(config)
    names = inner.get("architectures") or config.get("architectures") or []
    return Facts(
        architecture=str(names[0] if names else inner.get("model_type", "")),
        layers=count("num_hidden_layers", "n_layer", "n_layers"),
        hidden_size=count("hidden_size", "n_embd", "d_model"),
        heads=heads,
        kv_heads=count("num_key_value_heads", "num_kv_heads") or heads,
        intermediate_size=count("intermediate_size", "n_inner", "ffn_dim"),
        vocab_size=count("vocab_size"),
        context_length=count("max_position_embeddings", "n_positions", "n_ctx", "max_sequence_length"),
        experts=count("num_local_experts", "num_experts", "n_routed_experts"),
        tied_embeddings=bool(inner.get("tie_word_embeddings", False)),
        dtype=quantized.brief if quantized else str(inner.get("dtype") or inner.get("torch_dtype") or ""),
        config=config,
    )


def from_folder(uri: str) -> Facts:
    """Facts of a local folder of safetensors. Raises Refused at `uri`."""
    files = dict(store.files(uri))
    if "config.json" not in files:
        raise Refused.at("uri", uri, f"uri: {uri!r} is no model folder: it has no config.json.")
    weights = [name for name in files if name.endswith(".safetensors")]
    if not weights:
        pickled = [name for name in files if name.endswith((".bin", ".pt", ".pth"))]
        why = f"it has only pickled weights ({pickled[0]}), which can run code" if pickled else "it has no weights"
        raise Refused.at("uri", uri, f"uri: {uri!r} can't be used: {why}; give safetensors or GGUF.")
    facts = from_config(_json(f"{uri.rstrip('/')}/config.json", uri))
    counted: dict[str, int] = {}
    dtypes: set[str] = set()
    for name in weights:
        for tensor, entry in _safetensors_header(f"{uri.rstrip('/')}/{name}", uri).items():
            counted[tensor] = prod(entry["shape"])
            dtypes.add(entry["dtype"])
    facts.parameters = sum(counted.values())
    facts.disk_bytes = sum(files[name] for name in weights)
    facts.dtype = facts.dtype or "/".join(sorted(dtypes)).lower()
    return facts


def from_gguf(uri: str) -> Facts:
    """Facts of a GGUF file's header. Raises Refused at `uri`."""
    import gguf

    try:
        with store.beginning(uri) as path:
            reader = gguf.GGUFReader(path)
    except (ValueError, OSError) as error:
        raise Refused.at("uri", uri, f"uri: {uri!r} is no GGUF file that can be read ({error}).") from None

    def value(name: str) -> Any:
        found = reader.get_field(name)
        return found.contents() if found else None

    kind = str(value("general.architecture") or "")
    tensors = {tensor.name: tensor for tensor in reader.tensors}
    quantized = {tensor.tensor_type.name for tensor in reader.tensors if tensor.tensor_type.name not in ("F32", "F16")}
    tokens = reader.get_field("tokenizer.ggml.tokens")
    heads = value(f"{kind}.attention.head_count")
    header = {name: value(name) for name in reader.fields if name.startswith(f"{kind}.")}
    return Facts(
        architecture=kind,
        layers=value(f"{kind}.block_count"),
        hidden_size=value(f"{kind}.embedding_length"),
        heads=heads,
        kv_heads=value(f"{kind}.attention.head_count_kv") or heads,
        intermediate_size=value(f"{kind}.feed_forward_length"),
        vocab_size=value(f"{kind}.vocab_size") or (len(tokens.data) if tokens else None),
        context_length=value(f"{kind}.context_length"),
        experts=value(f"{kind}.expert_count") or None,
        tied_embeddings="output.weight" not in tensors,
        parameters=sum(int(tensor.n_elements) for tensor in reader.tensors),
        disk_bytes=store.files(uri)[0][1],
        dtype="/".join(sorted(quantized)).lower() or "f32",
        config={"general.architecture": kind, **{name: one for name, one in header.items() if _is_plain(one)}},
    )


def _is_plain(value: Any) -> bool:
    return isinstance(value, str | int | bool) or (isinstance(value, float) and isfinite(value))


def from_hub(repo: str, revision: str) -> tuple[Facts, str, str]:
    """(facts, exact revision, licence) of a hub model. Raises Refused at `uri`."""
    from huggingface_hub import HfApi, hf_hub_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    try:
        info = HfApi().model_info(repo, revision=revision or None, files_metadata=True, timeout=10)
        names = {sibling.rfilename: sibling.size or 0 for sibling in info.siblings or []}
        if "config.json" not in names:
            raise Refused.at("uri", repo, f"uri: the hub model {repo!r} has no config.json.")
        path = hf_hub_download(repo, "config.json", revision=info.sha, etag_timeout=10)
    except HFValidationError:
        raise Refused.at("uri", repo, f"uri: {repo!r} is no hub id; write hub://organisation/name.") from None
    except HfHubHTTPError as error:
        status = error.response.status_code if error.response is not None else 0
        why = "has no such model or revision" if status in (401, 403, 404) else f"answered {status}"
        raise Refused.at("uri", repo, f"uri: the hub {why} ({repo!r}, revision {revision or 'latest'!r}).") from None
    except (LocalEntryNotFoundError, OSError) as error:
        raise Refused.at(
            "uri",
            repo,
            f"uri: the hub can't be reached for {repo!r} ({type(error).__name__}); use a local folder or a GGUF file.",
        ) from None
    with open(path, "rb") as handle:
        facts = from_config(_parse(handle.read(MAX_CONFIG_BYTES + 1), repo))
    weights = [size for name, size in names.items() if name.endswith(".safetensors")]
    if not weights:
        raise Refused.at(
            "uri", repo, f"uri: the hub model {repo!r} has no safetensors; pickled weights are not loaded."
        )
    facts.disk_bytes = sum(weights)
    facts.parameters = info.safetensors.total if info.safetensors else None
    licence = getattr(info.card_data, "license", "") or ""
    return facts, info.sha or revision, str(licence)


def _json(uri: str, shown: str) -> dict[str, Any]:
    with store.open_read(uri) as handle:
        return _parse(handle.read(MAX_CONFIG_BYTES + 1), shown)


def _parse(data: bytes, shown: str) -> dict[str, Any]:
    if len(data) > MAX_CONFIG_BYTES:
        raise Refused.at("uri", shown, f"uri: the config.json of {shown!r} is larger than 5 MiB.")
    try:
        config = json.loads(data)
    except ValueError:
        raise Refused.at("uri", shown, f"uri: the config.json of {shown!r} is not valid JSON.") from None
    if not isinstance(config, dict):
        raise Refused.at("uri", shown, f"uri: the config.json of {shown!r} is not a JSON object.")
    return config


def _safetensors_header(uri: str, shown: str) -> dict[str, dict[str, Any]]:
    """Tensor name → {dtype, shape, …}; the header is 8 bytes of length, then JSON (safetensors format)."""
    with store.open_read(uri) as handle:
        head = handle.read(8)
        length = struct.unpack("<Q", head)[0] if len(head) == 8 else 0
        if not 2 <= length <= MAX_HEADER_BYTES:
            raise Refused.at("uri", shown, f"uri: {uri.rsplit('/', 1)[-1]!r} in {shown!r} is no safetensors file.")
        try:
            header = json.loads(handle.read(length))
            return {
                name: entry for name, entry in header.items() if name != "__metadata__" and entry["shape"] is not None
            }
        except (ValueError, KeyError, TypeError, AttributeError):
            raise Refused.at(
                "uri", shown, f"uri: {uri.rsplit('/', 1)[-1]!r} in {shown!r} is no safetensors file."
            ) from None
