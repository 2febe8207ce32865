"""The fine-tune that somebody would write by hand with the same trainer: `python bare.py SETTINGS.json`.

Prints one JSON line: Unix seconds at the end of each optimizer step, and the tokens seen after it. Imports nothing of
the project.
"""

import json
import sys
import time
from pathlib import Path
from typing import Any

from datasets import load_dataset
from peft import LoraConfig
from transformers import AutoModelForCausalLM, AutoTokenizer, PrinterCallback, TrainerCallback, set_seed
from trl import SFTConfig, SFTTrainer


class Clock(TrainerCallback):  # type: ignore[misc]  # the library is untyped
    """Remembers when each step ended."""

    def __init__(self) -> None:
        self.at: list[float] = []
        self.tokens: list[float] = []

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self.at.append(time.time())

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, Any] | None = None, **_: Any) -> None:
        if logs and "loss" in logs:
            self.tokens.append(float(logs["num_tokens"]))


def as_chat(row: dict[str, str]) -> dict[str, list[dict[str, str]]]:
    """What the model's template takes."""
    return {
        "prompt": [{"role": "user", "content": row["prompt"]}],
        "completion": [{"role": "assistant", "content": row["completion"]}],
    }


def main(given: dict[str, Any]) -> None:
    set_seed(given["seed"])
    clock = Clock()
    trainer = SFTTrainer(
        model=AutoModelForCausalLM.from_pretrained(given["model"]),
        args=SFTConfig(
            output_dir=given["scratch"],
            max_steps=given["max_steps"],
            per_device_train_batch_size=given["micro_batch"],
            learning_rate=given["learning_rate"],
            lr_scheduler_type="cosine",
            warmup_steps=0.03,
            adam_beta2=0.95,
            max_grad_norm=1.0,
            max_length=given["context_length"],
            seed=given["seed"],
            data_seed=given["seed"],
            bf16=False,
            gradient_checkpointing=False,
            logging_steps=1,
            save_strategy="no",
            report_to="none",
            disable_tqdm=True,
            use_cpu=True,
            dataloader_pin_memory=False,
        ),
        train_dataset=load_dataset("json", data_files=given["rows"], split="train").map(as_chat),
        processing_class=AutoTokenizer.from_pretrained(given["model"]),
        peft_config=LoraConfig(r=16, lora_alpha=32, target_modules="all-linear", task_type="CAUSAL_LM"),
        callbacks=[clock],
    )
    trainer.remove_callback(PrinterCallback)
    trainer.train()
    print(json.dumps({"at": clock.at, "tokens": clock.tokens}))


if __name__ == "__main__":
    main(json.loads(Path(sys.argv[1]).read_text()))
