"""Text that is sent out while it is made: whole characters, and nothing of a stop string."""

import pytest

from workers.runtimes.serve.text import Unfolding


def decode(tokens: list[int]) -> str:
    """A tokenizer whose tokens are bytes."""
    return bytes(tokens).decode("utf-8", errors="replace")


def unfold(text: str, stop: tuple[str, ...] = ()) -> tuple[list[str], bool]:
    unfolding = Unfolding(decode, stop)
    pieces = [unfolding.add(byte) for byte in text.encode()]
    return [*pieces, unfolding.finish()], unfolding.stopped


@pytest.mark.parametrize("text", ["plain", "naïve café", "日本語", "🙂 ok", ""])
def test_the_pieces_make_the_text_and_hold_no_half_character(text: str) -> None:
    pieces, stopped = unfold(text)
    assert "".join(pieces) == text
    assert not any("\ufffd" in piece for piece in pieces)
    assert not stopped


@pytest.mark.parametrize(
    ("text", "stop", "said"),
    [
        ("one two three", ("two",), "one "),
        ("a\n\nb", ("\n\n",), "a"),
        ("ENDLESS END here", ("END ",), "ENDLESS "),
        ("xaab", ("aab",), "x"),
        ("first", ("rst", "fir"), ""),
    ],
)
def test_a_stop_string_ends_the_text_before_it(text: str, stop: tuple[str, ...], said: str) -> None:
    pieces, stopped = unfold(text, stop)
    assert "".join(pieces) == said
    assert stopped


def test_what_only_looked_like_a_stop_string_is_said_in_the_end() -> None:
    pieces, stopped = unfold("almost sto", ("stop",))
    assert "".join(pieces) == "almost sto"
    assert not stopped
