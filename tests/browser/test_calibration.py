"""A run that ends is compared with what was said of it, where anyone can see."""

import re

import pytest
from playwright.sync_api import StorageState, expect

from tests.browser.conftest import NewPage
from tests.browser.steps import finetune
from tests.stack import Portal

pytestmark = pytest.mark.timeout(600)


def test_a_finished_run_is_on_the_calibration_page(new_page: NewPage, session: StorageState, portal: Portal) -> None:
    tuned = finetune(portal, name="a measured run")
    portal.wait(tuned, lambda job: job["status"] == "succeeded", "the fine-tune")

    page = new_page(storage_state=session)
    page.goto("/calibration/")

    row = page.get_by_role("row").filter(has_text="a measured run")
    expect(row).to_contain_text("LoRA · fp32")
    expect(row).to_contain_text(re.compile(r"[+−]\d"))
    memory = page.get_by_role("img", name="Memory: predicted against measured")
    expect(memory.locator("circle", has_text=f"#{tuned}:")).to_have_count(1)
    row.get_by_role("link").click()
    expect(page).to_have_url(re.compile(f"/jobs/{tuned}/$"))
