"""Samples in one sequence are trained as if each were alone."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn.functional import cross_entropy

from tests.workers.runtimes.conftest import Told, finetune_order, write_rows
from workers.runtimes.base import Run
from workers.runtimes.finetune import apart
from workers.runtimes.finetune.apart import keep_apart
from workers.runtimes.finetune.packing import as_example, collate, packed
from workers.runtimes.finetune.samples import UNTRAINED, Sample

CAPACITY = 64
Finetuned = Callable[..., tuple[Run, Told]]


@pytest.fixture(scope="module")
def samples() -> list[Sample]:
    """Of 2 to 40 tokens, the prompt of each untrained."""
    random = torch.Generator().manual_seed(1)
    made = []
    for length in (2, 40, 7, 12, 25, 3, 3, 18, 31, 9):
        ids = torch.randint(5, 400, (length,), generator=random).tolist()
        prompt = length // 3
        made.append(Sample(ids, [UNTRAINED] * prompt + ids[prompt:], []))
    return made


@pytest.mark.parametrize("attention", ["sdpa", "eager", "apart"])
def test_each_samples_loss_is_that_of_the_sample_alone(tiny: Path, samples: list[Sample], attention: str) -> None:
    model = _model(tiny, attention)
    packs = packed(samples, CAPACITY)
    assert len(packs) < len(samples) / 2
    batch = collate([as_example(pack) for pack in packs], pad_id=0)
    assert batch.pop("tokens") == sum(len(sample.input_ids) for sample in samples)
    labels = batch.pop("labels")

    losses = _losses(model(**batch, use_cache=False).logits, labels)
    for row, pack in enumerate(packs):
        start = 0
        for sample in pack.samples:
            stop = start + len(sample.input_ids)
            alone = _losses(model(torch.tensor([sample.input_ids])).logits, torch.tensor([sample.labels]))
            torch.testing.assert_close(losses[row, start : stop - 1], alone[0], rtol=0, atol=1e-5)
            assert losses[row, stop - 1 : stop].sum() == 0  # a sample's last token foretells nothing
            start = stop
        assert losses[row, start:].sum() == 0


def test_samples_apart_give_the_gradients_of_samples_under_a_mask(tiny: Path, samples: list[Sample]) -> None:
    batch = collate([as_example(pack) for pack in packed(samples, CAPACITY)], pad_id=0)
    del batch["tokens"]
    losses, gradients = [], []
    for attention in ("sdpa", "apart"):
        model = _model(tiny, attention)
        loss = model(**batch, use_cache=False).loss
        loss.backward()
        losses.append(float(loss))
        gradients.append({name: parameter.grad for name, parameter in model.named_parameters()})
    assert losses[1] == pytest.approx(losses[0], abs=1e-6)
    for name, gradient in gradients[0].items():
        torch.testing.assert_close(gradients[1][name], gradient, rtol=1e-4, atol=1e-6)


def test_a_batch_that_is_no_packs_is_attended_to_as_ever(tiny: Path) -> None:
    ids = torch.arange(1, 25).view(2, 12)
    mask = torch.tensor([[1] * 12, [1] * 7 + [0] * 5])
    given = {"input_ids": ids, "attention_mask": mask}
    as_ever, apart = (_model(tiny, name)(**given, use_cache=False).logits for name in ("sdpa", "apart"))
    assert torch.equal(as_ever, apart)


def _model(tiny: Path, attention: str) -> Any:
    """In training, by the attention of that name; "apart": as a fine-tune on packs has it."""
    from transformers import AutoModelForCausalLM

    named = "sdpa" if attention == "apart" else attention
    model = AutoModelForCausalLM.from_pretrained(tiny, dtype=torch.float32, attn_implementation=named).train()
    if attention == "apart":
        keep_apart(model)
        assert model.config._attn_implementation == apart.NAME
    return model


def _losses(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """The loss of each token that foretells the one after it."""
    return cross_entropy(logits[:, :-1].transpose(1, 2), labels[:, 1:], reduction="none", ignore_index=UNTRAINED)


@pytest.mark.parametrize("streaming", ["off", "on"])
def test_a_run_on_packs_has_the_loss_and_the_tokens_of_one_on_samples(
    tiny: Path, tmp_path: Path, finetuned: Finetuned, streaming: str
) -> None:
    """One step on all of the rows, so the mean is over the same tokens."""
    rows = [{"prompt": f"Where is {n}?", "completion": "It is on its way. " * (1 + n % 4)} for n in range(12)]
    path = write_rows(tmp_path / "rows.jsonl", rows)
    data = {"name": "d", "format": "prompt_completion", "train_uri": str(path), "sha256": "0"}
    figures = []
    for packing in (False, True):
        order = finetune_order(
            tiny,
            data,
            max_steps=1,
            micro_batch=1,
            gradient_accumulation=3 if packing else 12,
            packing=packing,
            data={"streaming": streaming, "workers": 1},
        )
        _, told = finetuned(order, f"packing-{packing}")
        figures.append((told.metric("loss")[0], told.metric("grad_norm")[0], told.result("training")["tokens"]))
    (loss, norm, tokens), (packed_loss, packed_norm, packed_tokens) = figures
    assert packed_loss == pytest.approx(loss, abs=1e-5)
    assert packed_norm == pytest.approx(norm, rel=1e-3)
    assert packed_tokens == tokens


@given(st.lists(st.integers(1, 20), min_size=1, max_size=60))
def test_packs_hold_every_sample_once_and_no_two_would_fit_into_one(lengths: list[int]) -> None:
    packs = packed([Sample([number] * length, [], []) for number, length in enumerate(lengths)], 20)
    held = [sample.input_ids[0] for pack in packs for sample in pack.samples]
    assert sorted(held) == list(range(len(lengths)))
    assert max(map(len, packs)) <= 20
    assert sum(sorted(map(len, packs))[:2]) > 20 or len(packs) == 1
