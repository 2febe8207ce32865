"""A watched run goes on over a broken connection."""

import pytest
from playwright.sync_api import Page, expect

from tests.browser.steps import RECORD_POINTS, expect_status, finetune, more_loss
from tests.stack import Portal

STEPS = 60

pytestmark = pytest.mark.timeout(900)


def test_a_lost_connection_loses_no_point_and_repeats_none(page: Page, portal: Portal, allowed: list[str]) -> None:
    allowed.append("WebSocket connection|ERR_INTERNET_DISCONNECTED")
    job = finetune(portal, max_steps=STEPS, micro_batch=1, evaluate=False)
    page.goto(f"/jobs/{job}/")
    page.evaluate(RECORD_POINTS)

    seen = more_loss(page, 0)
    page.evaluate("document.getElementById('job').connection.drop()")
    more_loss(page, min(seen, STEPS - 1))
    page.context.set_offline(True)
    with page.expect_event("websocket"):  # tries to come back, in vain
        page.evaluate("document.getElementById('job').connection.drop()")
    page.context.set_offline(False)

    expect_status(page, "succeeded")
    expect(page.locator(".chart-card[data-series=loss]")).to_have_attribute("data-points", str(STEPS))
    assert page.evaluate("window.unreloaded") is True
    assert page.evaluate("window.points") == sorted(set(page.evaluate("window.points")))
    lines = page.locator("pre.log > div").all_inner_texts()
    stored = portal.client.get(f"/api/v1/jobs/{job}/logs").json()
    assert len(lines) == len(stored)
    page.reload()
    expect(page.locator(".chart-card[data-series=loss]")).to_have_attribute("data-points", str(STEPS))
