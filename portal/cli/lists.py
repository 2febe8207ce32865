"""The commands on what there is: lists, adding a dataset, chatting with a launched model."""

import argparse
import json
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from portal.cli.client import Portal, Problem
from portal.cli.output import print_json, print_table

GIB = 2**30


def jobs(portal: Portal, args: argparse.Namespace) -> int:
    """`liftoff jobs`."""
    page = portal.get("/jobs", status=args.status, limit=args.limit)
    rows = [[job["id"], job["name"], job["kind"], job["status"], job["owner"]] for job in page["items"]]
    return _show(args, page, ["job", "name", "kind", "status", "owner"], rows)


def models(portal: Portal, args: argparse.Namespace) -> int:
    """`liftoff models`."""
    page = portal.get("/models", limit=500)
    columns = ("name", "source", "architecture", "parameters", "context_length", "licence")
    return _show(args, page, columns, [[model[column] for column in columns] for model in page["items"]])


def datasets(portal: Portal, args: argparse.Namespace) -> int:
    """`liftoff datasets`."""
    page = portal.get("/datasets", limit=500)
    columns = ("name", "format", "train_rows", "test_rows", "source")
    return _show(args, page, columns, [[dataset[column] for column in columns] for dataset in page["items"]])


def nodes(portal: Portal, args: argparse.Namespace) -> int:
    """`liftoff nodes`."""
    page = portal.get("/nodes", limit=500)
    rows = []
    for node in page["items"]:
        present = [device for device in node["devices"] if device["present"]]
        free = sum(device["held_by"] is None for device in present)
        online = "yes" if node["online"] else "no"
        rows.append(
            [node["name"], online, node["state"], f"{free} of {len(present)}", f"{node['ram_bytes'] / GIB:.1f}"]
        )
    return _show(args, page, ["node", "online", "state", "free devices", "RAM GiB"], rows)


def add_dataset(portal: Portal, args: argparse.Namespace) -> int:
    """`liftoff dataset add`."""
    with ExitStack() as stack:
        files = {}
        for field, name in (("file", args.file), ("test_file", args.test)):
            if name is not None and "://" not in args.file:
                try:
                    files[field] = (Path(name).name, stack.enter_context(open(name, "rb")))
                except OSError as error:
                    raise Problem(f"{field}: {name!r} can't be read ({error.strerror}).") from None
        data = {"name": args.name, "format": args.format}
        if "://" in args.file:
            where = {"uri": args.file, "test_uri": args.test or ""}
            dataset = portal.call("POST", "/datasets", json=data | where)
        else:
            dataset = portal.call("POST", "/datasets", data=data, files=files)
    if args.json:
        print_json(dataset)
    else:
        about = f" (about, in {dataset['shard_count']} shards)" if dataset["shard_count"] else ""
        rows = f"{dataset['train_rows']} training{about} and {dataset['test_rows']} test rows"
        print(f"Dataset {dataset['name']}: {rows}.")
    return 0


def chat(portal: Portal, args: argparse.Namespace) -> int:
    """`liftoff chat`: prints the answer as it comes; with --json the whole answer at its end."""
    body = {"model": args.model, "messages": [{"role": "user", "content": args.prompt}], "stream": not args.json}
    if args.max_tokens is not None:
        body["max_tokens"] = args.max_tokens
    with portal.stream("POST", "/v1/chat/completions", json=body, timeout=600) as answer:
        if args.json:
            print_json(json.loads(answer.read()))
            return 0
        for line in answer.iter_lines():
            data = line.removeprefix("data:").strip()
            if line.startswith("data:") and data != "[DONE]":
                print(_piece(json.loads(data)), end="", flush=True)
    print()
    return 0


def _piece(event: dict[str, Any]) -> str:
    if "error" in event:
        print()
        raise Problem(str(event["error"]["message"]), status=1)
    return "".join((choice.get("delta") or {}).get("content") or "" for choice in event.get("choices", []))


def _show(args: argparse.Namespace, page: Any, heads: Any, rows: list[list[Any]]) -> int:
    if args.json:
        print_json(page["items"])
    else:
        print_table(heads, rows)
    return 0
