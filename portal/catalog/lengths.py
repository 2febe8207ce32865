"""Token lengths of dataset rows, as a histogram. Knows nothing of where tokenizers or rows come from."""

import json
from typing import Any

from tokenizers import Tokenizer

from portal.catalog import turns

BINS = 24
SAMPLE = 5000


def text_of(row: dict[str, Any]) -> str:
    """All the text of a canonical row; of two answers the longer one's."""
    if "rejected" in row:
        return turns.text_of(row["prompt"]) + "\n" + max(map(turns.text_of, (row["chosen"], row["rejected"])), key=len)
    return "\n".join(map(turns.text_of, row.values()))


def histogram(rows: list[dict[str, Any]], tokenizer_json: str | None, tokenizer_name: str) -> dict[str, Any]:
    """Edges (tokens, BINS + 1 at most), counts, median, p95 and max over the first SAMPLE rows.

    Without a tokenizer a token is taken as 4 bytes of UTF-8 and `tokenizer` says so.
    """
    texts = [text_of(row) for row in rows[:SAMPLE]]
    if tokenizer_json is not None:
        tokenizer = Tokenizer.from_str(tokenizer_json)
        tokenizer.no_truncation()
        tokenizer.no_padding()
        lengths = [len(encoding.ids) for encoding in tokenizer.encode_batch(texts, add_special_tokens=False)]
        name = tokenizer_name
    else:
        lengths = [max(1, len(text.encode()) // 4) for text in texts]
        name = "estimate: 4 bytes a token"
    ordered = sorted(lengths)
    top = ordered[-1]
    width = max(1, -(-top // BINS))
    counts = [0] * (top // width + 1)
    for length in lengths:
        counts[length // width] += 1
    return {
        "edges": [index * width for index in range(len(counts) + 1)],
        "counts": counts,
        "median": ordered[len(ordered) // 2],
        "p95": ordered[min(len(ordered) - 1, int(len(ordered) * 0.95))],
        "max": top,
        "tokenizer": name,
    }


def valid_tokenizer(text: str) -> bool:
    """Whether `text` is a tokenizer.json."""
    try:
        Tokenizer.from_str(text)
    except Exception:  # the library raises bare Exception
        return False
    return isinstance(json.loads(text), dict)
