"""Names of folders and files in any letters: they go through every command, or are refused by name in one line."""

import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from predictions import IMAGE, MASK, predict, write_patient
from trainings import run_to_end

from segtrain.commands.evaluate import command as evaluate
from segtrain.commands.predict import command as predict_command
from segtrain.commands.report import command as report
from segtrain.config import load_config
from segtrain.data.prepare import ensure_store
from segtrain.data.sources import find_source
from segtrain.errors import ConfigError, DataError
from segtrain.run import Environment, Run
from segtrain.runtime.cells import read_csv
from segtrain.runtime.process import run_command

TAKEN = (
    "a b", "it's \"x\"", "a[1]*?", "$HOME;`x`", "ünï字", "a\u00a0b\u3000c", "--help", "=1+1,2", "%s{0}\\n", "<b>&amp;",
    "x" * 240,
)  # fmt: skip
REFUSED = {  # and what the message shows of them
    "not UTF-8": (b"caf\xe9", r"caf\xe9"),
    "newline": (b"a\nb", r"a\nb"),
    "tab": (b"a\tb", r"a\tb"),
    "escape": (b"a\x1b[31mb", r"a\x1b[31mb"),
    "long": (b"x" * 241, "bytes, but 240"),
}
SLICES = slice(4, 16)


@pytest.fixture(scope="module")
def odd_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Patients under odd names, in a folder whose name is not UTF-8 and has two lines."""
    root = tmp_path_factory.mktemp("odd") / os.fsdecode(b"caf\xe9\n[1] 'x'")
    for number, name in enumerate(TAKEN):
        shift = np.roll(IMAGE[SLICES], number, axis=1)  # no pixels of another patient
        write_patient(root, name, shift, np.roll(MASK[SLICES], number, axis=1))
    return root


@pytest.fixture(scope="module")
def odd_run(odd_root: Path) -> Run:
    keys = ["name=odd", "data.source=lgg", f"data.store={odd_root.parent / 'prepared'}", "data.image_size=32",
            "data.workers=1", "data.validation_patients=9", "model={features: 4, norm: group}", "evaluate.pictures=2",
            "train={epochs: 1, global_batch: 4}", "threads_per_rank=1", "device=cpu"]  # fmt: skip
    cfg = load_config(None, keys, {"data": {"root": str(odd_root)}})
    return Run(run_to_end(odd_root.parent, cfg, 1))


def patients_in(path: Path) -> set[str]:
    with path.open(encoding="utf-8", newline="") as file:
        return {row["patient"] for row in read_csv(file)}


@pytest.mark.law("L12")
def test_odd_names_go_through_training_scoring_and_the_report(odd_run: Run, tmp_path: Path) -> None:
    validating = patients_in(odd_run.validation_table(1))
    assert validating <= set(TAKEN)
    assert len(validating) == 9
    assert run_command(evaluate, [str(odd_run.root), "--out", str(tmp_path / "scores"), "--split", "all",
                                  "--include-training", "--geometry", "both"]) == 0  # fmt: skip
    assert patients_in(tmp_path / "scores/scores.csv") == set(TAKEN)
    assert run_command(report, [str(odd_run.root), "--out", str(tmp_path / "report")]) == 0
    page = (tmp_path / "report/index.html").read_text(encoding="utf-8")
    assert "<b>&amp;" not in page.replace("&lt;b&gt;&amp;amp;", "")


@pytest.mark.law("L12")
def test_odd_names_go_through_prediction(odd_run: Run, odd_root: Path, tmp_path: Path) -> None:
    out = predict(odd_run, odd_root, tmp_path / "out")
    assert patients_in(out / "scores.csv") == set(TAKEN)
    assert {folder.name for folder in (out / "masks").iterdir()} == set(TAKEN)


@pytest.mark.law("L12")
@pytest.mark.parametrize("path", ["/data/run #2", "/data/a  b", os.fsdecode(b"/caf\xe9"), "a\x1bb", "x" * 300, "ünï字"])
def test_odd_paths_are_overrides_whole(path: str) -> None:
    assert load_config(None, [f"data.store={path}"]).data.store == path
    assert load_config(None, ["data.store='a #b'"]).data.store == "a #b"


@pytest.mark.law("L6")
def test_a_run_of_odd_arguments_can_be_resumed(tmp_path: Path) -> None:
    """Its config.yaml, which opens with the command, can be read."""
    cfg = load_config(None, [f"data.store={tmp_path}/a\nb\x1b"])
    run = Run(tmp_path / "a\nb" / "run")
    words = ["name=run", f"data.store={tmp_path}/a\nb\x1b", os.fsdecode(b"data.root=caf\xe9"), "ünï字"]
    run.open(cfg, {"hash": "0", "train": [], "validation": []}, words, Environment.now(1, "cpu"))
    first, *_ = run.config_file.read_text(encoding="utf-8").splitlines()
    assert first.startswith("# python -m segtrain.train name=run")
    assert first.endswith("'ünï字'")
    assert load_config(run.config_file) == cfg


@pytest.mark.law("L12")
def test_a_runs_dir_that_tensorboard_cannot_write_into_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"runs_dir=/caf\\xe9: not in UTF-8"):
        load_config(None, [os.fsdecode(b"runs_dir=/caf\xe9")])


@pytest.mark.law("L12")
@pytest.mark.parametrize("kind", REFUSED)
@pytest.mark.parametrize("layout", ["lgg", "slices", "slice", "nifti"])
def test_names_that_outputs_cannot_hold_are_refused_in_one_line(
    trained_run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str], kind: str, layout: str
) -> None:
    name, shown = os.fsdecode(REFUSED[kind][0]), REFUSED[kind][1]
    root = tmp_path / "in"
    write_odd(root, name, layout)
    with pytest.raises(DataError, match=r"rename it$") as caught:
        count_slices(root)
    assert shown in str(caught.value)
    assert str(caught.value).isprintable()
    assert (
        run_command(predict_command, [str(trained_run.root), "--images", str(root), "--out", str(root / "../o")]) == 2
    )
    assert shown in capsys.readouterr().err.strip().splitlines()[-1]
    if layout == "lgg":
        keys = ["data.source=lgg", f"data.root={root}", f"data.store={tmp_path / 'prepared'}", "data.workers=1"]
        with pytest.raises(DataError, match=r"rename it$"):
            ensure_store(load_config(None, keys).data)
        assert not list((tmp_path / "prepared").glob("*"))


def count_slices(root: Path) -> list[int]:
    source = find_source(root, "auto")
    return [source.slices(patient) for patient in source.patients()]


def write_odd(root: Path, name: str, layout: str) -> None:
    if layout == "lgg":
        write_patient(root, name, IMAGE[:4], MASK[:4])
        return
    if layout == "nifti":
        (root / name).mkdir(parents=True)
        (root / name / "flair.nii").touch()
        return
    folder, file = (name, "1.png") if layout == "slices" else ("P", f"{name}1.png")
    (root / folder).mkdir(parents=True)
    Image.fromarray(IMAGE[0]).save(root / folder / file)
