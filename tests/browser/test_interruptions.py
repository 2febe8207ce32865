"""What happens beside the page: it changes before it listens, clicks come twice, the connection or the session ends."""

import re
from collections.abc import Iterator

import pytest
from playwright.sync_api import Page, Route, expect

from tests.browser.steps import expect_status, finetune, stop
from tests.stack import Portal

pytestmark = pytest.mark.timeout(600)


@pytest.fixture
def waiting(portal: Portal) -> Iterator[int]:
    """A job that no node can take: it stays queued."""
    job = finetune(portal, resources={"labels": {"zone": "nowhere"}})
    yield job
    stop(portal, job)


def test_a_change_between_drawing_and_listening_is_seen(page: Page, portal: Portal, waiting: int) -> None:
    def change_meanwhile(route: Route) -> None:
        stop(portal, waiting)
        route.continue_()

    page.route("**/static/job.js*", change_meanwhile)
    page.goto(f"/jobs/{waiting}/")
    expect_status(page, "cancelled")


def test_three_clicks_make_one_job(page: Page, portal: Portal, waiting: int) -> None:
    before = portal.client.get("/api/v1/jobs").json()["count"]
    page.goto(f"/jobs/new/?from={waiting}")
    page.evaluate("""() => {
      const button = document.querySelector("#content form[method=post] button.btn-primary");
      [0, 120, 240].forEach((wait) => setTimeout(() => button.click(), wait));
    }""")
    expect(page).to_have_url(re.compile(r"/jobs/\d+/$"))  # the second click may cut the first one's navigation
    stop(portal, int(page.url.rstrip("/").rsplit("/", 1)[1]))
    assert portal.client.get("/api/v1/jobs").json()["count"] == before + 1


def test_stopping_asks_first(page: Page, portal: Portal, waiting: int) -> None:
    page.goto(f"/jobs/{waiting}/")
    page.once("dialog", lambda dialog: dialog.dismiss())
    page.get_by_role("button", name="Stop").click()
    assert not portal.job(waiting)["final"]
    page.once("dialog", lambda dialog: dialog.accept())
    page.get_by_role("button", name="Stop").click()
    expect_status(page, "cancelled")


def test_a_lost_connection_is_said_while_it_lasts(page: Page, waiting: int, allowed: list[str]) -> None:
    allowed.append("WebSocket connection|ERR_INTERNET_DISCONNECTED")
    page.goto(f"/jobs/{waiting}/")
    note = page.get_by_text("The connection is lost")
    expect(page.locator("#log")).to_be_visible()
    expect(note).to_be_hidden()
    page.context.set_offline(True)
    page.evaluate("document.getElementById('job').connection.drop()")
    expect(note).to_be_visible(timeout=20_000)  # a busy server takes its time to say goodbye
    page.context.set_offline(False)
    expect(note).to_be_hidden(timeout=20_000)


def test_an_ended_session_leads_to_signing_in(page: Page, waiting: int) -> None:
    page.goto(f"/jobs/{waiting}/")
    page.wait_for_function("document.getElementById('job').connection")
    page.context.clear_cookies()
    page.evaluate("document.getElementById('job').connection.drop()")
    page.wait_for_url(f"**/login/?next=/jobs/{waiting}/")
