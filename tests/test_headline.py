# ruff: noqa: RUF001 (Chinese has its own punctuation)
"""The sentence that a report begins with says what its verdicts say, with the same numbers, in both languages."""

import math
from collections.abc import Mapping

from segtrain.report.headline import headline
from segtrain.report.statistics import compare
from segtrain.report.texts import Language, first_names, say_in
from segtrain.report.variance import Scores

TIMES = "\N{MULTIPLICATION SIGN}"
SPREAD = (0.02, -0.01, 0.0, 0.01, -0.02, 0.005, -0.005, 0.015)


def scores(mean: float, folds: int = 5, seeds: int = 2, noise: float = 0.001) -> Scores:
    """Eight patients a fold; the seeds differ by the noise, in turn up and down."""
    return {
        (f"patient{fold}-{number}", fold, seed): mean
        + SPREAD[number]
        + noise * (-1) ** (seed + fold)
        + 0.1 * noise * number
        for fold in range(folds)
        for number in range(8)
        for seed in range(seeds)
    }


def sentence(variants: Mapping[str, Scores], language: Language = "en") -> str:
    return headline(compare(variants, next(iter(variants))), say_in(language))


def test_one_variant_has_its_mean_interval_patients_and_failures() -> None:
    values = {unit: 0.05 if unit[0] == "patient0-0" else dsc for unit, dsc in scores(0.8).items()}
    (row,) = compare({"unet": values}, "unet")
    low, high = row.summary.ci_low, row.summary.ci_high
    assert sentence({"unet": values}) == (
        f"unet: mean DSC {row.summary.mean:.3f} (95% interval {low:.3f} to {high:.3f}) over 40 patients whom it was "
        f"not trained on (5 folds {TIMES} 2 seeds); 1 of them below 0.1."
    )
    assert sentence({"unet": scores(0.8)}).endswith("none of them below 0.1.")


def of_new(shift: float, language: Language = "en", several: bool = False) -> str:
    """The sentence on a variant whose patients differ by the shift, give or take a little."""
    varied = {unit: dsc + shift + 0.004 * math.sin(7 * place) for place, (unit, dsc) in enumerate(scores(0.8).items())}
    others = {"other": scores(0.8, noise=0.002)} if several else {}
    return sentence({"dice": scores(0.8), "new": varied, **others}, language)


def test_the_sentence_follows_the_verdict() -> None:
    assert of_new(0.02).startswith("new is better than dice by 0.0")
    assert of_new(-0.02).startswith("new is worse than dice by 0.0")
    assert "-" not in of_new(-0.02).partition("(")[0], "worse by, without a sign"
    assert of_new(0.02, "zh").startswith("new 优于 dice，DSC 高 0.0")
    assert of_new(-0.02, "zh").startswith("new 不如 dice，DSC 低 0.0")
    assert of_new(0.0).startswith("new and dice cannot be told apart: the difference is ")
    assert f"40 patients, 5 folds {TIMES} 2 seeds" in of_new(0.02)
    assert of_new(0.02, several=True).endswith("Clearly different from dice: 1 of 2 variants.")


def test_without_a_verdict_nothing_is_said_of_recipes() -> None:
    base = scores(0.8, folds=1, seeds=1)
    varied = {unit: dsc + 0.05 + 0.01 * math.sin(place) for place, (unit, dsc) in enumerate(base.items())}
    text = sentence({"dice": base, "new": varied})
    assert text.startswith("These runs cannot say whether new or dice is the better recipe;")
    assert "8 patients, one training" in text
    assert "better than" not in text


def test_the_sentence_is_of_a_pair_with_a_verdict() -> None:
    """One training each differ more, and give none: it is not they that cannot be told apart."""
    base: Scores = {unit: dsc for unit, dsc in scores(0.8, folds=1).items() if unit[0] != "patient0-7"}
    far: Scores = {(f"patient0-{number}", 0, 1): 0.3 + 0.1 * (number % 2) for number in (0, 1, 7)}
    rows = compare({"dice": base, "far": far, "near": scores(0.801, folds=1, noise=0.02)}, "dice")
    assert [row.verdict for row in rows] == ["baseline", "no verdict", "not distinguishable"]
    assert headline(rows, say_in("en")).startswith("near and dice cannot be told apart: ")
    assert headline(rows[:2], say_in("en")).startswith("These runs cannot say whether far or dice")


def test_without_a_common_patient() -> None:
    others = {(f"other{unit[0]}", *unit[1:]): dsc for unit, dsc in scores(0.8).items()}
    assert sentence({"dice": scores(0.8), "new": others}).startswith("No variant has been compared with dice")


def test_one_patient_has_no_interval() -> None:
    text = sentence({"unet": {("a", 0, 1): 0.5}})
    assert (
        text == "unet: mean DSC 0.500 over 1 patient whom it was not trained on (one training); none of them below 0.1."
    )


def test_a_sentence_names_the_first_few_and_says_that_there_are_more() -> None:
    assert first_names(["a", "b", "c"]) == "a, b, c"
    assert first_names(["a", "b", "c", "d"]) == "a, b, c ..."
    assert first_names(["a", "b"], 1) == "a ..."
