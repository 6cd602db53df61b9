"""The atlas of several regions and contrasts: pictures and numbers agree, each can be chosen, also on a phone."""

import base64
import io
import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
from browsers import Watched, chromium, watching
from drawn_atlases import CONTRASTS, SIDE_PX, SLICES, ball, drawn_atlas, drawn_card
from made_runs import REGIONS, SCANS, train
from numpy.typing import NDArray
from PIL import Image
from playwright.sync_api import BrowserContext, Locator, Page

from segtrain.report import content, page
from segtrain.report.atlas import Atlas, _fitting
from segtrain.report.card import Card, Names
from segtrain.report.collect import collect
from segtrain.report.texts import TEXTS, Language, say_in
from segtrain.report.variants import by_variant, compared

EVIL = '"><script>window.hacked=1</script>'
NAMES = ("whole", "core", EVIL)


def tile(card: Card, layer: str, place: int) -> NDArray[np.uint8]:
    """uint8 [h, w, 4] of a slice."""
    code = card.pictures.layers[layer].partition(",")[2]
    whole = np.asarray(Image.open(io.BytesIO(base64.b64decode(code))).convert("RGBA"))
    side = whole.shape[1] // card.pictures.columns
    row, column = divmod(place, card.pictures.columns)
    return whole[row * side : (row + 1) * side, column * side : (column + 1) * side]


def test_each_region_s_picture_has_its_colour_and_its_numbers() -> None:
    names = Names(CONTRASTS, tuple(REGIONS))
    card = drawn_card("p", names)
    for number, region in enumerate(REGIONS):
        colour = names.colour(region)
        for place, one in enumerate(card.slices):
            pixels = tile(card, f"difference{number}", place).reshape(-1, 4)
            area = len(pixels) / SIDE_PX**2
            alpha = pixels[:, 3]
            coloured = (pixels[:, :3] == colour).all(axis=1)
            painted = [(alpha == 60).sum(), (coloured & (alpha == 210)).sum()]
            painted.append((coloured & ((alpha == 255) | (alpha == 90))).sum())
            assert [count / area for count in painted] == one.parts[number]
            for layer in ("truth", "prediction"):
                outline = tile(card, f"{layer}{number}", place)
                assert {tuple(pixel[:3]) for pixel in outline[outline[..., 3] > 0]} <= {colour}
        assert sum(one.parts[number][0] for one in card.slices) == int(card.rows[number]["tp"])
    for one in card.slices:
        assert [one.tp, one.fp, one.fn] == np.sum(one.parts, axis=0).tolist()
    assert card.dsc == pytest.approx(np.mean([float(row["dsc"]) for row in card.rows]))
    assert len({names.colour(region) for region in REGIONS}) == len(REGIONS)


def sorted_otherwise() -> Atlas:
    """Two patients: by DSC the first is the worst, but in the second a whole lesion is missed."""
    names = Names(CONTRASTS, tuple(REGIONS))
    missed = drawn_card("missed", names, shift=20.0)
    missed = replace(missed, rows=[{**row, "dsc": "0.99"} for row in missed.rows])
    cards = [drawn_card("found", names), missed]
    return Atlas("run", checkpoint="step-00000030", sha256="0" * 64, shown="FLAIR", names=names, cards=cards)


def test_a_missed_and_a_false_lesion_are_marked_where_they_are() -> None:
    atlas = sorted_otherwise()
    found, missed = atlas.cards
    assert atlas.ranks == [{"dsc": 1, "lesion": 2}, {"dsc": 2, "lesion": 1}]
    assert [name for name in missed.pictures.layers if name.startswith("lesions")] == ["lesions2"]
    assert not any(name.startswith("lesions") for name in found.pictures.layers)
    place = SLICES // 2
    pixels = tile(missed, "lesions2", place)
    painted = (pixels == (*atlas.names.colour("enhancing"), 255)).all(axis=-1)
    factor = len(pixels) // SIDE_PX
    wrong = (ball(7) | ball(7, 20.0))[place].repeat(factor, axis=0).repeat(factor, axis=1)
    assert painted.sum() > 100
    assert not (painted & ~wrong).any()
    assert [(lesion.region, lesion.name) for lesion in missed.wrong] == [("enhancing", "M1"), ("enhancing", "F2")]
    assert (missed.start("lesion"), missed.start("dsc")) == (missed.wrong[0].place, missed.worst)
    assert (found.more_wrong, missed.more_wrong) == (0, 0)


def test_contrasts_are_left_out_before_patients_are() -> None:
    names = Names(CONTRASTS, tuple(REGIONS))
    cards = [drawn_card(f"p{number}", names) for number in range(3)]
    others = [name for name in CONTRASTS if name != "FLAIR"]
    whole = sum(card.pictures.size for card in cards)
    alone = sum(card.pictures.without({"contrast0", "contrast2", "contrast3"}).size for card in cards)
    assert alone < whole * 2 / 3
    for room, expected in ((whole, (3, [])), (alone, (3, others)), (alone - 1, (2, others)), (10, (0, others))):
        fitting, unshown = _fitting(iter(cards), others, room, names)
        assert (len(fitting), list(unshown)) == expected
        assert sum(card.pictures.size for card in fitting) <= room
        assert all(("contrast0" in card.pictures.layers) is not bool(unshown) for card in fitting)


@pytest.fixture(scope="module")
def context(tmp_path_factory: pytest.TempPathFactory) -> Iterator[BrowserContext]:
    with chromium(tmp_path_factory.mktemp("chromium")) as browser:
        yield browser


@pytest.fixture
def watched(context: BrowserContext) -> Iterator[Watched]:
    with watching(context) as one:
        yield one


@dataclass(frozen=True)
class Reported:
    """A report by region in each language, and the atlas in it."""

    pages: dict[Language, Path]
    atlas: Atlas


@pytest.fixture(scope="module")
def reported(tmp_path_factory: pytest.TempPathFactory) -> Reported:
    folder = tmp_path_factory.mktemp("reported")
    for variant, shift in (("base", 0.0), ("up", 0.05)):
        train(folder / "runs" / f"{variant}-fold0-seed1", dict.fromkeys(NAMES, shift), people=SCANS)
    runs = collect([folder / "runs"])
    first, groups = by_variant(runs, "base")
    rows = compared(groups, first)
    atlas = drawn_atlas("up-fold0-seed1", ("patient0", EVIL), NAMES)
    pages: dict[Language, Path] = {}
    for language in ("en", "zh"):
        sections = content.sections(runs, groups, rows, say_in(language), [atlas])
        pages[language] = page.write_files(folder / language, language, sections, page.results(rows, groups))
    return Reported(pages, atlas)


@pytest.fixture
def opened(watched: Watched, reported: Reported) -> Page:
    watched.page.goto(reported.pages["en"].as_uri())
    return watched.page


def shot(pane: Locator) -> NDArray[np.int64]:
    """int [h, w, 3]: what a reader sees."""
    return np.asarray(Image.open(io.BytesIO(pane.screenshot())).convert("RGB"), int)


def coloured(pixels: NDArray[np.int64], colour: tuple[int, int, int]) -> int:
    """The pixels of about that colour."""
    return int((np.abs(pixels - colour).max(axis=-1) < 40).sum())


def test_every_region_can_be_hidden(opened: Page, reported: Reported) -> None:
    names, card = reported.atlas.names, opened.locator(".card").first
    for pane in (".truth-pane", ".prediction-pane", ".difference-pane"):
        picture = card.locator(f"{pane} .picture")
        before = {region: coloured(shot(picture), names.colour(region)) for region in NAMES}
        assert all(before.values()), pane
        for number, region in enumerate(NAMES):
            opened.locator(".regions input").nth(number).uncheck()
            pixels = shot(picture)
            assert coloured(pixels, names.colour(region)) == 0, (pane, region)
            shown = [other for other in NAMES if other != region]
            assert all(coloured(pixels, names.colour(other)) for other in shown), (pane, region)
            opened.locator(".regions input").nth(number).check()


def test_another_contrast_can_be_chosen(opened: Page) -> None:
    """Each contrast has another ball bright: none, whole, core, and the third."""
    card = opened.locator(".card").first
    bright = {"t1": 0.0, "FLAIR": ball(22)[SLICES // 2].mean(), "t1ce": ball(14)[SLICES // 2].mean()}
    for contrast, share in (("FLAIR", bright["FLAIR"]), ("t1ce", bright["t1ce"]), ("FLAIR", bright["FLAIR"])):
        opened.locator(f".contrasts input[value={contrast}]").check()
        pixels = shot(card.locator(".flair-pane .picture"))
        assert (pixels.mean(axis=-1) > 140).mean() == pytest.approx(share, abs=0.03)
        assert card.locator(".flair-pane figcaption").inner_text() == contrast
    assert opened.locator(".contrasts input").evaluate_all("all => all.map(one => one.value)") == [
        "FLAIR", "t1", "t1ce", "t2",
    ]  # fmt: skip


def test_the_numbers_of_each_region_follow_the_slice(opened: Page, reported: Reported) -> None:
    card, shown = reported.atlas.cards[0], opened.locator(".card").first
    slider = shown.locator("input")
    for key, place in (("Home", 0), ("ArrowRight", 1), ("End", SLICES - 1)):
        slider.press(key)
        one = card.slices[place]
        parts = " ".join(
            f"· {region}: TP {tp} FP {fp} FN {fn}" for region, (tp, fp, fn) in zip(NAMES, one.parts, strict=True)
        )
        words = f"slice {one.number} · all regions: TP {one.tp} · FP {one.fp} · FN {one.fn} {parts}"
        assert " ".join((slider.get_attribute("aria-valuetext") or "").split()) == words
        assert " ".join((shown.locator(".now").text_content() or "").split()) == words
    box = shown.locator(".profile").bounding_box()
    assert box
    shown.locator(".profile").click(position={"x": box["width"] * 3.5 / SLICES, "y": 5})
    assert f"TP {card.slices[3].parts[0][0]} " in (shown.locator(".now").text_content() or "")


def test_the_table_of_a_patient_has_every_region(opened: Page, reported: Reported) -> None:
    for place, card in enumerate(reported.atlas.cards):
        shown = opened.locator(".card").nth(place)
        cells = [
            row.locator("td").all_inner_texts() for row in shown.locator("table.parts tbody tr").all()
        ]  # as a reader meets it
        keys = ("region", "dsc", "voxels", "tp", "fp", "fn", "dsc_all_components")
        assert [[text.strip() for text in line] for line in cells] == [[row[key] for key in keys] for row in card.rows]
        assert f"mean over regions: DSC {card.dsc:.6f}" in shown.locator("h4").inner_text()


@pytest.mark.parametrize("width", [360, 1280])
def test_patients_sort_by_the_worst_lesion_and_buttons_lead_to_it(watched: Watched, tmp_path: Path, width: int) -> None:
    atlas, file, browser = sorted_otherwise(), tmp_path / "index.html", watched.page
    file.write_text(page.html_page("en", content.sections([], {}, [], say_in("en"), [atlas])))
    browser.set_viewport_size({"width": width, "height": 740})
    browser.goto(file.as_uri())
    names = browser.locator(".card .name")
    assert names.all_inner_texts() == ["found", "missed"]
    browser.locator(".sorts input[value=lesion]").check()
    assert names.all_inner_texts() == ["missed", "found"]
    first = browser.locator(".card").first
    assert "1 of 2 by worst lesion" in first.locator("h4").inner_text()
    assert "enhancing: 0 of 1 lesions found, 1 false" in first.locator(".lesion-counts").inner_text()
    assert first.locator("input").input_value() == str(atlas.cards[1].start("lesion"))
    first.locator("input").press("Home")
    button = first.locator(".wrong button").first
    assert button.inner_text().startswith("enhancing M1: ")
    button.press("Enter")
    assert first.locator("input").input_value() == str(atlas.cards[1].wrong[0].place)
    browser.locator(".sorts input[value=dsc]").check()
    assert names.all_inner_texts() == ["found", "missed"]
    assert browser.evaluate("document.documentElement.scrollWidth") == width
    assert watched.said == []


@pytest.mark.parametrize("language", ["en", "zh"])
@pytest.mark.parametrize("width", [360, 1280])
def test_it_opens_quietly_and_nothing_is_cut_off(
    watched: Watched, reported: Reported, language: Language, width: int
) -> None:
    browser = watched.page
    browser.set_viewport_size({"width": width, "height": 740})
    browser.goto(reported.pages[language].as_uri())
    assert browser.evaluate("document.documentElement.scrollWidth") == width
    for view in ("outlines", "difference", "four"):
        browser.locator(f"input[value={view}]").check()
        panes = browser.locator(".card").first.locator(".pane").all()
        boxes = [pane.bounding_box() for pane in panes if pane.is_visible()]
        assert all(box and box["width"] > 150 and box["x"] + box["width"] <= width for box in boxes), view
        assert len(boxes) == (4 if view == "four" else 1)
    legend = browser.locator("#atlas .legend").inner_text()
    assert all(TEXTS[language][f"legend_region_{key}"] in legend for key in ("truth", "prediction", "fp", "fn", "bars"))
    assert TEXTS[language]["legend_fp"] not in legend, "its colours are those of one region"
    assert browser.evaluate("window.hacked") is None
    assert watched.said == []


def test_print_has_the_numbers_of_each_region(opened: Page, reported: Reported) -> None:
    opened.emulate_media(media="print")
    try:
        card = reported.atlas.cards[0]
        printed = opened.locator(".card .printed").first.inner_text()
        assert f"core: TP {card.slices[card.worst].parts[1][0]} " in printed
        assert not opened.locator(".controls").is_visible()
    finally:
        opened.emulate_media(media="screen")


def test_atlases_of_one_and_of_several_regions_share_a_page(reported: Reported) -> None:
    one = replace(reported.atlas.cards[0], rows=[{**reported.atlas.cards[0].rows[0]}])
    plain_row = {key: value for key, value in one.rows[0].items() if key != "region"}
    plain = replace(reported.atlas, run="plain", cards=[replace(one, rows=[plain_row])], shown="t2", others=())
    viewer = page.Viewer.of([reported.atlas, plain])
    assert (viewer.plain, viewer.image, viewer.extended) == (True, "", True)
    text = page.html_page("en", content.sections([], {}, [], say_in("en"), [reported.atlas, plain]))
    assert TEXTS["en"]["legend_fp"] in text
    assert TEXTS["en"]["legend_region_fp"] in text
    assert re.search(r"<figcaption>t2</figcaption>", text)
