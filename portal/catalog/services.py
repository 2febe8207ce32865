"""Writes the catalog's models, adapters and approvals. Knows nothing of datasets' rows, nor of jobs."""

import hashlib

from django.contrib.auth.models import User
from django.db import IntegrityError, transaction

from portal.accounts.services import audit
from portal.catalog import model_facts, store
from portal.catalog.models import Adapter, Dataset, ModelProfile
from portal.catalog.naming import check_name, taken
from workers.contract.checkpoint import Stored
from workers.contract.errors import Refused
from workers.contract.hashing import folder_sha256
from workers.contract.names import UnsafeURI
from workers.contract.quantize import QuantizeReport

SOURCES = ("safetensors", "gguf", "hub")


def add_model(
    user: User | None, *, name: str, uri: str, source: str = "safetensors", revision: str = "", licence: str = ""
) -> ModelProfile:
    """Register a model by what its own config says. Raises Refused at name, uri, source or revision."""
    check_name(name, "model", ModelProfile)
    if source not in SOURCES:
        raise Refused.at("source", source, f"source: {source!r} is not a source; use safetensors, gguf or hub.")
    sha256 = ""
    try:
        if source == "hub":
            facts, revision, found = model_facts.from_hub(uri.removeprefix("hub://"), revision)
            uri, licence = f"hub://{uri.removeprefix('hub://')}", licence or found
        else:
            if not store.exists(uri):
                raise Refused.at("uri", uri, f"uri: there is nothing at {uri!r}.")
            if source == "safetensors" and not store.is_folder(uri):
                raise Refused.at(
                    "uri", uri, f"uri: {uri!r} is a file; a safetensors model is a folder, a GGUF model a file."
                )
            if source == "gguf" and store.is_folder(uri):
                raise Refused.at("uri", uri, f"uri: {uri!r} is a folder; name the .gguf file itself.")
            facts = model_facts.from_folder(uri) if source == "safetensors" else model_facts.from_gguf(uri)
            sha256 = _content_hash(uri)
    except UnsafeURI as error:
        raise Refused.at("uri", uri, f"uri: {error}") from None
    try:
        with transaction.atomic():
            model = ModelProfile.objects.create(
                name=name, source=source, uri=uri, revision=revision, licence=licence, sha256=sha256, **facts.fields()
            )
            audit(user, "add model", f"model {name}", uri[:400])
    except IntegrityError:
        raise taken("model", name) from None
    return model


def register_adapter(
    *, name: str, model: str, dataset: str, uri: str, sha256: str, disk_bytes: int, job_number: int
) -> Adapter:
    """Record an adapter a job made; the same job's again changes nothing but where it is."""
    adapter, _ = Adapter.objects.update_or_create(
        name=name,
        defaults={
            "base_model": ModelProfile.objects.get(name=model),
            "dataset": Dataset.objects.filter(name=dataset).first(),
            "uri": uri,
            "sha256": sha256,
            "disk_bytes": disk_bytes,
            "job_number": job_number,
        },
    )
    return adapter


def register_model(
    *,
    name: str,
    model: str,
    dataset: str,
    uri: str,
    sha256: str,
    disk_bytes: int,
    job_number: int,
    source: ModelProfile.Source = ModelProfile.Source.FOLDER,
    quantized: Stored | None = None,
    measured: QuantizeReport | None = None,
) -> ModelProfile:
    """Record a model a job made of `model`; the same job's again changes nothing but where it is.

    It has its base's shape, so nothing is read from the store. `quantized`: how its weights lie, if not as numbers,
    and what was `measured` of them.
    """
    base = ModelProfile.objects.get(name=model)
    width = round(disk_bytes / base.parameters) if base.parameters else 0
    half = "float16" if source == ModelProfile.Source.GGUF or base.dtype == "float16" else "bfloat16"
    dtype = {4: "float32", 2: half}.get(width, "")
    known = {field: getattr(base, field) for field in model_facts.Facts.__dataclass_fields__}
    config = {} if base.source == ModelProfile.Source.GGUF and source != base.source else base.config
    if quantized is not None:
        dtype, config = quantized.brief, {**config, "quantization_config": quantized.config}
    made, _ = ModelProfile.objects.update_or_create(
        name=name,
        defaults=known
        | {
            "source": source,
            "uri": uri,
            "dtype": dtype,
            "licence": base.licence,
            "config": config,
            "sha256": sha256,
            "disk_bytes": disk_bytes,
            "base_model": base,
            "trained_on": Dataset.objects.filter(name=dataset).first(),
            "job_number": job_number,
            "measured": measured.model_dump(mode="json") if measured else None,
        },
    )
    return made


def set_remote_code(user: User, model: ModelProfile, approved: bool) -> None:
    """Approve or withdraw running this model's own Python code, at its present revision. Raises Refused."""
    if approved and not model.revision:
        raise Refused.at(
            "revision", "", "revision: remote code can be approved at an exact revision only; this model has none."
        )
    model.remote_code_revision = model.revision if approved else ""
    model.save(update_fields=["remote_code_revision"])
    audit(user, "approve remote code" if approved else "withdraw remote code", f"model {model.name}", model.revision)


def _content_hash(uri: str) -> str:
    """SHA-256 of a file, or of a folder as every node counts it."""
    base = uri.rstrip("/")
    if not store.is_folder(uri):
        return _file_hash(uri)
    return folder_sha256((name, _file_hash(f"{base}/{name}")) for name, _ in store.files(uri))


def _file_hash(uri: str) -> str:
    digest = hashlib.sha256()
    with store.open_read(uri) as handle:
        while chunk := handle.read(2**20):
            digest.update(chunk)
    return digest.hexdigest()
