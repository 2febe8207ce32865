"""Writes the catalog: models, datasets, adapters, approvals. Knows nothing of jobs."""

import hashlib
import json
import random
from collections import defaultdict
from typing import Any, Protocol

from django.conf import settings
from django.contrib.auth.models import User
from django.db import IntegrityError, transaction

from portal.accounts.services import audit
from portal.catalog import lengths, model_facts, rows, store
from portal.catalog.models import Adapter, Dataset, ModelProfile
from workers.contract.errors import FieldError, Refused
from workers.contract.hashing import folder_sha256
from workers.contract.names import SLUG, UnsafeURI, store_uri

PREVIEW_ROWS = 20
SOURCES = ("safetensors", "gguf", "hub")


class Upload(Protocol):
    """An uploaded file, as Django gives it."""

    name: str | None

    @property
    def size(self) -> int | None: ...

    def read(self) -> bytes: ...


def add_model(
    user: User | None, *, name: str, uri: str, source: str = "safetensors", revision: str = "", licence: str = ""
) -> ModelProfile:
    """Register a model by what its own config says. Raises Refused at name, uri, source or revision."""
    _check_name(name, "model", ModelProfile)
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
        raise _taken("model", name) from None
    return model


def add_dataset(
    user: User | None,
    *,
    name: str,
    file: Upload | None = None,
    uri: str = "",
    test_file: Upload | None = None,
    test_uri: str = "",
    format: str = "auto",
    test_fraction: float = 0.2,
    seed: int = 42,
) -> Dataset:
    """Check every row, split, and store. Without a test file, `test_fraction` of the rows is held out by `seed`
    (by label where there are labels). Raises Refused at the field that is wrong.
    """
    _check_name(name, "dataset", Dataset)
    if format != "auto" and format not in rows.REQUIRED:
        raise Refused.at("format", format, f"format: {format!r} is not a format; use auto, {', '.join(rows.REQUIRED)}.")
    if not 0 <= test_fraction < 1:
        raise Refused.at(
            "test_fraction", test_fraction, f"test_fraction: {test_fraction} is out of range; use 0 to less than 1."
        )
    data, source, field = _read(file, uri, "file", "uri")
    parsed = rows.read(data, source, field)
    format = rows.detect(parsed, source, field) if format == "auto" else format
    train = rows.check(parsed, format, field)
    if test_file is not None or test_uri:
        data, test_source, field = _read(test_file, test_uri, "test_file", "test_uri")
        test = rows.check(rows.read(data, test_source, field), format, field)
    else:
        train, test = split(train, test_fraction, seed)
    _check_apart(train, test)
    contents = {"train": _lines(train), "test": _lines(test)}
    digest = hashlib.sha256(contents["train"] + b"\0" + contents["test"]).hexdigest()
    uris = {part: store_uri("datasets", digest, f"{part}.jsonl") for part, content in contents.items() if content}
    for part, target in uris.items():
        store.put(target, contents[part])
    tokenizer, tokenizer_name = _tokenizer()
    try:
        with transaction.atomic():
            dataset = Dataset.objects.create(
                name=name,
                format=format,
                source=source[:500],
                train_uri=uris["train"],
                test_uri=uris.get("test", ""),
                sha256=digest,
                train_rows=len(train),
                test_rows=len(test),
                labels=sorted({row["label"] for row in train}) if format == "text_label" else [],
                preview=train[:PREVIEW_ROWS],
                token_histogram=lengths.histogram(train, tokenizer, tokenizer_name),
            )
            audit(user, "add dataset", f"dataset {name}", source[:400])
    except IntegrityError:
        raise _taken("dataset", name) from None
    return dataset


def split(all_rows: list[rows.Row], fraction: float, seed: int) -> tuple[list[rows.Row], list[rows.Row]]:
    """(train, test): each label, or the whole where there are none, gives `fraction` of its rows to the test split."""
    groups: dict[Any, list[int]] = defaultdict(list)
    for index, row in enumerate(all_rows):
        groups[row.get("label")].append(index)
    rng = random.Random(seed)  # noqa: S311 - a reproducible split, not a secret
    held: set[int] = set()
    for label in sorted(groups, key=str):
        members = groups[label]
        wanted = min(round(len(members) * fraction), len(members) - 1)
        held.update(rng.sample(members, max(0, wanted)))
    return (
        [row for index, row in enumerate(all_rows) if index not in held],
        [row for index, row in enumerate(all_rows) if index in held],
    )


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
    *, name: str, model: str, dataset: str, uri: str, sha256: str, disk_bytes: int, job_number: int
) -> ModelProfile:
    """Record a model a job made by training `model`; the same job's again changes nothing but where it is.

    It has its base's shape, so nothing is read from the store.
    """
    base = ModelProfile.objects.get(name=model)
    width = round(disk_bytes / base.parameters) if base.parameters else 0
    dtype = {4: "float32", 2: "bfloat16"}.get(width, "")
    known = {field: getattr(base, field) for field in model_facts.Facts.__dataclass_fields__}
    made, _ = ModelProfile.objects.update_or_create(
        name=name,
        defaults=known
        | {
            "source": ModelProfile.Source.FOLDER,
            "uri": uri,
            "dtype": dtype,
            "licence": base.licence,
            "config": {} if base.source == ModelProfile.Source.GGUF else base.config,
            "sha256": sha256,
            "disk_bytes": disk_bytes,
            "base_model": base,
            "trained_on": Dataset.objects.filter(name=dataset).first(),
            "job_number": job_number,
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


def _check_name(name: str, what: str, records: type[ModelProfile] | type[Dataset]) -> None:
    if not SLUG.fullmatch(name):
        raise Refused.at(
            "name",
            name,
            f"name: {name!r} is not a name; use lower-case letters, digits, dots, dashes and underscores, "
            "starting with a letter or digit.",
        )
    if name == "new":
        raise Refused.at("name", name, "name: 'new' is the page that adds one; choose another name.")
    if records.objects.filter(name=name).exists():
        raise _taken(what, name)


def _taken(what: str, name: str) -> Refused:
    return Refused.at("name", name, f"name: there is already a {what} named {name!r}; choose another name.")


def _read(file: Upload | None, uri: str, file_field: str, uri_field: str) -> tuple[bytes, str, str]:
    """(content, shown name, field to blame)."""
    limit = settings.LIFTOFF_UPLOAD_LIMIT
    if file is not None:
        if (file.size or 0) > limit:
            raise Refused.at(
                file_field, file.size, f"{file_field}: {file.name!r} has {file.size} bytes; the limit is {limit}."
            )
        return file.read(), file.name or "upload", file_field
    if not uri:
        raise Refused.at(file_field, None, f"{file_field}: give a file or a URI.")
    try:
        if store.is_folder(uri):
            raise Refused.at(uri_field, uri, f"{uri_field}: {uri!r} is a folder; name one file.")
        with store.open_read(uri) as handle:
            data = handle.read(limit + 1)
    except UnsafeURI as error:
        raise Refused.at(uri_field, uri, f"{uri_field}: {error}") from None
    except OSError:
        raise Refused.at(uri_field, uri, f"{uri_field}: there is nothing to read at {uri!r}.") from None
    if len(data) > limit:
        raise Refused.at(uri_field, uri, f"{uri_field}: {uri!r} is larger than the limit of {limit} bytes.")
    return data, uri.rsplit("/", 1)[-1], uri_field


def _check_apart(train: list[rows.Row], test: list[rows.Row]) -> None:
    """A test row that training sees measures memory, not skill."""
    seen = {json.dumps(row, sort_keys=True) for row in train}
    shared = [number for number, row in enumerate(test, 1) if json.dumps(row, sort_keys=True) in seen]
    if shared and len(shared) == len(test):
        raise Refused(
            [
                FieldError(
                    "test_file",
                    len(shared),
                    f"test_file: all {len(shared)} test rows are training rows too; hold out others.",
                )
            ]
        )


def _lines(all_rows: list[rows.Row]) -> bytes:
    return "".join(json.dumps(row, ensure_ascii=False, sort_keys=True) + "\n" for row in all_rows).encode()


def _tokenizer() -> tuple[str | None, str]:
    """The tokenizer.json of the first model that has one, and the model's name."""
    for model in ModelProfile.objects.filter(source="safetensors").order_by("created_at"):
        place = f"{model.uri.rstrip('/')}/tokenizer.json"
        try:
            with store.open_read(place) as handle:
                text = handle.read().decode()
        except (OSError, UnsafeURI, UnicodeDecodeError):
            continue
        if lengths.valid_tokenizer(text):
            return text, model.name
    return None, ""


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
