"""What an ablation can find before it is trained: people, folds, seeds, the detectable difference, GPU hours.

The spreads come from an earlier report's results.csv (`--spreads`), or from the report of the same ablation; else they
are those of small runs on LGG. docs/statistics.md has the formula.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from segtrain.config import Config
from segtrain.config.schema import SOURCES
from segtrain.errors import SegtrainError
from segtrain.report.earlier import Earlier, read_earlier
from segtrain.report.power import POWER, Design, Spreads, detectable, power, power_of_verdicts
from segtrain.run import Member, Spec
from segtrain.runtime.terminal import show_table

PROPOSED = ((1, 3), (5, 1), (5, 2), (5, 3), (5, 5))  # folds, seeds
UNKNOWN_PEOPLE = (20, 40, 100)  # shown where the number of patients is not known
FIND = 0.02  # the difference that a proposal is for, unless another is asked for
MOST_TRAININGS = 10  # of a variant on a fold, that a proposal may have
HEADS = ("folds x seeds", "runs", "GPU hours", "patients", f"difference found in {POWER:.0%}")


def show(spec: Spec, members: Sequence[Member], report: Path, asked: Path | None, find: float = FIND) -> str:
    """Print the table; returns a proposal and a line on what both rest on.

    `find`: the difference that the proposal is for. Raises ConfigError: `asked` is no report with spreads.
    """
    comparisons = len(spec.variants) - 1
    if not comparisons:
        return "One variant: nothing is compared."
    earlier = read_earlier(asked or report, asked is not None)
    plan = Plan(spec, members[0].cfg, earlier, _everybody(members[0].cfg))
    rows = []
    for folds, seeds in dict.fromkeys([plan.own, *plan.proposed]):
        people = plan.people(folds)
        differences = (_difference(Design(n, folds, seeds, comparisons), earlier.spreads) for n in people)
        name = f"{folds} x {seeds}" + (" (this spec)" if (folds, seeds) == plan.own else "")
        cells = [name, str(plan.runs(folds, seeds)), plan.hours(folds, seeds)]
        rows.append((*cells, " / ".join(map(str, people)), " / ".join(differences)))
    spreads = earlier.spreads
    show_table(
        f"{spec.name}: what it can find, over {comparisons} comparisons with {next(iter(spec.variants))}", rows, HEADS
    )
    return (
        f"{plan.proposal(find)}\nSpreads: sd of patients' differences {spreads.people:.3f}, sd between trainings "
        f"{spreads.trainings:.3f}, {spreads.origin}. --spreads REPORT takes those of an earlier report."
    )


@dataclass(frozen=True)
class Plan:
    """What designs of an ablation cost and can find. everybody: how many patients there are, where it is known."""

    spec: Spec
    cfg: Config
    earlier: Earlier
    everybody: int | None

    @property
    def own(self) -> tuple[int, int]:
        """Folds, and trainings of each variant on each, of the spec."""
        return len(self.spec.folds) or 1, self.spec.repeats or len(self.spec.seeds) or 1

    @property
    def proposed(self) -> list[tuple[int, int]]:
        """Designs to look at beside it, of no more folds than the patients are dealt into."""
        return [(min(folds, self.cfg.data.folds), seeds) for folds, seeds in PROPOSED]

    def people(self, folds: int) -> tuple[int, ...]:
        """How many patients so many folds validate; several numbers where it is not known."""
        as_specified = folds in (self.own[0], 1)
        return _people(self.cfg, self.everybody, folds if as_specified else self.cfg.data.folds)

    def runs(self, folds: int, seeds: int) -> int:
        """Trainings of all variants."""
        return len(self.spec.variants) * folds * seeds

    def hours(self, folds: int, seeds: int) -> str:
        """GPU hours, where those of a run are known."""
        return "" if self.earlier.gpu_hours is None else f"{self.earlier.gpu_hours * self.runs(folds, seeds):.1f}"

    def proposal(self, find: float) -> str:
        """The cheapest design that finds a difference, what it costs, and how often it finds it by which verdict."""
        own_seeds = not self.spec.seeds
        best = (0.0, 0, 0)
        for design in sorted(self._designs(), key=lambda one: (one.folds * one.seeds, -one.folds)):
            of_design = power(find, design, self.earlier.spreads)
            if of_design < POWER:
                best = max(best, (of_design, design.folds, design.seeds))
                continue
            runs, hours = self.runs(design.folds, design.seeds), self.hours(design.folds, design.seeds)
            cost = f"{runs} runs" + (f", {hours} GPU hours" if hours else "")
            verdicts = power_of_verdicts(find, design, self.earlier.spreads, own_seeds)
            powers = ", ".join(f"{share:.0%} {words}" for words, share in verdicts.items())
            return f"Proposal, to find {find:g}{self._of_unknown(design)}: {self._keys(design)} ({cost}): {powers}."
        share, folds, seeds = best
        return (
            f"Proposal: no design of up to {MOST_TRAININGS} trainings of each variant on a fold finds {find:g} in "
            f"{POWER:.0%} of cases; {folds} folds x {seeds} do in {share:.0%}. --find names another difference."
        )

    def _designs(self) -> Iterator[Design]:
        for k in {1, self.own[0], self.cfg.data.folds}:
            people = self.people(k)
            for seeds in range(1, MOST_TRAININGS + 1):
                yield Design(people[len(people) // 2], k, seeds, len(self.spec.variants) - 1)

    def _of_unknown(self, design: Design) -> str:
        unknown = len(self.people(design.folds)) > 1
        return f" with {design.people} patients, whose number is not known" if unknown else ""

    def _keys(self, design: Design) -> str:
        """The design as keys of the spec."""
        folds = f"folds: {list(range(design.folds))}, " if design.folds > 1 else ""
        if self.spec.seeds:
            return f"{folds}seeds: {list(range(1, design.seeds + 1))}"
        return f"{folds}repeats: {design.seeds}"


def _difference(design: Design, spreads: Spreads) -> str:
    if not design.decidable:
        return "no verdict"
    smallest = detectable(design, spreads)
    return "none" if smallest is None else f"{smallest:.3f}"


def _everybody(cfg: Config) -> int | None:
    """The number of the source's patients; None where it says nothing, or cannot be read here."""
    if cfg.data.split == "file" or cfg.data.source not in SOURCES:  # an own source is code, which is not run here
        return None
    from segtrain.data.sources import make_source  # slow to import

    try:
        return len(make_source(cfg.data).patients())
    except SegtrainError:  # the check of the runs, which follows, says what is wrong
        return None


def _people(cfg: Config, everybody: int | None, folds: int) -> tuple[int, ...]:
    """How many patients so many folds validate; several numbers where it is not known."""
    if cfg.data.split == "reference" and folds == 1:
        return (cfg.data.validation_patients,)
    if everybody is None:
        return UNKNOWN_PEOPLE
    return (max(1, everybody * min(folds, cfg.data.folds) // cfg.data.folds),)
