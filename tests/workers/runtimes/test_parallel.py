"""A model spread over processes, by its tensors or in a pipeline, trains as it does in one."""

from pathlib import Path
from typing import Any

import pytest
from transformers import AutoModelForCausalLM

from tests.workers.runtimes.conftest import Child, Told, finetune_order, read_events
from workers.contract.finetune import FinetuneSpec
from workers.contract.order import Order
from workers.contract.reasons import Reason
from workers.runtimes.base import Emitter, Run, RunFailed
from workers.runtimes.finetune import feed
from workers.runtimes.finetune.feed import Rank, data_rank
from workers.runtimes.finetune.pipeline.stages import check_family, checkpoint_name
from workers.runtimes.finetune.tensor import sharding

STEPS = 4


def order_of(model: Path, devices: int = 1, **spec: Any) -> dict[str, Any]:
    """A full fine-tune whose gradients are clipped and whose batches are padded; one global batch, however spread."""
    recipe = {
        "method": "full",
        "max_steps": STEPS,
        "gradient_accumulation": 2,
        "learning_rate": 1e-3,
        "max_grad_norm": 0.5,
        "weight_decay": 0.1,
        "data": {"streaming": "on"},
    }
    order = finetune_order(model, **{**recipe, **spec})
    return {**order, "devices": [{"kind": "cpu", "index": index} for index in range(devices)]}


@pytest.fixture(scope="module")
def whole(tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Told]:
    """(run directory, what it told) of one process."""
    from workers.runtimes.finetune.runtime import finetune

    run_dir = tmp_path_factory.mktemp("whole")
    with (run_dir / "events").open("wb") as file:
        finetune(Run(Order.model_validate(order_of(tiny)), run_dir, Emitter(file.fileno())))
    return run_dir, read_events(run_dir / "events")


@pytest.mark.parametrize("axis", ["tensor", "pipeline"])
def test_a_spread_model_trains_as_one_process_does(
    tiny: Path, tmp_path: Path, whole: tuple[Path, Told], axis: str
) -> None:
    run_dir, alone = whole
    spread = order_of(tiny, 2, parallel={axis: 2}, resources={"devices": 2})
    child = Child(tmp_path / "spread", spread)
    assert child.wait(240) == 0, child.log()

    told = child.told()
    assert told.metric("loss") == pytest.approx(alone.metric("loss"), rel=1e-4)
    assert told.metric("learning_rate") == alone.metric("learning_rate")
    assert told.result("test_before") == pytest.approx(alone.result("test_before"), rel=1e-4)
    assert told.result("test_after") == pytest.approx(alone.result("test_after"), rel=1e-3)
    for figure in ("tokens", "steps", "trainable_parameters"):
        assert told.result("training")[figure] == alone.result("training")[figure]
    two, one = (
        AutoModelForCausalLM.from_pretrained(path / "output/model").state_dict() for path in (child.run_dir, run_dir)
    )
    assert two.keys() == one.keys()
    assert max(float((two[name] - one[name]).abs().max()) for name in one) < 1e-4


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
