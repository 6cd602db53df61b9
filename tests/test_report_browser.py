"""The report in a real browser: it opens from a file, fetches nothing, runs no name, and can be used by keyboard."""

import base64
import io
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
from browsers import TIMEOUT_MS, Watched, chromium, watching
from made_runs import PATIENTS, train
from numpy.typing import NDArray
from PIL import Image
from playwright.sync_api import BrowserContext, Locator, Page

from segtrain.report import content, page
from segtrain.report.atlas import Atlas, atlases
from segtrain.report.collect import collect
from segtrain.report.statistics import compare
from segtrain.report.texts import Language, say_in
from segtrain.report.variants import by_variant, scores
from segtrain.run import Run

EVIL = (
    "<img src=x onerror=window.hacked=1>",
    '"><script>window.hacked=1<',
    "</script><script>window.hacked=1</script>",
)


@pytest.fixture(scope="module")
def context(tmp_path_factory: pytest.TempPathFactory) -> Iterator[BrowserContext]:
    with chromium(tmp_path_factory.mktemp("chromium")) as browser:
        yield browser


@pytest.fixture
def watched(context: BrowserContext) -> Iterator[Watched]:
    with watching(context) as page:
        yield page


@dataclass(frozen=True)
class Reported:
    """A report of an ablation with hostile names, and the atlas in it."""

    pages: dict[Language, Path]
    atlas: Atlas


@pytest.fixture(scope="module")
def reported(trained_run: Run, tmp_path_factory: pytest.TempPathFactory) -> Reported:
    """The runs of the tables are made; the atlas is of a trained one, its first patient under a hostile name."""
    folder = tmp_path_factory.mktemp("reported")
    for variant, shift in (("base", 0.0), (EVIL[0], 0.05), (EVIL[1], -0.05)):
        train(folder / "runs" / f"{variant}-fold0-seed1", shift, patients=(*PATIENTS, *EVIL))
    train(folder / "runs" / "lost-fold0-seed10", 0.0, "diverged")
    train(folder / "runs" / "slow-fold0-seed9", 0.0, "running")
    runs = collect([folder / "runs"])
    first, groups = by_variant(runs, "base")
    rows = compare({variant: scores(own) for variant, own in groups.items()}, first)
    (atlas,) = atlases(collect([trained_run.root]))
    cards = [replace(atlas.cards[0], patient=EVIL[2]), *atlas.cards[1:]]
    atlas = replace(atlas, run=EVIL[0], cards=cards, differ=EVIL)
    pages: dict[Language, Path] = {}
    for language in ("en", "zh"):
        sections = content.sections(runs, groups, rows, say_in(language), [atlas, Atlas(EVIL[1], reason=EVIL[2])])
        pages[language] = page.write_files(folder / language, language, sections, page.results(rows, groups))
    return Reported(pages, atlas)


@pytest.fixture
def opened(watched: Watched, reported: Reported) -> Page:
    watched.page.goto(reported.pages["en"].as_uri())
    return watched.page


@pytest.mark.parametrize("language", ["en", "zh"])
def test_it_opens_from_a_file_and_asks_for_nothing(watched: Watched, reported: Reported, language: Language) -> None:
    file, browser = reported.pages[language], watched.page
    browser.goto(file.as_uri())
    for view in ("outlines", "four"):
        browser.locator(f"input[value={view}]").check()
    browser.locator(".card input").first.press("ArrowRight")
    browser.locator("#table-variants th button").first.click()
    browser.evaluate("scrollTo(0, document.body.scrollHeight)")
    browser.wait_for_load_state("networkidle")
    assert watched.said == []
    assert [url for url in watched.asked if not url.startswith("data:image/webp")] == [file.as_uri()]
    with browser.expect_console_message(lambda message: "Content Security Policy" in message.text):
        browser.evaluate("new Image().src = 'https://example.org/x.png'")  # this is how it would have been noticed


def test_hostile_names_are_shown_and_not_run(opened: Page) -> None:
    text = opened.locator("body").inner_text()
    for name in EVIL:
        assert name in text
    for place in ("#table-variants", "#table-patients", "#table-runs", "#atlas", ".card h4", "#figure-forest"):
        assert any(name in (opened.locator(place).first.text_content() or "") for name in EVIL), place
    opened.locator(".card input").first.press("ArrowLeft")
    assert opened.locator("img[src=x]").count() == 0
    assert opened.evaluate("window.hacked") is None
    # A name that is not escaped would have been noticed. The page's own policy forbids Playwright to poll for that.
    noticed = """([name, timeout_ms]) => new Promise((ran, never) => {
        Object.defineProperty(window, "hacked", {set: ran});
        setTimeout(never, timeout_ms, new Error("the name did not run"));
        document.querySelector("h1").innerHTML = name;
    })"""
    assert opened.evaluate(noticed, [EVIL[0], TIMEOUT_MS]) == 1


def tile_of(picture: NDArray[np.uint8], columns: int, place: int) -> NDArray[np.uint8]:
    side = picture.shape[1] // columns
    row, column = divmod(place, columns)
    return picture[row * side : (row + 1) * side, column * side : (column + 1) * side]


def slice_in(pane: Locator, sprite: NDArray[np.uint8], columns: int, slices: int) -> int:
    """The slice whose FLAIR the pane shows, as a person would find it: the one that looks most alike."""
    shot = Image.open(io.BytesIO(pane.screenshot())).convert("RGB")
    tiles = [
        Image.fromarray(tile_of(sprite, columns, place)).resize(shot.size, Image.Resampling.BILINEAR)
        for place in range(slices)
    ]
    distances = [float(np.abs(np.asarray(shot, float) - np.asarray(tile, float)).mean()) for tile in tiles]
    best = int(np.argmin(distances))
    assert distances[best] < 10, "of 255: it is that picture, and not merely the nearest"
    return best


def test_the_slider_moves_the_picture(opened: Page, reported: Reported) -> None:
    card, shown = reported.atlas.cards[0], opened.locator(".card").first
    code = card.pictures.layers["flair"].partition(",")[2]
    sprite = np.asarray(Image.open(io.BytesIO(base64.b64decode(code))).convert("RGB"))
    slider, pane = shown.locator("input"), shown.locator(".flair-pane .picture")
    last = len(card.slices) - 1
    assert slice_in(pane, sprite, card.pictures.columns, last + 1) == card.worst
    for key, place in (("Home", 0), ("ArrowRight", 1), ("ArrowUp", 2), ("ArrowLeft", 1), ("End", last)):
        slider.press(key)
        assert slice_in(pane, sprite, card.pictures.columns, last + 1) == place, key
        one = card.slices[place]
        now = f"slice {one.number} · TP {one.tp} · FP {one.fp} · FN {one.fn}"
        assert shown.locator(".now").inner_text() == slider.get_attribute("aria-valuetext") == now
    slider.fill("3")  # as a mouse does, by an event of input
    assert slice_in(pane, sprite, card.pictures.columns, last + 1) == 3
    box = shown.locator(".profile").bounding_box()
    assert box
    shown.locator(".profile").click(position={"x": box["width"] * 4.5 / (last + 1), "y": 5})
    assert slice_in(pane, sprite, card.pictures.columns, last + 1) == 4
    worst = reported.atlas.cards[1].worst
    assert opened.locator(".card input").nth(1).input_value() == str(worst), "the others stay where they are"


def test_the_difference_is_painted_where_the_numbers_say(opened: Page, reported: Reported) -> None:
    card, shown = reported.atlas.cards[0], opened.locator(".card").first
    for place in (card.worst, 0):
        shown.locator("input").fill(str(place))
        shot = Image.open(io.BytesIO(shown.locator(".difference-pane .picture").screenshot())).convert("RGB")
        red, _, blue = np.asarray(shot, int).reshape(-1, 3).T
        voxel = len(red) / 32**2
        orange, blues = (red > blue + 60).sum() / voxel, (blue > red + 25).sum() / voxel
        one = card.slices[place]
        assert (orange, blues) == (pytest.approx(one.fp, abs=2 + one.fp / 5), pytest.approx(one.fn, abs=2 + one.fn / 5))


def visible_panes(opened: Page) -> list[str]:
    panes = opened.locator(".card").first.locator(".pane")
    return [
        str(pane.get_attribute("class")).split()[1].removesuffix("-pane") for pane in panes.all() if pane.is_visible()
    ]


def test_views_and_slices_by_keyboard_alone(opened: Page) -> None:
    four = ["flair", "truth", "prediction", "difference"]
    assert visible_panes(opened) == four
    opened.locator("input[value=four]").focus()
    for view in (*four[:3], "outlines", "difference"):
        opened.keyboard.press("ArrowRight")
        assert visible_panes(opened) == [view]
    opened.keyboard.press("ArrowRight")
    assert visible_panes(opened) == four, "round again"
    for _ in range(2):  # past the link to the weights
        opened.keyboard.press("Tab")
    before = opened.locator(".card .now").first.inner_text()
    opened.keyboard.press("Home")
    assert opened.locator(".card .now").first.inner_text() != before


def column(opened: Page, table: str, head: str) -> list[str]:
    heads = opened.locator(f"{table} th").all_inner_texts()
    place = next(k for k, text in enumerate(heads) if text.startswith(head))
    return opened.locator(f"{table} tbody tr td:nth-child({place + 1})").all_inner_texts()


def test_tables_sort_by_click_and_by_key(opened: Page) -> None:
    table = "#table-variants"
    head = opened.locator(table).get_by_role("button", name="mean DSC, last epoch")
    before = column(opened, table, "mean DSC, last")
    head.click()
    up = column(opened, table, "mean DSC, last")
    assert up == sorted(before, key=lambda text: float(text.split()[0])) != before
    assert opened.locator(f"{table} th[aria-sort=ascending]").count() == 1
    head.press("Enter")
    assert column(opened, table, "mean DSC, last") == up[::-1]
    assert opened.locator(f"{table} th[aria-sort=descending]").count() == 1
    opened.locator("#table-runs th button").first.press("Space")
    names = column(opened, "#table-runs", "run")
    assert names == opened.evaluate("names => names.toSorted((a, b) => a.localeCompare(b))", names)
    opened.locator("#table-runs").get_by_role("button", name="seed").click()
    assert column(opened, "#table-runs", "seed") == ["1", "1", "1", "9", "10"], "as numbers"
    opened.locator(table).get_by_role("button", name="difference to").click()
    assert [text[:7] for text in column(opened, table, "difference to")] == ["-0.0500", "+0.0500", ""]
    opened.locator(table).get_by_role("button", name="difference to").click()
    assert [text[:7] for text in column(opened, table, "difference to")] == ["+0.0500", "-0.0500", ""], (
        "nothing is last"
    )


def test_on_a_phone_nothing_is_cut_off(opened: Page) -> None:
    opened.set_viewport_size({"width": 360, "height": 740})
    assert opened.evaluate("document.documentElement.scrollWidth") == 360
    card = opened.locator(".card").first
    boxes = [pane.bounding_box() for pane in card.locator(".pane").all() if pane.is_visible()]
    rows = {round(box["y"]) for box in boxes if box}
    assert len(rows) == 2, "two by two"
    assert all(box and box["width"] > 150 and box["x"] + box["width"] <= 360 for box in boxes)
    slider = card.locator("input").bounding_box()
    assert slider
    assert slider["height"] >= 24, "WCAG 2.2, target size"
    wide = opened.locator("#result .scroll").evaluate("one => [one.scrollWidth > one.clientWidth, one.tabIndex]")
    assert wide == [True, 0], "a wide table scrolls alone, by keyboard too"


@pytest.mark.parametrize("language", ["en", "zh"])
def test_no_page_is_wider_than_a_phone_or_a_sheet(watched: Watched, reported: Reported, language: Language) -> None:
    """Also with the hostile names, which have no place where a line may end."""
    browser = watched.page
    browser.goto(reported.pages[language].as_uri())
    for width in (320, 360, 390, 1280):
        browser.set_viewport_size({"width": width, "height": 800})
        assert browser.evaluate("document.documentElement.scrollWidth <= innerWidth"), width
    browser.set_viewport_size({"width": 703, "height": 1000})  # CSS pixels: A4 without its margins of 12 mm
    browser.emulate_media(media="print")
    wide = browser.evaluate("""[...document.querySelectorAll("body *")]
        .filter(one => one.getBoundingClientRect().right > 703.5 && one.checkVisibility())
        .map(one => `${one.tagName} ${one.id} ${one.textContent.slice(0, 40)}`)""")
    browser.emulate_media(media="screen")
    assert wide == []


def test_no_label_of_a_figure_lies_on_a_line(opened: Page) -> None:
    """As the browser draws them, in its own font."""
    for figure in ("#figure-forest", "#figure-strip"):
        overlaps = opened.locator(f"{figure} svg").evaluate("""svg => {
            const boxes = kind => [...svg.querySelectorAll(kind)].map(one => [one.getBoundingClientRect(), one]);
            const lie = (a, b) => a.left < b.right && b.left < a.right && a.top + 2 < b.bottom && b.top < a.bottom - 2;
            const texts = boxes("text");
            return texts.flatMap(([a, one]) => [...boxes("line"), ...texts]
                .filter(([b, other]) => one !== other && lie(a, b)).map(() => one.textContent));
        }""")
        assert overlaps == []
        outside = opened.locator(f"{figure} svg").evaluate("""svg => [...svg.querySelectorAll("text")].filter(one =>
            one.getBoundingClientRect().right > svg.getBoundingClientRect().right + 1).map(one => one.textContent)""")
        assert outside == []


def test_the_first_screen_has_the_finding_the_table_and_the_forest_in_this_order(opened: Page) -> None:
    opened.set_viewport_size({"width": 1280, "height": 900})
    tops = [opened.locator(place).first.bounding_box() for place in (".headline", "#table-variants", "#figure-forest")]
    assert all(tops)
    heights = [box["y"] for box in tops if box]
    assert heights == sorted(heights)
    assert heights[-1] < 900


def test_print_shows_every_patients_worst_slice(opened: Page, reported: Reported) -> None:
    opened.locator("input[value=truth]").check()
    for slider in opened.locator(".card input").all():
        slider.press("Home")
    opened.emulate_media(media="print")
    try:
        assert visible_panes(opened) == ["flair", "truth", "prediction", "difference"]
        assert not opened.locator(".views").is_visible()
        assert not opened.locator(".card input").first.is_visible()
        for place, card in enumerate(reported.atlas.cards):
            shown, worst = opened.locator(".card").nth(place), card.slices[card.worst]
            words = f"slice {worst.number} · TP {worst.tp} · FP {worst.fp} · FN {worst.fn}"
            assert shown.locator(".printed").inner_text() == words
            at = shown.locator(".difference").last.evaluate("one => getComputedStyle(one).backgroundPosition")
            assert [float(part.rstrip("%")) for part in at.split()] == pytest.approx(
                [float(part.rstrip("%")) for part in card.pictures.position(card.worst)], abs=0.01
            )
    finally:
        opened.emulate_media(media="screen")
