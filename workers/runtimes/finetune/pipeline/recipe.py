"""The recipe of a fine-tune in a pipeline, top to bottom: score, cut, train, save, score again.

As `finetune.runtime`'s, but no process has the whole model while it trains: the first one scores it before it is cut
and after it was written. Knows nothing of who ordered it.
"""

import gc
import json
from pathlib import Path
from typing import Any, cast

import torch
from transformers import set_seed
from trl.trainer.sft_trainer import DataCollatorForLanguageModeling

from workers.contract.deepspeed import DeepSpeedSettings
from workers.contract.ds_config import ds_config
from workers.contract.order import ModelInput
from workers.runtimes.base import Pace, Run
from workers.runtimes.finetune.checkpoints import Results, Saver
from workers.runtimes.finetune.evaluation import evaluate
from workers.runtimes.finetune.feed import Feed, data_rank
from workers.runtimes.finetune.manifest import write_manifest
from workers.runtimes.finetune.numerics import Numerics, decide, facts
from workers.runtimes.finetune.pipeline.stages import check_family, cut, outline
from workers.runtimes.finetune.pipeline.trainer import PipelineTrainer
from workers.runtimes.finetune.pipeline.weights import read_stage, write_whole_model
from workers.runtimes.finetune.runtime import DS_CONFIG_FILE, MODEL_DIR
from workers.runtimes.finetune.samples import Sample, make_samples
from workers.runtimes.finetune.shards import find_shards, read_rows
from workers.runtimes.finetune.trainer import Narrator, trainer_settings
from workers.runtimes.finetune.training import tell, train_measured
from workers.runtimes.finetune.zero import NUMBERS, prepare_deepspeed
from workers.runtimes.measuring import Meter
from workers.runtimes.models import check_context, load_config, load_model, load_tokenizer, local_folder
from workers.runtimes.team import all_agree


def finetune_in_stages(run: Run) -> None:
    """Leave output/model/, in safetensors, output/manifest.json and output/ds_config.json."""
    spec, dataset = run.finetune_spec, run.dataset
    numerics = decide(spec, facts(run.device_kind))
    config = load_config(run.model)
    check_context(spec.context_length, config)
    check_family(config, spec.parallel.pipeline)
    test: list[Sample] = []
    if spec.evaluate and dataset.test_uri:
        rows = read_rows(find_shards(dataset.test_uri, field="dataset.test_uri"), spec.eval_limit)
        test = cast(list[Sample], make_samples(rows, dataset, load_tokenizer(run.model), spec.context_length))
    set_seed(spec.seed)
    prepare_deepspeed(run.device_kind)
    results: Results = {}
    if test and run.order.resume is None:
        run.phase("evaluating before")
        _score(run, "test_before", run.model, numerics, test, results)

    settled = spec.model_copy(update={"deepspeed": spec.deepspeed or DeepSpeedSettings(zero_stage=0)})
    number = NUMBERS[numerics.dtype]
    written = ds_config(settled, spec.data_parallel, number, run.device_kind == "cuda", str(run.run_dir)) or {}
    if run.leads:
        (run.output_dir / DS_CONFIG_FILE).write_text(json.dumps(written, indent=2) + "\n")
    train_rows = _train(run, config, numerics, written, results)
    gc.collect()  # the stage, so that the whole model has room
    if run.device_kind == "cuda":
        torch.cuda.empty_cache()
    all_agree(True)
    if test:
        run.phase("evaluating after")
        trained = ModelInput(name=run.model.name, uri=str(run.output_dir / MODEL_DIR))
        _score(run, "test_after", trained, numerics, test, results)
    if run.leads:
        write_manifest(run, numerics.precision, train_rows, written, results)
    torch.distributed.barrier()
    torch.distributed.destroy_process_group()


def _train(run: Run, config: Any, numerics: Numerics, written: dict[str, Any], results: Results) -> int:
    """Train the model and save it; the rows it was trained on. `written`: DeepSpeed's config."""
    spec = run.finetune_spec
    run.phase("loading model")
    source, tokenizer = local_folder(run.model), load_tokenizer(run.model)
    settings = trainer_settings(spec, run.run_dir / "trainer", numerics, run.device_kind, None)
    meter = Meter(run.order.devices)
    model = outline(config, numerics.dtype)
    module = cut(model, spec.parallel.pipeline, numerics.dtype, spec.gradient_checkpointing)
    read_stage(module, source, config.num_hidden_layers)
    run.phase("counting rows")
    shards = find_shards(run.dataset.train_uri, field="dataset.train_uri")
    collate = DataCollatorForLanguageModeling(pad_token_id=tokenizer.pad_token_id)
    feed = Feed(spec, shards, run.dataset, tokenizer, collate, data_rank(spec))
    narrator = Narrator(run, meter)
    trainer = PipelineTrainer(module, settings, written, feed, meter, [narrator])

    def write(folder: Path) -> None:
        write_whole_model(folder, module, model, tokenizer, source)

    saver = Saver(run, trainer, narrator, results, write)
    trainer.add_callback(saver)
    checkpoint = saver.resume(run.order.resume)
    if checkpoint and "test_before" in results:
        run.result("test_before", results["test_before"])
    results["numerics"] = numerics.told(model)
    run.result("numerics", results["numerics"])

    measured = train_measured(run, trainer, saver, meter, checkpoint)
    tell(run, saver, narrator, results, measured, trainer.trainable_parameters())
    run.phase("saving model")
    write(run.output_dir / MODEL_DIR)
    trainer.close()
    return feed.reading.rows


def _score(
    run: Run, name: str, source: ModelInput, numerics: Numerics, samples: list[Sample], results: Results
) -> None:
    """The first process loads the whole model, over all the node's devices, and scores it; the others wait."""
    if run.leads:
        pace = Pace()
        model, tokenizer = load_model(source, numerics.dtype, run.device_kind, spread=True)
        results[name] = evaluate(
            model,
            tokenizer,
            samples,
            run.dataset.labels if run.dataset.format == "text_label" else (),
            batch_size=max(8, run.finetune_spec.micro_batch),
            progress=lambda done, total: run.progress(done, total, "rows", pace.eta_s(done, total)),
        ).values()
        run.result(name, results[name])
    all_agree(True)
