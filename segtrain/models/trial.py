"""Trials of a network of the user's own: what it takes and gives, and the traps that give silently wrong results.

They run on a copy of the network, on random images, before anything is trained: a second or two.
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from segtrain.config import ModelConfig, OutputName
from segtrain.config.own_code import own_code
from segtrain.config.trial import Check
from segtrain.errors import ConfigError
from segtrain.models import traps
from segtrain.models.base import supervision_ratio
from segtrain.models.blueprint import Blueprint, NeedsCuda, Shape, blueprint, explained, seeded
from segtrain.models.graph import draws_and_unused, unused_parameters
from segtrain.models.heads import Expected, find_form, no_mask
from segtrain.models.outputs import Candidate, Form, candidates, shapes
from segtrain.models.sizes import Sizes, SizeSearch

SEED = 0  # of the weights and images of all trials: what they find is the same for every run


@dataclass(frozen=True)
class Findings:
    """What the trials found."""

    name: str
    sizes: Sizes
    training: Form
    evaluation: Form
    norms: str
    unused: frozenset[str] = frozenset()  # names of parameters
    draws: bool = False  # while it trains, from torch's generator
    writes_input: bool = False
    device: str = "cpu"  # on which it was tried
    needs_area: bool = False  # whether a norm refuses one pixel
    checks: tuple[Check, ...] = ()
    description: str = ""

    @property
    def least(self) -> int:
        """The smallest side of an image."""
        return self.sizes.multiple * (2 if self.needs_area and not self.sizes.only else 1)


_known: dict[str, Findings] = {}


def findings_of(plan: Blueprint, cfg: ModelConfig, shape: Shape) -> Findings:
    """What the trials find, once in a process. Raises ConfigError where the network cannot be used."""
    code = own_code(plan.reference)
    hashes = code.hashes() if code else {}
    supervised = supervision_ratio(cfg) > 0
    key = json.dumps([str(plan.reference), repr(plan.arguments), hashes, str(shape), cfg.output, supervised])
    if key not in _known:
        _known[key] = Trial(plan, cfg.output, supervised, shape).run()
    return _known[key]


def checks_of(cfg: ModelConfig, in_channels: int, size_px: int, regions: int = 1) -> tuple[str, list[Check]]:
    """The network's description and a check a trial, for `segtrain check`; nothing is tried after one that fails."""
    trial = None
    shape = Shape(in_channels, size_px, regions)
    try:
        plan = blueprint(cfg, shape)
        trial = Trial(plan, cfg.output, supervision_ratio(cfg) > 0, shape)
        findings = trial.run()
    except ConfigError as error:
        done = trial.checks if trial else []
        if not done or done[-1].verdict != "fails":
            done.append(Check(trial.stage if trial else "arguments", "fails", str(error)))
        return "", done
    return findings.description, list(findings.checks)


class Trial:
    """The trials of one network, in an order in which each needs those before it."""

    def __init__(self, plan: Blueprint, declared: OutputName | None, supervised: bool, shape: Shape) -> None:
        self.plan, self.name = plan, plan.reference.short
        self.in_channels, self.size_px = shape.in_channels, shape.size_px
        self.expected = Expected(self.name, declared, supervised, shape.regions)
        self.checks: list[Check] = []
        self.stage = "builds"  # what is being tried
        self.device = "cpu"

    def run(self) -> Findings:
        """All trials, on a CUDA device where it is needed and there is one. Raises ConfigError at the first failure."""
        try:
            return self._run()
        except NeedsCuda:
            if not torch.cuda.is_available():
                raise
        self.device = "cuda"
        self.checks.clear()
        return self._run()

    def _run(self) -> Findings:
        with seeded(SEED):
            network = self.plan.build(SEED)
            self._take(traps.weights(network, self.plan.build(SEED)))
            self._take(traps.structure(network))
            network.to(self.device)
            self.stage = "sizes"
            network.train(self.expected.supervised)
            search = SizeSearch(lambda image: self._pass(network, image).returned, self.expected, self.in_channels)
            sizes = search.find(self.size_px)
            findings = self._evaluate(network, self._train(network, self._trained_at(network, sizes)))
        self._take(self._swallowed(sizes))
        return replace(
            findings,
            checks=tuple(self.checks),
            description=describe(str(self.plan), findings),
        )

    def _trained_at(self, network: nn.Module, sizes: Sizes) -> Sizes:
        """The sizes that it also takes while it trains: an autoencoder beside it may need the size it was made for."""
        try:
            self._pass(network.train(), sizes.image(2, self.in_channels))
        except ConfigError:
            if sizes.only:
                raise
            sizes = Sizes(self.size_px, only=True)
            self._pass(network, sizes.image(2, self.in_channels))
        self.checks.append(Check("sizes", "holds", str(sizes)))
        return sizes

    def _train(self, network: nn.Module, sizes: Sizes) -> Findings:
        network.train()
        image = _loud(sizes.image(2, self.in_channels))
        self.stage = "output"
        first = self._pass(network, image, gradients=True)
        form, used = self._form(first, image, self.expected)
        self.checks.append(Check("output", "holds", str(form)))
        self.stage = "randomness"
        self._take(traps.draws([first, self._pass(network, image)]))
        unused = unused_parameters(network, [one.node for one in used])
        others = unused
        if "torch" in first.drew:
            again = self._pass(network, image, gradients=True, seed=SEED + 1)
            others = unused_parameters(network, [one.node for one in self._form(again, image, self.expected)[1]])
        self._take(traps.parameters(network, unused, others))
        return Findings(
            name=self.name,
            sizes=sizes,
            training=form,
            evaluation=form,
            norms=traps.norms(network),
            unused=frozenset(unused),
            draws="torch" in first.drew,
            writes_input=first.wrote,
            device=self.device,
            needs_area=traps.has_instance_norm(network),
        )

    def _evaluate(self, network: nn.Module, findings: Findings) -> Findings:
        network.eval()
        image = findings.sizes.image(2, self.in_channels).to(self.device)
        self.stage = "output in evaluation"
        loud = self._pass(network, _loud(image), gradients=True)
        form, _ = self._form(loud, image, replace(self.expected, supervised=False))
        self.stage = "evaluation"
        with explained(self.name, "cannot be evaluated"):
            self._take(traps.evaluation(network, form, image))
            self._take(self._place(network, form, image))
        return replace(findings, evaluation=form, writes_input=findings.writes_input or loud.wrote)

    def _place(self, network: nn.Module, form: Form, image: Tensor) -> Iterator[Check]:
        """Whether the output lies over the image; tried again on large images before it is refused."""
        message = traps.displacement(network, form, image)
        if message:
            large = Sizes(self.size_px, only=True).image(2, self.in_channels)
            message = traps.displacement(network, form, large.to(self.device))
        if message:
            yield Check(
                "place",
                "fails",
                f"its output is displaced: {message}; pad its convolutions, and do not stretch or swap sides",
            )
        elif message is None:
            yield Check("place", "holds", "where the image changes, the output does")
        else:
            yield Check("place", "not tried", "its output does not depend on the image yet")

    def _pass(self, network: nn.Module, image: Tensor, gradients: bool = False, seed: int = SEED) -> traps.Observed:
        with explained(self.name, f"cannot be run on images {list(image.shape)}"):
            return traps.observe(network, image.to(self.device), seed, gradients)

    def _form(self, observed: traps.Observed, image: Tensor, expected: Expected) -> tuple[Form, list[Candidate]]:
        found = list(candidates(observed.returned, len(image), expected.regions))
        if not found:
            raise ConfigError(no_mask(expected, shapes(observed.returned), image))
        return find_form(found, image, observed.calls, expected)

    def _swallowed(self, sizes: Sizes) -> Iterator[Check]:
        """Whether options that only **kwargs takes change anything."""
        for option in self.plan.swallowed:
            made, values = self._fingerprint(self.plan, sizes)
            try:
                made_without, values_without = self._fingerprint(self.plan.without(option), sizes)
            except ConfigError:
                continue  # it cannot do without
            if made == made_without and torch.equal(values, values_without):
                yield Check(
                    "options", "fails", f"{option} changes nothing: the network takes any name, and ignores this one; "
                    "leave it out, or correct its name"
                )  # fmt: skip

    def _fingerprint(self, plan: Blueprint, sizes: Sizes) -> tuple[Any, Tensor]:
        with seeded(SEED):
            network = plan.build(SEED).train().to(self.device)
            returned = self._pass(network, sizes.image(2, self.in_channels)).returned
        weights = {name: list(tensor.shape) for name, tensor in network.state_dict().items()}
        tensors = [one.tensor.flatten().cpu() for one in candidates(returned, 2, self.expected.regions)]
        return (weights, repr(network)), torch.cat(tensors) if tensors else torch.zeros(0)

    def _take(self, checks: Iterator[Check]) -> None:
        """Add checks. Raises ConfigError for one that fails."""
        for check in checks:
            self.checks.append(check)
            if check.verdict == "fails":
                raise ConfigError(f"model.name={self.name}: {check.message}")


def _loud(image: Tensor) -> Tensor:
    """The images, the last of them enlarged: probabilities stay within 0 and 1, logits do not."""
    return torch.cat([image[:-1], 30 * image[-1:]])


def describe(plan: str, findings: Findings) -> str:
    """What was found, in a line."""
    training, evaluation = str(findings.training), str(findings.evaluation)
    outputs = training if training == evaluation else f"{training} (in evaluation: {evaluation})"
    norms = f"{findings.norms} norm" if findings.norms != "none" else "no norm"
    last = draws_and_unused(findings.draws, len(findings.unused))
    return f"{plan}: {outputs}; {norms}; sizes {findings.sizes}; {last}"
