"""The config: overrides, errors that name key, value and remedy, the round trip through YAML."""

import json
import shlex
from dataclasses import asdict
from datetime import datetime
from pathlib import Path

import pytest

from segtrain.config import Config, Ramp, first_difference, flatten, from_tree, load_config, merge, to_yaml
from segtrain.config.tree import SYNONYMS
from segtrain.errors import ConfigError
from segtrain.runtime.stop import deadline_of


def test_overrides_beat_the_file(tmp_path: Path) -> None:
    file = tmp_path / "a.yaml"
    file.write_text("name: a\noptim: {lr: 0.5, name: sgd}\n")
    cfg = load_config(file, ["optim.lr=1e-3", "train.epochs=3", "data.phantom.patients=4"])
    assert (cfg.name, cfg.optim.lr, cfg.optim.name, cfg.train.epochs) == ("a", 1e-3, "sgd", 3)
    assert cfg.data.phantom.patients == 4


def test_rates_of_a_variant_take_the_place_of_the_base_s() -> None:
    """And the names of parameters, which have dots, stay whole."""
    for changes in ({"optim.lr_ratios": {"conv.bias": 2.0}}, {"optim": {"lr_ratios": {"conv.bias": 2.0}}}):
        tree = {"optim": {"lr": 0.5, "lr_ratios": {"encoder*": 0.1}}}
        merge(tree, changes, "a spec")
        assert tree == {"optim": {"lr": 0.5, "lr_ratios": {"conv.bias": 2.0}}}


def test_a_resolved_config_loads_to_itself(tmp_path: Path) -> None:
    cfg = load_config(None, ["optim.clip_norm=1", "precision=bf16"])
    file = tmp_path / "config.yaml"
    file.write_text(to_yaml(cfg))
    assert load_config(file) == cfg


@pytest.mark.law("L12")
@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("optim.lrr=1", ["optim.lrr", "did you mean optim.lr?"]),
        ("learning_rate=1", ["learning_rate", "did you mean optim.lr?"]),
        ("lr=1", ["did you mean optim.lr?"]),
        ("optim.learning_rate=1", ["did you mean optim.lr?"]),
        ("batch_size=8", ["did you mean train.global_batch?"]),
        ("train.batch-size=8", ["did you mean train.global_batch?"]),
        ("data.batch=8", ["did you mean train.global_batch?"]),
        ("epochs=3", ["did you mean train.epochs?"]),
        ("loss_weight=3", ["did you mean 'loss={dice: 1.0, bce: 0.5}'?"]),
        ("loss.weight=0.5", ["no loss is named 'weight'", "'loss={dice: 1.0, bce: 0.5}'"]),
        ("loss.bec=0.5", ["no loss is named 'bec'", "did you mean 'bce'?"]),
        ("optim=sgd", ["optim='sgd'", "write optim.name=sgd"]),
        ("model=resunet", ["model='resunet'", "write model.name=resunet"]),
        ("data=lgg", ["write data.source=lgg"]),
        ("data=/data/kaggle_3m", ["write data.root=/data/kaggle_3m"]),
        ("deepspeed=3", ["write deepspeed.zero=3"]),
        ("optim=", ["optim=None", "write optim.name=adam"]),
        ("image_size=64", ["image_size", "data.image_size"]),
        ("optim.lr=fast", ["optim.lr", "'fast'"]),
        ("optim.lr=-1", ["optim.lr", "-1"]),
        ("data.image_size=100", ["data.image_size", "100", "multiple of 16"]),
        ("data.image_size", ["data.image_size", "key=value"]),
        ("loss=dicee", ["loss", "dicee", "'dice'"]),
        ("loss={dice: 1, bec: 1}", ["loss={'dice'", "'bec'", "did you mean 'bce'?"]),
        ("loss={dice: -1}", ["the weight of dice is -1", "0 or more"]),
        ("loss={dice: }", ["the weight of dice is None", "0 or more"]),
        ("loss={dice: 0}", ["dice", "a weight above 0"]),
        ("loss={dice: .inf}", ["the weight of dice is inf"]),
        ("loss={dice: 1, bce: .nan}", ["the weight of bce is nan"]),
        ("loss={dice: 1, boundary: {start: 0.0}}", ["the weight of boundary is {'start': 0.0}", "end: 1.0"]),
        ("loss={dice: 1, boundary: {start: 0.0, end: -1}}", ["the weight of boundary is -1"]),
        ("loss={boundary: {start: 0, end: 0}}", ["a weight above 0"]),
        ("model.name=Unet", ["model.name='Unet'", "did you mean 'unet'?"]),
        ("optim.lr=.inf", ["optim.lr=inf", "finite"]),
        ("optim.weight_decay=.inf", ["optim.weight_decay=inf", "finite"]),
        ("checkpoint.every_min=.nan", ["checkpoint.every_min=nan", "finite"]),
        ("loss={}", ["loss", "at least one"]),
        ("model={name: segresnet, deep_supervision: 0.5}", ["deep_supervision=0.5", "segresnet", "resunet"]),
        ("model={name: swin_unetr, features: 32}", ["features=32", "multiple of 12"]),
        ("model.name=smpresnet", ["model.name", "smpresnet"]),
        ("model={compile: true, checkpoint_activations: true}", ["model.compile", "model.checkpoint_activations"]),
        ("optim.name=schedulefree", ["schedulefree", "model.norm=instance"]),
        ("deepspeed={zero: 0, offload: true}", ["deepspeed.offload=true", "deepspeed.zero=0", "deepspeed.zero=1"]),
        ("optim={name: adamw, momentum: 0.99}", ["optim.momentum=0.99", "optim.name=adamw", "sgd"]),
        ("optim={schedule: constant, final_lr_ratio: 0.1}", ["optim.final_lr_ratio=0.1", "optim.schedule=constant"]),
        ("optim={schedule: warmup_cosine, power: 2}", ["optim.power=2.0", "schedule=warmup_cosine", "polynomial"]),
        ("deepspeed={zero: 4}", ["deepspeed.zero", "4"]),
        ("{engine: deepspeed}", ["key=value"]),
        ("optim={name: schedulefree, schedule: polynomial}", ["schedulefree"]),
        ("name=a/b", ["name", "a/b"]),
        ("data=3", ["data", "3"]),
        ("name.x=3", ["name.x"]),
        ("data.source=lgg", ["data.root"]),
        ("data.root=/somewhere", ["/somewhere", "configs/lgg.yaml"]),
        ("data={split: kfold, fold: 5}", ["data.fold=5", "data.folds=5"]),
        ("data.split=file", ["data.split_file"]),
        ("model={features: 6, norm: group}", ["model.features", "6"]),
        ("model={name: attention_unet, features: 1}", ["model.features=1", "model.features=2"]),
    ],
)
def test_a_bad_key_or_value_is_named_with_its_remedy(override: str, words: list[str]) -> None:
    with pytest.raises(ConfigError) as caught:
        load_config(None, [override])
    message = str(caught.value)
    assert "\n" not in message
    assert "literal[" not in message
    assert "phantom.yaml" not in message, "nobody named that file"
    for word in words:
        assert word in message


@pytest.mark.law("L12")
@pytest.mark.parametrize(
    ("content", "override", "by_file"),
    [
        ("data: {source: phantom}", "optim.lrr=1", False),
        ("data: {source: phantom}", "optim={lrr: 1}", False),
        ("optim: {lr: 0.1}", "optim.lr=fast", False),
        ("data: {source: phantom}", "data.root=/x", False),
        ("optim: {lr: fast}", "seed=1", True),
        ("train: {epoch: 1}", "optim.lr=1", True),
        ("data: {source: lgg}", "seed=1", True),
    ],
)
def test_an_error_names_the_origin_of_the_key(tmp_path: Path, content: str, override: str, by_file: bool) -> None:
    file = tmp_path / "a.yaml"
    file.write_text(content)
    with pytest.raises(ConfigError) as caught:
        load_config(file, [override])
    assert str(caught.value).startswith(f"{file}: " if by_file else "the command line: ")


def test_synonyms_lead_to_keys_and_are_none() -> None:
    keys = {key for key, _ in flatten(asdict(Config()))}
    assert set(SYNONYMS.values()) <= keys
    assert not set(SYNONYMS) & keys


def test_weights_are_read_as_they_are_written() -> None:
    cfg = load_config(None, ["loss={dice: 1, bce: 0, boundary: {start: 1e-2, end: 1e-1}}", "model.name=smp:resnet34"])
    assert cfg.loss == {"dice": 1.0, "bce": 0.0, "boundary": Ramp(0.01, 0.1)}
    assert Config(loss={"dice": Ramp(0.0, 1.0)}).loss == {"dice": Ramp(0.0, 1.0)}


@pytest.mark.law("L12")
@pytest.mark.parametrize("given", ["", "loss: dice\n"])
def test_a_weight_does_not_take_the_place_of_the_loss(tmp_path: Path, given: str) -> None:
    file = tmp_path / "a.yaml"
    file.write_text(given)
    with pytest.raises(ConfigError) as caught:
        load_config(file, ["loss.boundary=0.1"])
    said = str(caught.value)
    assert "loss is 'dice'" in said
    (remedy,) = shlex.split(said[said.index("'loss={") :])
    assert load_config(file, [remedy]).loss == {"dice": 1.0, "boundary": 0.1}


def test_a_weight_of_a_sum_of_losses_is_set_alone(tmp_path: Path) -> None:
    file = tmp_path / "a.yaml"
    file.write_text("loss: {dice: 1.0, boundary: {start: 0.0, end: 0.1}}\n")
    assert load_config(file, ["loss.boundary=0.2"]).loss == {"dice": 1.0, "boundary": 0.2}
    assert load_config(file, ["loss.boundary.end=0.3"]).loss == {"dice": 1.0, "boundary": Ramp(0.0, 0.3)}


@pytest.mark.law("L12")
@pytest.mark.parametrize(
    ("extra", "ours"),
    [
        ("zero_optimization.stage=3", "deepspeed.zero"),
        ("zero_optimization.offload_optimizer.device=cpu", "deepspeed.offload"),
        ("gradient_accumulation_steps=2", "train.micro_batch"),
        ("bf16.enabled=true", "precision"),
        ("torch_autocast.dtype=float16", "precision"),
        ("train_batch_size=32", "train.global_batch"),
        ("optimizer.type=Adam", "optim.name"),
        ("scheduler.type=WarmupLR", "optim.schedule"),
        ("gradient_clipping=1.0", "optim.clip_norm"),
        ("zero_optimization=3", "a mapping"),
    ],
)
def test_what_deepspeed_is_told_from_our_keys_is_not_set_beside_them(extra: str, ours: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load_config(None, [f"deepspeed.extra.{extra}"])
    key = extra.partition("=")[0]
    assert "\n" not in str(caught.value)
    assert ours in str(caught.value)
    assert f"deepspeed.extra.{'.'.join(key.split('.')[:1])}" in str(caught.value)
    load_config(
        None,
        [
            "engine=deepspeed",
            "deepspeed.extra={zero_optimization: {overlap_comm: true, offload_optimizer: {pin_memory: true}}}",
        ],
    )


@pytest.mark.parametrize(
    "overrides",
    [
        ["engine=ddp", "deepspeed={zero: 3, offload: true, extra: {zero_optimization: {overlap_comm: true}}}"],  # L9
        ["optim={name: sgd, momentum: 0.99, schedule: polynomial, power: 2, final_lr_ratio: 0.1}"],
        ["optim={schedule: warmup_cosine, final_lr_ratio: 0.1, power: 0.9, momentum: 0.9}"],
    ],
)
def test_what_means_something_or_may_be_left_from_another_engine_is_taken(overrides: list[str]) -> None:
    load_config(None, overrides)


def test_numbers_for_deepspeed_are_read_as_json_would() -> None:
    engine = "engine=deepspeed"
    cfg = load_config(None, [engine, "deepspeed.extra={buckets: {size: 5e7, group: 1E+3}, x: [2e-3, 1e4x, 7, 1.0]}"])
    wanted = {"buckets": {"size": 50_000_000, "group": 1000}, "x": [2e-3, "1e4x", 7, 1.0]}
    assert json.dumps(cfg.deepspeed.extra) == json.dumps(wanted)
    assert load_config(None, [engine, "deepspeed.extra.train.steps=3e2"]).deepspeed.extra == {"train": {"steps": 300}}


def test_a_packaged_config_is_found_by_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "lgg").mkdir()
    assert load_config("lgg", ["data.root=/data"]).name == "lgg"
    with pytest.raises(ConfigError, match=r"lggg: .* did you mean lgg\?; there are lgg, .*phantom"):
        load_config("lggg")
    (tmp_path / "phantom").write_text("name: mine\n")
    assert load_config("phantom").name == "mine", "a file comes first"


@pytest.mark.law("L12")
@pytest.mark.parametrize("content", [None, "a: [", "- 1\n", "\xff\xfe"])
def test_a_bad_file_is_named(tmp_path: Path, content: str | None) -> None:
    file = tmp_path / "bad.yaml"
    if content is not None:
        file.write_bytes(content.encode("latin-1"))
    with pytest.raises(ConfigError, match=r"bad\.yaml"):
        load_config(file)


def test_only_what_is_learnt_makes_another_run() -> None:
    base = load_config(None)
    assert first_difference(load_config(None, ["data.store=/elsewhere", "log_every_steps=1"]), base) is None
    assert first_difference(load_config(None, ["optim.lr=1"]), base) == ("optim.lr", 1.0, base.optim.lr)
    assert Config() == Config()


@pytest.mark.parametrize(
    ("setting", "seconds"), [("90m", 5400), ("1h30m", 5400), ("45s", 45), ("2h", 7200), (None, None)]
)
def test_a_deadline_is_a_duration_from_the_start(setting: str | None, seconds: int | None) -> None:
    assert deadline_of(setting, 1000.0, ask_slurm=False) == (None if seconds is None else 1000 + seconds)


@pytest.mark.parametrize("text", ["2026-11-22T18:00", "2026-11-22T18:00:00", "2026-11-22 18:00:00"])
def test_a_deadline_is_a_time(text: str) -> None:
    cfg = load_config(None, [f"stop.deadline={text}"])
    assert deadline_of(cfg.stop.deadline, 0.0, ask_slurm=False) == datetime(2026, 11, 22, 18).timestamp()


@pytest.mark.law("L12")
def test_a_deadline_that_is_neither_is_named() -> None:
    with pytest.raises(ConfigError, match=r"stop.deadline='soon'.*1h30m"):
        deadline_of("soon", 0.0, ask_slurm=False)


def test_the_end_of_a_slurm_job_is_a_deadline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """From the environment, or as `scontrol show job` words it."""
    monkeypatch.setenv("SLURM_JOB_ID", "12")
    scontrol = tmp_path / "scontrol"
    scontrol.write_text("#!/bin/sh\necho StartTime=2026-11-22T08:00:00 EndTime=2026-11-22T09:00:00 Deadline=N/A\n")
    scontrol.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    assert deadline_of(None, 0.0, ask_slurm=True) == datetime(2026, 11, 22, 9).timestamp()
    by_the_element = '[ "$3" = 12_3 ] && echo EndTime=2026-11-22T10:00:00 || echo EndTime=2026-11-22T09:00:00'
    scontrol.write_text(f"#!/bin/sh\n{by_the_element}\n")
    monkeypatch.setenv("SLURM_ARRAY_JOB_ID", "12")
    monkeypatch.setenv("SLURM_ARRAY_TASK_ID", "3")
    assert deadline_of(None, 0.0, ask_slurm=True) == datetime(2026, 11, 22, 10).timestamp()
    monkeypatch.setenv("SLURM_JOB_END_TIME", "1000")
    assert deadline_of("1h", 0.0, ask_slurm=True) == 1000


def test_a_run_that_was_trained_by_what_is_refused_now_can_be_read() -> None:
    tree = {"optim": {"momentum": 0.95}}
    with pytest.raises(ConfigError, match=r"optim.momentum=0.95 means nothing"):
        from_tree(tree, "here")
    assert from_tree(tree, "a run", stored=True).optim.momentum == 0.95
