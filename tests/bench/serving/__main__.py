"""`make bench SECTION=serving`: sixteen streams at once against the same model asked in other ways, and the gateway.

Ours, asked straight, beside one `generate` after another, one padded batch, `transformers serve` with its continuous
batching, and llama.cpp's server, where it is installed, on the GGUF of 4 bits that the weights come from: tokens a
second and the 99th percentile of the time to the end of an answer, in turn, in this one run; SmolLM2-135M in fp32,
greedy, mixed lengths. Then the same streams through the gateway, and what it adds to a short answer of one token.
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import httpx
import psutil

from tests.bench.machine import describe, extremes, percentile
from tests.bench.serving.asks import Answered, Asked, all_at_once, conversations
from tests.stack import Portal, free_port, poll, running_portal
from workers.runtimes.convert import starter_gguf

GOALS = {"over_sequential": 4.0, "over_static_batch": 1.15, "over_transformers_serve": 1.0}
GATEWAY_THROUGHPUT, GATEWAY_MS = 0.95, 5.0
SHORT = 250
"""Answers of one token, asked straight and through the gateway in turn."""


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.bench.serving", description=__doc__)
    parser.add_argument("--rounds", type=int, default=4)
    parser.add_argument("--streams", type=int, default=16)
    parser.add_argument("--report", type=Path, default=Path("var/bench/serving.json"))
    given = parser.parse_args(arguments)
    began = time.monotonic()
    report: dict[str, Any] = {"section": "serving", "before": describe(), "streams": given.streams}
    with tempfile.TemporaryDirectory(prefix="liftoff-bench-") as folder, ExitStack() as stack:
        home = Path(folder)
        model = home / "model"
        subprocess.run([sys.executable, "-m", "workers.runtimes.convert", "starter", str(model)], check=True)
        portal = stack.enter_context(running_portal(home))
        straight, name, holder = _launched(stack, portal, model)
        plain = stack.enter_context(_plain(model, given.streams))
        peer, peer_holder = stack.enter_context(_peer(_transformers_serve(model), home / "transformers.log"))

        def asked(number: int) -> list[Asked]:
            return conversations(given.streams, number)

        ways: dict[str, Callable[[int], Answered]] = {
            "ours": lambda number: all_at_once(straight, name, asked(number), holder),
            "sequential": lambda number: plain(f"sequential {number}"),
            "static_batch": lambda number: plain(f"static {number}"),
            "transformers_serve": lambda number: all_at_once(peer, str(model), asked(number), peer_holder),
            "gateway": lambda number: all_at_once(portal.client, name, asked(given.rounds + number), holder),
        }
        no_llama = "llama-cpp-python[server] is not installed"
        if find_spec("llama_cpp") and find_spec("starlette_context"):
            llama, llama_holder = stack.enter_context(_peer(_llama_cpp_server(starter_gguf()), home / "llama.log"))
            try:
                all_at_once(llama, str(model), asked(0)[:1], llama_holder)
                ways["llama_cpp"] = lambda number: all_at_once(llama, str(model), asked(number), llama_holder)
            except httpx.HTTPError as error:  # built for another processor, say
                no_llama = f"its server ended at its first answer: {error}"
        took: dict[str, list[Answered]] = {way: [] for way in ways}
        for number in range(given.rounds):
            order = list(ways) if number % 2 == 0 else list(reversed(ways))
            for one in order:
                took[one].append(ways[one](number))
                said = f"{took[one][-1].tokens / took[one][-1].seconds:.1f} tokens/s"
                print(f"round {number + 1} of {given.rounds}: {one}, {said}", file=sys.stderr, flush=True)
        report |= _compared(took, no_llama)
        report |= _short(straight, portal.client, name)
    report["goals"] = {**GOALS, "gateway_throughput_ratio": GATEWAY_THROUGHPUT, "gateway_p50_ms": GATEWAY_MS}
    report["met"] = (
        all(report[goal] >= least for goal, least in GOALS.items())
        and report["p99_s"]["ours"] < report["p99_s"]["static_batch"]
        and report["gateway_throughput_ratio"] >= GATEWAY_THROUGHPUT
        and report["gateway_p50_ms"] <= GATEWAY_MS
    )
    report |= {"took_s": round(time.monotonic() - began), "machine": describe()}
    given.report.parent.mkdir(parents=True, exist_ok=True)
    given.report.write_text(json.dumps(report, indent=1) + "\n")
    print(json.dumps(report))
    return 0


def _compared(took: dict[str, list[Answered]], no_llama: str) -> dict[str, Any]:
    rate = {way: [one.tokens / one.seconds for one in all_] for way, all_ in took.items()}

    def over(way: str) -> dict[str, Any]:
        shares = [ours / theirs for ours, theirs in zip(rate["ours"], rate[way], strict=True)]
        return {f"over_{way}": round(statistics.median(shares), 2), f"over_{way}_range": extremes(shares)}

    gateway = [through / straight for through, straight in zip(rate["gateway"], rate["ours"], strict=True)]
    same = sum(mine == alone for mine, alone in zip(took["ours"][0].texts, took["sequential"][0].texts, strict=True))
    llama = {"over_llama_cpp": None, "why_no_llama_cpp": no_llama}
    return {
        **over("sequential"),
        **over("static_batch"),
        **over("transformers_serve"),
        **(over("llama_cpp") if "llama_cpp" in took else llama),
        "gateway_throughput_ratio": round(statistics.median(gateway), 3),
        "tokens_per_s": {way: round(statistics.median(values), 1) for way, values in rate.items()},
        "tokens_per_cpu_s": {
            way: round(statistics.median(one.tokens / one.cpu_s for one in all_), 1) for way, all_ in took.items()
        },
        "p99_s": {
            way: round(statistics.median(percentile(list(one.latencies), 0.99) for one in all_), 2)
            for way, all_ in took.items()
        },
        "same_text_as_sequential": f"{same} of {len(took['ours'][0].texts)}",
    }


def _short(straight: httpx.Client, gateway: httpx.Client, name: str) -> dict[str, Any]:
    """Milliseconds that the gateway adds to a whole answer of one token."""
    asked = Asked("Hello.", 1)
    body = {"model": name, "messages": asked.messages, "max_tokens": 1, "temperature": 0}
    took: dict[int, list[float]] = {0: [], 1: []}
    for number in range(SHORT):
        for at, client in ((0, straight), (1, gateway)) if number % 2 else ((1, gateway), (0, straight)):
            began = time.perf_counter()
            client.post("/v1/chat/completions", json=body).raise_for_status()
            took[at].append((time.perf_counter() - began) * 1000)
    medians = [statistics.median(took[at]) for at in (0, 1)]
    return {
        "gateway_p50_ms": round(medians[1] - medians[0], 2),
        "short_answer_ms": {"straight": round(medians[0], 2), "gateway": round(medians[1], 2)},
    }


def _launched(stack: ExitStack, portal: Portal, model: Path) -> tuple[httpx.Client, str, int]:
    """A client of the launch itself, the name it serves, and the process that holds the model."""
    added = portal.client.post("/api/v1/models", json={"name": "smol", "uri": str(model)})
    assert added.status_code == 201, added.text
    job = portal.submit({"kind": "launch", "model": "smol", "precision": "fp32", "skip_preflight": True})
    portal.wait(job, lambda now: now["endpoint"], "the launch", 300)
    said = portal.manage(
        "shell", "--no-imports", "-c",
        "from portal.serving.models import Endpoint; from portal.jobs.tokens import serve_token\n"
        f"print(Endpoint.objects.get(attempt__job={job}).url, serve_token({job}, 1))",
    )  # fmt: skip
    url, token = said.splitlines()[-1].split()
    headers = {"Authorization": f"Bearer {token}"}
    client = stack.enter_context(httpx.Client(base_url=url, headers=headers, timeout=600))
    portal.client.timeout = httpx.Timeout(600)
    holder = max(
        (one for one in psutil.process_iter(["cmdline"]) if f"/{job}-1" in " ".join(one.info["cmdline"] or [])),
        key=lambda one: one.memory_info().rss,
    )
    return client, "smol", holder.pid


@contextmanager
def _plain(model: Path, count: int) -> Iterator[Callable[[str], Answered]]:
    command = [sys.executable, "-m", "tests.bench.serving.plain", str(model), str(count)]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdin
    assert process.stdout
    assert process.stdout.readline() == "ready\n"

    def answered(way: str) -> Answered:
        assert process.stdin
        assert process.stdout
        process.stdin.write(way + "\n")
        process.stdin.flush()
        found = json.loads(process.stdout.readline())
        return Answered(**{key: tuple(value) if isinstance(value, list) else value for key, value in found.items()})

    try:
        yield answered
    finally:
        process.kill()
        process.wait()


def _transformers_serve(model: Path) -> list[str]:
    return [
        str(Path(sys.executable).with_name("transformers")), "serve", str(model), "--continuous-batching",
        "--device", "cpu", "--dtype", "float32",
    ]  # fmt: skip


def _llama_cpp_server(gguf: Path) -> list[str]:
    """It answers one request after the other; a new one would otherwise end the one under way."""
    return [
        sys.executable, "-m", "llama_cpp.server", "--model", str(gguf), "--n_ctx", "2048",
        "--interrupt_requests", "False",
    ]  # fmt: skip


@contextmanager
def _peer(command: list[str], log: Path) -> Iterator[tuple[httpx.Client, int]]:
    """A server at a port of its own, once it answers, and the process that holds the model."""
    port = free_port()
    with log.open("wb") as said:
        process = subprocess.Popen([*command, "--port", str(port)], stdout=said, stderr=said)
    try:
        with httpx.Client(base_url=f"http://localhost:{port}", timeout=600) as client:
            poll(lambda: _answers(client, process, log), command[0], 180)
            yield client, process.pid
    finally:
        process.kill()
        process.wait()


def _answers(client: httpx.Client, process: "subprocess.Popen[bytes]", log: Path) -> bool:
    assert process.poll() is None, log.read_text()[-2000:]
    try:
        return client.get("/v1/models").status_code == 200
    except httpx.HTTPError:
        return False


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
