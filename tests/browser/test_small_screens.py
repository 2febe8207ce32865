"""Every page fits a phone, in light and dark."""

from collections.abc import Iterator
from typing import Literal

import pytest
from playwright.sync_api import StorageState

from tests.browser.conftest import NewPage
from tests.browser.steps import finetune, launch, stop
from tests.stack import Portal

pytestmark = pytest.mark.timeout(600)

WIDTH = 390
PAGES = (
    "/", "/jobs/", "/jobs/new/?kind=finetune", "/jobs/new/?kind=launch", "/jobs/new/?kind=export",
    "/jobs/new/?kind=quantize", "/jobs/new/?kind=load_test", "/models/", "/models/tiny/", "/models/new/",
    "/datasets/", "/datasets/cases/", "/datasets/new/", "/nodes/", "/nodes/test-node/", "/tokens/", "/adapters/",
    "/plan/", "/plan/?model=llama-3-70b&hardware=2x8-a100-80-25gbe", "/plan/?model=gpt-3-175b&hardware=t4&goal=infer",
    "/calibration/",
)  # fmt: skip
OVERFLOWING = """() => [...document.querySelectorAll("body *")]
  .filter((e) => e.getBoundingClientRect().right > innerWidth + 1 && !e.closest(".table-responsive, pre, svg"))
  .slice(0, 3).map((e) => `${e.tagName.toLowerCase()}.${e.className}`)"""


@pytest.fixture(scope="module")
def job_pages(portal: Portal) -> Iterator[list[str]]:
    """The pages of a finished fine-tune and of a running launch, and their chats."""
    tuned = finetune(portal, name="a-name-with-no-place-to-break-" * 4)
    portal.wait(tuned, lambda job: job["status"] == "succeeded", "the fine-tune")
    launched = launch(portal)
    portal.wait(launched, lambda job: job["endpoint"], "the launch")
    yield [f"/{place}/{job}/" for place in ("jobs", "chat") for job in (tuned, launched)]
    stop(portal, launched)


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_no_page_is_wider_than_a_phone(
    new_page: NewPage, session: StorageState, job_pages: list[str], scheme: Literal["light", "dark"]
) -> None:
    viewport = {"width": WIDTH, "height": 844}
    page = new_page(storage_state=session, viewport=viewport, color_scheme=scheme, device_scale_factor=1)
    too_wide = {}
    for path in [*PAGES, *job_pages]:
        answer = page.goto(path)
        assert answer is not None
        assert answer.status == 200, path
        assert page.evaluate("document.documentElement.dataset.bsTheme") == scheme
        if (width := page.evaluate("document.documentElement.scrollWidth")) > WIDTH:
            too_wide[path] = (width, page.evaluate(OVERFLOWING))
    assert not too_wide


def test_signing_in_fits_a_phone(new_page: NewPage) -> None:
    page = new_page(viewport={"width": WIDTH, "height": 844})
    page.goto("/login/")
    assert page.evaluate("document.documentElement.scrollWidth") <= WIDTH


def test_the_theme_switch_is_remembered(new_page: NewPage, session: StorageState) -> None:
    page = new_page(storage_state=session, color_scheme="light")
    page.goto("/jobs/")
    page.get_by_role("button", name="Switch between light and dark").click()
    assert page.evaluate("document.documentElement.dataset.bsTheme") == "dark"
    page.goto("/nodes/")
    assert page.evaluate("document.documentElement.dataset.bsTheme") == "dark"
