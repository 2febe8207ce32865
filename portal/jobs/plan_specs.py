"""A job's spec as a question to the planner with every choice made, and a plan as values of the job form.

Writes nothing. Knows neither models' shapes nor what an answer says.
"""

import math
from typing import Any, Literal

from pydantic import ValidationError

from portal.catalog.models import Dataset, ModelProfile
from portal.fleet.models import Node
from portal.jobs import spreading
from portal.jobs.plan_names import GIB, WHOLE_FLEET, resolve_hardware
from portal.planner.answer import Plan
from portal.planner.hardware import Fleet
from portal.planner.request import Fixed, Number, PlanRequest, Quantized, Workload
from workers.contract.checkpoint import stored_as
from workers.contract.errors import from_pydantic
from workers.contract.finetune import FinetuneSpec
from workers.contract.launch import LaunchSpec

WORKABLE = ("none", "int8", "nf4", "fp8")
"""Quantizations that a plan may have and a launch can load."""
PLANNED_AS: dict[str, Quantized] = {"torchao_int8": "int8", "torchao_int4": "gptq"}
"""What takes as much memory: 4 bits in groups, as GPTQ has them."""


def of_spec(spec: FinetuneSpec | LaunchSpec, fleet: Fleet | None = None) -> PlanRequest:
    """The spec as a question in which every choice is made already. Precision 'auto' is made out on `fleet`, and left
    open without one."""
    common = {"model": spec.model, "hardware": spec.resources.node or WHOLE_FLEET, "limit": 3}
    number: Number | None
    if spec.precision == "auto":
        number = _auto(fleet, "fp32" if isinstance(spec, LaunchSpec) else "fp16")
    else:
        number = "bf16" if spec.precision == "fp8" else spec.precision  # 8 bits have only the products' inputs
    if isinstance(spec, LaunchSpec):
        # Planned for one answer at a time: the engine takes as many more as memory holds beside the weights.
        workload = Workload(goal="infer", context=spec.context_length, concurrency=1)
        fixed = Fixed(
            precision=number,
            quantization=PLANNED_AS.get(spec.quantization, spec.quantization),
            kv_cache=number,
            tensor_parallel=1,
            pipeline_parallel=1,
            data_parallel=1,
            attention="sdpa",
        )
        return PlanRequest(workload=workload, fixed=fixed, **common)
    parallel = spec.parallel
    batch = spec.micro_batch * spec.gradient_accumulation * spec.data_parallel
    workload = Workload(
        goal="full" if spec.method == "partial" else spec.method,
        context=spec.context_length,
        batch=batch,
        lora_rank=spec.lora.rank,
        lora_targets=spec.lora.target_modules,
        trained_layers=spec.trained_layers,
        trained_tokens=_trained_tokens(spec, batch) * (2 if spec.objective == "dpo" else 1),
        preference=spec.objective == "dpo",
    )
    fixed = Fixed(
        precision=number,
        quantization="nf4" if spec.method == "qlora" else "none",
        zero_stage=_zero_stage(spec),
        offload_optimizer=spec.deepspeed is not None and spec.deepspeed.offload_optimizer != "none",
        offload_parameters=spec.deepspeed is not None and spec.deepspeed.offload_parameters != "none",
        tensor_parallel=parallel.tensor,
        pipeline_parallel=parallel.pipeline,
        data_parallel=spec.data_parallel,
        micro_batch=spec.micro_batch,
        gradient_checkpointing=spec.gradient_checkpointing,
        attention="sdpa",
        optimizer="adamw",
    )
    return PlanRequest(workload=workload, fixed=fixed, **common)


def unusable(plan: Plan, request: PlanRequest) -> str | None:
    """Why no job of today can be started by this plan, in one sentence; None when the form can take it."""
    method = plan.method
    if request.workload.goal == "qlora" and method.quantization != "nf4":
        return f"A fine-tune job trains QLoRA on nf4 weights, not on {method.quantization}."
    if method.devices > 1 and request.workload.goal == "infer":
        return f"A launch runs on one device, and this plan takes {method.devices}; choose a plan with one."
    if plan.nodes > 1:
        return f"A job runs on one node, and this plan takes {plan.nodes}; choose a plan with one."
    model = ModelProfile.objects.filter(name=request.model).first()
    if method.quantization not in (*WORKABLE, _layout(model)):
        return f"A launch makes int8, nf4 and fp8 weights itself; {method.quantization} needs a quantized checkpoint."
    if model is None:
        return f"{request.model} is known by its shape only; add a model profile with its weights first."
    return _unspreadable(plan, request) if request.workload.goal != "infer" else None


def form_values(plan: Plan, request: PlanRequest) -> dict[str, str]:
    """What "use this plan" fills in: fields of the job form and their text; a box that stays unticked is absent.

    Only what the form can take; `unusable` says where that isn't the whole plan.
    """
    method, workload = plan.method, request.workload
    values: dict[str, Any] = {
        "kind": "launch" if workload.goal == "infer" else "finetune",
        "context_length": workload.context,
        "precision": method.precision,
    }
    if ModelProfile.objects.filter(name=request.model).exists():
        values["model"] = request.model
    is_node = Node.objects.filter(name=request.hardware).exists()
    if is_node:
        values["resources__node"] = request.hardware
    if is_node or request.hardware == WHOLE_FLEET:
        values |= _devices(plan, request.hardware)
    if workload.goal == "infer":
        if method.quantization in WORKABLE:
            values["quantization"] = method.quantization
        return {name: str(value) for name, value in values.items()}
    values |= {
        "micro_batch": method.micro_batch,
        "gradient_accumulation": method.accumulation,
        "method": workload.kind,
        "trained_layers": workload.layers,
        "lora__rank": workload.lora_rank,
        "lora__target_modules": workload.lora_targets,
        "resources__devices": method.devices,
    }
    if workload.preference:
        values["objective"] = "dpo"
    if method.checkpointing:
        values["gradient_checkpointing"] = "on"
    if method.tensor > 1 or method.pipeline > 1:
        values |= {"parallel__tensor": method.tensor, "parallel__pipeline": method.pipeline}
    if method.zero_stage and method.tensor == 1:
        values["deepspeed__zero_stage"] = method.zero_stage
        values["deepspeed__offload_optimizer"] = "cpu" if method.offload_optimizer else "none"
        values["deepspeed__offload_parameters"] = "cpu" if method.offload_parameters else "none"
    return {name: str(value) for name, value in values.items()}


def _layout(model: ModelProfile | None) -> str:
    """The layout of quantized weights; 'none' where they are numbers."""
    stored = stored_as(model.config) if model else None
    return stored.layout if stored else "none"


def _zero_stage(spec: FinetuneSpec) -> Literal[0, 1, 2, 3]:
    """Tensor-parallel devices shard all over the copies of the model, as ZeRO 3 does."""
    if spec.deepspeed is not None:
        return spec.deepspeed.zero_stage
    return 3 if spec.parallel.tensor > 1 and spec.data_parallel > 1 else 0


def _unspreadable(plan: Plan, request: PlanRequest) -> str | None:
    """Why a fine-tune can't spread the model as the plan does."""
    method = plan.method
    if method.tensor > 1 and (method.offload_optimizer or method.offload_parameters):
        return "A fine-tune offloads nothing where devices share its layers; choose a plan without one of the two."
    if method.tensor > 1 and method.data > 1 and method.zero_stage != 3:
        return "Where devices share its layers, a fine-tune shards all over the copies of the model; choose ZeRO 3."
    spec: dict[str, Any] = {"dataset": "any"}
    for name, value in form_values(plan, request).items():
        group, _, field = name.rpartition("__")
        (spec.setdefault(group, {}) if group else spec)[field] = value
    try:
        asked = FinetuneSpec.model_validate(spec)
    except ValidationError as error:
        return from_pydantic(error)[0].message
    model = ModelProfile.objects.get(name=request.model)
    return next((error.message for error in spreading.refusals(model, asked.parallel)), None)


def _devices(plan: Plan, hardware: str) -> dict[str, Any]:
    """Wishes that keep the job on devices like the plan's, where real `hardware` has others too."""
    devices = [group.device for group in resolve_hardware(hardware).groups]
    alike = [device for device in devices if device.memory_bytes == plan.memory.capacity]
    if len(alike) == len(devices) or not alike:
        return {}
    return {
        "resources__device_kind": "cpu" if alike[0].kind == "cpu" else "cuda",
        "resources__min_memory_gib": math.floor(plan.memory.capacity / GIB * 10) / 10,
    }


def _auto(fleet: Fleet | None, older: Number) -> Number | None:
    """What a run makes of precision 'auto': bf16 on GPUs that have it, `older` on those that haven't, fp32 on a CPU.
    None where devices differ in that."""
    numbers: set[Number] = {
        "fp32" if group.device.kind == "cpu" else "bf16" if group.device.has("bf16") else older
        for group in (fleet.groups if fleet else ())
    }
    return numbers.pop() if len(numbers) == 1 else None


def _trained_tokens(spec: FinetuneSpec, batch: int) -> int:
    """Tokens of the whole run, each row at its median length, of which only plain text goes beyond the context, or at
    the context when that isn't known; 0 when it isn't known how many rows there are."""
    dataset = Dataset.objects.filter(name=spec.dataset).only("format", "train_rows", "token_histogram").first()
    length = row = spec.context_length
    if dataset is not None and not spec.packing:
        median = dataset.token_histogram.get("median")
        row = median if isinstance(median, int) and median > 0 else length
        length = min(length, row)
    if spec.max_steps:
        return spec.max_steps * batch * length
    if dataset is None:
        return 0
    return int(spec.epochs * dataset.train_rows) * (row if dataset.format == "text" else length)
