"""What the output head and the loss take: TRL's fused head never makes all scores at once, but works tile by tile.

Knows nothing of the layers below. Source: TRL 1.16's trl/kernels/chunked_logprob.py, whose tiles are 4,096 tokens by
32,768 entries of the vocabulary; on a GPU a Triton kernel works within the tile, elsewhere PyTorch makes copies in
fp32: scores, scaled scores, their logarithms and exponentials, the gradient, and two steps of it, with a byte for
which is the target.
"""

from dataclasses import dataclass

from portal.planner.shapes import ModelShape

TILE_TOKENS, TILE_WORDS = 4096, 32768
COPIES = 7 * 4 + 1
"""Bytes per score of a tile that PyTorch's operations take beside the tile itself."""


@dataclass(frozen=True)
class Loss:
    """Bytes. `kept` from the end of the forward pass; `tile` and `sums` while the loss is taken back; `after`, once the
    tiles are gone and the gradients are cast."""

    kept: int
    tile: int
    sums: int
    after: int
    tokens: int
    words: int
    copied: bool


def loss(shape: ModelShape, tokens: int, width: int, full: bool, fused: bool, split: int) -> Loss:
    """For `tokens` that count. `fused`: a Triton kernel does it. `split`: devices that share the vocabulary."""
    hidden = shape.hidden
    norm = tokens * (hidden * (4 + (width if full and shape.norm == "rms" else 0)) + 4)
    if not shape.logits:
        return Loss(norm, 0, 0, 0, 0, 0, False)
    vocab = -(-shape.vocab // split)
    rows, words = min(tokens, TILE_TOKENS), min(vocab, TILE_WORDS)
    tile = rows * TILE_WORDS * width
    if not fused:
        products = 4 * (rows * words + max(rows, words) * hidden) if width == 2 else 0
        tile += max(COPIES * rows * words, products)
    sums = 4 * tokens * hidden + (4 * vocab * hidden if full else 0)
    after = rows * TILE_WORDS * width + sums
    if width == 2:
        after += width * (tokens * hidden + (vocab * hidden if full else 0))
    return Loss(norm + tokens * (width * hidden + 24), tile, sums, after, rows, words, not fused)
