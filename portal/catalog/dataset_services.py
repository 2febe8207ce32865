"""Adds datasets to the catalog: checked, split and stored, or sampled where they lie. Knows nothing of jobs."""

import hashlib
import json
import random
from collections import defaultdict
from typing import Any, Protocol

from django.conf import settings
from django.contrib.auth.models import User
from django.db import IntegrityError, transaction

from portal.accounts.services import audit
from portal.catalog import lengths, rows, sharded, store
from portal.catalog.models import Dataset, ModelProfile
from portal.catalog.naming import check_name, taken
from workers.contract.errors import FieldError, Refused
from workers.contract.names import UnsafeURI, store_uri

PREVIEW_ROWS = 20
SHARDS_KEPT = 20
"""Shards whose names are kept, at most."""


class Upload(Protocol):
    """An uploaded file, as Django gives it."""

    name: str | None

    @property
    def size(self) -> int | None: ...

    def read(self) -> bytes: ...


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
    (by label where there are labels). A folder of shards stays where it is: a sample of its rows is checked, and only a
    test file is held out. Raises Refused at the field that is wrong.
    """
    check_name(name, "dataset", Dataset)
    if format != "auto" and format not in rows.REQUIRED:
        raise Refused.at("format", format, f"format: {format!r} is not a format; use auto, {', '.join(rows.REQUIRED)}.")
    if not 0 <= test_fraction < 1:
        raise Refused.at(
            "test_fraction", test_fraction, f"test_fraction: {test_fraction} is out of range; use 0 to less than 1."
        )
    if file is None and uri and _is_folder(uri):
        return _add_shards(user, name, uri, test_file, test_uri, format)
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
    return _record(
        user,
        train,
        name=name,
        format=format,
        source=source[:500],
        train_uri=uris["train"],
        test_uri=uris.get("test", ""),
        sha256=digest,
        train_rows=len(train),
        test_rows=len(test),
        labels=sorted({row["label"] for row in train}) if format == "text_label" else [],
    )


def _add_shards(
    user: User | None, name: str, uri: str, test_file: Upload | None, test_uri: str, format: str
) -> Dataset:
    found = sharded.sample(uri, format, "uri")
    test: list[rows.Row] = []
    if test_file is not None or test_uri:
        data, test_source, field = _read(test_file, test_uri, "test_file", "test_uri")
        test = rows.check(rows.read(data, test_source, field), found.format, field)
        _check_apart(found.sample, test)
    held_out = _lines(test)
    listing = json.dumps(found.files).encode()
    digest = hashlib.sha256(listing + b"\0" + held_out).hexdigest()
    target = store_uri("datasets", digest, "test.jsonl") if test else ""
    if target:
        store.put(target, held_out)
    return _record(
        user,
        found.sample,
        name=name,
        format=found.format,
        source=uri,
        train_uri=uri,
        test_uri=target,
        sha256=digest,
        train_rows=found.row_count,
        test_rows=len(test),
        shards=found.files[:SHARDS_KEPT],
        shard_count=len(found.files),
        disk_bytes=sum(size for _, size in found.files),
    )


def _record(user: User | None, train: list[rows.Row], **columns: Any) -> Dataset:
    """The dataset in the catalog; `train` are rows to show and to count tokens of."""
    tokenizer, tokenizer_name = _tokenizer()
    try:
        with transaction.atomic():
            dataset = Dataset.objects.create(
                **columns,
                preview=train[:PREVIEW_ROWS],
                token_histogram=lengths.histogram(train, tokenizer, tokenizer_name),
            )
            audit(user, "add dataset", f"dataset {dataset.name}", dataset.source[:400])
    except IntegrityError:
        raise taken("dataset", columns["name"]) from None
    return dataset


def _is_folder(uri: str) -> bool:
    try:
        return store.is_folder(uri)
    except UnsafeURI as error:
        raise Refused.at("uri", uri, f"uri: {error}") from None
    except OSError as error:
        raise Refused.at("uri", uri, f"uri: {uri!r} can't be read ({str(error)[:120]}).") from None


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
