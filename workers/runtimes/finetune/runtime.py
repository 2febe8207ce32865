"""The recipe of a fine-tune, top to bottom: load, score, train, score again, save.

Knows nothing of who ordered it. One process on one device.
"""

import json
import time
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from transformers import PrinterCallback, set_seed

from workers.contract.measured import MEASURED
from workers.runtimes.base import Pace, Run, invalid, local_path
from workers.runtimes.finetune.evaluation import Score, evaluate
from workers.runtimes.finetune.manifest import write_manifest
from workers.runtimes.finetune.samples import Sample, make_samples, read_rows
from workers.runtimes.finetune.trainer import Narrator, WatchedTrainer, as_dataset, lora_config, trainer_settings
from workers.runtimes.finetune.zero import deepspeed_config, prepare_one_process
from workers.runtimes.measuring import Meter
from workers.runtimes.models import check_context, choose_dtype, load_config, load_model

ADAPTER_DIR = "adapter"
DS_CONFIG_FILE = "ds_config.json"


def finetune(run: Run) -> None:
    """Leave output/adapter/ (PEFT, safetensors), output/manifest.json and, with DeepSpeed, output/ds_config.json."""
    spec, dataset = run.finetune_spec, run.dataset
    dtype = choose_dtype(spec.precision, run.device_kind)
    train_rows = read_rows(local_path(dataset.train_uri, "dataset.train_uri"))
    test_rows = []
    if spec.evaluate and dataset.test_uri:
        test_rows = read_rows(local_path(dataset.test_uri, "dataset.test_uri"), spec.eval_limit)
    check_context(spec.context_length, load_config(run.model))
    set_seed(spec.seed)

    run.phase("loading model")
    ds_config = deepspeed_config(spec, dtype, run.device_kind)
    zero_3 = spec.deepspeed is not None and spec.deepspeed.zero_stage == 3
    if ds_config is not None:
        if zero_3 and run.model.format == "gguf":
            raise invalid("deepspeed.zero_stage: 3 needs a safetensors model; convert the GGUF file, or use stage 2.")
        (run.output_dir / DS_CONFIG_FILE).write_text(json.dumps(ds_config, indent=2) + "\n")
        prepare_one_process(run.device_kind)
    meter = Meter(run.order.devices)
    settings = trainer_settings(spec, run.run_dir / "trainer", dtype, run.device_kind, ds_config)
    model, tokenizer = load_model(run.model, dtype, run.device_kind)
    train = make_samples(train_rows, dataset, tokenizer, spec.context_length)
    test = make_samples(test_rows, dataset, tokenizer, spec.context_length)
    set_seed(spec.seed)
    narrator = Narrator(run, meter)
    trainer = WatchedTrainer(
        meter,
        model=model,
        args=settings,
        train_dataset=as_dataset(train),
        processing_class=tokenizer,
        peft_config=lora_config(spec, model),
        callbacks=[narrator],
    )
    trainer.remove_callback(PrinterCallback)  # the narrator says the same, in events
    results: dict[str, dict[str, Any]] = {}

    if test:
        run.phase("evaluating before")
        with whole_parameters(trainer.model.parameters(), zero_3):
            score = _evaluate(run, trainer.model, tokenizer, test)
        results["test_before"] = score.values()
        run.result("test_before", score.values())

    run.phase("training")
    meter.begin()
    start = time.monotonic()
    trainer.train()
    measured = meter.measured()
    results["training"] = {
        "loss_first": narrator.losses[0],
        "loss_last": narrator.losses[-1],
        "steps": narrator.steps,
        "seconds": round(time.monotonic() - start, 3),
        "tokens": int(narrator.tokens),
        "trainable_parameters": _trainable(trainer.model),
    }
    run.result("training", results["training"])
    if measured is not None:
        run.result(MEASURED, measured.model_dump(mode="json"))

    if test:
        run.phase("evaluating after")
        score = _evaluate(run, trainer.model, tokenizer, test)
        results["test_after"] = score.values()
        run.result("test_after", score.values())

    run.phase("saving adapter")
    save_adapter(run, trainer.model, zero_3)
    write_manifest(run, str(dtype).removeprefix("torch."), len(train), ds_config, results)
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()


def save_adapter(run: Run, model: Any, sharded: bool) -> None:
    """Save output/adapter/: safetensors and PEFT's config, which names the base model and no path of this node."""
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    for config in model.peft_config.values():
        config.base_model_name_or_path = run.model.name
    folder = run.output_dir / ADAPTER_DIR
    with whole_parameters(trained, sharded):
        model.save_pretrained(folder, safe_serialization=True, save_embedding_layers=False)
    (folder / "README.md").unlink(missing_ok=True)  # PEFT's empty model card; the manifest says more


def whole_parameters(parameters: Any, sharded: bool) -> AbstractContextManager[Any]:
    """Within it, parameters that ZeRO 3 has sharded are whole."""
    if not sharded:
        return nullcontext()
    import deepspeed

    gathered: AbstractContextManager[Any] = deepspeed.zero.GatheredParameters(list(parameters))
    return gathered


def _evaluate(run: Run, model: Any, tokenizer: Any, samples: list[Sample]) -> Score:
    pace = Pace()
    return evaluate(
        model,
        tokenizer,
        samples,
        run.dataset.labels if run.dataset.format == "text_label" else (),
        batch_size=max(8, run.finetune_spec.micro_batch),
        progress=lambda done, total: run.progress(done, total, "rows", pace.eta_s(done, total)),
    )


def _trainable(model: Any) -> int:
    """Trained parameters; ZeRO 3 keeps the true size of a shard's parameter in ds_numel."""
    return sum(getattr(p, "ds_numel", p.numel()) for p in model.parameters() if p.requires_grad)
