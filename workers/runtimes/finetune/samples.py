"""Dataset rows become token ids and labels, with the loss on the completion only.

A row is rendered to text whose trained stretches are known, then tokenized once; a token counts towards the loss when
it overlaps a trained stretch. Plain text that is longer than the context becomes several samples, other rows are cut.
Knows nothing of trainers.
"""

import os.path
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from workers.contract.order import DatasetInput
from workers.contract.prompts import label_instruction, label_messages
from workers.runtimes.base import RunFailed, invalid
from workers.runtimes.chat import Message, encode, has_template, render
from workers.runtimes.finetune.pairs import Pair, make_pair

UNTRAINED = -100
"""Label of a token that doesn't count towards the loss (PyTorch's cross entropy ignores it)."""

Row = dict[str, Any]


@dataclass(frozen=True)
class Piece:
    """A stretch of a rendered row."""

    text: str
    trained: bool


@dataclass(frozen=True)
class Sample:
    """One row as tokens, or a part of it. labels[i] is input_ids[i], or UNTRAINED. `answer` is the label of a
    text/label row, and `prompt_ids` the tokens that ask for it. `share`: how much of its row it is, 0 to 1."""

    input_ids: list[int]
    labels: list[int]
    prompt_ids: list[int]
    answer: str | None = None
    share: float = 1.0

    def __len__(self) -> int:
        return len(self.input_ids)


def make_samples(rows: list[Row], dataset: DatasetInput, tokenizer: Any, context_length: int) -> list[Sample | Pair]:
    """The samples of all rows, or pairs of answers. Raises RunFailed(invalid_input) naming the first row that doesn't
    fit the dataset's format."""
    return [
        sample
        for number, row in enumerate(rows, start=1)
        for sample in samples_at(row, f"row {number}", dataset, tokenizer, context_length)
    ]


def samples_at(
    row: Row, where: str, dataset: DatasetInput, tokenizer: Any, context_length: int
) -> Sequence[Sample | Pair]:
    """One `make_sample` or `make_pair`, of plain text as many as it fills; a refusal says that it is about the row
    `where`."""
    given = {key: value for key, value in row.items() if value is not None}
    try:
        if dataset.format == "preference":
            return [make_pair(given, tokenizer, context_length)]
        if dataset.format == "text":
            return make_parts(given, dataset, tokenizer, context_length)
        return [make_sample(given, dataset, tokenizer, context_length)]
    except KeyError as error:
        raise invalid(f"dataset: {where} has no {error}, which format {dataset.format} needs.") from error
    except (TypeError, AttributeError) as error:
        raise invalid(f"dataset: {where} is not as format {dataset.format} needs it ({error}).") from error
    except RunFailed as error:
        raise RunFailed(error.reason, f"dataset: {where}: {error.detail}") from error


def make_sample(row: Row, dataset: DatasetInput, tokenizer: Any, context_length: int) -> Sample:
    """The row as tokens, at most `context_length` of them: a long prompt loses its beginning, then a long answer its
    end, so that something is left to train on."""
    pieces = list(_pieces(row, dataset, tokenizer))
    ids, labels, first = _labelled(pieces, dataset, tokenizer)
    cut = max(0, min(len(labels) - context_length, first - 1))
    window = slice(cut, cut + context_length)
    answer = str(row["label"]) if dataset.format == "text_label" else None
    prompt = encode(tokenizer, pieces[0].text)[-context_length:] if answer is not None else []
    return Sample(ids[window], labels[window], prompt, answer)


def make_parts(row: Row, dataset: DatasetInput, tokenizer: Any, context_length: int) -> list[Sample]:
    """The row's whole text in samples of at most `context_length` tokens. Each begins with the last token of the one
    before it, untrained, so that every token but the text's first is foretold once."""
    ids, labels, _ = _labelled(list(_pieces(row, dataset, tokenizer)), dataset, tokenizer)
    starts = range(0, max(1, len(ids) - 1), context_length - 1)
    parts = []
    for start in starts:
        part = slice(start, start + context_length)
        told = labels[part] if start == 0 else [UNTRAINED, *labels[part][1:]]
        parts.append(Sample(ids[part], told, [], share=1 / len(starts)))
    return parts


def _labelled(pieces: list[Piece], dataset: DatasetInput, tokenizer: Any) -> tuple[list[int], list[int], int]:
    """(token ids, their labels, place of the first that is trained)."""
    encoded = tokenizer(
        "".join(piece.text for piece in pieces),
        add_special_tokens=not has_template(tokenizer) or dataset.format == "text",
        return_offsets_mapping=True,
        verbose=False,  # the caller minds the model's context
    )
    spans = list(_trained_spans(pieces, tokenizer.eos_token or ""))
    labels = [
        token if any(start < stop and start < high and stop > low for low, high in spans) else UNTRAINED
        for token, (start, stop) in zip(encoded["input_ids"], encoded["offset_mapping"], strict=True)
    ]
    first = next((index for index, label in enumerate(labels) if label != UNTRAINED), None)
    if first is None:
        raise invalid("it holds nothing to train on.")
    return encoded["input_ids"], labels, first


def _pieces(row: Row, dataset: DatasetInput, tokenizer: Any) -> Iterator[Piece]:
    end = tokenizer.eos_token or ""
    if dataset.format == "text":
        yield Piece(str(row["text"]) + end, True)
    elif dataset.format == "messages":
        yield from _conversation(row["messages"], tokenizer)
    elif dataset.format == "prompt_completion":
        prompt, completion = str(row["prompt"]), str(row["completion"])
        if has_template(tokenizer):
            yield from _conversation([_message("user", prompt), _message("assistant", completion)], tokenizer)
        else:
            yield from (Piece(prompt, False), Piece(completion + end, True))
    else:
        text, label = str(row["text"]), str(row["label"])
        if has_template(tokenizer):
            asked = label_messages(text, dataset.labels)
            yield from _conversation([*asked, _message("assistant", label)], tokenizer)
        else:
            yield Piece(f"{label_instruction(dataset.labels)}\n\nText: {text}\nClass:", False)
            yield Piece(f" {label}{end}", True)


def _conversation(messages: list[Message], tokenizer: Any) -> Iterator[Piece]:
    """Pieces of a conversation up to its last assistant turn: every assistant turn is trained where the template adds
    turns at the end only, else the last one."""
    last = max((i for i, message in enumerate(messages) if message["role"] == "assistant"), default=None)
    if last is None:
        raise invalid("no message has the role assistant, so there is nothing to train on.")
    messages = messages[: last + 1]
    if not has_template(tokenizer):
        messages = [*messages[:-1], _message("assistant", messages[-1]["content"] + (tokenizer.eos_token or ""))]
    whole = render(tokenizer, messages, answer_next=False)
    done, pieces = 0, []
    for index, message in enumerate(messages):
        if message["role"] != "assistant" or (index == 0 and has_template(tokenizer)):
            continue
        head = render(tokenizer, messages[:index], answer_next=True)
        turn = render(tokenizer, messages[: index + 1], answer_next=False)
        if not (turn.startswith(head) and whole.startswith(turn)):
            break
        pieces += [Piece(whole[done : len(head)], False), Piece(whole[len(head) : len(turn)], True)]
        done = len(turn)
    if done < len(whole):
        asked = render(tokenizer, messages[:-1], answer_next=True)
        head = os.path.commonprefix([whole, asked])  # noqa: RUF071 - characters, as it does
        pieces = [Piece(head, False), Piece(whole[len(head) :], True)]
    yield from pieces


def _trained_spans(pieces: list[Piece], end: str) -> Iterator[tuple[int, int]]:
    """Where the trained text starts and stops. White space a template puts after the end token `end` isn't trained:
    the model stops at the token and never writes it."""
    start = 0
    for piece in pieces:
        stop = start + len(piece.text)
        if piece.trained:
            said = piece.text.rstrip()
            yield start, start + len(said) if end and said.endswith(end) else stop
        start = stop


def _message(role: str, content: str) -> Message:
    return {"role": role, "content": content}
