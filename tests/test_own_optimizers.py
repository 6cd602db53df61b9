"""Optimisers of the user's own: what they get, what is found out about them, what a checkpoint holds (L13)."""

import importlib.util
import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from engine_runs import config, furthest, link, make, network, train
from ranks import run_ranks

from segtrain.config import Config, DeepSpeedConfig, ModelConfig, OptimConfig, TrainConfig
from segtrain.config.trial import Check
from segtrain.engines.optim import make_optimizer
from segtrain.engines.optim_trial import try_optimizer
from segtrain.errors import ConfigError
from segtrain.runtime.world import World
from segtrain.training.build import build

PARTS = Path(__file__).parent / "parts"
FILES = (PARTS / "optimizers.py", PARTS / "optimizer_traps.py")
OWN = ["Lion", "Prodigal", "Belief", "Nested", "two_rates", "torch.optim:NAdam", "torch.optim:Adafactor"]
needs_deepspeed = pytest.mark.skipif(not importlib.util.find_spec("deepspeed"), reason="DeepSpeed is not installed")


def own(part: str, lr: float = 1e-2, **settings: Any) -> OptimConfig:
    """An optimiser of the parts for tests, or by an import path; options of its own as `options`."""
    options = settings.pop("options", {})
    files = [file for file in FILES if re.search(rf"^(class|def) {part}\b", file.read_text(), re.MULTILINE)]
    name = part if ":" in part else f"{files[0]}:{part}"
    return OptimConfig(name={"part": name, **options} if options else name, lr=lr, **settings)


def found(part: str, **settings: Any) -> dict[str, Check]:
    return {check.name: check for check in try_optimizer(own(part, **settings))[1]}


@pytest.mark.law("L13")
@pytest.mark.parametrize(
    ("part", "line"),
    [
        ("Lion", "optimizers.py:Lion(lr=0.01, betas=(0.9, 0.99), weight_decay=0.0): state exp_avg; resumes bitwise; "
                 "2 groups"),
        ("Prodigal", "state exp_avg_sq, start, step; in groups d, d_max, k; resumes bitwise; 2 groups"),
        ("Belief", "state exp_avg, exp_avg_var, step; in groups buffer; resumes bitwise; 2 groups"),
        ("Nested", "state bases, count, sides, trained; resumes bitwise; 1 group"),
        ("two_rates", "resumes bitwise; 2 groups, with rates of their own: 0.1"),
        ("torch.optim:Adagrad", "state step, sum; resumes bitwise; 2 groups"),
    ],
)  # fmt: skip
def test_a_line_tells_what_was_found(part: str, line: str) -> None:
    lr = 1.0 if part == "Prodigal" else 1e-2
    description, checks = try_optimizer(own(part, lr=lr))
    assert line in description
    assert "\n" not in description
    assert not [check for check in checks if check.verdict == "fails"]


TRAPS = [
    ("ahead_with_init", "resumes bitwise (L6)", "fails", "keeps something outside of self.state"),
    ("Counting", "resumes bitwise (L6)", "fails", "25 steps, a checkpoint and 25 steps differ from 50 steps"),
    ("Pickled", "resumes bitwise (L6)", "fails", "random is a RandomState, which is neither a tensor nor a number"),
    ("Noisy", "step() alone", "fails", "draws random numbers in its step"),
    ("Ranked", "step() alone", "fails", "calls torch.distributed.get_rank"),
    ("Fails", "step() alone", "fails", "ZeroDivisionError: no such thing) in optimizer_traps.py, line "),
    ("Keeping", "copies what it keeps", "fails", "its state last is the gradient itself"),
    ("Upwards", "goes down", "fails", "the loss of the toy rises"),
    ("OwnRate", "follows its rate", "warning", "a schedule changes nothing"),
    ("FirstRate", "follows its rate", "warning", "the rate of its first group for all groups"),
    ("Prodigal", "follows its rate", "warning", "takes no groups with rates of their own"),
    ("Prodigal", "DeepSpeed", "warning", "keeps d, d_max, k in its groups"),
    ("Orthogonal", "DeepSpeed", "warning", "moves weights differently where they are parts of one long vector"),
    ("Factored", "DeepSpeed", "warning", "a state rows of another shape than the weights"),
    ("Nested", "DeepSpeed", "warning", "has a state sides that is a list"),
    ("Unready", "DeepSpeed", "warning", "a state that does not begin at 0"),
]


@pytest.mark.law("L13")
@pytest.mark.parametrize(("part", "trial", "verdict", "words"), TRAPS)
def test_a_trap_is_found(part: str, trial: str, verdict: str, words: str) -> None:
    check = found(part, lr=1.0 if part == "Prodigal" else 1e-2)[trial]
    assert check.verdict == verdict
    assert words in check.message
    assert found("Lion")[trial].verdict == "holds"


@pytest.mark.law("L13")
@pytest.mark.parametrize(("part", "words"), [(part, words) for part, _, verdict, words in TRAPS if verdict == "fails"])
def test_training_refuses_it_before_anything_is_written(tiny: Config, part: str, words: str) -> None:
    with pytest.raises(ConfigError, match=r"optim\.name=") as caught:
        build(replace(tiny, optim=own(part)), World(), begun=False)
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.law("L12")
@pytest.mark.parametrize(
    ("part", "settings", "words"),
    [
        ("Sharp", {}, "takes two gradients a step"),
        ("Curved", {}, r"needs update_hessian\(\) after an extra backward pass"),
        ("Swapping", {}, "use optim.name=schedulefree"),
        ("Closed", {}, "needs closure at each step"),
        ("torch.optim:LBFGS", {}, "needs closure at each step"),
        ("schedulefree:SGDScheduleFree", {}, "use optim.name=schedulefree"),
        ("torch.optim:Muon", {}, r"only supports 2D parameters.*write a factory f\(network, lr\)"),
        ("Ahead", {}, r"is made around another optimiser \(optimizer\); write a factory"),
        ("ahead", {}, r"does not call super\(\).__init__\(params, defaults\)"),
        ("Plain", {}, "is no torch.optim.Optimizer"),
        ("unclear", {}, "its first parameter is things; name it params"),
        ("leaves_out", {}, "leaves out 1 parameters, the first 3.bias"),
        ("foreign", {}, "has parameters that are not the network's"),
        ("Prodigal", {"lr": 1e-4}, "is made for a rate of 1.0, .*; set optim.lr=1.0"),
        ("Lion", {"momentum": 0.8}, "optimizers.py:Lion does not take it; leave optim.momentum out"),
        ("Nested", {"weight_decay": 0.1}, "optim.weight_decay=0.1: optimizers.py:Nested does not take it"),
        ("Orthogonal", {"momentum": 0.8, "options": {"momentum": 0.7}}, "has it as an option too"),
        ("two_rates", {"decay_all": True}, "decides what it decays"),
        ("Lion", {"options": {"lr": 0.1}}, "leave it out and set optim.lr"),
        ("Lion", {"options": {"beta": 0.1}}, r"has no option beta \(did you mean betas\?\)"),
        ("torch.optim:NAdam", {"options": {"momentum_dekay": 1}}, r"did you mean momentum_decay\?"),
        ("torch.optim:NAdam", {"options": {"betas": [2, 0.9]}}, "Invalid beta parameter"),
    ],
)  # fmt: skip
def test_what_cannot_be_trained_with_is_refused_with_the_reason(
    part: str, settings: dict[str, Any], words: str
) -> None:
    with pytest.raises(ConfigError, match=words) as caught:
        make(config(None, optim=own(part, **settings)), World())
    assert "\n" not in str(caught.value)


def test_matrices_are_decayed_and_vectors_are_not() -> None:
    for decay_all in (False, True):
        optimizer = make_optimizer(network(), own("Lion", weight_decay=0.1, decay_all=decay_all))
        decays = {p.dim(): group["weight_decay"] for group in optimizer.param_groups for p in group["params"]}
        assert decays == {4: 0.1, 1: 0.1 if decay_all else 0.0}
    untold = make_optimizer(network(), own("torch.optim:AdamW"))
    assert [group["weight_decay"] for group in untold.param_groups] == [1e-2, 0.0], "its own default"


def test_lists_of_a_config_become_the_tuples_that_it_has() -> None:
    optimizer = make_optimizer(network(), own("Lion", options={"betas": [0.8, 0.9]}))
    assert optimizer.defaults["betas"] == (0.8, 0.9)


def test_a_group_with_a_rate_of_its_own_keeps_its_ratio() -> None:
    engine: Any = make(config(None, optim=own("two_rates", schedule="warmup_cosine")), World())
    for lr in (1e-2, 3e-3):
        engine.step(torch.randn(2, 3, 16, 16), torch.ones(2, 1, 16, 16), lr)
        assert [group["lr"] for group in engine.optimizer.param_groups] == pytest.approx([lr, 10 * lr])


@pytest.mark.law("L6")
@pytest.mark.parametrize("precision", ["fp32", "fp16"])
@pytest.mark.parametrize("part", OWN)
def test_the_whole_state_is_in_the_checkpoint(part: str, precision: Any) -> None:
    """Numbers, lists, tensors in other layouts, what groups count: through JSON, a step each, and bitwise."""
    optim = own(part, ema=0.5, clip_norm=1.0, schedule="polynomial")
    cfg = config(None, optim=optim, precision=precision, model=ModelConfig(features=4, channels_last=True))
    alone = link(World(), cfg, None, range(6))
    given, losses = None, []
    for step in range(6):
        answer = link(World(), cfg, given, range(step, step + 1))
        losses += answer[0]
        given = answer[1:]
    assert losses == alone[0]
    assert given is not None
    for one, other in zip(given[:2], alone[1:3], strict=True):
        assert one.keys() == other.keys()
        assert all(np.array_equal(one[key], other[key]) for key in one)
    assert json.loads(given[2]) == json.loads(alone[3])


@pytest.mark.law("L6")
@pytest.mark.parametrize("part", ["Prodigal", "Belief"])
def test_two_ranks_go_on_bitwise(part: str) -> None:
    cfg = config(None, optim=own(part, schedule="polynomial"))
    alone = run_ranks(2, link, cfg, None, range(6))[0]
    first = run_ranks(2, link, cfg, None, range(3))[0]
    second = run_ranks(2, link, cfg, first[1:], range(3, 6))[0]
    assert first[0] + second[0] == alone[0]
    assert all(np.array_equal(second[1][key], alone[1][key]) for key in alone[1])


def test_counters_of_earlier_checkpoints_are_read() -> None:
    """They were those of the first group, for all groups."""
    cfg = config(None, optim=OptimConfig(name="schedulefree", lr=1e-2, weight_decay=0.1))
    alone = link(World(), cfg, None, range(5))
    _, model, moments, extra = link(World(), cfg, None, range(3))
    tree = json.loads(extra)
    first, second = tree["optimizer"]["groups"]
    assert first == second
    tree["optimizer"] = {key: first[key] for key in ("k", "weight_sum", "lr_max")}
    after = link(World(), cfg, (model, moments, json.dumps(tree)), range(3, 5))
    assert all(np.array_equal(after[1][key], alone[1][key]) for key in alone[1])


@pytest.mark.parametrize("name", ["adam", "adamw", "sgd"])
def test_what_built_in_optimisers_write_is_as_before(name: str) -> None:
    _, _, moments, extra = link(World(), config(None, optim=OptimConfig(name=name, lr=1e-2)), None, range(2))
    assert json.loads(extra)["optimizer"] == {}
    kinds = {"momentum_buffer"} if name == "sgd" else {"step", "exp_avg", "exp_avg_sq"}
    assert {key.rpartition("/")[2] for key in moments} == kinds


@pytest.mark.law("L5")
@pytest.mark.parametrize("part", ["Prodigal", "Belief", "Nested"])
def test_two_ranks_train_as_one_does(part: str) -> None:
    cfg = config(None, optim=own(part, schedule="warmup_cosine"))
    losses, model, moments, _ = train(World(), cfg)
    accumulated = replace(cfg, train=TrainConfig(global_batch=8, micro_batch=3))
    for rank, (other_losses, other_model, other_moments, _) in enumerate(run_ranks(2, train, accumulated)):
        assert other_losses == pytest.approx(losses, abs=1e-5)
        if rank == 0:
            assert furthest(other_model, model) < 1e-4
            assert other_moments.keys() == moments.keys()


@pytest.mark.law("L9")
@needs_deepspeed
@pytest.mark.parametrize(
    ("part", "stages"),
    [
        ("torch.optim:RMSprop", (None, 1, 3, None, 2, 0)),
        ("Prodigal", (None, 0, None)),
        ("Stepping", (None, 2, 3, 0, None)),
    ],
)
def test_an_own_optimiser_goes_from_engine_to_engine(part: str, stages: tuple[int | None, ...]) -> None:
    optim = own(part, ema=0.5)
    alone = link(World(), config(None, optim=optim), None, range(len(stages)))
    given, losses = None, []
    for step, zero in enumerate(stages):
        answer = run_ranks(1 + step % 2, link, config(zero, optim=optim), given, range(step, step + 1))[0]
        losses += answer[0]
        given = answer[1:]
    assert losses == pytest.approx(alone[0], abs=1e-5)
    assert given is not None
    assert furthest(given[0], alone[1]) < 2e-5
    assert furthest(given[1], alone[2]) < 2e-5
    if part != "torch.optim:RMSprop":
        assert json.loads(given[2])["optimizer"].keys() == json.loads(alone[3])["optimizer"].keys()


@pytest.mark.law("L13")
@needs_deepspeed
@pytest.mark.parametrize(("part", "zero"), [("Orthogonal", 1), ("Prodigal", 2), ("torch.optim:NAdam", 3)])
def test_what_cannot_be_divided_is_refused_under_zero(part: str, zero: Any) -> None:
    cfg = config(zero, optim=own(part))
    with pytest.raises(ConfigError, match=rf"so it does not go with engine=deepspeed and deepspeed.zero={zero}; use "):
        make(cfg, World())
    make(replace(cfg, deepspeed=DeepSpeedConfig(zero=0)), World())


def test_options_of_built_in_optimisers() -> None:
    adam = make_optimizer(network(), OptimConfig(name={"part": "adam", "betas": [0.8, 0.9], "amsgrad": True}))
    assert (tuple(adam.defaults["betas"]), adam.defaults["amsgrad"]) == ((0.8, 0.9), True)
    sgd = make_optimizer(network(), OptimConfig(name={"part": "sgd", "nesterov": False}))
    assert (sgd.defaults["nesterov"], sgd.defaults["momentum"]) == (False, 0.9)
    theirs = {
        "adam": torch.optim.Adam(network().parameters()),
        "adamw": torch.optim.AdamW(network().parameters()),
        "sgd": torch.optim.SGD(network().parameters(), nesterov=True, momentum=0.9),
    }
    for name, other in theirs.items():
        ours = make_optimizer(network(), OptimConfig(name=name)).defaults
        assert {key for key in ours if ours[key] != other.defaults[key]} <= {"fused", "lr", "weight_decay"}
    with pytest.raises(ConfigError, match=r"optim.name=adam: refuses betas=\[2, 0.9\] \(Invalid beta"):
        make(config(None, optim=OptimConfig(name={"part": "adam", "betas": [2, 0.9]})), World())


@pytest.mark.parametrize(
    ("package", "part", "lr", "refused"),
    [
        ("lion_pytorch", "lion_pytorch:Lion", 1e-4, None),
        ("prodigyopt", "prodigyopt:Prodigy", 1.0, None),
        ("adabelief_pytorch", "adabelief_pytorch:AdaBelief", 1e-3, None),
        ("torch_optimizer", "torch_optimizer:AggMo", 1e-3, None),
        ("torch_optimizer", "torch_optimizer:Shampoo", 1e-3, None),
        ("torch_optimizer", "torch_optimizer:Ranger", 1e-3, None),
        ("torch_optimizer", "torch_optimizer:Lookahead", 1e-3, "is made around another optimiser"),
        ("timm", "timm.optim:Adan", 1e-3, None),
        ("timm", "timm.optim:Lamb", 1e-3, None),
    ],
)
def test_a_package_s_optimiser_is_taken_as_it_stands(package: str, part: str, lr: float, refused: str | None) -> None:
    pytest.importorskip(package)
    if refused:
        with pytest.raises(ConfigError, match=refused):
            try_optimizer(own(part, lr=lr))
        return
    description, checks = try_optimizer(own(part, lr=lr))
    assert "resumes bitwise" in description
    assert not [check for check in checks if check.verdict == "fails"]
