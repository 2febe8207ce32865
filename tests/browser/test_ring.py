"""The main job as a user does it: sign in, fine-tune, watch, launch, chat, stop."""

import re

import pytest
from playwright.sync_api import Page, expect

from tests.browser.steps import RECORD_POINTS, RUN_MS, expect_status, sign_in, submit
from tests.stack import Portal
from workers.contract.prompts import label_instruction

pytestmark = pytest.mark.timeout(900)


def test_from_signing_in_to_an_answer(stranger: Page, portal: Portal) -> None:
    page = stranger
    page.on("dialog", lambda dialog: dialog.accept())
    sign_in(page, portal)

    page.get_by_role("link", name="Fine-tune", exact=True).first.click()
    page.locator("[name=model]").select_option("tiny")
    page.locator("[name=dataset]").select_option("cases")
    for name, value in {"max_steps": "24", "micro_batch": "4", "context_length": "64", "learning_rate": "0.01"}.items():
        page.locator(f"[name={name}]").fill(value)
    tuned = submit(page)

    # Live: the curve grows and the state changes in one and the same document.
    page.evaluate(RECORD_POINTS)
    expect_status(page, "succeeded")
    expect(page.locator(".chart-card[data-series=loss]")).to_have_attribute("data-points", "24")
    drawn = page.evaluate("window.points")
    assert drawn == sorted(set(drawn)), f"the curve repeats or shrinks: {drawn}"
    assert len(drawn) >= 3, f"the curve came in {len(drawn)} pieces, not as it was made"
    for series in ("grad_norm", "learning_rate", "tokens_per_s"):
        expect(page.locator(f".chart-card[data-series={series}]")).to_be_visible()
    expect(page.locator("pre.log")).not_to_be_empty()
    results = page.locator("#results")
    expect(results.get_by_role("row", name="Macro-F1")).to_have_text(re.compile(r"Macro-F1\s*[\d.]+\s*[\d.]+"))
    assert page.evaluate("window.unreloaded") is True

    page.get_by_role("link", name="Launch this adapter").click()
    adapter = portal.job(tuned)["adapter"]
    expect(page.locator("[name=model]")).to_have_value("tiny")
    expect(page.locator("[name=adapter]")).to_have_value(adapter)
    page.locator("[name=context_length]").fill("192")
    page.locator("[name=max_tokens]").fill("24")
    launched = submit(page)
    page.get_by_role("link", name="Chat", exact=True).click(timeout=RUN_MS)

    expect(page.get_by_role("heading", level=1)).to_have_text(adapter)
    expect(page.get_by_label("System prompt")).to_have_value(label_instruction(["a", "b"]))
    page.get_by_label("Message", exact=True).fill("case 3 of sort b")
    page.get_by_label("Message", exact=True).press("Enter")
    expect(page.locator(".bubble.user")).to_have_text("case 3 of sort b")
    expect(page.locator(".stats")).to_contain_text("first token after", timeout=60_000)
    expect(page.locator(".bubble.assistant")).not_to_be_empty()

    page.goto(f"/jobs/{launched}/")
    page.get_by_role("button", name="Stop").click()
    expect_status(page, "cancelled")
    expect(page.get_by_role("link", name="Chat", exact=True)).to_have_count(0)
