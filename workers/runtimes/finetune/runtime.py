"""The recipe of a fine-tune, top to bottom: load, score, train, score again, save; or go on from a checkpoint.

Knows nothing of who ordered it. Of several processes each follows it, one a device; the first one writes and scores.
"""

import json
from functools import partial
from pathlib import Path
from typing import Any

import torch
from transformers import PrinterCallback, set_seed

from workers.contract.export import GGUF_FILE
from workers.contract.launch import Quantization
from workers.contract.objectives import mismatch
from workers.runtimes.base import Pace, Run, invalid
from workers.runtimes.finetune.apart import keep_apart
from workers.runtimes.finetune.checkpoints import Results, Saver
from workers.runtimes.finetune.evaluation import evaluate
from workers.runtimes.finetune.feed import Feed, data_rank, is_streamed
from workers.runtimes.finetune.manifest import write_manifest
from workers.runtimes.finetune.merged import whole_model, write_whole_model
from workers.runtimes.finetune.numerics import attend, decide, facts
from workers.runtimes.finetune.packing import collate, packed
from workers.runtimes.finetune.preferences import PreferenceTrainer
from workers.runtimes.finetune.reshaping import reshaped
from workers.runtimes.finetune.samples import make_samples
from workers.runtimes.finetune.shards import find_shards, read_rows
from workers.runtimes.finetune.tensor import sharding, sharing
from workers.runtimes.finetune.to_gguf import refusal, write_gguf
from workers.runtimes.finetune.trained import choose_trained, write_trained
from workers.runtimes.finetune.trainer import AnswerTrainer, Narrator, as_dataset, trainer_settings
from workers.runtimes.finetune.training import tell, train_measured
from workers.runtimes.finetune.zero import deepspeed_config, prepare_deepspeed, whole_parameters
from workers.runtimes.measuring import Meter
from workers.runtimes.models import check_context, load_config, load_model
from workers.runtimes.team import world_size

ADAPTER_DIR, MODEL_DIR = "adapter", "model"
DS_CONFIG_FILE = "ds_config.json"


def finetune(run: Run) -> None:
    """Leave output/adapter/ (PEFT) or output/model/, in safetensors, output/manifest.json and, with DeepSpeed,
    output/ds_config.json."""
    spec, dataset = run.finetune_spec, run.dataset
    if sentence := mismatch(spec.objective, dataset.name, dataset.format):
        raise invalid(f"objective: {sentence}")
    if spec.parallel.pipeline > 1:
        from workers.runtimes.finetune.pipeline.recipe import finetune_in_stages

        return finetune_in_stages(run)
    numerics = decide(spec, facts(run.device_kind))
    dtype = numerics.dtype
    shards = find_shards(dataset.train_uri, field="dataset.train_uri")
    streamed = is_streamed(spec, shards)
    train_rows = [] if streamed else read_rows(shards)
    test_rows = []
    if spec.evaluate and dataset.test_uri:
        test_rows = read_rows(find_shards(dataset.test_uri, field="dataset.test_uri"), spec.eval_limit)
    config = load_config(run.model)
    check_context(spec.context_length, config)
    shared = sharding(spec, config)
    set_seed(spec.seed)

    run.phase("loading model")
    ds_config = deepspeed_config(run, dtype)
    zero_3 = spec.deepspeed is not None and spec.deepspeed.zero_stage == 3
    if shared is not None and run.model.format == "gguf":
        raise invalid("parallel.tensor: it needs a safetensors model; convert the GGUF file, or use 1.")
    if ds_config is not None:
        if zero_3 and run.model.format == "gguf":
            raise invalid("deepspeed.zero_stage: 3 needs a safetensors model; convert the GGUF file, or use stage 2.")
        if run.leads:
            (run.output_dir / DS_CONFIG_FILE).write_text(json.dumps(ds_config, indent=2) + "\n")
        prepare_deepspeed(run.device_kind)
    meter = Meter(run.order.devices)
    settings = trainer_settings(spec, run.run_dir / "trainer", numerics, run.device_kind, ds_config)
    # fp16 can't train its own weights: their gradients couldn't be unscaled.
    weights = torch.float32 if dtype == torch.float16 and not spec.makes_adapter else dtype
    quantized: Quantization = "nf4" if spec.method == "qlora" else "none"
    model, tokenizer = load_model(run.model, weights, run.device_kind, quantized, shared)
    attend(model, numerics)
    if spec.packing and not numerics.compile:
        keep_apart(model)
    train: list[Any] = make_samples(train_rows, dataset, tokenizer, spec.context_length)
    test = make_samples(test_rows, dataset, tokenizer, spec.context_length)
    if spec.save_gguf and (sentence := refusal(model, tokenizer)):
        raise invalid(f"save_gguf: {sentence}")
    set_seed(spec.seed)
    narrator = Narrator(run, meter)
    prefers = spec.objective == "dpo"
    reference = {}
    if prefers and not spec.makes_adapter:  # else it is the model with its adapter off
        reference["ref_model"] = load_model(run.model, weights, run.device_kind)[0].requires_grad_(False)
        attend(reference["ref_model"], numerics)
    trainer = (PreferenceTrainer if prefers else sharing(AnswerTrainer) if shared else AnswerTrainer)(
        meter,
        model=model,
        args=settings,
        train_dataset=as_dataset(packed(train, spec.context_length) if spec.packing else train, spec.objective),
        processing_class=tokenizer,
        peft_config=choose_trained(spec, model),
        callbacks=[narrator],
        **reference,
    )
    if spec.packing:
        trainer.data_collator = partial(collate, pad_id=tokenizer.pad_token_id or 0)
    if streamed:
        run.phase("counting rows")
        trainer.read_from(Feed(spec, shards, dataset, tokenizer, trainer.data_collator, data_rank(spec)))
    trainer.remove_callback(PrinterCallback)  # the narrator says the same, in events
    results: Results = {}

    def write(folder: Path) -> None:
        write_trained(folder, trainer.model, tokenizer, run.model.name, zero_3)

    saver = Saver(run, trainer, narrator, results, write)
    trainer.add_callback(saver)
    checkpoint = saver.resume(run.order.resume)
    if ds_config is not None:
        checkpoint = reshaped(run, checkpoint, trainer.accelerator.state.deepspeed_plugin.deepspeed_config)
    results["numerics"] = numerics.told(model)
    run.result("numerics", results["numerics"])
    run.say(f"Computes in {results['numerics']['words']}.")
    # Under ZeRO 3 and tensor parallel no process has the model by itself; the preference trainer speaks with all.
    scores = bool(test) and (run.leads or zero_3 or shared is not None or prefers)

    if "test_before" in results:
        run.result("test_before", results["test_before"])
    elif scores:
        run.phase("evaluating before")
        with whole_parameters(trainer.model.parameters(), zero_3):
            results["test_before"] = _evaluate(run, trainer, tokenizer, test)
        run.result("test_before", results["test_before"])

    if spec.checkpoints.evaluate and scores:
        saver.score = lambda: float(_evaluate(run, trainer, tokenizer, test, loss_only=True)["loss"])
    elif spec.checkpoints.evaluate and not test:
        run.say("There is no test split: checkpoints are not scored.")

    measured = train_measured(run, trainer, saver, meter, checkpoint)
    try:
        tell(run, saver, narrator, results, measured, _trainable(trainer.model))

        if scores:
            run.phase("evaluating after")
            results["test_after"] = _evaluate(run, trainer, tokenizer, test)
            run.result("test_after", results["test_after"])

        kept = ADAPTER_DIR if spec.makes_adapter else MODEL_DIR
        run.phase(f"saving {kept}")
        write(run.output_dir / kept)
        if (spec.save_merged or spec.save_gguf) and run.leads:
            run.phase("saving merged model" if spec.makes_adapter else "saving as GGUF")
            whole = whole_model(trainer.model)
            if spec.save_merged:
                write_whole_model(run.output_dir / MODEL_DIR, whole, tokenizer)
            if spec.save_gguf:
                write_gguf(run.output_dir / GGUF_FILE, whole, tokenizer, run.model.name)
    except SystemExit:  # told to stop: what is trained isn't to be trained again
        run.on_stop.append(saver.ask)
        if world_size() == 1:  # of several, each may be elsewhere: the last checkpoint counts
            saver.save()
        raise
    rows = trainer.feed.reading.rows if trainer.feed else len(train_rows)
    if run.leads:
        write_manifest(run, str(dtype).removeprefix("torch."), rows, ds_config, results)
    if torch.distributed.is_initialized():
        torch.distributed.barrier()
        torch.distributed.destroy_process_group()


def _evaluate(
    run: Run, trainer: Any, tokenizer: Any, samples: list[Any], loss_only: bool = False
) -> dict[str, float | int]:
    pace = Pace()

    def progress(done: int, total: int) -> None:
        if not loss_only:
            run.progress(done, total, "rows", pace.eta_s(done, total))

    if isinstance(trainer, PreferenceTrainer):
        return trainer.score(samples, progress)
    labels = run.dataset.labels if run.dataset.format == "text_label" and not loss_only else ()
    batch = max(8, run.finetune_spec.micro_batch)
    return evaluate(trainer.model, tokenizer, samples, labels, batch, progress).values()


def _trainable(model: Any) -> int:
    """Trained parameters; ZeRO 3 keeps the true size of a shard's parameter in ds_numel."""
    return sum(getattr(p, "ds_numel", p.numel()) for p in model.parameters() if p.requires_grad)
