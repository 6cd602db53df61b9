"""Sources of the user's own: made the whole protocol, checked, trained, resumed, evaluated and predicted."""

import pickle
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from predictions import predict, table
from trainings import Job, assert_same, run_to_end, state_of

from segtrain.commands import check, evaluate, prepare
from segtrain.config import Config, DataConfig, load_config, to_yaml
from segtrain.config.kinds import kind_of
from segtrain.data.prepare import ensure_store
from segtrain.data.sources import make_source
from segtrain.data.sources.own import OwnSource
from segtrain.data.sources.phantom import phantom_patient
from segtrain.data.splits import make_split
from segtrain.errors import ConfigError, DataError
from segtrain.evaluation.ensemble import select_checkpoints
from segtrain.report.atlas import atlases
from segtrain.report.collect import collect
from segtrain.run import Run
from segtrain.runtime.process import run_command

PARTS = Path(__file__).parent / "parts" / "sources.py"
PATIENTS = ("A", "Ba", "Bb", "C", "D")


def write_archives(root: Path, patients: tuple[str, ...] = PATIENTS) -> Path:
    root.mkdir(parents=True, exist_ok=True)
    for index, patient in enumerate(patients):
        image, mask = phantom_patient(0, index, 64)
        np.savez(root / f"{patient}.npz", image=image, labels=mask)
    return root


def config(source: str, *overrides: str) -> Config:
    return load_config(None, [f"data.source={source}", "data.image_size=32", "data.workers=1", *overrides])


def made(fault: str, *overrides: str) -> DataConfig:
    return config(f"{{part: {PARTS}:Made, fault: {fault}}}", *overrides).data


@pytest.fixture
def cfg(tiny: Config, tmp_path: Path) -> Config:
    write_archives(tmp_path / "in")
    whole = config(f"{PARTS}:Archives", f"data.root={tmp_path / 'in'}", f"data.store={tmp_path / 'store'}")
    data = replace(whole.data, validation_patients=1)
    return replace(tiny, name="own", data=data, code=whole.code, checkpoint=replace(tiny.checkpoint, every_min=0.001))


@pytest.mark.law("L13")
def test_a_source_of_one_s_own_is_trained_resumed_evaluated_and_predicted(
    cfg: Config, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The run has its code; with other code it is not resumed; its copy is used when the file is gone."""
    mine = tmp_path / "mine.py"
    shutil.copyfile(PARTS, mine)
    data = replace(cfg.data, source=f"{mine}:Archives")
    cfg = load_config(None, [], {**_tree(cfg), "data": _tree(replace(cfg, data=data))["data"], "code": {}})
    assert list(cfg.code) == ["source/mine.py"]
    more = replace(cfg, train=replace(cfg.train, epochs=cfg.train.epochs + 1))
    run = Run(run_to_end(tmp_path / "resumed", cfg, 1))
    assert (run.code / "source" / "mine.py").read_text() == mine.read_text()
    resumed = state_of(run_to_end(tmp_path / "resumed", more, 1))
    assert_same(resumed, state_of(run_to_end(tmp_path / "unbroken", more, 1)))
    mine.write_text(mine.read_text() + "\n# changed\n")
    changed = replace(more, train=replace(more.train, epochs=more.train.epochs + 1))
    job = Job(tmp_path / "resumed", replace(changed, code={}), 1)
    assert job.wait() == [2], job.output()
    assert "mine.py is other code than this run was begun with" in job.output()
    mine.unlink()
    assert evaluate.command([str(run.root), "--split", "validation"]) == 0
    assert (
        f"reads its data by {run.code}/source/mine.py:Archives, the run's copy of its own source"
        in capsys.readouterr().err
    )
    (atlas,) = atlases(collect([run.root]))
    assert "its source mine.py:Archives is code of the user's own, which a report does not run" in atlas.reason
    twin = Run(tmp_path / "twin")
    shutil.copytree(run.root, twin.root)
    members = select_checkpoints([run.root, twin.root], "best", [])
    assert [member.own_source is not None for member in members] == [True, True], "equal sources in two places agree"
    out = predict(run, write_archives(tmp_path / "new", ("X", "Y")), tmp_path / "out")
    assert [row["patient"] for row in table(out / "scores.csv")] == ["X", "Y"]
    assert len(list((out / "masks" / "X").glob("slice_*_mask.tif"))) == len(phantom_patient(0, 0, 64)[0])


def _tree(cfg: Config) -> dict[str, object]:
    import yaml

    tree: dict[str, object] = yaml.safe_load(to_yaml(cfg))
    return tree


@pytest.mark.law("L1")
def test_its_people_stay_on_one_side_and_the_store_is_the_phantom_s(cfg: Config) -> None:
    store = ensure_store(cfg.data)
    assert store.path.name.startswith("Archives-32px-")
    assert {patient.person for patient in store.patients.values()} == {"A", "B", "C", "D"}
    split = make_split(replace(cfg.data, split="kfold", folds=4, fold=0), store)
    assert split.people == {"Ba": "B", "Bb": "B"}
    assert store.patients["A"].spacing_mm == (3.0, 1.0, 1.0)
    source = make_source(cfg.data)
    np.testing.assert_array_equal(source.read("A").image_shwc, phantom_patient(0, 0, 64)[0])
    sent = pickle.loads(pickle.dumps(source))
    np.testing.assert_array_equal(sent.read("A").image_shwc, phantom_patient(0, 0, 64)[0])


@pytest.mark.law("L11")
def test_its_store_is_that_of_what_it_reads_or_of_what_it_says(cfg: Config, tmp_path: Path) -> None:
    first = make_source(cfg.data).fingerprint()
    shutil.copytree(tmp_path / "in", tmp_path / "copy")
    copy = replace(cfg.data, root=str(tmp_path / "copy"))
    assert make_source(copy).fingerprint() == first
    other = replace(copy, source={"part": f"{PARTS}:Archives", "least": 2})
    assert make_source(other).fingerprint() != first
    told = [replace(cfg.data, source={"part": f"{PARTS}:archives", **more}) for more in ({}, {"suffix": "npz"})]
    assert make_source(told[0]).fingerprint() != make_source(told[1]).fingerprint(), "options decide what is read"


def read_first(cfg: DataConfig) -> None:
    source = make_source(cfg)
    source.fingerprint()
    source.read(source.patients()[0])


@pytest.mark.law("L12")
@pytest.mark.parametrize(
    ("fault", "words"),
    [
        ("raises", r"read\('A'\) failed \(KeyError: 'no such scan'\) in sources.py, line \d+; mend it"),
        ("shape", r"image of shape \(16, 16, 2\), but \[slices, height, width, 2\] is needed"),
        ("channels", r"image of shape \(6, 16, 16, 1\)"),
        ("labels", r"labels of shape \(6, 8, 16\), but the image's slices are \(6, 16, 16\)"),
        ("infinite", r"has voxels that are not finite"),
        ("value", r"labels of A: mask has values 0, 1, 7"),
        ("text", r"the image: <U\d+ values, but numbers are needed"),
        ("list", r"contrasts of shapes \(6, 16, 16\) and \(3, 16, 16\)"),
        ("nothing", r"returned a NoneType; return \(image"),
        ("key", r"has the key\(s\) mask; use image, labels, spacing_mm"),
        ("spacing", r"spacing_mm \(1, 0, 1\); three lengths above 0"),
        ("twice", r"patient A is listed twice"),
        ("none", r"patients\(\) gives none"),
        ("path", r"patient 'a/b': files are named by ids"),
        ("number", r"patient 1: files are named by ids"),
        ("random", r"read\('A'\) gives other values the second time"),
    ],
)
def test_what_it_must_not_do_is_refused_in_one_line(fault: str, words: str) -> None:
    with pytest.raises(DataError, match=words) as caught:
        read_first(made(fault))
    assert "\n" not in str(caught.value)
    assert "sources.py:Made" in str(caught.value)


@pytest.mark.law("L12")
def test_fractions_are_counted_as_what_they_are_read_as_and_told() -> None:
    volume = make_source(made("soft", "data.soft_above=0.5")).read("A")
    assert volume.label_voxels == {0: 6 * 16 * 16 - 50, 1: 50}
    assert "soft mask, lesion where it is above 0.5" in volume.remarks[0]


def test_contrasts_are_chosen_by_name() -> None:
    source = make_source(made("", "data.contrasts=[FLAIR]"))
    assert source.contrasts == ("FLAIR",)
    volume = source.read("A")
    np.testing.assert_array_equal(volume.image_shwc[..., 0], make_source(made("")).read("A").image_shwc[..., 1])
    assert volume.label_voxels == {0: 6 * 16 * 16 - 50, 1: 50}
    with pytest.raises(DataError, match=r"data.contrasts names t2, but it has t1, flair"):
        _ = make_source(made("", "data.contrasts=[t2]")).contrasts


@pytest.mark.law("L12")
@pytest.mark.parametrize(
    ("source", "words"),
    [
        ("sources.py:Lame", "a source needs a method read"),
        ("sources.py:Archives", "takes the folder of the data; add data.root=FOLDER"),
        ("sources.py:nothing", "has nothing named nothing"),
        ("{part: sources.py:Made, falt: 1}", r"has no option falt \(did you mean fault\?\)"),
        ("{part: lgg, x: 1}", "source lgg has no options of its own"),
    ],
)
def test_a_source_that_cannot_be_made_is_refused(source: str, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        make_source(config(source.replace("sources.py", str(PARTS))).data).patients()


@pytest.mark.law("L13")
def test_check_tries_three_patients(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = write_archives(tmp_path / "in")
    assert check.command([f"{PARTS}:Archives", f"data.root={root}"]) == 0
    shown = capsys.readouterr().out
    assert "5 patients of 4 people, pre-contrast, FLAIR, post-contrast" in shown
    assert "no slice of 3 is another's" in shown
    assert "voxels by label 0: " in shown
    assert check.command([f"{PARTS}:Made", "fault=random"]) == 2
    assert "other values the second time" in capsys.readouterr().out
    assert kind_of(OwnSource) == "source"
    shutil.copyfile(root / "A.npz", root / "Ba.npz")
    assert check.command([f"{PARTS}:archives", f"data.root={root}"]) == 2
    shown = capsys.readouterr().out
    assert "A and Ba share a slice" in shown
    assert "fingerprint (L11)" in shown


def test_a_dry_run_reads_it_too(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = write_archives(tmp_path / "in")
    words = ["--dry-run", f"data.source={PARTS}:Archives", f"data.root={root}", "data.validation_patients=1"]
    assert run_command(prepare.command, words) == 0
    shown = capsys.readouterr().out
    assert "5 scans of 4 people" in shown
    assert "3 x 1 x 1 mm" in shown


def test_the_example_of_the_docs_holds_the_laws(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = Path(__file__).parents[1]
    file = folder / "configs" / "ablation" / "own_parts.py"
    shown = (folder / "docs" / "own_parts.md").read_text().partition("```python\n")[2].partition("```")[0]
    assert shown in file.read_text()
    for index, patient in enumerate(("A_1", "A_2", "B_1")):
        image, mask = phantom_patient(0, index, 64)
        np.savez(tmp_path / f"{patient}.npz", flair=image[..., 1], t2=image[..., 2], labels=mask)
    assert check.command([f"{file}:Archives", f"data.root={tmp_path}"]) == 0
    assert "3 patients of 2 people, flair, t2" in capsys.readouterr().out
