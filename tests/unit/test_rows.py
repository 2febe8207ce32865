"""Dataset files: every bad row is named with its reason, and a file that is no dataset says so."""

import io
import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from portal.catalog import rows
from workers.contract.errors import Refused


def load(data: bytes, name: str, format_: str = "auto") -> list[rows.Row]:
    parsed = rows.read(data, name, "file")
    return rows.check(parsed, rows.detect(parsed, name, "file") if format_ == "auto" else format_, "file")


def test_three_bad_rows_are_named_with_their_numbers() -> None:
    lines = [{"text": "a", "label": "x"}, {"text": ""}, {"text": "b", "label": "y"}, {"label": "x"}]
    data = "\n".join([*map(json.dumps, lines), "{not json"]).encode()
    with pytest.raises(Refused) as refused:
        load(data, "tickets.jsonl")
    messages = [error.message for error in refused.value.errors]
    assert len(messages) == 3
    assert messages[0] == "file: row 2: 'text' is missing or empty."
    assert "row 4" in messages[1]
    assert messages[2] == "file: row 5: it is not valid JSON."


def parquet(records: list[dict[str, str]]) -> bytes:
    sink = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(records), sink)
    return sink.getvalue()


RECORDS = [{"prompt": "1+1?", "completion": "2"}, {"prompt": "2+2?", "completion": "4"}]


@pytest.mark.parametrize(
    ("name", "data"),
    [
        ("a.jsonl", b'{"prompt":"1+1?","completion":"2"}\n\n{"prompt":"2+2?","completion":"4"}\n'),
        ("a.json", json.dumps(RECORDS).encode()),
        ("a.json", json.dumps({"data": RECORDS}).encode()),
        ("a.csv", b"\xef\xbb\xbfprompt,completion\n1+1?,2\n2+2?,4\n"),
        ("a.parquet", parquet(RECORDS)),
        ("noending", json.dumps(RECORDS).encode()),
    ],
)
def test_the_same_rows_from_every_kind_of_file(name: str, data: bytes) -> None:
    assert load(data, name) == RECORDS


@pytest.mark.parametrize(
    ("name", "data", "word"),
    [
        ("cat.png", b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR\xff\xfe", "no dataset"),
        ("empty.jsonl", b"  \n", "is empty"),
        ("a.json", b"[1, 2", "not valid JSON"),
        ("a.parquet", b"PAR1 nothing else", "no readable Parquet"),
        ("notes.txt", b"just some words", "neither JSONL"),
        ("a.jsonl", b'{"question": "x"}', "fit no format"),
        ("a.json", b'"text"', "not a list"),
    ],
)
def test_a_file_that_is_no_dataset_is_refused_in_one_sentence(name: str, data: bytes, word: str) -> None:
    with pytest.raises(Refused) as refused:
        load(data, name)
    assert len(refused.value.errors) == 1
    error = refused.value.errors[0]
    assert error.field == "file"
    assert word in error.message
    assert error.message.endswith(".")


@pytest.mark.parametrize(
    ("messages", "word"),
    [
        ([{"role": "user", "content": "hi"}], "nothing to learn"),
        ([{"role": "robot", "content": "hi"}], "message 1 has no role"),
        ([{"role": "user", "content": ""}, {"role": "assistant", "content": "x"}], "message 1 has no content"),
        ("not json", "not JSON"),
        ([], "not a list of messages"),
    ],
)
def test_bad_messages_say_what_is_wrong(messages: object, word: str) -> None:
    outcome = rows.canonical({"messages": messages}, "messages")
    assert isinstance(outcome, str)
    assert word in outcome


def test_many_bad_rows_are_counted_not_listed() -> None:
    with pytest.raises(Refused) as refused:
        load(b'{"text":"a","label":"b"}\n' + b"broken\n" * 50, "a.jsonl")
    assert len(refused.value.errors) == rows.MAX_SHOWN + 1
    assert "30 more rows are bad" in refused.value.errors[-1].message
