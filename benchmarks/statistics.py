"""Simulations behind docs/statistics.md: coverage and width of intervals, false verdicts, power, bias of the best.

python -m benchmarks.statistics                  # print the tables
python -m benchmarks.statistics --publish        # and write them into docs/statistics.md
python -m benchmarks.statistics --data-sets 100  # rougher
python -m benchmarks.statistics --table 4        # one of them
"""

import argparse
import math
from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import combinations
from pathlib import Path
from typing import get_args

import numpy as np

from benchmarks.estimators import by_fold, intervals, p_values, total
from benchmarks.worlds import Array, Design, Name, Truth, World, recipes
from segtrain.report.best_of import expected_maximum
from segtrain.report.verdicts import ALPHA

DOCUMENT = Path(__file__).resolve().parent.parent / "docs" / "statistics.md"
BEGIN, END = "<!-- simulations: begin (python -m benchmarks.statistics --publish) -->\n", "<!-- simulations: end -->"
LEGEND = "Designs: folds x seeds; `logit`, `beta`: the two data models.\n"
AT_ONCE = 250  # data sets whose resamples fit into the memory
TESTS = ("Wilcoxon", "paired t", "folds and seeds", "folds", "strict")
DESIGNS = [(1, 1), (1, 2), (1, 3), (1, 5), (5, 1), (5, 2), (5, 3), (5, 5)]
WORLDS = [World(name) for name in get_args(Name)]
Table = list[list[str]]


def blocks(data_sets: int) -> Iterator[int]:
    """The data sets, so many at once."""
    while data_sets > 0:
        yield min(AT_ONCE, data_sets)
        data_sets -= AT_ONCE


def rejected(world: World, design: Design, truth: Truth, data_sets: int, seed: int = 0) -> dict[str, float]:
    """The share of data sets with p <= 0.05 by each test."""
    generator = np.random.default_rng([seed, design.patients, design.folds, design.seeds])
    own, *_, other = recipes(world, generator, data_sets, design, truth)[::-1]
    return {name: float((p <= ALPHA).mean()) for name, p in p_values(own, other, design).items()}


def covered(world: World, design: Design, truth: Truth, data_sets: int) -> dict[str, tuple[float, float]]:
    """The share of intervals with the true mean in them, and their mean width."""
    generator = np.random.default_rng([1, design.patients, design.folds, design.seeds])
    mean = world.true_mean(truth)
    shares: dict[str, float] = {}
    widths: dict[str, float] = {}
    for size in blocks(data_sets):
        (scores,) = recipes(world, generator, size, design, truth, count=1)
        for name, (low, high) in intervals(scores, design).items():
            shares[name] = shares.get(name, 0.0) + float(((low <= mean) & (mean <= high)).sum()) / data_sets
            widths[name] = widths.get(name, 0.0) + float((high - low).sum()) / data_sets
    return {name: (shares[name], widths[name]) for name in shares}


def coverage_table(data_sets: int) -> Table:
    """Of each world, patients, failures and spread of trainings: coverage/width of the old and of the new interval."""
    rows = [["patients, failures, tau", *(f"{k} x {s}" for k, s in DESIGNS)]]
    for world in WORLDS:
        for n, failures, tau in ((10, 0, 0.02), (20, 0, 0.0), (20, 0, 0.02), (20, 0.03, 0.02), (40, 0, 0.02)):
            cells = []
            for k, s in DESIGNS:
                of = covered(world, Design(n, k, s), Truth(tau, failures=failures), data_sets)
                cells.append(", ".join(f"{of[name][0]:.2f}/{of[name][1]:.3f}" for name in ("percentile", "ours")))
            rows.append([f"{world.name}: {n}, {failures:.0%}, {tau:g}", *cells])
    return rows


def false_verdicts(data_sets: int) -> Iterator[tuple[World, Design, Truth, dict[str, float]]]:
    """All settings of two equal recipes: identical, or of equal mean."""
    for world in WORLDS:
        for n in (10, 20, 40):
            for k, s in DESIGNS:
                for tau in (0.0, 0.02, 0.05):
                    for interplay in (False, True):
                        for failures in (0.0, 0.04):
                            truth, design = Truth(tau, interplay, failures=failures), Design(n, k, s)
                            yield world, design, truth, rejected(world, design, truth, data_sets)


def false_table(data_sets: int) -> Table:
    """Mean (largest) share of false verdicts of each design over worlds, patients, spreads, kinds of equality."""
    settings = list(false_verdicts(data_sets))
    rows = [["test", *(f"{k} x {s}" for k, s in DESIGNS)]]
    for name in TESTS:
        cells = []
        for k, s in DESIGNS:
            own = [shares[name] for _, d, _, shares in settings if (d.folds, d.seeds) == (k, s) and name in shares]
            cells.append(f"{100 * np.mean(own):.1f} ({100 * max(own):.1f})" if own else "none given")
        rows.append([name, *cells])
    return rows


def lasting_table(data_sets: int) -> Table:
    """Where half of the trainings' variance belongs to recipe and fold, or recipe and seed; the worse of two worlds."""
    designs = [Design(40, 5, seeds) for seeds in (1, 2, 3, 5)]
    rows = [["half of the variance", "test", *(f"{d}, tau {tau:g}" for d in designs for tau in (0.02, 0.05))]]
    for kind in ("fold", "seed"):
        shares = [
            [rejected(world, d, truth, data_sets, 1) for world in WORLDS]
            for d in designs
            for tau in (0.02, 0.05)
            for truth in [Truth(tau, True, lasting=0.5 * (kind == "fold"), shared=0.5 * (kind == "seed"))]
        ]
        for name in TESTS:
            worst = [max(one.get(name, math.nan) for one in both) for both in shares]
            cells = ["none given" if math.isnan(share) else f"{100 * share:.1f}" for share in worst]
            rows.append([f"by {kind}", name, *cells])
    return rows


def repeats_table(data_sets: int) -> Table:
    """The same seeds in all folds and seeds of each fold's own, where a seed acts alike; the worse of two worlds."""
    designs = [Design(40, 5, seeds) for seeds in (1, 2, 3, 5)]
    kinds = {
        "recipe and seed": Truth(0.0, True, shared=0.5),
        "seed": Truth(0.0, True, common=0.5),
        "none": Truth(0.0, True),
    }
    rows = [
        ["half of the variance by", "spec", "test", *(f"{d}, tau {tau:g}" for d in designs for tau in (0.02, 0.05))]
    ]
    for kind, truth in kinds.items():
        for spec, own in (("seeds", False), ("repeats", True)):
            shares = [
                [rejected(world, replace(d, own_seeds=own), replace(truth, tau=tau), data_sets, 4) for world in WORLDS]
                for d in designs
                for tau in (0.02, 0.05)
            ]
            for name in TESTS[2:]:
                worst = [max(one.get(name, math.nan) for one in both) for both in shares]
                cells = ["none given" if math.isnan(share) else f"{100 * share:.1f}" for share in worst]
                rows.append([kind, spec, name, *cells])
    return rows


def power_table(data_sets: int) -> Table:
    """How often a true difference is shares."""
    rows = [["world, difference, patients, tau", "test", *(f"{k} x {s}" for k, s in DESIGNS)]]
    for world in WORLDS:
        for difference, n, tau in ((0.02, 40, 0.005), (0.02, 40, 0.02), (0.05, 20, 0.02)):
            truth = Truth(tau, True, difference=difference)
            shares = [rejected(world, Design(n, k, s), truth, data_sets, 2) for k, s in DESIGNS]
            for name in TESTS[1:]:
                cells = [f"{100 * one[name]:.0f}" if name in one else "-" for one in shares]
                rows.append([f"{world.name}, +{difference}, {n}, {tau:g}", name, *cells])
    return rows


def best_table(data_sets: int) -> Table:
    """The bias of the mean of the best of K equal recipes, as it is, by folds, without the expected luck."""
    rows = [["K", "design", "as it is", "chosen on the other folds", "without the luck"]]
    for count in (3, 5):
        for design in (Design(20, 5, 3), Design(20, 1, 3)):
            values = np.mean([_bias(world, design, count, data_sets) for world in WORLDS], axis=0)
            cells = [f"{value:+.4f}" if math.isfinite(value) else "-" for value in values]
            rows.append([str(count), str(design), *cells])
    return rows


def _bias(world: World, design: Design, count: int, data_sets: int) -> tuple[float, float, float]:
    truth = Truth(0.02)
    scores = recipes(world, np.random.default_rng(3), data_sets, design, truth, count)
    values_rdn = np.stack([one.mean(axis=2) for one in scores])
    best_d = values_rdn.mean(axis=2).max(axis=0)
    pairs = [
        total(values_rdn[a] - values_rdn[b], [scores[a], scores[b]], design).variance_d
        for a, b in combinations(range(count), 2)
    ]
    luck_d = expected_maximum(count) * np.sqrt(np.mean(pairs, axis=0) / 2)
    mean = world.true_mean(truth)
    by_folds = math.nan
    if design.folds > 1:
        by_folds = float(_by_folds(values_rdn, design).mean()) - mean
    return float(best_d.mean()) - mean, by_folds, float((best_d - luck_d).mean()) - mean


def _by_folds(values_rdn: Array, design: Design) -> Array:
    """Each fold scored by the recipe that is best on the others; folds of equal size."""
    folds_rdk = np.stack([by_fold(values_dn, design) for values_dn in values_rdn])
    others_rdk = folds_rdk.sum(axis=2, keepdims=True) - folds_rdk
    chosen_dk = others_rdk.argmax(axis=0)
    return np.asarray(np.take_along_axis(folds_rdk, chosen_dk[None], axis=0)[0].mean(axis=1))


def markdown(table: Table) -> str:
    """The table in Markdown; its first row has the heads."""
    return "\n".join(f"| {' | '.join(row)} |" for row in [table[0], ["---"] * len(table[0]), *table[1:]])


TABLES: dict[str, Callable[[int], Table]] = {
    "Coverage and mean width of the 95% interval of the mean: percentile bootstrap (before), then ours": coverage_table,
    "False verdicts in %, mean (largest) over all settings": false_table,
    "False verdicts in % with a lasting effect of recipe and fold, or of recipe and seed, 40 patients": lasting_table,
    "False verdicts in % with the same seeds in all folds, and with repeats, 40 patients": repeats_table,
    "Power in %": power_table,
    "Bias of the best of K equal recipes": best_table,
}


def report(head: str, data_sets: int) -> str:
    """A table with its heading."""
    text = f"**{head}** ({data_sets} data sets a cell)\n\n{markdown(TABLES[head](data_sets))}\n"
    print(text, flush=True)
    return text


def published(document: str, head: str, text: str) -> str:
    """The document with this table in place of the one with the same heading, or after those that are there."""
    before, rest = document.split(BEGIN)
    tables, after = rest.split(END)
    parts = {part.partition("**")[0]: f"**{part}" for part in tables.split("\n**")[1:]}
    parts = {one: parts[one].strip() + "\n" for one in parts} | {head: text}
    in_order = [parts[one] for one in TABLES if one in parts]
    return before + BEGIN + LEGEND + "\n" + "\n".join(in_order) + END + after


def main() -> None:
    parser = argparse.ArgumentParser(
        "python -m benchmarks.statistics", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data-sets", type=int, default=2000, metavar="N", help="of each cell, default 2000")
    parser.add_argument("--table", type=int, choices=range(1, len(TABLES) + 1), help="this one alone, default all")
    parser.add_argument("--publish", action="store_true", help=f"write the tables into docs/{DOCUMENT.name}")
    options = parser.parse_args()
    heads = list(TABLES)
    for head in heads if options.table is None else [heads[options.table - 1]]:
        text = report(head, options.data_sets)
        if options.publish:
            DOCUMENT.write_text(published(DOCUMENT.read_text(), head, text))


if __name__ == "__main__":
    main()
