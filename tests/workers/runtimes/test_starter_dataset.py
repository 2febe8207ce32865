"""The committed datasets are what their scripts make, and the starter's is fit to measure with."""

import json
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from tests.workers.runtimes.conftest import STARTER, STARTER_LABELS
from workers.contract.finetune import FinetuneSpec


def rows(name: str) -> list[dict[str, str]]:
    return [json.loads(line) for line in (STARTER / name).read_text(encoding="utf-8").splitlines()]


@pytest.mark.parametrize("folder", [STARTER, STARTER.parent / "preferences"], ids=lambda folder: folder.name)
def test_the_script_makes_the_committed_files(tmp_path: Path, folder: Path) -> None:
    subprocess.run([sys.executable, str(folder / "generate.py"), "--seed", "7", str(tmp_path)], check=True)
    for name in ("train.jsonl", "test.jsonl"):
        assert (tmp_path / name).read_bytes() == (folder / name).read_bytes()


def test_the_splits_are_balanced_and_share_no_ticket() -> None:
    train, test = rows("train.jsonl"), rows("test.jsonl")
    assert Counter(row["label"] for row in train) == dict.fromkeys(STARTER_LABELS, 40)
    assert Counter(row["label"] for row in test) == dict.fromkeys(STARTER_LABELS, 10)
    texts = [row["text"] for row in train + test]
    assert len(set(texts)) == len(texts)


def test_its_settings_are_a_fine_tune() -> None:
    spec = FinetuneSpec.model_validate_json((STARTER / "finetune.json").read_text())
    assert (spec.model, spec.dataset) == ("smollm2-135m-instruct", "starter-tickets")
    assert spec.evaluate
