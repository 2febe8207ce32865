"""Plans answer every change without a reload, fill the job form, and take any config.json."""

import json
import re
from collections.abc import Iterator

import pytest
from playwright.sync_api import Page, expect

from tests.stack import Portal

pytestmark = pytest.mark.timeout(600)

CONFIG = {
    "model_type": "llama", "hidden_size": 512, "intermediate_size": 1536, "num_hidden_layers": 4,
    "num_attention_heads": 8, "num_key_value_heads": 4, "vocab_size": 4096, "max_position_embeddings": 2048,
}  # fmt: skip
HUGE = {"micro_batch": "4096", "context_length": "8192"}
"""Of a fine-tune: more tokens at once than any machine's memory holds."""


@pytest.fixture
def roomy(portal: Portal) -> Iterator[str]:
    """A profile of a small model with a long context; gone afterwards, so that 'tiny' is alone again."""
    profiles = "from portal.catalog.models import ModelProfile; ModelProfile.objects"
    config = {**CONFIG, "max_position_embeddings": 131072}
    made = f"config={config!r}, name='roomy', source='safetensors', uri='store://models/roomy', context_length=131072"
    portal.manage("shell", "-c", f"{profiles}.create({made}, disk_bytes=0)")
    yield "roomy"
    portal.manage("shell", "-c", f"{profiles}.filter(name='roomy').delete()")


def mark(page: Page) -> None:
    """A reload would lose it."""
    page.evaluate("window.unreloaded = true")


def expect_no_reload(page: Page) -> None:
    assert page.evaluate("window.unreloaded")


@pytest.mark.parametrize("kind", ["finetune", "launch"])
def test_a_change_of_a_field_updates_the_panel_without_a_reload(page: Page, kind: str) -> None:
    page.goto(f"/jobs/new/?kind={kind}&model=tiny&context_length=128&max_tokens=32")
    panel = page.locator("#plan-panel")
    expect(panel.locator("[data-verdict=fits]")).to_be_visible()
    mark(page)
    before = panel.locator(".plan-words").inner_text()
    page.locator("[name=context_length]").fill("100000")
    expect(panel.locator(".plan-words")).not_to_have_text(before)
    page.locator("[name=context_length]").fill("lots")
    expect(panel.locator(".plan-sentence")).to_have_text(re.compile(r'Context length: "lots" is not a whole number\.'))
    page.locator("[name=context_length]").fill("128")
    expect(panel.locator(".plan-words")).to_have_text(before)
    expect(page.locator("[data-says='#plan-panel']")).to_have_text(before)
    expect_no_reload(page)


def test_what_exceeds_is_changed_in_place_by_a_plan_that_fits(page: Page, roomy: str) -> None:
    page.goto(f"/jobs/new/?kind=finetune&model={roomy}&dataset=cases")
    panel = page.locator("#plan-panel")
    expect(panel.locator("[data-verdict]").first).to_be_visible()
    mark(page)
    page.locator("[name=name]").fill("kept as it is")
    for name, value in HUGE.items():
        page.locator(f"[name={name}]").fill(value)
    expect(panel.locator("[data-verdict=exceeds]").first).to_be_visible()
    panel.get_by_role("button", name="Use this plan").click()
    expect(panel.locator("[data-verdict=fits]").first).to_be_visible()
    micro, steps = (
        int(page.locator(f"[name={name}]").input_value()) for name in ("micro_batch", "gradient_accumulation")
    )
    assert micro < 4096
    assert micro * steps == 4096
    expect(page.locator("[name=context_length]")).to_have_value("8192")
    expect(page.locator("[name=name]")).to_have_value("kept as it is")
    expect_no_reload(page)


def test_using_a_plan_opens_the_form_filled_by_it(page: Page) -> None:
    page.goto(
        "/jobs/new/?kind=finetune&model=tiny&dataset=cases&context_length=64&lora__rank=4&gradient_accumulation=2"
    )
    page.get_by_role("link", name="See every way").click()
    expect(page.locator("#plan-verdict [data-verdict=fits]")).to_be_visible()
    expect(page.get_by_label("LoRA rank")).to_have_value("4")
    page.get_by_role("link", name="Use this plan").first.click()
    page.wait_for_url(re.compile("/jobs/new/"))
    for name, value in {"model": "tiny", "dataset": "cases", "context_length": "64", "lora__rank": "4"}.items():
        expect(page.locator(f"[name={name}]")).to_have_value(value)
    sizes = [int(page.locator(f"[name={name}]").input_value()) for name in ("micro_batch", "gradient_accumulation")]
    assert sizes[0] * sizes[1] == 8, "the global batch that was planned"


def test_the_plan_page_answers_as_one_types(page: Page) -> None:
    page.goto("/plan/")
    mark(page)
    page.get_by_label("Model", exact=True).fill("llama-3-8b")
    page.get_by_label("Hardware").fill("a100-80")
    expect(page.locator("#plan-verdict")).to_contain_text("llama-3-8b fits on 1 × A100 80 GB")
    page.get_by_text("The arithmetic of every byte").first.click()
    arithmetic = page.locator(".plan-row[open] .plan-lines").first
    expect(arithmetic).to_contain_text("8,030,261,248")
    page.get_by_label("Goal").select_option("infer")
    expect(page.get_by_label("Global batch")).to_be_hidden()
    page.get_by_label("Concurrency").fill("4")
    expect(page.locator(".plan-stats").first).to_contain_text("First token")
    expect(arithmetic).to_be_visible()
    page.get_by_label("Context", exact=True).fill("-4")
    expect(page.locator(".plan-sentence")).to_have_text(re.compile(r'Context: "-4" is out of range'))
    expect(page.get_by_label("Context", exact=True)).to_have_attribute("aria-invalid", "true")
    page.get_by_label("Context", exact=True).fill("4096")
    expect(page.locator("#plan-verdict")).to_be_visible()
    expect(page).to_have_url(
        re.compile(r"/plan/\?model=llama-3-8b&hardware=a100-80&goal=infer&context=4096&concurrency=4$")
    )
    expect_no_reload(page)
    words = page.locator(".plan-words").inner_text()
    page.reload()
    expect(page.locator(".plan-words")).to_have_text(words)


def test_a_config_is_planned_pasted_or_from_a_file(page: Page) -> None:
    page.goto("/plan/?hardware=t4")
    mark(page)
    page.get_by_text("Any config.json").click()
    field = page.get_by_label("config.json", exact=True)
    field.fill(json.dumps(CONFIG))
    expect(page.locator("#plan-verdict")).to_contain_text("pasted config fits on 1 × T4")
    field.fill(json.dumps({**CONFIG, "num_attention_heads": 0}))
    expect(page.locator(".plan-sentence")).to_have_count(1)
    expect(page.locator(".plan-sentence")).to_contain_text("num_attention_heads is 0")
    field.fill("what?")
    expect(page.locator(".plan-sentence")).to_contain_text("this is not JSON")
    wide = json.dumps({**CONFIG, "num_hidden_layers": 8}).encode()
    page.locator("#config-file").set_input_files(
        {"name": "config.json", "mimeType": "application/json", "buffer": wide}
    )
    expect(page.locator("#plan-verdict")).to_contain_text("pasted config fits on 1 × T4")
    expect(field).to_have_value(re.compile('"num_hidden_layers": 8'))
    much = {"name": "model.bin", "mimeType": "application/json", "buffer": b" " * 5_000_000}
    page.locator("#config-file").set_input_files(much)
    expect(page.locator("#config-note")).to_contain_text("5000000 bytes, too many for a config.json")
    page.get_by_role("button", name="Clear").click()
    expect(page.get_by_text("Name a model and the hardware")).to_be_visible()
    expect_no_reload(page)


def test_one_who_is_signed_out_is_told_so(page: Page, allowed: list[str]) -> None:
    allowed.append("status of 403")
    page.goto("/plan/?model=llama-3-8b&hardware=a100-80")
    expect(page.locator("#plan-verdict")).to_be_visible()
    page.context.clear_cookies(name="sessionid")
    page.get_by_label("LoRA rank").fill("32")
    expect(page.locator("#plan-answer")).to_have_text(
        re.compile("^\\s*You are signed out, or the page is too old; reload it")
    )
