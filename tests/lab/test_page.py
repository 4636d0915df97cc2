"""The results page in a real browser: nothing wider than a phone, light and dark. `make test-lab`."""

import shutil
from pathlib import Path

import pytest

from flatlab.claims import Change, Claim, ClaimTable
from flatlab.runner.page import JobView, render
from flatlab.stats import greater, mean, never, proportion, within

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
QUIET = "--no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking --disable-sync"
LONG = "01_likelihood_landscapes-eps=0.03137254901960784-steps=200-attack=square"
WIDTHS = "() => [document.documentElement.scrollWidth, document.documentElement.clientWidth]"
GROUND = "() => getComputedStyle(document.body).backgroundColor"

pytestmark = [pytest.mark.lab, pytest.mark.skipif(not CHROMIUM, reason="needs chromium on the path")]


@pytest.fixture(scope="module")
def page_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A page with as many claims as a notebook has, long words wherever they may occur, and a job that failed."""
    words = {"units": "seeds x images", "unit": "accuracy (fraction)", "population": "networks of these methods " * 4}
    rules = (greater(0), within(-0.001, 0.001), never(0.1))
    estimates = (mean([0.01, -0.02, 0.05, 0.03]), mean([0.1, 0.2, 0.15]), proportion(0, 59))
    rows = [
        Claim(
            f"C{i}", "Methods of " + "a_very_long_family_name" * 3, rules[i % 3], estimates[i % 3], family="f", **words
        )
        for i in range(50)
    ]
    rows[0] = Claim("C0", "s", greater(0), estimates[0], exploratory="chosen on the same data", paper_value=47.04)
    table = ClaimTable(rows, paper="01", preset="cpu", changes=[Change("2026-11-26", "C1 " * 40, "why")])
    jobs = [JobView(LONG, "Likelihood landscapes", "done", parameters={"attack": LONG}, tables=(table,))]
    jobs.append(JobView("02" + LONG, "Two", "failed", problem="failed", error=LONG * 3))
    path = tmp_path_factory.mktemp("page") / "index.html"
    path.write_text(render(jobs, title="flatlab results", preset="cpu"), encoding="utf-8")
    return path


@pytest.mark.parametrize("width", [320, 390, 860, 1280])
def test_the_page_is_no_wider_than_its_window(page_file: Path, width: int) -> None:
    from playwright.sync_api import sync_playwright

    grounds = []
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=QUIET.split())
        for scheme in ("light", "dark"):
            page = browser.new_page(viewport={"width": width, "height": 900}, color_scheme=scheme)
            page.goto(page_file.as_uri())
            page.evaluate("() => document.querySelectorAll('details').forEach(d => d.open = true)")
            wide, room = page.evaluate(WIDTHS)
            assert wide <= room == width, scheme
            grounds.append(page.evaluate(GROUND))
        browser.close()
    assert len(set(grounds)) == 2, "light and dark"
