"""A model spread over processes, by its tensors or in a pipeline: who is fed what, and what can't be spread.

That it trains as it does in one process is test_one_curve's.
"""

from pathlib import Path

import pytest
from transformers import AutoModelForCausalLM

from workers.contract.finetune import FinetuneSpec
from workers.contract.reasons import Reason
from workers.runtimes.base import RunFailed
from workers.runtimes.finetune import feed
from workers.runtimes.finetune.feed import Rank, data_rank
from workers.runtimes.finetune.pipeline.stages import check_family, checkpoint_name
from workers.runtimes.finetune.tensor import sharding


@pytest.mark.parametrize(
    ("parallel", "ranks"),
    [
        ({"tensor": 2}, [0, 0, 1, 1]),  # neighbours share tensors
        ({"pipeline": 2}, [0, 1, 0, 1]),  # neighbours share a stage
        ({"tensor": 4}, [0, 0, 0, 0]),
        ({}, [0, 1, 2, 3]),
    ],
)
def test_processes_of_one_copy_are_fed_alike(
    monkeypatch: pytest.MonkeyPatch, parallel: dict[str, int], ranks: list[int]
) -> None:
    resources = {"devices": 4}
    spec = FinetuneSpec.model_validate(
        {"model": "m", "dataset": "d", "method": "full", "parallel": parallel, "resources": resources}
    )
    monkeypatch.setattr(feed, "world_size", lambda: 4)
    for number, expected in enumerate(ranks):
        monkeypatch.setattr(feed, "rank", lambda number=number: number)
        assert data_rank(spec) == Rank(expected, max(ranks) + 1)


def test_parameters_of_a_pipeline_have_the_names_of_a_checkpoint(tiny: Path) -> None:
    layers = 2
    staged = [
        "tied_modules.embedding.weight", "1.layer.self_attn.q_proj.weight", "2.layer.mlp.up_proj.weight", "3.weight",
        "4.weight",
    ]  # fmt: skip
    named = [checkpoint_name(name, layers) for name in staged]
    assert named == [
        "model.embed_tokens.weight", "model.layers.0.self_attn.q_proj.weight", "model.layers.1.mlp.up_proj.weight",
        "model.norm.weight", "lm_head.weight",
    ]  # fmt: skip
    assert set(named) <= AutoModelForCausalLM.from_pretrained(tiny).state_dict().keys()


def test_a_model_that_cannot_be_spread_so_is_refused(tiny: Path) -> None:
    config = AutoModelForCausalLM.from_pretrained(tiny).config
    with pytest.raises(RunFailed) as refused:
        check_family(config, 3)
    assert refused.value.reason == Reason.INVALID_INPUT
    assert refused.value.detail.startswith("parallel.pipeline: 3 stages are more than this model's 2 layers")

    spec = {"model": "m", "dataset": "d", "method": "full", "parallel": {"tensor": 4}, "resources": {"devices": 4}}
    with pytest.raises(RunFailed) as refused:
        sharding(FinetuneSpec.model_validate(spec), config)
    assert "4 devices can't share this model's 2 key-value heads" in refused.value.detail

    config.model_type = "gemma"
    with pytest.raises(RunFailed) as refused:
        check_family(config, 2)
    assert "a model of type gemma can't be cut into stages" in refused.value.detail
