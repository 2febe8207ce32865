"""Refusals stand at their field with everything entered kept; forms go by keyboard alone."""

import re

import pytest
from playwright.sync_api import Page, expect

from tests.browser.steps import sign_in
from tests.stack import Portal

REFUSED = "status of 422"

pytestmark = pytest.mark.timeout(600)


def test_a_negative_learning_rate_is_refused_at_its_field(page: Page, allowed: list[str]) -> None:
    allowed.append(REFUSED)
    page.goto("/jobs/new/?kind=finetune")
    page.locator("[name=dataset]").select_option("cases")
    page.locator("[name=name]").fill("kept as it was")
    page.locator("[name=learning_rate]").fill("-0.5")
    page.get_by_role("button", name="Start fine-tune").click()
    expect(page.locator("#error-learning_rate")).to_have_text(re.compile(r"-0\.5.*\.$"))
    expect(page.locator("[name=learning_rate]")).to_have_value("-0.5")
    expect(page.locator("[name=name]")).to_have_value("kept as it was")
    expect(page.locator("[name=dataset]")).to_have_value("cases")
    expect(page.locator(".field-error")).to_have_count(1)


def test_a_context_longer_than_the_models_is_refused_at_its_field(page: Page, allowed: list[str]) -> None:
    allowed.append(REFUSED)
    page.goto("/jobs/new/?kind=launch&model=tiny")
    page.locator("[name=context_length]").fill("4096")
    page.locator("[name=context_length]").press("Enter")
    expect(page.locator("#error-context_length")).to_have_text(re.compile(r"4096.*256"))
    expect(page.locator("[name=context_length]")).to_have_value("4096")


def test_an_error_in_the_folded_part_is_seen(page: Page, allowed: list[str]) -> None:
    allowed.append(REFUSED)
    page.goto("/jobs/new/?kind=finetune")
    page.locator("[name=dataset]").select_option("cases")
    page.get_by_text("Advanced", exact=True).click()
    page.get_by_text("More settings", exact=True).click()
    page.locator("[name=beta2]").fill("1.5")
    page.locator("[name=beta2]").press("Enter")
    expect(page.locator("#error-beta2")).to_be_visible()
    expect(page.locator("#error-beta2")).to_contain_text("1.5")
    expect(page.locator("[name=checkpoints__keep_last]")).to_be_hidden()


def test_the_folded_part_goes_by_keyboard_and_says_what_differs(page: Page) -> None:
    page.goto("/jobs/new/?kind=finetune")
    advanced, group = (page.locator("summary").filter(has_text=text) for text in ("Advanced", "Checkpoints"))
    expect(advanced).to_contain_text("optimizer, precision")
    advanced.press("Enter")
    expect(group).to_contain_text("Keep last, Keep the best")
    group.press("Space")
    page.locator("[name=checkpoints__keep_last]").fill("5")
    page.locator("[name=checkpoints__keep_best]").press("Space")
    for folded in (group, advanced):
        expect(folded).to_contain_text("Keep last: 5 · Keep the best: on")
        expect(folded).not_to_contain_text("Score each checkpoint")
    page.locator("[name=checkpoints__keep_last]").fill("2")
    page.locator("[name=checkpoints__keep_best]").press("Space")
    expect(group).to_contain_text("Keep last, Keep the best")


def test_bad_rows_of_a_dataset_are_named(page: Page, allowed: list[str]) -> None:
    allowed.append(REFUSED)
    rows = ['{"text": "fine", "label": "a"}'] * 8
    rows[1], rows[4], rows[6] = '{"text": "no label"}', "not json", '{"text": "", "label": "a"}'
    page.goto("/datasets/new/")
    page.locator("[name=name]").fill("broken")
    file = {"name": "broken.jsonl", "mimeType": "application/jsonl", "buffer": "\n".join(rows).encode()}
    page.locator("input[type=file][name=file]").set_input_files(file)
    page.locator("#content form button.btn-primary").click()
    for row in (2, 5, 7):
        expect(page.locator(".field-error").filter(has_text=re.compile(rf"\brow {row}\b", re.I))).to_be_visible()
    expect(page.locator("[name=name]")).to_have_value("broken")
    page.goto("/datasets/")
    expect(page.get_by_role("link", name="broken")).to_have_count(0)


def test_a_wrong_password_is_said_and_keeps_the_name(stranger: Page) -> None:
    stranger.goto("/jobs/")
    stranger.get_by_label("Username").fill("admin")
    stranger.get_by_label("Password").fill("not the password")
    stranger.get_by_label("Password").press("Enter")
    expect(stranger.get_by_role("alert")).to_contain_text("correct username and password")
    expect(stranger.get_by_label("Username")).to_have_value("admin")


def test_signing_in_leads_where_one_wanted_to_go(stranger: Page, portal: Portal) -> None:
    sign_in(stranger, portal)
    stranger.goto("/nodes/")
    expect(stranger.get_by_role("link", name="test-node")).to_be_visible()
