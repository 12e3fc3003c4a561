"""Fixtures for the tests of pages: a real browser, the fake engine, and the runtime of a static site."""

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from shapedreamer.common.errors import UserError
from shapedreamer.live import site

if TYPE_CHECKING:
    from playwright.sync_api import Browser

    from tests.live.browsing import Open
    from tests.live.fake_engine import FakeEngine

FLAGS = ("--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking")


@pytest.fixture(scope="module")
def browser() -> "Iterator[Browser]":
    playwright = pytest.importorskip("playwright.sync_api", reason="needs playwright")
    chromium = shutil.which("chromium")
    if chromium is None:
        pytest.skip("needs the browser chromium")
    with playwright.sync_playwright() as play:
        browser = play.chromium.launch(executable_path=chromium, args=FLAGS)
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def engine() -> "Iterator[FakeEngine]":
    pytest.importorskip("websockets", reason="needs the extra 'web'")
    from tests.live.fake_engine import FakeEngine

    with FakeEngine() as engine:
        yield engine


@pytest.fixture
def problems() -> list[str]:
    """Errors and warnings in the page's console."""
    return []


@pytest.fixture
def visit(browser: "Browser", engine: "FakeEngine", problems: list[str]) -> "Iterator[Open]":
    """Opens the page of the fake engine, and waits for its first frame."""
    from tests.live.browsing import SPRITES, visiting

    with visiting(browser, engine.url, SPRITES, problems) as visit:
        yield visit
    engine.reset()


@pytest.fixture(scope="session")
def runtime(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tarball of the runtime of static sites."""
    try:
        return site._download_runtime(tmp_path_factory.mktemp("runtime"))
    except UserError as error:
        pytest.skip(str(error))
