"""`manage.py plan`: will it fit, how fast, and why; the exit status says whether it fits, for a CI gate.

Needs no Redis, and for built-in names no database. Knows nothing of how a plan is made.
"""

import json
from argparse import ArgumentParser
from pathlib import Path
from typing import Any, NoReturn

from django.core.management.base import BaseCommand, CommandError
from pydantic import ValidationError

from portal.jobs import planning
from portal.jobs.plan_text import table
from portal.planner.request import PlanRequest
from workers.contract.errors import Refused, from_pydantic

DOES_NOT_FIT, NOT_UNDERSTOOD = 3, 2
MAX_CONFIG = 2**20
"""Bytes of a config.json."""


class Command(BaseCommand):
    help = (
        "Plan a model on hardware. Exits 0 when it fits (also when it is tight), 3 when it doesn't, 2 for a name or "
        "value that can't be used."
    )
    requires_system_checks: list[str] = []

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("--model", help="A model profile's name, or a built-in one such as llama-3-8b.")
        parser.add_argument("--config", type=Path, metavar="FILE", help="A config.json to plan instead.")
        parser.add_argument("--hardware", default="fleet", help="'fleet', a node, or built-in: a100-80, 4xl4.")
        parser.add_argument("--goal", required=True, help="infer, lora, qlora or full.")
        parser.add_argument("--context", type=int, metavar="N", help="Tokens of a sequence.")
        parser.add_argument("--batch", type=int, metavar="N", help="Sequences per optimizer step, over all devices.")
        parser.add_argument("--concurrency", type=int, metavar="N", help="Requests served at once.")
        parser.add_argument("--nodes", type=int, metavar="N", help="How many of the hardware.")
        parser.add_argument("--limit", type=int, metavar="N", help="How many plans to show, best first.")
        parser.add_argument("--json", action="store_true", help="The whole answer as JSON, as REST gives it.")

    def handle(self, *args: Any, **options: Any) -> None:
        if not options["model"] and not options["config"]:
            _refuse(["model: give --model NAME, or --config FILE."])
        try:
            config = _read(options["config"]) if options["config"] else None
            answer = planning.answer(_request(options), config)
        except Refused as refused:
            _refuse([error.message for error in refused.errors])
        if options["json"]:
            self.stdout.write(answer.model_dump_json(indent=2))
        else:
            self.stdout.write(table(answer))
        if answer.verdict == "exceeds":
            raise SystemExit(DOES_NOT_FIT)


def _request(options: dict[str, Any]) -> PlanRequest:
    """Raises Refused."""
    sizes = {name: options[name] for name in ("goal", "context", "batch", "concurrency") if options[name] is not None}
    rest = {name: options[name] for name in ("nodes", "limit") if options[name] is not None}
    name = options["model"] or options["config"].resolve().parent.name or "config.json"
    try:
        return PlanRequest.model_validate({"model": name, "hardware": options["hardware"], "workload": sizes, **rest})
    except ValidationError as error:
        raise Refused(
            [item._replace(message=item.message.removeprefix("workload.")) for item in from_pydantic(error)]
        ) from None


def _read(path: Path) -> dict[str, Any]:
    """A config.json. Raises Refused."""
    try:
        if path.stat().st_size > MAX_CONFIG:
            raise Refused.at("config", str(path), f"config: {path} is larger than {MAX_CONFIG:,} bytes.")
        config = json.loads(path.read_bytes())
    except OSError as error:
        raise Refused.at("config", str(path), f"config: {path} can't be read ({error.strerror}).") from None
    except (ValueError, RecursionError) as error:
        if isinstance(error, Refused):
            raise
        raise Refused.at("config", str(path), f"config: {path} is not JSON.") from None
    if not isinstance(config, dict):
        raise Refused.at("config", str(path), f"config: {path} is not a JSON object.")
    return config


def _refuse(sentences: list[str]) -> NoReturn:
    raise CommandError("\n".join(sentences), returncode=NOT_UNDERSTOOD)
