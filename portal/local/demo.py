"""The main job, followed in the terminal: fine-tune, evaluate, launch quantized, ask.

Submits by the same services as everyone. Knows nothing of how the work is done.
"""

import json
import shutil
import sys
import time
from typing import Any, TextIO

import httpx
from django.contrib.auth.models import User
from django.core.management.base import OutputWrapper

from portal.accounts.services import create_token, revoke
from portal.fleet.selectors import is_online, nodes
from portal.jobs import services
from portal.jobs.lifecycle import FINAL, Status
from portal.jobs.models import Job
from portal.local import starter
from portal.local.stack import Stack
from portal.telemetry.selectors import snapshot
from workers.contract.prompts import label_messages

BAR = 30
PROMPT_ROW = 0
"""The row of the test split that the tuned model is asked about."""
START_TIMEOUT_S = 120


class DemoFailed(Exception):
    """A step did not hold; the message says which and why."""


class Demo:
    """One run of the main job against a stack that is up."""

    def __init__(self, user: User, url: str, out: OutputWrapper | TextIO, stack: Stack) -> None:
        self._user, self._url, self._out, self._stack = user, url, out, stack
        self._tty = sys.stdout.isatty()
        self._last_line = ""
        self._tune: Job | None = None
        self._launch: Job | None = None

    def run(self) -> dict[str, Any]:
        """Do all of it. Returns the summary less `seconds`. Raises DemoFailed."""
        self._wait_for_node()
        self._say("Preparing the starter model and dataset …")
        model = starter.starter_model(self._user)
        dataset = starter.starter_dataset(self._user)
        self._say(f"Model {model.name}: {model.parameters:,} parameters, {model.licence}.")
        self._say(f"Dataset {dataset.name}: {dataset.train_rows} training rows, {dataset.test_rows} test rows.")
        spec = json.loads((starter.STARTER_DIR / "finetune.json").read_text())
        self._tune, _ = services.submit(self._user, spec)
        self._say(f"Fine-tune is job #{self._tune.pk}: {self._url}/jobs/{self._tune.pk}/")
        tuned = self._follow(self._tune, until_ready=False)
        results = tuned["results"]
        base, after, training = (results.get(key, {}) for key in ("test_before", "test_after", "training"))
        self._say(f"Test split before: accuracy {_figure(base, 'accuracy')}, macro-F1 {_figure(base, 'macro_f1')}")
        self._say(f"Test split after:  accuracy {_figure(after, 'accuracy')}, macro-F1 {_figure(after, 'macro_f1')}")
        launch_spec = {
            "kind": "launch",
            "model": model.name,
            "adapter": tuned["adapter"],
            "quantization": "int8",
            "max_tokens": 16,
        }
        self._launch, _ = services.submit(self._user, launch_spec)
        self._say(f"Launch (8-bit) is job #{self._launch.pk}: {self._url}/jobs/{self._launch.pk}/")
        launched = self._follow(self._launch, until_ready=True)
        question = self._question(dataset.labels)
        answer = self._ask(launched["endpoint"]["model"], question)
        asked = question[-1]["content"]
        self._say(f"Asked:  {asked}")
        if "sample" in base:
            self._say(f"Before: {base['sample']['answer']}")
        self._say(f"Answer: {answer}")
        return {
            "fine_tune": {
                "status": tuned["status"],
                "loss_first": training.get("loss_first"),
                "loss_last": training.get("loss_last"),
            },
            "f1": {"base": base.get("macro_f1"), "tuned": after.get("macro_f1")},
            "answer": answer,
        }

    def say_where(self) -> None:
        """The address of every page a new user wants next."""
        pages = {"Jobs": "jobs/", "Models": "models/", "Datasets": "datasets/", "Nodes": "nodes/"}
        if self._launch:
            pages["Chat with the tuned model"] = f"chat/{self._launch.pk}/"
        pages |= {"Admin": "admin/", "API docs": "api/v1/docs"}
        for name, path in pages.items():
            self._say(f"{name + ':':28}{self._url}/{path}")

    def stop_launch(self) -> None:
        """Stop the launched model and wait until it is gone."""
        if self._launch is None:
            return
        services.cancel(self._launch, self._user, "Stopped at the end of the demo.")
        deadline = time.monotonic() + 20
        while time.monotonic() < deadline and not services.is_final(Job.objects.get(pk=self._launch.pk)):
            time.sleep(0.2)

    def _wait_for_node(self) -> None:
        self._say("Waiting for this machine's worker …")
        self._stack.wait_until(lambda: any(is_online(node) for node in nodes()), "the worker", START_TIMEOUT_S)
        for node in nodes():
            devices = ", ".join(f"{d.name} ({d.memory_bytes / 2**30:.0f} GiB)" for d in node.accelerators.all())
            self._say(f"Node {node.name}: {devices}.")

    def _follow(self, job: Job, *, until_ready: bool) -> dict[str, Any]:
        """Show progress until the job ends, or answers. Raises DemoFailed when it ends otherwise than it should."""
        while True:
            self._stack.keep_up()
            seen = snapshot(Job.objects.select_related("owner").get(pk=job.pk))
            self._show(seen)
            if until_ready and seen["endpoint"]:
                return seen
            if seen["status"] in FINAL:
                if seen["status"] == Status.SUCCEEDED and not until_ready:
                    self._end_line()
                    return seen
                self._end_line()
                raise DemoFailed(f"job #{job.pk} {seen['status']}: {seen['sentence']} {seen['detail']}".strip())
            time.sleep(0.5)

    def _show(self, seen: dict[str, Any]) -> None:
        progress = seen["progress"]
        if seen["queue"]:
            line = f"queued: {seen['queue']['waiting_for']}"
        elif progress["total"]:
            share = min(1.0, progress["done"] / progress["total"])
            bar = "█" * round(share * BAR) + "░" * (BAR - round(share * BAR))
            eta = f", {progress['eta_s']:.0f} s to go" if progress["eta_s"] else ""
            line = f"{seen['phase']} {bar} {progress['done']:.0f}/{progress['total']:.0f} {progress['unit']}{eta}"
        else:
            line = seen["phase"] or seen["status"]
        if self._tty:
            width = shutil.get_terminal_size().columns - 1
            sys.stdout.write("\r" + line[:width].ljust(width))
            sys.stdout.flush()
        elif (coarse := seen["phase"] or line) != self._last_line:
            self._say(f"  {line}")
            self._last_line = coarse

    def _end_line(self) -> None:
        if self._tty:
            sys.stdout.write("\r" + " " * (shutil.get_terminal_size().columns - 1) + "\r")

    def _question(self, labels: list[str]) -> list[dict[str, str]]:
        """The messages for one ticket of the test split, worded as training worded it."""
        with open(starter.STARTER_DIR / "test.jsonl", encoding="utf-8") as rows:
            text = json.loads(rows.readlines()[PROMPT_ROW])["text"]
        return label_messages(text, labels)

    def _ask(self, model: str, messages: list[dict[str, str]]) -> str:
        """Through the gateway, with a token of its own. Raises DemoFailed."""
        self._end_line()
        token, secret = create_token(self._user, "demo")
        try:
            answer = httpx.post(
                f"{self._url}/v1/chat/completions",
                json={"model": model, "messages": messages, "temperature": 0},
                headers={"Authorization": f"Bearer {secret}"},
                timeout=120,
            )
        finally:
            revoke(self._user, token)
        if answer.status_code != 200:
            raise DemoFailed(f"the launched model did not answer: {answer.text[:300]}")
        return str(answer.json()["choices"][0]["message"]["content"]).strip()

    def _say(self, line: str) -> None:
        self._end_line()
        self._out.write(line if isinstance(self._out, OutputWrapper) else line + "\n")
        self._out.flush()


def _figure(values: dict[str, Any], name: str) -> str:
    value = values.get(name)
    return f"{value:.3f}" if isinstance(value, float) else "not measured"
