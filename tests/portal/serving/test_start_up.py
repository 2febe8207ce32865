"""How a launch started, as its page tells it: the seconds of each step, beside what the disk alone needs."""

from typing import Any

import pytest
from django.test import Client

from tests.portal import factories as make
from tests.portal.test_preflight import tell

pytestmark = pytest.mark.django_db

STEPS = {
    "libraries_s": 4.0,
    "preflight_s": 1.0,
    "read_s": 0.5,
    "read_bytes": 512 * 2**20,
    "load_s": 2.5,
    "disk_bytes_per_s": 256 * 2**20,
    "first_token_s": None,
}


def page(**changes: Any) -> str:
    """Of a launch that told these steps, without tags and with single spaces."""
    client = Client()
    client.force_login(make.make_user("ada"))
    job = make.make_job(kind="launch")
    attempt = make.make_attempt(job)
    tell(attempt, {"type": "result", "name": "start", "values": {**STEPS, **changes}})
    html = client.get(f"/jobs/{job.pk}/").content.decode()
    at = html.find('id="start-up"')
    card = html[at : html.find("Timeline", at)] if at >= 0 else ""
    return " ".join(card.replace("<", " <").replace(">", "> ").split())


def test_its_page_has_the_seconds_of_each_step_and_what_the_disk_needs() -> None:
    card = page()
    for words in ("4 s", "1 s", "500 ms", "2.5 s", "8 s", "512 MiB of weights were read at 1.07 GB/s"):
        assert words in card
    assert "at 268 MB/s, needs 2 s for them; they were partly in memory" in card
    assert "to the first token" not in card


def test_it_is_told_again_with_the_first_token() -> None:
    assert "8.25 s to the first token" in page(first_token_s=0.25)


def test_who_looks_is_told_of_it(monkeypatch: pytest.MonkeyPatch) -> None:
    changed: list[int] = []
    monkeypatch.setattr("portal.jobs.progress.job_changed", changed.append)
    attempt = make.make_attempt(make.make_job(kind="launch"))
    tell(attempt, {"type": "result", "name": "start", "values": STEPS})
    assert changed == [attempt.job_id]


def test_what_was_not_measured_is_left_out() -> None:
    card = page(preflight_s=None, read_s=None, read_bytes=0, disk_bytes_per_s=None)
    assert "skipped" in card
    assert "of weights were read" not in card


def test_a_launch_of_an_earlier_version_has_no_such_card() -> None:
    assert page(libraries_s=None) == ""
