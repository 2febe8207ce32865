"""The command line: which commands there are, what they take, and how a failure ends."""

import argparse
import os
import sys
from collections.abc import Callable, Sequence

from portal.cli import jobs, lists
from portal.cli.client import Portal, Problem

DEFAULT_URL = "http://127.0.0.1:8000"
Command = Callable[[Portal, argparse.Namespace], int]


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command. Returns the exit status; sentences about a failure go to standard error."""
    args = parser().parse_args(argv)
    run: Command = args.run
    try:
        portal = Portal(os.environ.get("LIFTOFF_URL") or DEFAULT_URL, os.environ.get("LIFTOFF_TOKEN", ""))
        return run(portal, args)
    except Problem as problem:
        print(problem, file=sys.stderr)
        return problem.status
    except KeyboardInterrupt:
        print("\nStopped watching; what runs goes on.", file=sys.stderr)
        return 130
    except BrokenPipeError:
        sys.stderr.close()
        return 0


def parser() -> argparse.ArgumentParser:
    """Every command and its arguments."""
    whole = argparse.ArgumentParser(
        prog="liftoff",
        description="Liftoff from a terminal. LIFTOFF_URL names the portal, LIFTOFF_TOKEN is an API token.",
        epilog="Exit status: 0 done; 1 the job failed or was cancelled; 2 wrong usage or refused; 4 no portal.",
    )
    common = argparse.ArgumentParser(add_help=False)
    common.add_argument("--json", action="store_true", help="print what the portal answers")
    commands = whole.add_subparsers(required=True, metavar="COMMAND")

    def add(name: str, run: Command, about: str, *, job: bool = False) -> argparse.ArgumentParser:
        command: argparse.ArgumentParser = commands.add_parser(name, parents=[common], help=about, description=about)
        command.set_defaults(run=run)
        if job:
            command.add_argument("job", metavar="JOB", type=int, help="number of the job")
        return command

    submit = add("submit", jobs.submit, "submit a job")
    submit.add_argument("spec", metavar="SPEC", help="JSON file of the job's spec; - reads the input")
    submit.add_argument("--set", action="append", default=[], metavar="PATH=VALUE", help="e.g. --set lora.rank=8")
    submit.add_argument("--label", action="append", default=[], metavar="KEY=VALUE", help="the node must carry it")
    submit.add_argument("--prefer", action="append", default=[], metavar="KEY=VALUE", help="better a node with it")
    submit.add_argument("--wait", action="store_true", help="until it is over, or until a launched model answers")
    submit.add_argument("--idempotency-key", metavar="KEY", help="the same key gives the same job again")
    sweep = add("sweep", jobs.sweep, "time all-reduces on a node, by size and number of processes")
    sweep.add_argument("node", metavar="NODE")
    sweep.add_argument("--processes", type=int, default=2, help="most of them, one a GPU (2)")
    sweep.add_argument("--wait", action="store_true", help="until it is over, and show what it measured")
    export = add("export", jobs.export, "write what a fine-tune made as one model")
    export.add_argument("what", metavar="JOB|ADAPTER", help="number of a fine-tune, or name of an adapter")
    export.add_argument("--format", default="safetensors", help="safetensors or gguf (safetensors)")
    export.add_argument("--result", metavar="NAME", help="name of the model that it makes")
    export.add_argument("--wait", action="store_true", help="until it is over")
    quantize = add("quantize", jobs.quantize, "write a model with weights of 4 or 8 bits, measured before and after")
    quantize.add_argument("what", metavar="MODEL|JOB", help="name of a model, or number of a fine-tune")
    quantize.add_argument("--adapter", metavar="NAME", help="added to the model's weights first")
    quantize.add_argument("--method", default="gptq", help="gptq, or awq for vLLM on a GPU (gptq)")
    quantize.add_argument("--bits", type=int, default=4, help="4, or 8 with gptq (4)")
    quantize.add_argument("--group-size", type=int, default=128, help="32, 64 or 128 weights that share a scale (128)")
    quantize.add_argument("--dataset", metavar="NAME", help="calibrate on its rows, not on a built-in text")
    quantize.add_argument("--samples", type=int, default=128, help="to calibrate on (128)")
    quantize.add_argument("--sequence-length", type=int, default=512, help="tokens of a sample (512)")
    quantize.add_argument("--iterations", type=int, default=200, help="of tuning; 0: round to the nearest (200)")
    quantize.add_argument("--result", metavar="NAME", help="name of the model that it makes")
    quantize.add_argument("--wait", action="store_true", help="until it is over, and show what it measured")
    load = add("load-test", jobs.load_test, "find the highest rate of requests at which a launch meets a target")
    load.add_argument("launch", metavar="LAUNCH", type=int, help="number of the running launch")
    load.add_argument("--concurrency", type=int, default=8, help="most requests at a time, doubled up to from 1 (8)")
    load.add_argument("--seconds", type=float, default=10, help="of each step (10)")
    load.add_argument("--requests", type=int, default=0, help="of each step, instead of by seconds")
    load.add_argument("--max-tokens", type=int, default=64, help="of an answer (64)")
    load.add_argument("--figure", default="e2e", help="e2e, ttft or tpot, whose P99 is bounded (e2e)")
    load.add_argument("--below-ms", type=float, default=500, help="the bound, milliseconds (500)")
    load.add_argument("--dataset", metavar="NAME", help="ask what its rows ask")
    load.add_argument("--prompts", metavar="FILE", help="ask its lines; - reads the input")
    load.add_argument("--wait", action="store_true", help="until it is over, and show what it measured")
    add("status", jobs.status, "how a job is doing", job=True)
    logs = add("logs", jobs.logs, "what a job prints", job=True)
    logs.add_argument("-f", "--follow", action="store_true", help="go on until the job is over")
    logs.add_argument("-n", "--lines", type=int, default=100, help="only this many last lines (100)")
    metrics = add("metrics", jobs.metrics, "a job's series", job=True)
    metrics.add_argument("--names", help="with commas, e.g. loss,grad_norm")
    events = add("events", jobs.events, "a job's events, one JSON object a line", job=True)
    events.add_argument("--since", metavar="ATTEMPT.SEQ", help="only newer ones")
    add("cancel", jobs.cancel, "stop a job", job=True)
    artifacts = add("artifacts", jobs.artifacts, "what a job made", job=True)
    artifacts.add_argument("--download", metavar="DIR", help="fetch every file into DIR/ATTEMPT/")

    listing = add("jobs", lists.jobs, "list jobs")
    listing.add_argument("--status", help="a status, or live")
    listing.add_argument("--limit", type=int, default=50)
    add("models", lists.models, "list models")
    add("datasets", lists.datasets, "list datasets")
    add("nodes", lists.nodes, "list nodes")
    dataset = commands.add_parser("dataset", help="add a dataset").add_subparsers(required=True, metavar="ACTION")
    adding = dataset.add_parser("add", parents=[common], help="add a file, or shards where they lie")
    adding.set_defaults(run=lists.add_dataset)
    adding.add_argument("name", metavar="NAME")
    adding.add_argument(
        "file", metavar="FILE", help="JSONL, JSON, CSV or Parquet to upload; or a URI, also of a folder of shards"
    )
    adding.add_argument(
        "--test", metavar="FILE", help="held-out rows (a URI where FILE is one); else a fifth of FILE, of shards none"
    )
    formats = "auto, messages, prompt_completion, text, text_label or preference"
    adding.add_argument("--format", default="auto", help=formats)
    chat = add("chat", lists.chat, "ask a launched model")
    chat.add_argument("model", metavar="MODEL")
    chat.add_argument("prompt", metavar="PROMPT")
    chat.add_argument("--max-tokens", type=int)
    return whole
