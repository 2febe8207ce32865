"""The chat of a launched model: streams, stops, refuses in words, keeps what was said, waits until it is ready. And the
load test of one, from the button on its page to the plot."""

import re
from collections.abc import Iterator

import pytest
from playwright.sync_api import Page, expect

from tests.browser.steps import RUN_MS, expect_status, launch, stop, submit
from tests.stack import Portal

pytestmark = pytest.mark.timeout(600)


@pytest.fixture(scope="module")
def launched(portal: Portal) -> Iterator[int]:
    """A running launch of the tiny model."""
    job = launch(portal)
    portal.wait(job, lambda seen: seen["endpoint"], "the launch")
    yield job
    stop(portal, job)


def say(page: Page, text: str) -> None:
    page.get_by_label("Message", exact=True).fill(text)
    page.get_by_label("Message", exact=True).press("Enter")


def test_an_answer_streams_and_is_measured(page: Page, launched: int) -> None:
    page.goto(f"/chat/{launched}/")
    expect(page.get_by_label("Temperature")).to_have_value("0.7")
    expect(page.get_by_label("Top p")).to_have_value("0.9")
    expect(page.get_by_label("Max tokens")).to_have_value("24")
    page.evaluate(
        """() => { window.lengths = [];
        new MutationObserver(() => window.lengths.push(document.querySelector(".bubble.assistant")?.textContent.length))
          .observe(document.getElementById("chat-log"), {subtree: true, childList: true}); }"""
    )
    say(page, "Where is my parcel?")
    expect(page.locator(".stats")).to_have_text(
        re.compile(r"first token after [\d.]+ s · [\d.]+ tokens/s · \d+ tokens"), timeout=60_000
    )
    assert len(set(page.evaluate("window.lengths"))) > 3, "the answer came at once, not as it was made"
    expect(page.get_by_label("Message", exact=True)).to_have_value("")
    expect(page.get_by_label("Message", exact=True)).to_be_focused()


def test_shift_enter_starts_a_line_and_enter_sends_both(page: Page, launched: int) -> None:
    page.goto(f"/chat/{launched}/")
    page.get_by_label("Message", exact=True).press_sequentially("one")
    page.get_by_label("Message", exact=True).press("Shift+Enter")
    page.get_by_label("Message", exact=True).press_sequentially("two")
    expect(page.get_by_label("Message", exact=True)).to_have_value("one\ntwo")
    page.get_by_label("Message", exact=True).press("Enter")
    assert page.locator(".bubble.user").text_content() == "one\ntwo"


def test_a_refusal_is_a_sentence_and_the_message_stays(page: Page, launched: int, allowed: list[str]) -> None:
    allowed.append("status of 400")
    page.goto(f"/chat/{launched}/")
    page.get_by_label("Temperature").fill("5")
    say(page, "Hello there")
    expect(page.get_by_role("alert")).to_contain_text("temperature")
    expect(page.get_by_role("alert")).to_contain_text("5")
    expect(page.locator("#error-temperature")).to_contain_text("less than or equal to 2")
    expect(page.locator(".bubble.user")).to_have_text("Hello there")
    page.get_by_label("Temperature").fill("0")
    page.get_by_role("button", name="Try again").click()
    expect(page.locator(".stats")).to_contain_text("token", timeout=60_000)
    expect(page.locator(".bubble.user")).to_have_text("Hello there")
    expect(page.get_by_role("alert")).to_have_count(0)


def test_an_answer_can_be_stopped(page: Page, launched: int) -> None:
    page.goto(f"/chat/{launched}/")
    page.get_by_label("Max tokens").fill("150")
    page.get_by_label("Temperature").fill("2")
    page.get_by_label("Top p").fill("1")
    # Pressed at the first piece of the answer: whatever the machine's speed, much of it is still to come.
    page.evaluate(
        """() => new MutationObserver((_, watching) => {
          if (!document.querySelector(".bubble.assistant:not(.thinking)")) return;
          watching.disconnect();
          document.getElementById("stop").click();
        }).observe(document.getElementById("chat-log"), {subtree: true, childList: true})"""
    )
    say(page, "Tell me everything")
    expect(page.locator(".stats")).to_contain_text("stopped by you", timeout=60_000)
    expect(page.get_by_role("button", name="Send")).to_be_visible()
    expect(page.get_by_role("button", name="Stop")).to_be_hidden()


def test_earlier_messages_go_along_only_while_wanted(page: Page, launched: int) -> None:
    page.goto(f"/chat/{launched}/")
    say(page, "first")
    expect(page.locator(".stats")).to_have_count(1, timeout=60_000)
    with page.expect_request("**/v1/chat/completions") as second:
        say(page, "second")
    expect(page.locator(".stats")).to_have_count(2, timeout=60_000)
    page.get_by_label("Send earlier messages too").uncheck()
    with page.expect_request("**/v1/chat/completions") as third:
        say(page, "third")
    roles = [[message["role"] for message in sent.value.post_data_json["messages"]] for sent in (second, third)]
    assert roles[0][:2] in (["user", "assistant"], ["user"])
    assert roles[1] == ["user"]


def test_the_curl_command_is_the_request(page: Page, launched: int) -> None:
    page.goto(f"/chat/{launched}/")
    page.get_by_text("From a program").click()
    page.get_by_label("System prompt").fill("It's short.")
    page.get_by_label("Message", exact=True).fill("Hi")
    command = page.get_by_label("The request as a curl command")
    expect(command).to_contain_text("/v1/chat/completions")
    expect(command).to_contain_text("It'\\''s short.")
    expect(command).to_contain_text('"content": "Hi"')
    expect(command).to_contain_text("Bearer $LIFTOFF_TOKEN")


def test_the_playground_asks_two_models_the_same_and_shows_the_request(page: Page, launched: int) -> None:
    page.goto(f"/playground/?model=job-{launched}")
    page.locator("#model-two").select_option(index=1)
    expect(page.get_by_label("Temperature")).to_have_value("0.7")
    page.get_by_label("Top p").fill("0.5")
    expect(page.locator("output[for=top_p]")).to_have_text("0.5")
    with page.expect_request("**/v1/chat/completions") as sent:
        say(page, "Where is my parcel?")
    assert sent.value.post_data_json["top_p"] == 0.5
    figures = re.compile(r"first token after [\d.]+ s · [\d.]+ tokens/s · \d+ tokens")
    expect(page.locator("#pane-one .stats")).to_have_text(figures, timeout=60_000)
    expect(page.locator("#pane-two .stats")).to_have_text(figures, timeout=60_000)
    assert page.locator("#pane-one .assistant").text_content() == page.locator("#pane-two .assistant").text_content()
    page.get_by_text("From a program").click()
    page.get_by_role("button", name="Copy as Python").click()
    expect(page.locator("#snippet")).to_contain_text('messages=[\n        {\n            "role": "user"')
    page.get_by_role("button", name="New conversation").click()
    expect(page.locator(".turn")).to_have_count(0)


def test_a_load_test_goes_from_the_launchs_page_to_a_plot_that_grows_by_itself(
    page: Page, launched: int, allowed: list[str]
) -> None:
    allowed.append("status of 422")
    page.goto(f"/jobs/{launched}/")
    page.get_by_role("link", name="Load test", exact=True).click()
    page.get_by_label("Most at a time").fill("8")
    page.get_by_label("Seconds a step").fill("1")
    page.get_by_label("Max tokens").fill("8")
    page.get_by_label("Target bound").fill("0")
    page.get_by_role("button", name="Start load test").click()
    expect(page.locator("#error-target__bound_ms")).to_contain_text("it must be more than 0")
    page.get_by_label("Target bound").fill("0.5")
    job = submit(page)
    page.evaluate("window.unreloaded = true")
    expect_status(page, "succeeded")
    plot = page.locator("#load-test")
    expect(plot.locator("circle")).to_have_count(1)
    expect(plot.locator("circle.load-missed")).to_have_count(1)
    expect(plot).to_contain_text("the target was missed")
    expect(plot).to_contain_text("the target is below 0.5 ms")
    assert page.evaluate("window.unreloaded")
    page.get_by_role("link", name=f"launch #{launched}").click()
    row = page.locator("#load-tests tbody tr")
    expect(row).to_contain_text(f"#{job}")
    expect(row).to_contain_text("transformers")


def test_a_launch_that_waits_opens_into_its_chat_and_says_when_it_ends(
    page: Page, portal: Portal, launched: int
) -> None:
    second = launch(portal)
    page.goto(f"/chat/{second}/")
    expect(page.get_by_role("heading", level=1)).to_have_text("Not ready yet")
    expect(page.locator("#chat-wait .badge[data-status=queued]")).to_be_visible()
    stop(portal, launched)
    expect(page.get_by_label("Message", exact=True)).to_be_visible(timeout=RUN_MS)
    expect(page.get_by_role("heading", level=1)).to_have_text("tiny")
    stop(portal, second)
    expect(page.locator("#gone")).to_contain_text("answers no more")
    expect(page.get_by_role("button", name="Send")).to_be_disabled()
    page.reload()
    expect(page.get_by_text("This launch has ended")).to_be_visible()
    expect(page.get_by_role("link", name="Launch again")).to_be_visible()
