"""The command that vLLM is started with, read by vLLM's own parser where it is installed; and its run, where it can."""

import argparse
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from tests.tiny_model import CONTEXT
from tests.workers.runtimes.conftest import launch_order
from tests.workers.runtimes.test_serve import HELLO, start
from workers.contract.launch import LaunchSpec
from workers.contract.order import ModelInput, Order
from workers.runtimes.base import RunFailed
from workers.runtimes.serve.engines import choose
from workers.runtimes.serve.vllm.arguments import Place, arguments

INTEGERS = ("port", "max-model-len", "max-num-seqs", "tensor-parallel-size", "pipeline-parallel-size", "seed")
TEXTS = ("host", "revision", "code-revision", "generation-config")
LISTS = ("served-model-name", "lora-modules")
FLAGS = ("trust-remote-code", "enable-lora", "disable-uvicorn-access-log")
CHOICES = {
    "dtype": ("auto", "half", "float16", "bfloat16", "float", "float32"),
    "quantization": ("awq", "gptq", "bitsandbytes", "fp8_per_tensor", "fp8_per_block"),
    "distributed-executor-backend": ("ray", "mp", "uni", "external_launcher"),
}
RANKS = (1, 8, 16, 32, 64, 128, 256, 320, 512)
PLACE = Place("/models/tiny", 4711, 4096)


def parser() -> argparse.ArgumentParser:
    """vLLM's own, or one of the options that its documentation has (vllm serve, 0.20 and later)."""
    if find_spec("vllm") is not None:
        from vllm.entrypoints.openai.cli_args import make_arg_parser
        from vllm.utils.argparse_utils import FlexibleArgumentParser

        made: argparse.ArgumentParser = make_arg_parser(FlexibleArgumentParser())
        return made
    documented = argparse.ArgumentParser(allow_abbrev=False)
    documented.add_argument("model_tag")
    for name in INTEGERS:
        documented.add_argument(f"--{name}", type=int)
    for name in TEXTS:
        documented.add_argument(f"--{name}")
    for name in LISTS:
        documented.add_argument(f"--{name}", nargs="+")
    for name in FLAGS:
        documented.add_argument(f"--{name}", action="store_true")
    for name, choices in CHOICES.items():
        documented.add_argument(f"--{name}", choices=choices)
    documented.add_argument("--gpu-memory-utilization", type=float)
    documented.add_argument("--max-lora-rank", type=int, choices=RANKS)
    return documented


def built(place: Place = PLACE, *, devices: int = 1, **changes: Any) -> list[str]:
    changes["spec"] = {"kind": "launch", "model": "tiny", **changes.get("spec", {})}
    changes["devices"] = [{"kind": "cuda", "index": index} for index in range(devices)]
    order = Order.model_validate({**launch_order(Path("/models/tiny")), **changes})
    assert isinstance(order.spec, LaunchSpec)
    return arguments(order, order.spec, place)


def read(command: list[str]) -> argparse.Namespace:
    """As vLLM reads it; an option that it doesn't have ends the test."""
    assert command[:2] == [str(Path(sys.executable).with_name("vllm")), "serve"]
    return parser().parse_args(command[2:])


def test_it_is_asked_for_what_the_launch_asks() -> None:
    found = read(built(devices=2, spec={"precision": "bf16", "max_concurrency": 24, "seed": 7}))
    assert (found.model_tag, found.host, found.port) == ("/models/tiny", "127.0.0.1", 4711)
    assert (found.max_model_len, found.max_num_seqs, found.dtype, found.seed) == (4096, 24, "bfloat16", 7)
    assert (found.tensor_parallel_size, found.served_model_name) == (2, ["tiny"])
    assert (found.trust_remote_code, found.enable_lora, found.revision) == (False, False, None)


def test_it_draws_by_what_a_request_says_alone() -> None:
    assert read(built()).generation_config == "vllm"


@pytest.mark.parametrize(("quantization", "said"), [("none", None), ("nf4", "bitsandbytes"), ("fp8", "fp8_per_tensor")])
def test_what_it_quantizes_while_loading(quantization: str, said: str | None) -> None:
    """A checkpoint of GPTQ or AWQ is launched with none: vLLM reads the method in its config."""
    assert read(built(spec={"quantization": quantization})).quantization == said


@pytest.mark.parametrize("quantization", ["int8", "torchao_int8", "torchao_int4"])
def test_what_it_does_not_quantize_is_refused_with_what_would_do(quantization: str) -> None:
    with pytest.raises(RunFailed, match=f"^quantization: vLLM does not load {quantization}; use none or nf4 or fp8"):
        built(spec={"quantization": quantization})


def test_it_takes_its_share_of_a_shared_gpu() -> None:
    assert read(built(Place("/models/tiny", 4711, 4096, memory_share=0.4567))).gpu_memory_utilization == 0.457


@pytest.mark.parametrize(("rank", "room"), [(1, 8), (16, 16), (24, 32), (257, 320)])
def test_it_makes_room_for_an_adapter_of_any_rank(rank: int, room: int) -> None:
    adapter = {"name": "tuned", "uri": "/adapters/tuned"}
    place = Place("/models/tiny", 4711, 4096, adapter="/adapters/tuned", adapter_rank=rank)
    found = read(built(place, adapter=adapter))
    assert (found.enable_lora, found.max_lora_rank, found.lora_modules) == (True, room, ["tuned=/adapters/tuned"])


def test_an_adapter_beyond_its_ranks_is_refused() -> None:
    place = Place("/models/tiny", 4711, 4096, adapter="/adapters/tuned", adapter_rank=513)
    with pytest.raises(RunFailed, match=r"^adapter: its rank 513 is beyond vLLM's 512; use transformers"):
        built(place, adapter={"name": "tuned", "uri": "/adapters/tuned"})


def test_a_hubs_model_and_its_code_are_those_of_the_revision_that_was_approved() -> None:
    model = {"name": "tiny", "uri": "hub://org/tiny", "format": "hub", "revision": "abc1", "trust_remote_code": True}
    found = read(built(Place("org/tiny", 4711, 4096, revision="abc1"), model=model))
    assert (found.model_tag, found.revision, found.code_revision) == ("org/tiny", "abc1", "abc1")
    assert found.trust_remote_code


def test_nodes_are_stages_of_a_pipeline_that_ray_holds_together() -> None:
    found = read(built(devices=4, team={"rank": 0, "nodes": 2, "host": "10.0.0.1", "port": 29500}))
    assert (found.tensor_parallel_size, found.pipeline_parallel_size) == (4, 2)
    assert found.distributed_executor_backend == "ray"


def test_fp8_is_vllms_and_no_other_engines() -> None:
    model = ModelInput(name="tiny", uri="/models/tiny")
    engine, why = choose(LaunchSpec(model="tiny", quantization="fp8"), model, "cuda")
    assert (engine, why) == ("vllm", "It alone makes weights fp8 while loading them.")
    with pytest.raises(ValueError, match="fp8 is done by vLLM, not by transformers; use the engine vllm or auto"):
        LaunchSpec(model="tiny", quantization="fp8", engine="transformers")


@pytest.mark.parametrize("quantization", ["none", "nf4", "fp8"])
def test_it_answers(tiny: Path, tmp_path: Path, quantization: str) -> None:
    torch = pytest.importorskip("torch")
    if find_spec("vllm") is None or not torch.cuda.is_available():
        pytest.skip("vLLM runs on a node with a GPU on which it is installed, and this machine is none")
    spec = {"kind": "launch", "model": "tiny", "engine": "vllm", "quantization": quantization}
    spec |= {"context_length": CONTEXT, "max_tokens": 6, "skip_preflight": True}
    served = start(tmp_path, launch_order(tiny, spec=spec, devices=[{"kind": "cuda", "index": 0}]))
    try:
        body = {"messages": HELLO, "max_tokens": 5, "temperature": 0}
        answer = served.http.post("/v1/chat/completions", json=body).raise_for_status().json()
        assert 1 <= answer["usage"]["completion_tokens"] <= 5
    finally:
        served.http.close()
        served.child.kill()
