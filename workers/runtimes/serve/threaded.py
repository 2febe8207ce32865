"""An engine whose answers one thread of this process makes: how it begins, refuses, drains, fails and ends.

Knows nothing of how an answer is made.
"""

import threading
import traceback
from collections.abc import Sequence
from typing import Any

from workers.runtimes.serve.engine import Broken, Refused, Stream
from workers.runtimes.serve.words import Words


class Threaded(Words):
    """What the thread shares with the event loop is read and written under `_changed` alone. An engine starts the
    thread once it is made, has `_work` to do in it until `_closed`, and `_give_up` for what is left then."""

    def __init__(self, tokenizer: Any) -> None:
        super().__init__(tokenizer)
        self.failure: Exception | None = None
        self._draining = self._closed = False
        self._changed = threading.Condition()
        self._thread = threading.Thread(target=self._run, name="generate", daemon=True)

    def drain(self) -> None:
        """Refuse what is new; go on with what was begun."""
        with self._changed:
            self._draining = True

    def close(self) -> None:
        """Break off what still runs, with a word to who waits."""
        with self._changed:
            self._draining = self._closed = True
            self._changed.notify()
        self._thread.join()

    def _work(self) -> None:
        """Make answers until closed."""
        raise NotImplementedError

    def _give_up(self, why: str) -> Sequence[Stream]:
        """Forget all that was begun or waits; the streams that are to hear why."""
        raise NotImplementedError

    def _refuse_if_over(self) -> None:
        if self.failure:
            raise Refused(f"The model failed ({self.failure}).", "failed")
        if self._draining:
            raise Refused("This launch is stopping and begins no new answer.", "stopping")

    def _run(self) -> None:
        why = "This launch was stopped before the answer's end."
        try:
            self._work()
        except Exception as error:
            traceback.print_exc()
            self.failure = error
            why = f"The model failed ({type(error).__name__}: {error})."
        with self._changed:
            left = self._give_up(why)
        Stream.hand_over([(stream, Broken(why)) for stream in left])
