"""Conversations of mixed lengths, all asked at once of a server that speaks OpenAI's chat API. Seconds and tokens."""

import json
import random
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import httpx
import psutil

WORDS = [
    "parcel", "refund", "invoice", "password", "kettle", "order", "branch", "river", "theory", "planet", "number",
    "history", "engine", "garden", "winter", "market", "teacher", "signal", "coffee", "bridge",
]  # fmt: skip


@dataclass(frozen=True)
class Asked:
    """One conversation and the most tokens of its answer."""

    text: str
    tokens: int

    @property
    def messages(self) -> list[dict[str, str]]:
        return [{"role": "user", "content": self.text}]


@dataclass(frozen=True)
class Answered:
    """What a set of conversations took, `cpu_s` of the process that holds the model. `latencies`: seconds from the
    moment at which all were asked; `texts`: by conversation."""

    seconds: float
    cpu_s: float
    tokens: int
    latencies: tuple[float, ...]
    texts: tuple[str, ...]


def conversations(count: int, edition: int) -> list[Asked]:
    """Prompts of 3 to 40 words and answers of 8 to 64 tokens: the lengths are the same in all editions, the words are
    not, so that who remembers what it has read gains nothing from the rounds before."""
    lengths, words = random.Random(5), random.Random(edition)
    asked = []
    for _ in range(count):
        told = words.choices(WORDS, k=lengths.randint(3, 40))
        asked.append(Asked("Tell a story about " + " and ".join(told), lengths.randint(8, 64)))
    return asked


def all_at_once(client: httpx.Client, model: str, asked: Sequence[Asked], holder: int) -> Answered:
    """Each streamed to a thread of its own. `holder`: number of the process that holds the model."""
    latencies, texts, tokens = [0.0] * len(asked), [""] * len(asked), [0] * len(asked)
    failed: list[BaseException] = []
    began, cpu = time.perf_counter(), cpu_s(holder)

    def one(place: int) -> None:
        try:
            texts[place], tokens[place] = _streamed(client, model, asked[place])
        except BaseException as error:
            failed.append(error)
        latencies[place] = time.perf_counter() - began

    threads = [threading.Thread(target=one, args=[place]) for place in range(len(asked))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if failed:
        raise failed[0]
    took = time.perf_counter() - began
    return Answered(took, cpu_s(holder) - cpu, sum(tokens), tuple(latencies), tuple(texts))


def _streamed(client: httpx.Client, model: str, asked: Asked) -> tuple[str, int]:
    body = {
        "model": model, "messages": asked.messages, "max_tokens": asked.tokens, "temperature": 0, "stream": True,
        "stream_options": {"include_usage": True},
    }  # fmt: skip
    text, tokens, pieces = "", 0, 0
    with client.stream("POST", "/v1/chat/completions", json=body) as answer:
        if answer.status_code != 200:
            raise AssertionError(f"{answer.status_code}: {answer.read()[:300]!r}")
        for line in answer.iter_lines():
            if not line.startswith("data: ") or line == "data: [DONE]":
                continue
            chunk: dict[str, Any] = json.loads(line.removeprefix("data: "))
            tokens = (chunk.get("usage") or {}).get("completion_tokens") or tokens
            for choice in chunk.get("choices", ()):
                if piece := choice["delta"].get("content"):
                    text, pieces = text + piece, pieces + 1
    return text, tokens or pieces


def cpu_s(pid: int) -> float:
    """Of the process, so far."""
    times = psutil.Process(pid).cpu_times()
    return float(times.user + times.system)
