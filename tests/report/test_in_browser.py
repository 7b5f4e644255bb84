"""The page in a real Chromium: mouse and keyboard work, and no text becomes markup."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from pipeline.report.page import REPORT_FILE, write_report
from tests.browser import Page, chromium, find_browser
from tests.drawn_output import make_output

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(find_browser() is None, reason="no Chromium is installed"),
]
NUM_EDITS = 400
HOSTILE = "</script><script>hacked = 1</script>\"'><img src=x onerror=hacked=1>{{ 7 * 7 }} tulip"


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A page of 400 edits, some of which have texts with markup."""

    def change(row: dict[str, Any]) -> None:
        if row["key"].endswith("-000030"):
            row |= {"caption": HOSTILE, "edit_text": HOSTILE, "error": HOSTILE, "message": HOSTILE}

    store = make_output(tmp_path_factory.mktemp("report"), NUM_EDITS, size=64, change=change)
    write_report(store)
    return Path(store.url) / REPORT_FILE


@pytest.fixture(scope="module")
def browser() -> Iterator[Page]:
    binary = find_browser()
    assert binary is not None
    with chromium(binary) as page:
        yield page


@pytest.fixture
def page(browser: Page, report: Path) -> Iterator[Page]:
    """The report, freshly opened; afterwards it must have no errors and no requests."""
    browser.open(report)
    browser.wait_for_gallery()
    yield browser
    assert browser.problems == []
    assert browser.run("typeof hacked") == "undefined"
    assert set(browser.requests) == {report.as_uri()}


def count(page: Page) -> int:
    """The number of edits that the page reports as shown."""
    return int(page.run("document.getElementById('count').textContent").split()[0])


def choose(page: Page, name: str, value: str) -> None:
    """Sets a control's value and fires the events that a user would cause."""
    page.run(
        f"(() => {{ const it = document.getElementById('{name}'); it.value = '{value}';"
        "it.dispatchEvent(new Event('input', {bubbles: true}));"
        "it.dispatchEvent(new Event('change', {bubbles: true})); })()"
    )


def test_gallery_shows_images_and_texts(page: Page) -> None:
    """Cards have decoded images, both texts and, on request, scores; all edits are counted."""
    assert count(page) == NUM_EDITS
    first = "document.querySelectorAll('.card')[2]"
    images = f"[...{first}.querySelectorAll('img')]"
    assert page.run(f"{images}.map(i => i.naturalWidth)") == [64, 64, 64]
    text = page.run(f"{first}.innerText")
    assert "a dog on grass" in text
    assert "a horse on grass" in text
    scores = ("mask_area", "score_background_psnr_db", "score_edit_rms")
    assert not any(score in text for score in scores)
    page.run(f"{first}.querySelector('summary').click()")
    text = page.run(f"{first}.innerText")
    for score in scores:
        assert score in text.replace("\u200b", "")


def test_the_score_of_the_order_is_shown_and_opened_scores_stay_open(page: Page) -> None:
    """Sorting shows its score on every card; a card that is built again is as it was left."""
    choose(page, "sort", "2")
    first = "document.querySelector('.card')"
    assert page.run(f"{first}.innerText.includes('score_background_psnr_db')")
    assert not page.run(f"{first}.innerText.includes('mask_area')")
    page.run(f"{first}.querySelector('summary').click()")
    page.wait(f"{first}.innerText.includes('mask_area')")
    page.run("document.querySelector('.page:last-child').scrollIntoView({block: 'end'})")
    page.wait("!document.querySelector('.card[aria-posinset=\"1\"]')")
    page.run("document.querySelector('.page').scrollIntoView()")
    page.wait("document.querySelector('.card[aria-posinset=\"1\"]')")
    assert page.run("[...document.querySelectorAll('.card .more')].filter(m => m.open).length") == 1


@pytest.mark.parametrize("width", [390, 320])
def test_the_page_fits_a_phone(browser: Page, report: Path, width: int) -> None:
    """Nothing is wider than the window: summary, tables, controls, an open card, the dialog."""
    browser.open(report, width=width, height=844)
    browser.wait_for_gallery()
    browser.run("document.getElementById('gallery').scrollIntoView()")
    browser.wait("document.querySelector('.card .details')")
    browser.run("document.querySelectorAll('details').forEach(more => { more.open = true; })")
    browser.run("document.querySelector('.card .details').click()")
    root, dialog = "document.documentElement", "document.getElementById('detail')"
    assert browser.run(f"{root}.scrollWidth") == width
    assert browser.run(f"{dialog}.scrollWidth - {dialog}.clientWidth") == 0
    outside = "element => element.getBoundingClientRect().right > innerWidth"
    wide = f"[...document.querySelectorAll('body *')].filter({outside}).map(item => item.outerHTML)"
    assert browser.run(wide) == []


def test_slider_moves_by_keyboard(page: Page) -> None:
    """An arrow key moves the cut between before and after, and updates its accessible value."""
    page.run("document.querySelector('.card .slider').focus()")
    page.press("Home", 36)
    assert page.run("document.activeElement.getAttribute('aria-valuetext')") == "0 percent before"
    for _ in range(3):
        page.press("ArrowRight", 39)
    assert page.run("document.activeElement.getAttribute('aria-valuetext')") == "3 percent before"
    clip = (
        "getComputedStyle(document.activeElement.parentElement.querySelector('.before')).clipPath"
    )
    assert page.run(clip) == "inset(0px 97% 0px 0px)"


def test_search_filters_and_sorting_agree_with_the_rows(page: Page) -> None:
    """Each control narrows the list correctly, and Reset shows all rows again."""
    choose(page, "search", "TULIP hacked")
    page.wait("document.getElementById('count').textContent.startsWith('4 ')")
    assert page.run("document.querySelectorAll('.card').length") == 4
    page.run("document.querySelector('#controls [type=reset]').click()")
    page.wait(f"document.getElementById('count').textContent.startsWith('{NUM_EDITS} ')")
    page.run("document.querySelector('[name=status][value=edited]').click()")
    assert count(page) == 40
    page.run("document.querySelector('[name=status][value=edited]').click()")
    choose(page, "reason", "decode: CudaError")
    assert count(page) == 10 - 1  # one of them has another reason here
    choose(page, "reason", "")
    choose(page, "score", "2")
    choose(page, "low", "30")
    shown = count(page)
    assert 100 < shown < 300
    choose(page, "sort", "2")
    values = "[...document.querySelectorAll('.card dd.sorted')].map(dd => Number(dd.textContent))"
    found = page.run(values)
    assert found == sorted(found)
    assert found[0] >= 30
    choose(page, "order", "down")
    found = page.run(values)
    assert found == sorted(found, reverse=True)


def test_masks_can_be_shown_for_one_image_or_all(page: Page) -> None:
    """The card's button shows its own mask; the gallery's checkbox shows all of them."""
    visible = "i => getComputedStyle(i).display !== 'none'"
    shown = f"[...document.querySelectorAll('.card img.mask')].filter({visible}).length"
    assert page.run(shown) == 0
    page.run("document.querySelector('.card .show-mask').click()")
    assert page.run(shown) == 1
    assert page.run("document.querySelector('.show-mask').getAttribute('aria-pressed')") == "true"
    page.run("document.getElementById('masks').click()")
    assert page.run(shown) == page.run("document.querySelectorAll('.card img.mask').length")


def test_details_open_and_close_by_keyboard(page: Page) -> None:
    """The dialog opens, Next shows the next edit, Escape closes it and focus returns."""
    page.run("document.querySelector('.card .details').focus()")
    page.run("document.activeElement.click()")
    assert page.run("document.getElementById('detail').open")
    assert page.run("document.getElementById('detail-title').textContent") == "Edit 0 of dog-000000"
    buttons = "[...document.querySelectorAll('dialog button')]"
    page.run(f"{buttons}.find(button => button.textContent === 'Next').click()")
    assert page.run("document.getElementById('detail-title').textContent") == "Edit 1 of dog-000000"
    page.press("Escape", 27)
    page.wait("!document.getElementById('detail').open")
    assert page.run("document.activeElement.className") == "details"


def test_only_cards_near_the_window_exist(page: Page) -> None:
    """The last cards are built only after scrolling to them, and the first are removed then."""
    built = "document.querySelectorAll('.card').length"
    assert page.run(built) < 100
    page.run("document.querySelector('.page:last-child').scrollIntoView({block: 'end'})")
    page.wait(f"document.querySelector('.card[aria-posinset=\"{NUM_EDITS}\"]')")
    page.wait("!document.querySelector('.card[aria-posinset=\"1\"]')")
    assert page.run(built) < 150


def test_every_control_has_an_accessible_name(page: Page) -> None:
    """Every control has a name for screen readers."""
    page.send("Accessibility.enable")
    nodes = page.send("Accessibility.getFullAXTree")["nodes"]
    roles = ("button", "slider", "combobox", "searchbox", "spinbutton", "checkbox", "link", "image")
    controls = [node for node in nodes if node.get("role", {}).get("value") in roles]
    assert len(controls) > 50
    nameless = [node["role"] for node in controls if not node.get("name", {}).get("value")]
    assert nameless == []


def test_failures_can_be_shown_in_the_gallery(page: Page) -> None:
    """The button below a group of failures shows exactly these edits in the gallery."""
    page.run("document.querySelector('.show-reason[data-reason*=\"BadSettings\"]').click()")
    page.wait("document.getElementById('count').textContent.startsWith('10 ')")
    texts = page.run(
        "[...document.querySelectorAll('.card .status')].map(s => s.parentNode.textContent)"
    )
    assert len(texts) == 10
    assert all("decode: BadSettings" in text for text in texts)


def test_colors_follow_the_readers_setting(browser: Page, report: Path) -> None:
    """The page is dark if the reader prefers dark, else light."""
    paper = "getComputedStyle(document.body).backgroundColor"
    found = []
    for dark in (False, True):
        browser.open(report, dark=dark)
        browser.wait_for_gallery()
        found.append(browser.run(paper))
    assert found == ["rgb(251, 251, 249)", "rgb(22, 24, 26)"]
