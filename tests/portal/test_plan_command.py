"""`manage.py plan` as a CI gate: 0 when it fits, 3 when it doesn't, 2 when it can't be asked."""

import json
import os
import subprocess
import sys
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from django.core.management import call_command
from django.core.management.base import CommandError
from pytest_django.fixtures import Settings

from portal.planner.answer import PlanAnswer
from portal.planner.rules import Rules
from tests.portal.factories import make_model, make_node
from tests.portal.test_planning import CONFIG

ROOT = Path(__file__).parents[2]


def plan(*arguments: str) -> tuple[int, str]:
    """(exit status, what it printed) of the command in this process."""
    out = StringIO()
    try:
        call_command("plan", *arguments, stdout=out)
    except SystemExit as ended:
        return int(ended.code or 0), out.getvalue()
    except CommandError as error:
        return error.returncode, str(error)
    return 0, out.getvalue()


def alone(home: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """The command in a process of its own, with an empty home: no tables, no Redis."""
    environment = {**os.environ, "LIFTOFF_HOME": str(home), "REDIS_URL": "redis://127.0.0.1:1/0"}
    environment.pop("DATABASE_URL", None)
    command = [sys.executable, "manage.py", "plan", *arguments]
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=120, check=False)


def test_built_in_names_need_no_database(tmp_path: Path) -> None:
    ended = alone(tmp_path, "--model", "llama-2-13b", "--hardware", "a100-80", "--goal", "qlora", "--json")

    assert ended.returncode == 0
    assert ended.stderr == ""
    assert PlanAnswer.model_validate(json.loads(ended.stdout)).verdict == "fits"


def test_what_does_not_fit_exits_3(tmp_path: Path) -> None:
    ended = alone(tmp_path, "--model", "gpt-3-175b", "--hardware", "t4", "--goal", "infer")

    assert ended.returncode == 3
    assert ended.stdout.startswith("DOES NOT FIT")
    assert "What would change it" in ended.stdout


def test_an_unknown_name_exits_2_with_the_nearest(tmp_path: Path) -> None:
    ended = alone(tmp_path, "--model", "lama-2-13b", "--hardware", "a100-80", "--goal", "lora")

    assert ended.returncode == 2
    assert ended.stdout == ""
    assert "did you mean llama-2-13b" in ended.stderr
    assert "Traceback" not in ended.stderr


def test_an_option_that_is_none_exits_2(tmp_path: Path) -> None:
    assert alone(tmp_path, "--model", "llama-2-13b", "--goal", "lora", "--context", "long").returncode == 2


@pytest.mark.django_db
@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (("--goal", "lora"), "model: give --model NAME, or --config FILE."),
        (("--model", "llama-2-13b", "--goal", "guess"), "goal: "),
        (("--model", "llama-2-13b", "--goal", "lora", "--context", "0"), "context: 0 is out of range"),
        (("--model", "llama-2-13b", "--goal", "lora", "--hardware", "a100-81"), "did you mean a100-80"),
        (("--config", "/nowhere/config.json", "--goal", "lora"), "config: /nowhere/config.json can't be read"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else value,
)
def test_what_cannot_be_asked_exits_2_with_a_sentence(arguments: tuple[str, ...], sentence: str) -> None:
    status, said = plan(*arguments)

    assert status == 2
    assert sentence in said


@pytest.mark.django_db
def test_the_table_says_what_the_json_says() -> None:
    arguments = ("--model", "llama-3-8b", "--hardware", "rtx-4090", "--goal", "qlora", "--context", "1024")
    answer: Any = PlanAnswer.model_validate(json.loads(plan(*arguments, "--json")[1]))

    status, text = plan(*arguments)

    assert status == 0
    assert answer.words in text
    best = answer.plans[0]
    assert all(line.words in text for line in best.memory.lines)
    assert f"{best.memory.expected / 2**30:,.2f}" in text
    assert all(plan.title in text for plan in answer.plans)
    assert all(largest.words in text for largest in answer.largest)


@pytest.mark.django_db
def test_profiles_and_nodes_can_be_named() -> None:
    make_model("ours", config=CONFIG)
    make_node("rack-1")

    status, text = plan("--model", "ours", "--hardware", "rack-1", "--goal", "infer", "--concurrency", "2")

    assert status == 0
    assert "ours fits" in text


@pytest.mark.django_db
def test_a_config_file_is_planned(tmp_path: Path) -> None:
    folder = tmp_path / "our-model"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(CONFIG))

    status, text = plan("--config", str(folder / "config.json"), "--hardware", "l4", "--goal", "full", "--batch", "4")

    assert status == 0
    assert "our-model fits" in text


@pytest.mark.django_db
@pytest.mark.parametrize("content", ["{", "[]", '{"model_type": "llama", "num_attention_heads": 0}'])
def test_a_config_that_is_none_exits_2(tmp_path: Path, content: str) -> None:
    path = tmp_path / "config.json"
    path.write_text(content)

    status, said = plan("--config", str(path), "--hardware", "l4", "--goal", "lora")

    assert status == 2
    assert said.startswith("config")


@pytest.mark.django_db
def test_tight_counts_as_fitting_and_says_so(settings: Settings) -> None:
    settings.LIFTOFF_RULES = Rules(memory_buffer=0.99)

    status, text = plan("--model", "llama-3-8b", "--hardware", "a100-80", "--goal", "lora")

    assert status == 0
    assert text.startswith("TIGHT")
