"""A running portal and a real Chromium. A page that logs an error, throws, or breaks its own CSP fails its test."""

import os
import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, BrowserContext, Page, StorageState, sync_playwright

from tests.browser.steps import sign_in
from tests.conftest import missing
from tests.stack import ROOT, Portal, running_portal

QUIET = ("--disable-gpu", "--disable-background-networking", "--disable-component-update", "--disable-sync")
REPORT_VIOLATIONS = """addEventListener("securitypolicyviolation", (event) =>
  console.error(`CSP: ${event.violatedDirective} blocked ${event.blockedURI}`));"""

NewPage = Callable[..., Page]

# Of the package, not the session: Playwright runs an event loop, in which Django refuses to touch a database.


@pytest.fixture(scope="package")
def browser() -> Iterator[Browser]:
    """Chromium: CHROMIUM_PATH, or the one on PATH."""
    path = os.environ.get("CHROMIUM_PATH") or shutil.which("chromium")
    if not path:
        missing("there is no Chromium; install one or set CHROMIUM_PATH")
    root = ["--no-sandbox"] if os.geteuid() == 0 else []
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=[*root, *QUIET, "--no-first-run"])
        yield browser
        browser.close()


@pytest.fixture(scope="package")
def portal(browser: Browser, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Portal]:
    """A running portal with the tiny model and a dataset of 40 short texts in two classes."""
    if not (ROOT / "node_modules" / "uplot").is_dir():
        missing("the pages' JavaScript isn't installed; run npm ci")
    from tests import tiny_model

    home: Path = tmp_path_factory.mktemp("browser")
    with running_portal(home) as running:
        tiny_model.build(home / "tiny")
        added = running.client.post("/api/v1/models", json={"name": "tiny", "uri": str(home / "tiny")})
        assert added.status_code == 201, added.text
        rows = "".join(f'{{"text": "case {n} of sort {"ab"[n % 2]}", "label": "{"ab"[n % 2]}"}}\n' for n in range(40))
        added = running.client.post("/api/v1/datasets", data={"name": "cases"}, files={"file": ("cases.jsonl", rows)})
        assert added.status_code == 201, added.text
        yield running


@pytest.fixture(scope="package")
def session(browser: Browser, portal: Portal) -> StorageState:
    """The cookies of a signed-in admin."""
    context = browser.new_context(base_url=portal.url)
    sign_in(context.new_page(), portal)
    state = context.storage_state()
    context.close()
    return state


@pytest.fixture
def allowed() -> list[str]:
    """Patterns of console errors that the test provokes; it adds them here."""
    return []


@pytest.fixture
def new_page(browser: Browser, portal: Portal, allowed: list[str]) -> Iterator[NewPage]:
    """Opens pages in contexts of their own (arguments: Browser.new_context's), and fails if any complained."""
    contexts: list[BrowserContext] = []
    complaints: list[str] = []

    def new_page(**options: Any) -> Page:
        context = browser.new_context(base_url=portal.url, **options)
        contexts.append(context)
        context.set_default_timeout(20_000)
        context.add_init_script(REPORT_VIOLATIONS)
        page = context.new_page()
        page.on("pageerror", lambda error: complaints.append(f"{page.url}: {error}"))
        page.on("console", lambda said: said.type == "error" and complaints.append(f"{page.url}: {said.text}"))
        return page

    yield new_page
    for context in contexts:
        context.close()
    unexpected = [text for text in complaints if not any(re.search(pattern, text) for pattern in allowed)]
    assert not unexpected, "a page complained:\n" + "\n".join(unexpected)


@pytest.fixture
def stranger(new_page: NewPage) -> Page:
    """A page of nobody yet: no cookie."""
    return new_page()


@pytest.fixture
def page(new_page: NewPage, session: StorageState) -> Page:
    """A page of the signed-in admin."""
    return new_page(storage_state=session)
