"""What a user does on the pages, and what is seen there. Knows nothing of the tests' fixtures."""

import re
from typing import Any

from playwright.sync_api import Page, expect

from tests.stack import Portal, password, poll

RUN_MS = 300_000
"""Longest wait for a tiny run on a busy machine, milliseconds."""

RECORD_POINTS = """() => {
  window.unreloaded = true;
  window.points = [];
  new MutationObserver((changes) => changes.forEach(({ target }) => {
    if (target.dataset?.series === "loss") window.points.push(Number(target.dataset.points));
  })).observe(document.getElementById("charts"), { subtree: true, attributes: true, attributeFilter: ["data-points"] });
}"""
"""Notes every length the loss curve has from now on, and marks the document: a reload would lose both."""


def sign_in(page: Page, portal: Portal) -> None:
    """Through the form, as the admin."""
    page.goto("/login/")
    page.get_by_label("Username").fill("admin")
    page.get_by_label("Password").fill(password(portal))
    page.get_by_label("Password").press("Enter")
    expect(page.get_by_role("heading", level=1)).to_have_text("Home")


def submit(page: Page) -> int:
    """Send the job form; the id of the job whose page opens."""
    page.locator("#content form[method=post] button.btn-primary").click()
    page.wait_for_url(re.compile(r"/jobs/\d+/$"))
    return int(page.url.rstrip("/").rsplit("/", 1)[1])


def expect_status(page: Page, status: str) -> None:
    """The job page's badge."""
    expect(page.locator(f"#job-state h1 [data-status={status}]")).to_be_visible(timeout=RUN_MS)


def loss_points(page: Page) -> int:
    """Points of the loss curve drawn now."""
    card = page.locator(".chart-card[data-series=loss]")
    return int(card.get_attribute("data-points") or 0) if card.count() else 0


def more_loss(page: Page, than: int) -> int:
    """The curve's length once it is more than `than`."""
    return int(poll(lambda: (now := loss_points(page)) > than and now, f"more than {than} points", RUN_MS / 1000))


def finetune(portal: Portal, **more: Any) -> int:
    """Submit a tiny fine-tune over REST."""
    spec = {"kind": "finetune", "model": "tiny", "dataset": "cases", "context_length": 64, "max_steps": 4, **more}
    return portal.submit(spec)


def launch(portal: Portal, **more: Any) -> int:
    """Submit a launch of the tiny model over REST."""
    return portal.submit({"kind": "launch", "model": "tiny", "context_length": 192, "max_tokens": 24, **more})


def stop(portal: Portal, job: int) -> None:
    """Cancel over REST and wait until its device is free again."""
    portal.client.post(f"/api/v1/jobs/{job}/cancel").raise_for_status()
    poll(lambda: portal.job(job)["final"], f"the end of job {job}")
