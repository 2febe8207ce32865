"""The commands on one job: submit, watch, cancel, fetch what it made. Each returns the exit status."""

import argparse
import json
import sys
import time
from pathlib import Path
from typing import Any

from portal.cli import specs
from portal.cli.client import UNREACHABLE, Portal, Problem
from portal.cli.output import Ticker, print_job, print_json, print_table

POLL_S = 1.0
PATIENCE_S = 30.0
"""How long a watching command bears a portal that doesn't answer."""


def submit(portal: Portal, args: argparse.Namespace) -> int:
    """`liftoff submit`."""
    headers = {"Idempotency-Key": args.idempotency_key} if args.idempotency_key else {}
    return _submitted(
        portal,
        args,
        portal.call("POST", "/jobs", json=specs.read(args.spec, args.set, args.label, args.prefer), headers=headers),
    )


def sweep(portal: Portal, args: argparse.Namespace) -> int:
    """`liftoff sweep`."""
    devices = portal.get(f"/nodes/{args.node}")["devices"]
    gpus = any(device["kind"] == "cuda" for device in devices)
    resources = {"node": args.node, "devices": args.processes if gpus else 1}
    spec = {"kind": "preflight", "sweep_processes": args.processes, "resources": resources}
    return _submitted(portal, args, portal.call("POST", "/jobs", json=spec))


def export(portal: Portal, args: argparse.Namespace) -> int:
    """`liftoff export`."""
    asked = {"format": args.format, "result": args.result}
    if args.what.isdecimal():
        return _submitted(portal, args, portal.call("POST", f"/jobs/{args.what}/export", json=asked))
    adapter = portal.get(f"/adapters/{args.what}")
    spec = {"kind": "export", "model": adapter["model"], "adapter": adapter["name"], **asked}
    return _submitted(portal, args, portal.call("POST", "/jobs", json=spec))


def quantize(portal: Portal, args: argparse.Namespace) -> int:
    """`liftoff quantize`."""
    model, adapter = args.what, args.adapter
    if args.what.isdecimal():
        job = portal.get(f"/jobs/{args.what}")
        if job["kind"] != "finetune" or not (job["adapter"] or job["made_model"]):
            raise Problem(f"Job #{args.what} made no model to quantize; name a model, or a fine-tune that succeeded.")
        model, adapter = (job["spec"]["model"], job["adapter"]) if job["adapter"] else (job["made_model"], None)
    spec = {
        "kind": "quantize",
        "model": model,
        "adapter": adapter,
        "method": args.method,
        "bits": args.bits,
        "group_size": args.group_size,
        "dataset": args.dataset,
        "samples": args.samples,
        "sequence_length": args.sequence_length,
        "iterations": args.iterations,
        "result": args.result,
    }
    return _submitted(portal, args, portal.call("POST", "/jobs", json=spec))


def load_test(portal: Portal, args: argparse.Namespace) -> int:
    """`liftoff load-test`."""
    spec: dict[str, Any] = {
        "kind": "load_test",
        "launch": args.launch,
        "concurrency": args.concurrency,
        "step_s": args.seconds,
        "step_requests": args.requests,
        "max_tokens": args.max_tokens,
        "target": {"figure": args.figure, "bound_ms": args.below_ms},
    }
    if args.dataset:
        spec["dataset"] = args.dataset
    if args.prompts:
        spec["prompts"] = specs.text_of("--prompts", args.prompts)
    return _submitted(portal, args, portal.call("POST", "/jobs", json=spec))


def _submitted(portal: Portal, args: argparse.Namespace, job: Any) -> int:
    """Say what became of a job that was just submitted, after waiting for it if so asked."""
    if args.wait:
        print(f"Job #{job['id']} {job['name']}", file=sys.stderr)
        job = _wait(portal, job["id"])
    if args.json:
        print_json(job)
    elif args.wait:
        print_job(job)
    else:
        print(f"Job #{job['id']} {job['name']}: {job['status']}.")
    return 1 if job["status"] in ("failed", "cancelled") else 0


def _wait(portal: Portal, number: int) -> Any:
    """The job once it is over, or once a launched model answers."""
    ticker, answered = Ticker(), time.monotonic()
    while True:
        try:
            job = portal.get(f"/jobs/{number}")
        except Problem as problem:
            if problem.status != UNREACHABLE or time.monotonic() - answered > PATIENCE_S:
                raise
        else:
            answered = time.monotonic()
            ticker.show(job)
            if job["final"] or job["endpoint"]:
                ticker.end()
                return job
        time.sleep(POLL_S)


def status(portal: Portal, args: argparse.Namespace) -> int:
    """`liftoff status`."""
    job = portal.get(f"/jobs/{args.job}")
    if args.json:
        print_json(job)
    else:
        print_job(job)
    return 0


def logs(portal: Portal, args: argparse.Namespace) -> int:
    """`liftoff logs`; with --follow until the job is over."""
    path = f"/jobs/{args.job}/logs"
    if not args.follow:
        lines = portal.get(path, limit=args.lines, tail=True)
        if args.json:
            print_json(lines)
        for line in [] if args.json else lines:
            print(line["text"])
        return 0
    place = {"attempt": 1, "since_seq": 0}
    while True:
        job = portal.get(f"/jobs/{args.job}")
        lines = portal.get(path, limit=1000, **place)
        for line in lines:
            print(json.dumps(line) if args.json else line["text"], flush=True)
        if lines:
            place["since_seq"] = lines[-1]["seq"]
        elif place["attempt"] < job["attempt"]:
            place = {"attempt": place["attempt"] + 1, "since_seq": 0}
        elif job["final"]:
            return 0
        else:
            time.sleep(POLL_S)


def metrics(portal: Portal, args: argparse.Namespace) -> int:
    """`liftoff metrics`."""
    series = portal.get(f"/jobs/{args.job}/metrics", names=args.names)
    if args.json:
        print_json(series)
        return 0
    rows = []
    for name, points in series.items():
        values = [point["value"] for point in points]
        rows.append(
            [name, len(values), *(f"{value:.6g}" for value in (values[0], values[-1], min(values), max(values)))]
        )
    print_table(["series", "points", "first", "last", "lowest", "highest"], rows)
    return 0


def events(portal: Portal, args: argparse.Namespace) -> int:
    """`liftoff events`: every one there is."""
    cursor = args.since
    while True:
        page = portal.get(f"/jobs/{args.job}/events", since=cursor)
        for event in page["events"]:
            print(json.dumps(event))
        if not page["events"]:
            return 0
        cursor = page["cursor"]


def cancel(portal: Portal, args: argparse.Namespace) -> int:
    """`liftoff cancel`."""
    job = portal.call("POST", f"/jobs/{args.job}/cancel")
    if args.json:
        print_json(job)
    else:
        print(f"Job #{job['id']}: {job['status']}.")
    return 0


def artifacts(portal: Portal, args: argparse.Namespace) -> int:
    """`liftoff artifacts`; with --download every file."""
    found = portal.get(f"/jobs/{args.job}/artifacts")
    if args.json:
        print_json(found)
    rows = [[a["attempt"], a["name"], file["name"], file["bytes"]] for a in found for file in a["files"]]
    if args.download is None:
        if not args.json:
            print_table(["attempt", "artifact", "file", "bytes"], rows)
        return 0
    root = Path(args.download).resolve()
    for artifact in found:
        for file in artifact["files"]:
            parts = [artifact["name"]] if artifact["name"] == file["name"] else [artifact["name"], file["name"]]
            target = root.joinpath(str(artifact["attempt"]), *parts).resolve()
            if not target.is_relative_to(root):
                raise Problem(f"The portal names a file outside of {root}: {'/'.join(parts)!r}; it was not written.")
            target.parent.mkdir(parents=True, exist_ok=True)
            with portal.stream("GET", file["href"]) as answer, target.open("wb") as out:
                for chunk in answer.iter_bytes():
                    out.write(chunk)
            print(target, file=sys.stderr if args.json else sys.stdout)
    return 0
