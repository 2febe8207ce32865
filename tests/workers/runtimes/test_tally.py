"""What a launch counts of its answers."""

import asyncio

from workers.runtimes.serve.engine import Ask, Piece, Stream
from workers.runtimes.serve.tally import Tally


def test_a_first_text_that_was_there_before_anybody_read_has_taken_its_time_all_the_same() -> None:
    async def answered() -> Tally:
        tally, stream = Tally(), Stream(Ask([1, 2], max_tokens=1))
        stream.asked_at -= 2
        Stream.hand_over([(stream, Piece("a", 1, "length"))])
        assert [piece.text async for piece in tally.watch(stream)] == ["a"]
        return tally

    tally = asyncio.run(answered())
    assert tally.first_token_s is not None
    assert tally.first_token_s >= 2
    figures = tally.figures()
    assert min(value for name, value in figures.items() if name.startswith(("ttft_s", "latency_s"))) >= 2
