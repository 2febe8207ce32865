"""The model by `generate` alone, without a server: `python -m tests.bench.serving.plain MODEL`, then one way and one
edition of the conversations a line.

Ways: `sequential`, one conversation after another; `static`, all as one padded batch. Answers each line with one of
JSON, an Answered's fields.
"""

import json
import sys
import time
from dataclasses import asdict
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from tests.bench.serving.asks import Answered, conversations

COUNT = 16


def main(folder: str, count: int) -> None:
    tokenizer = AutoTokenizer.from_pretrained(folder, padding_side="left")
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    print("ready", flush=True)
    for line in sys.stdin:
        way, edition = line.split()
        asked = conversations(count, int(edition))
        prompts = [
            tokenizer.apply_chat_template(one.messages, add_generation_prompt=True, tokenize=False) for one in asked
        ]
        began, cpu = time.perf_counter(), time.process_time()
        texts: list[str] = []
        latencies: list[float] = []
        tokens = 0
        batches = [[place] for place in range(count)] if way == "sequential" else [list(range(count))]
        for batch in batches:
            made = _generate(model, tokenizer, [prompts[place] for place in batch], [asked[p].tokens for p in batch])
            texts += [tokenizer.decode(ids, skip_special_tokens=True) for ids in made]
            tokens += sum(len(ids) for ids in made)
            latencies += [time.perf_counter() - began] * len(batch)
        took = time.perf_counter() - began
        answered = Answered(took, time.process_time() - cpu, tokens, tuple(latencies), tuple(texts))
        print(json.dumps(asdict(answered)), flush=True)


def _generate(model: Any, tokenizer: Any, prompts: list[str], most: list[int]) -> list[list[int]]:
    """Greedy answers, each cut after its own number of tokens or its end."""
    given = tokenizer(prompts, return_tensors="pt", padding=True, add_special_tokens=False)
    with torch.inference_mode():
        made = model.generate(
            **given, max_new_tokens=max(most), do_sample=False, pad_token_id=tokenizer.pad_token_id,
            temperature=None, top_p=None, top_k=None,
        )  # fmt: skip
    ends = model.generation_config.eos_token_id
    ends = set(ends) if isinstance(ends, list) else {ends}
    answers = []
    for row, limit in zip(made[:, given["input_ids"].shape[1] :].tolist(), most, strict=True):
        row = row[:limit]
        end = next((place + 1 for place, token in enumerate(row) if token in ends), len(row))
        answers.append(row[:end])
    return answers


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]) if len(sys.argv) > 2 else COUNT)
