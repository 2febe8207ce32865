"""One GGUF file, read by llama.cpp as it is; answers are made one after the other.

The binding makes one answer at a time, so those that come meanwhile wait. Knows nothing of HTTP.
"""

from collections import deque
from collections.abc import Sequence
from typing import Any

from workers.runtimes.base import Run, invalid, local_path
from workers.runtimes.models import with_padding
from workers.runtimes.serve.engine import Ask, Broken, Piece, Refused, Stream
from workers.runtimes.serve.threaded import Threaded
from workers.runtimes.serve.words import lacking

ALL_LAYERS = -1


def load(run: Run) -> "LlamaCppEngine":
    """Raises RunFailed where the model is no GGUF file, or what is asked for is not done with one."""
    from llama_cpp import Llama
    from transformers import AutoTokenizer

    spec, model = run.launch_spec, run.model
    if model.format != "gguf":
        raise invalid(f"engine: llama_cpp reads GGUF files, and {model.name!r} is none; use transformers.")
    if spec.quantization != "none":
        raise invalid("quantization: a GGUF file is quantized already; use none, or the engine transformers.")
    if run.adapter is not None:
        raise invalid("adapter: llama_cpp takes none that was trained here; use the engine transformers.")
    path = local_path(model.uri, "model.uri")
    llama = Llama(
        str(path),
        n_ctx=spec.context_length,
        n_gpu_layers=ALL_LAYERS if run.device_kind == "cuda" else 0,
        logits_all=False,
        verbose=False,
    )
    run.metric({"model_bytes": float(path.stat().st_size)})
    tokenizer = with_padding(AutoTokenizer.from_pretrained(path.parent, gguf_file=path.name))
    return LlamaCppEngine(llama, tokenizer, spec.context_length, spec.queue)


class LlamaCppEngine(Threaded):
    """`llama`: what `Llama.create_completion` is asked of."""

    most = 1

    def __init__(self, llama: Any, tokenizer: Any, context_length: int, queue: int) -> None:
        super().__init__(tokenizer)
        self.context_length = context_length
        self.lacks = lacking(tokenizer) | {
            "embeddings": "llama.cpp was loaded to make text; launch the model with the engine transformers.",
            "logprobs": "this engine gives none; launch the model with the engine transformers.",
            "response_format": "this engine holds answers to no schema; launch the model with the engine transformers.",
        }
        self._llama, self._queue = llama, queue
        self._waiting: deque[Stream] = deque()
        self._running: Stream | None = None
        self._thread.start()

    def problem_of_schema(self, schema: str) -> str:
        return ""

    def stream(self, ask: Ask) -> Stream:
        with self._changed:
            self._refuse_if_over()
            if self._running is not None and len(self._waiting) >= self._queue:
                raise Refused(f"An answer is being made and {len(self._waiting)} wait; try again shortly.", "full")
            self._waiting.append(Stream(ask))
            self._changed.notify()
            return self._waiting[-1]

    async def embed(self, prompts: Sequence[list[int]]) -> list[list[float]]:
        raise Broken(self.lacks["embeddings"])

    def figures(self) -> dict[str, float]:
        with self._changed:
            return {"running": float(self._running is not None), "queue_depth": len(self._waiting)}

    @property
    def idle(self) -> bool:
        with self._changed:
            return self._running is None and not self._waiting

    def _work(self) -> None:
        while (stream := self._next()) is not None:
            if not stream.left and not self._answer(stream):
                break

    def _give_up(self, why: str) -> list[Stream]:
        left = [*([self._running] if self._running else []), *self._waiting]
        self._running, self._waiting = None, deque()
        return left

    def _next(self) -> Stream | None:
        with self._changed:
            self._running = None
            self._changed.wait_for(lambda: self._waiting or self._closed)
            if self._closed:
                return None
            self._running = self._waiting.popleft()
            return self._running

    def _answer(self, stream: Stream) -> bool:
        """Whether another may be begun."""
        ask, tokens = stream.ask, 0
        chunks = self._llama.create_completion(
            prompt=list(ask.prompt),
            max_tokens=ask.max_tokens,
            temperature=ask.temperature,
            top_p=ask.top_p,
            top_k=0,
            min_p=0.0,
            repeat_penalty=1.0,
            seed=ask.seed % 2**32,
            stop=list(ask.stop),
            stream=True,
        )
        for chunk in chunks:
            choice = chunk["choices"][0]
            tokens += 1 if choice["text"] else 0
            Stream.hand_over([(stream, Piece(choice["text"], tokens, choice["finish_reason"]))])
            if stream.left or choice["finish_reason"]:
                break
            if self._closed:
                return False
        chunks.close()
        return True
