"""From a growing row of tokens to pieces of text that are final: whole characters, no half stop string.

Knows nothing of models or of HTTP.
"""

from collections.abc import Callable, Sequence

BROKEN = "\ufffd"
"""What a decoder writes for a character whose last bytes are still to come."""


class Unfolding:
    """Decodes tokens as they come.

    `decode` turns token ids into text. Text is held back while it ends in half a character, or in what may become one
    of the stop strings. After a stop string nothing more is said and `stopped` is true.
    """

    def __init__(self, decode: Callable[[list[int]], str], stop: Sequence[str] = ()) -> None:
        self._decode, self._stop = decode, [text for text in stop if text]
        self._tokens: list[int] = []
        self._start = 0  # tokens before it only give context for decoding
        self._read = 0  # tokens before it have been turned into text
        self._held = ""
        self.stopped = False

    def add(self, token: int) -> str:
        """The text that became final with this token; often one word, sometimes nothing."""
        if self.stopped:
            return ""
        self._tokens.append(token)
        new = self._new_text()
        if new.endswith(BROKEN):
            return ""
        self._start, self._read = self._read, len(self._tokens)
        return self._release(new, final=False)

    def finish(self) -> str:
        """What was held back, when no more tokens come."""
        if self.stopped:
            return ""
        return self._release(self._new_text(), final=True)

    def _new_text(self) -> str:
        """Text of the tokens not yet read. Decoded beside the ones before, as some decoders drop a first space."""
        known = self._decode(self._tokens[self._start : self._read])
        return self._decode(self._tokens[self._start :])[len(known) :]

    def _release(self, new: str, final: bool) -> str:
        text = self._held + new
        found = [at for at in (text.find(stop) for stop in self._stop) if at >= 0]
        if found:
            self.stopped, self._held = True, ""
            return text[: min(found)]
        keep = 0 if final else max((_overlap(text, stop) for stop in self._stop), default=0)
        self._held = text[len(text) - keep :]
        return text[: len(text) - keep]


def _overlap(text: str, stop: str) -> int:
    """Length of the longest end of `text` that `stop` begins with."""
    for length in range(min(len(text), len(stop) - 1), 0, -1):
        if stop.startswith(text[-length:]):
            return length
    return 0
