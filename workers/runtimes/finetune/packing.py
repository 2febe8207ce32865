"""What a batch is made of: samples, pairs of answers, or packs of samples in one sequence, none of which attends to
another.

A batch of packs has position ids that begin at 0 with each sample and no attention mask: Transformers' mask then keeps
the samples apart (`find_packed_sequence_indices`, for sdpa, eager, flex and flash attention alike). Knows nothing of
files or trainers.
"""

from bisect import bisect_left, insort
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any

import torch

from workers.runtimes.finetune.pairs import Pair
from workers.runtimes.finetune.samples import UNTRAINED, Sample


@dataclass(frozen=True)
class Pack:
    """Samples that share a sequence."""

    samples: tuple[Sample, ...]

    def __len__(self) -> int:
        return sum(len(sample.input_ids) for sample in self.samples)


Item = Sample | Pair | Pack


def packed(samples: Sequence[Sample], capacity: int) -> list[Pack]:
    """Best fit, decreasing: the longest sample first, each into the fullest pack that still has room for it."""
    room: list[tuple[int, int]] = []  # (tokens left, pack), sorted
    packs: list[list[Sample]] = []
    for sample in sorted(samples, key=lambda sample: len(sample.input_ids), reverse=True):
        length = len(sample.input_ids)
        place = bisect_left(room, (length, -1))
        if place < len(room):
            left, pack = room.pop(place)
        else:
            left, pack = max(capacity, length), len(packs)
            packs.append([])
        packs[pack].append(sample)
        insort(room, (left - length, pack))
    return [Pack(tuple(pack)) for pack in packs]


def as_example(item: Item) -> dict[str, Any]:
    """Token ids and labels as a trainer takes them; a pack's with the lengths of its samples."""
    if isinstance(item, Pair):
        return {"prompt_ids": item.prompt_ids, "chosen_ids": item.chosen_ids, "rejected_ids": item.rejected_ids}
    if isinstance(item, Sample):
        return {"input_ids": item.input_ids, "labels": item.labels}
    return {
        "input_ids": list(chain.from_iterable(sample.input_ids for sample in item.samples)),
        # A sample's first token is not foretold by the sample before it.
        "labels": list(chain.from_iterable([UNTRAINED, *sample.labels[1:]] for sample in item.samples)),
        "seq_lengths": [len(sample.input_ids) for sample in item.samples],
    }


def collate(packs: Sequence[dict[str, Any]], pad_id: int) -> dict[str, torch.Tensor]:
    """A batch of packs: input ids, labels, position ids, and `tokens`, how many of them are no padding.

    Each padding token is at position 0, so it attends to itself only.
    """
    lengths = [len(pack["input_ids"]) for pack in packs]
    shape = (len(packs), max(lengths))
    ids, labels = torch.full(shape, pad_id), torch.full(shape, UNTRAINED)
    positions = torch.zeros(shape, dtype=torch.long)
    for row, (pack, length) in enumerate(zip(packs, lengths, strict=True)):
        ids[row, :length] = torch.tensor(pack["input_ids"])
        labels[row, :length] = torch.tensor(pack["labels"])
        positions[row, :length] = torch.cat([torch.arange(one) for one in pack["seq_lengths"]])
    return {"input_ids": ids, "labels": labels, "position_ids": positions, "tokens": torch.tensor(sum(lengths))}
