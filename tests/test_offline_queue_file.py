"""What a queue's file asks for: runs, ablations, whose setting stands over whose, and mistakes that are named."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from queues import write

from jobs.offline import queue_file
from segtrain.errors import ConfigError
from segtrain.run import expand

ROOT = Path(__file__).resolve().parent.parent
SPEC = {"name": "loss", "base": "base.yaml", "folds": [0, 1], "variants": {"dice": {}, "focal": {"loss": "focal"}}}


def test_a_run_s_settings_stand_over_the_queue_s_and_the_command_line_over_all(tmp_path: Path) -> None:
    runs = [
        {"config": "base.yaml", "name": "a", "overrides": {"optim": {"lr": 2}, "loss": {"dice": 1}}, "retries": 0},
        {"config": "base.yaml", "overrides": {"name": "b", "seed": 7}, "processes": 3},
    ]
    common = {"runs_dir": str(tmp_path / "r"), "optim.lr": 1, "seed": 6, "loss": {"focal": 1.0}}
    found = queue_file.load(write(tmp_path, runs=runs, overrides=common, processes=2), ["seed=8"], retries=5)
    assert [(i.name, i.processes, i.retries) for i in found.items] == [("a", 2, 0), ("b", 3, 5)]
    first, second = (item.cfg for item in found.items)
    assert first is not None
    assert second is not None
    assert (first.optim.lr, first.loss, first.seed, first.name) == (2, {"dice": 1}, 8, "a")
    assert (second.optim.lr, second.loss, second.seed, second.name) == (1, {"focal": 1.0}, 8, "b")
    assert found.items[0].run.root == found.folder / "a" == tmp_path / "r" / "night" / "a"


@pytest.mark.parametrize(
    "changes",
    [
        {"data": {"regions": {"core": [1]}}},
        {"data.regions": {"core": [1]}},
        {"optim": {"lr_ratios": {"bottleneck*": 0.5}}},
        {"optim": {"schedule": {"part": "step", "step_size": 3}}},
        {"loss": {"bce": 1.0}},
    ],
)
def test_a_run_s_overrides_mean_what_they_mean_in_an_ablation(tmp_path: Path, changes: dict[str, Any]) -> None:
    """A mapping that is a value, or a part with its options, takes the place of the base's."""
    base = {
        "device": "cpu", "runs_dir": str(tmp_path / "runs"), "loss": {"dice": 1.0, "focal": 0.5},
        "data": {"source": "nifti", "root": "/data", "regions": {"whole": [1, 2], "core": [2]}},
        "optim": {"lr_ratios": {"encoder*": 0.1}, "schedule": {"part": "step", "step_size": 2, "gamma": 0.3}},
    }  # fmt: skip
    queue = write(tmp_path, runs=[{"config": "base.yaml", "name": "a", "overrides": changes}], overrides={})
    (tmp_path / "base.yaml").write_text(json.dumps(base))
    spec = {"name": "a", "base": "base.yaml", "variants": {"plain": {}, "changed": changes}}
    (tmp_path / "spec.yaml").write_text(json.dumps(spec))
    [item] = queue_file.load(queue).items
    member = expand(tmp_path / "spec.yaml", [])[1][1].cfg
    assert item.cfg is not None, item.trouble
    assert replace(item.cfg, name=member.name, runs_dir=member.runs_dir) == member


def test_a_run_s_config_may_be_a_packaged_one(tmp_path: Path) -> None:
    (item,) = queue_file.load(write(tmp_path, runs=[{"config": "lgg"}]), ["data.root=/data"]).items
    assert item.cfg is not None
    assert (item.name, item.cfg.train.epochs) == ("lgg", 100)


@pytest.mark.parametrize("bare", [True, False])
def test_an_ablation_is_its_runs(tmp_path: Path, bare: bool) -> None:
    """Alone it lies where `segtrain ablate` would put it, so that what that has trained is finished."""
    queue = write(tmp_path, runs=[{"ablation": "spec.yaml"}, {"config": "base.yaml", "name": "alone"}])
    (tmp_path / "spec.yaml").write_text(json.dumps(SPEC))
    found = queue_file.load(tmp_path / "spec.yaml" if bare else queue, [f"runs_dir={tmp_path}/runs"])
    members = ["dice-fold0-seed42", "focal-fold0-seed42", "dice-fold1-seed42", "focal-fold1-seed42"]
    assert [item.name for item in found.items] == (members if bare else [*members, "alone"])
    assert found.items[1].run.root == tmp_path / "runs" / ("loss" if bare else "night") / "focal-fold0-seed42"
    assert found.items[1].cfg is not None
    assert (found.items[1].cfg.loss, found.items[1].cfg.data.fold) == ("focal", 0)


@pytest.mark.law("L12")
@pytest.mark.parametrize(
    ("keys", "said"),
    [
        ({"name": "a/b"}, "name='a/b': String should match"),
        ({"retry": 3}, "unknown key retry; did you mean retries?"),
        ({"runs": []}, "runs=[]: Tuple should have at least 1 item"),
        ({"runs": [{"name": "x"}]}, "runs.0: needs either config: or ablation:"),
        ({"runs": [{"config": "base.yaml", "overide": {}}]}, "unknown key runs.0.overide; did you mean overrides?"),
        ({"runs": [{"config": "base.yaml"}, {"config": "base.yaml"}]}, "two runs are named phantom"),
        ({"runs": [{"config": "base.yaml", "name": "report"}]}, "a run's name is report"),
        ({"runs": [{"ablation": "spec.yaml", "name": "x"}]}, "leave name: out"),
        ({"runs": [{"config": "none.yaml"}]}, "none.yaml: cannot read the config"),
        ({"runs": [{"ablation": "none.yaml"}]}, "none.yaml: cannot read the config"),
        ({"overrides": {"optim.lrr": 3}}, "unknown key optim.lrr; did you mean optim.lr?"),
        ({"runs": [{"config": "base.yaml", "name": "a", "overrides": {"runs_dir": "/x"}}, {"config": "base.yaml"}]},
         "runs_dir is /x for"),
        ({"min_free_gib": -1}, "min_free_gib=-1: Input should be greater than or equal to 0"),
        ({"at_once": 0}, "at_once=0: Input should be greater than or equal to 1"),
    ],
)  # fmt: skip
def test_what_is_wrong_with_a_queue_is_said_before_anything_starts(
    tmp_path: Path, keys: dict[str, Any], said: str
) -> None:
    with pytest.raises(ConfigError) as caught:
        queue_file.load(write(tmp_path, **keys))
    assert said in str(caught.value)
    assert str(tmp_path) in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.law("L12")
@pytest.mark.parametrize("name", ["results.zip", "results.zip.sha256", "STOP", "stop", "log.txt", "journal.jsonl",
                                  "queue.csv", "results.csv", "ablation.json", "logs", "Report"])  # fmt: skip
def test_a_run_is_not_named_as_a_file_of_the_queue(tmp_path: Path, name: str) -> None:
    queue = write(tmp_path, runs=[{"config": "base.yaml", "name": name}])
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(ConfigError, match=f"a run's name is {name}, as a file of the queue's; give it another name:"):
        queue_file.load(queue, [f"runs_dir={tmp_path}/runs"])
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.law("L12")
def test_names_that_lead_elsewhere_are_none(tmp_path: Path) -> None:
    wrong = {"config": "base.yaml", "overrides": {"name": "../other"}}
    queue = write(tmp_path, runs=[wrong, {"config": "base.yaml"}])
    refused, taken = queue_file.load(queue, [f"runs_dir={tmp_path}/runs"]).items
    assert (refused.name, taken.name) == ("run-1", "phantom")
    assert "name='../other'" in refused.trouble
    (tmp_path / "runs" / "night").mkdir(parents=True)
    (tmp_path / "runs" / "night" / "config.yaml").touch()
    with pytest.raises(ConfigError, match="is a run's directory; give the queue another name:"):
        queue_file.load(queue, [f"runs_dir={tmp_path}/runs"])


def test_the_queues_that_come_with_the_project_load_and_open_with_their_command() -> None:
    paths = sorted((ROOT / "configs" / "offline").glob("*.yaml"))
    assert paths
    for path in paths:
        first, second = path.read_text().splitlines()[:2]
        real = "data.root=.../kaggle_3m"
        assert first.startswith(f"# segtrain offline configs/offline/{path.name}")
        found = queue_file.load(path, ["data.root=/data"] if real in first else [])
        assert not [item.trouble for item in found.items if item.trouble]
        assert f"{len(found.items)} runs" in second
