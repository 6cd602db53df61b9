"""Parts of the user's own: named in a config, found, checked without running them, imported as they stand, kept."""

import subprocess
import sys
import textwrap
from dataclasses import asdict
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from segtrain.commands import check
from segtrain.config import Config, Reference, first_difference, load_config, loss_terms, to_yaml
from segtrain.config.importing import load
from segtrain.config.kinds import kind_of
from segtrain.config.own_code import own_code
from segtrain.config.own_parts import in_folder, own_parts
from segtrain.errors import ConfigError, RunError
from segtrain.run.code import copy_code, with_own_code
from segtrain.run.environment import Environment
from segtrain.run.writer import Run

ROOT = Path(__file__).resolve().parent.parent
LOSS = """
def my_loss(pred, target, gamma: float = 2.0, smooth=1, name="x", flag: bool = False):
    return gamma * ((pred - target) ** 2).mean()
"""


def write(folder: Path, **texts: str) -> Path:
    """Write files, whose names have `__` for `/`; returns the first."""
    paths = []
    for name, text in texts.items():
        path = folder / (name.replace("__", "/") + ".py")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(textwrap.dedent(text))
        paths.append(path)
    return paths[0]


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize(
    ("override", "term"),
    [
        ("loss=mine.py:my_loss", ("mine.py:my_loss", 1.0, {})),
        ("loss={part: mine.py:my_loss, gamma: 3}", ("mine.py:my_loss", 1.0, {"gamma": 3})),
        ("loss={mine.py:my_loss: {weight: 0.5, smooth: 0}}", ("mine.py:my_loss", 0.5, {"smooth": 0})),
    ],
)
def test_a_loss_of_the_user_s_own_is_chosen_by_the_name_of_its_file(
    here: Path, override: str, term: tuple[str, float, dict[str, float]]
) -> None:
    write(here, mine=LOSS)
    cfg = load_config(None, [override])
    [found] = loss_terms(cfg.loss)
    assert (found.part, found.weight, found.options) == term
    assert list(cfg.code) == [f"{own_parts(cfg)[0].folder}/mine.py"]
    (here / "again.yaml").write_text(to_yaml(cfg))
    assert load_config(here / "again.yaml") == cfg


def test_options_are_added_to_a_part_that_was_chosen_by_name(here: Path) -> None:
    write(here, mine=LOSS)
    cfg = load_config(None, ["loss=mine.py:my_loss", "loss.gamma=3"])
    assert cfg.loss == {"part": "mine.py:my_loss", "gamma": 3}
    assert load_config(None, ["loss={dice: 1.0, mine.py:my_loss: 0.5}", "loss.mine.py:my_loss.gamma=3"]).loss == {
        "dice": 1.0,
        "mine.py:my_loss": {"weight": 0.5, "gamma": 3},
    }


@pytest.mark.law("L12")
@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("loss=nine.py:my_loss", r"loss=nine\.py:my_loss: there is no file nine\.py in .*; write its path"),
        ("loss=mine.py:my_los", r"mine\.py has nothing named my_los; did you mean my_loss\?"),
        ("loss={part: mine.py:my_loss, gama: 3}", r"has no option gama \(did you mean gamma\?\)"),
        ("loss={part: mine.py:my_loss, gamma: much}", r"gamma='much': this option takes a number"),
        ("loss={part: mine.py:my_loss, flag: 1}", r"flag=1: this option takes true or false"),
        ("loss={part: mine.py:my_loss, smooth: true}", r"smooth=True: this option takes a number"),
        ("loss={part: mine.py:my_loss, name: 3}", r"name=3: this option takes a text"),
        ("loss={part: dice, gamma: 3}", r"loss dice has no option gamma"),
        ("loss={mine.py:my_loss: {gamma: 3}}", r"mine\.py:my_loss has no weight; write"),
        ("loss=broken.py:f", r"broken\.py, line 1: not Python"),
        ("loss=notes.ipynb:f", r"a notebook cannot be imported; write f into a \.py file"),
        ("loss=keras_part.py:f", r"imports tensorflow: this is a part for TensorFlow"),
        ("loss=no.such.module:f", r"there is no module no\.such\.module; install no"),
        ("model.name=mine.py:Net", r"model\.name=mine\.py:Net: mine\.py has nothing named Net; it has my_loss"),
        ("engine=mine.py:f", r"no engine is named 'mine\.py:f'"),
    ],
)
def test_what_is_wrong_with_a_part_is_one_line_before_anything_is_run(here: Path, override: str, message: str) -> None:
    write(here, mine=LOSS, broken="def f(:", keras_part="import tensorflow as tf\ndef f(p, t): pass")
    with pytest.raises(ConfigError, match=message) as error:
        load_config(None, [override])
    assert str(error.value).startswith("the command line: ")
    assert "\n" not in str(error.value)


def test_a_config_with_own_parts_loads_without_torch_and_without_running_them(here: Path) -> None:
    write(here, mine=f"import torch\nopen('ran', 'w')\n{LOSS}")
    code = (
        "import sys; from segtrain.config import load_config\n"
        "load_config(None, ['loss=mine.py:my_loss', 'loss.gamma=3', 'model.name=mine.py:my_loss'])\n"
        "sys.exit('torch' in sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
    assert not (here / "ran").exists()


def test_a_part_is_found_beside_the_config_that_names_it(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(here, conf__mine=LOSS)
    (here / "conf" / "c.yaml").write_text("loss: mine.py:my_loss\n")
    cfg = load_config(here / "conf" / "c.yaml")
    assert Path(own_parts(cfg)[0].reference.where) == here / "conf" / "mine.py"
    monkeypatch.chdir(here / "conf")
    assert first_difference(load_config("c.yaml"), cfg) is None, "the same part from another folder is the same run"


def test_two_parts_may_each_have_siblings_of_one_name(here: Path) -> None:
    """Bare imports, relative ones over two levels, names that are no Python names, and `utils` that collide."""
    utils = sys.modules.get("utils")
    write(here, a__net="from utils import value\nfrom blocks.deep import depth\ndef make(): return value, depth",
          a__utils="value = 'a'", a__blocks__deep="from utils import value as v\ndepth = v + '!'")  # fmt: skip
    write(here, b__net="import utils\ndef make(): return utils.value", b__utils="value = 'b'")
    write(here, c__sub__net="from ..parts import value\nfrom .near import near\ndef make(): return value + near",
          c__parts="value = 'c'", c__sub__near="near = '+'")  # fmt: skip
    (here / "un-et++.py").write_text("import math\ndef make(): return math.pi > 3\n")
    made = [load(Reference.of(f"{path}:make"))() for path in ("a/net.py", "b/net.py", "c/sub/net.py", "un-et++.py")]
    assert made == [("a", "a!"), "b", "c+", True]
    assert sys.modules.get("utils") is utils
    assert str(here / "a") not in sys.path
    assert not list(here.rglob("__pycache__")), "nothing is written beside the user's files"
    names = {path.relative_to(here / "a").as_posix() for path in own_files("a/net.py:make")}
    assert names == {"net.py", "utils.py", "blocks/deep.py"}


def own_files(reference: str) -> tuple[Path, ...]:
    code = own_code(Reference.of(reference))
    assert code is not None
    return code.files


@pytest.mark.law("L12")
@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("for i in range(3): pass\ndef f(): pass", r"line 1: importing it would run a for loop"),
        ("import os\ntrain(1)\ndef f(): pass", r"line 2: importing it would run a call of train"),
        ("with open('x') as file: pass\ndef f(): pass", r"importing it would run a with block"),
        ("if True:\n    main()\ndef f(): pass", r"importing it would run a call of main"),
        (
            "import nowhere_to_be_found\ndef f(): pass",
            r"needs nowhere_to_be_found, which is not installed; pip install",
        ),
        ("import sys\nx = sys.exit(3)\ndef f(): pass", r"cannot be imported \(SystemExit: 3\)"),
        ("x = 1 / 0\ndef f(): pass", r"cannot be imported \(ZeroDivisionError: division by zero\) in part\.py, line 1"),
    ],
)
def test_a_file_that_does_work_or_cannot_be_imported_is_refused(here: Path, text: str, message: str) -> None:
    (here / "part.py").write_text(text)
    with pytest.raises(ConfigError, match=message):
        load(Reference.of("part.py:f"))


def test_what_stands_below_main_or_only_warns_is_no_work(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write(here, part="""
        import warnings
        warnings.filterwarnings("ignore")
        print("loaded")
        def f(): return 1
        if __name__ == "__main__":
            f()
            raise SystemExit
    """)  # fmt: skip
    assert load(Reference.of("part.py:f"))() == 1
    assert capsys.readouterr().out == "", "standard output is for our tables"


@pytest.mark.quick
@pytest.mark.law("L13")
def test_changed_code_is_another_run_and_a_file_that_it_imports_counts(here: Path) -> None:
    write(here, mine=f"from helper import k\n{LOSS}", helper="k = 1")
    before = load_config(None, ["loss=mine.py:my_loss", "runs_dir=r"])
    assert list(before.code) == ["loss/mine.py", "loss/helper.py"]
    run = Run.of(before)
    run.root.mkdir(parents=True)
    run.config_file.write_text(to_yaml(before))
    run.metrics.write_text("")
    assert run.finished(before) is None
    write(here, helper="k = 2")
    after = load_config(None, ["loss=mine.py:my_loss", "runs_dir=r"])
    with pytest.raises(RunError, match=r"helper\.py is other code than this run was begun with .*bring it back, or"):
        run.finished(after)


@pytest.mark.law("L13")
def test_a_run_keeps_the_code_and_is_used_with_it_when_the_original_is_gone(here: Path) -> None:
    write(here, p__sub__net="from ..q import k\nclass Net: value = k", p__q="k = 7")
    cfg = load_config(None, ["model.name=p/sub/net.py:Net", "runs_dir=r"])
    run = Run.of(cfg)
    copy_code(cfg, run.code)
    assert sorted(path.relative_to(run.code).as_posix() for path in run.code.rglob("*.py")) == [
        "model/q.py", "model/sub/net.py",
    ]  # fmt: skip
    write(here, p__q="k = 8")
    kept = with_own_code(run, cfg)
    assert load(own_parts(kept)[0].reference).value == 7
    assert kept.code == cfg.code
    moved = run.root.rename(here / "elsewhere")
    assert load(own_parts(with_own_code(Run(moved), cfg))[0].reference).value == 7
    (moved / "code" / "model" / "q.py").write_text("k = 9")
    with pytest.raises(RunError, match=r"code/model/q\.py: is not the file that the run was trained with"):
        with_own_code(Run(moved), cfg)
    (moved / "code" / "model" / "q.py").unlink()
    with pytest.raises(RunError, match=r"q\.py: is not the file"):
        with_own_code(Run(moved), cfg)


def test_a_run_s_config_finds_the_parts_that_lie_beside_it(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(here, mine=LOSS)
    cfg = load_config(None, ["loss=mine.py:my_loss", "runs_dir=r"])
    run = Run.of(cfg)
    copy_code(cfg, run.code)
    run.config_file.write_text(to_yaml(cfg))
    (here / "other").mkdir()
    monkeypatch.chdir(here / "other")
    again = load_config(here / run.config_file)
    assert again.code == cfg.code
    assert first_difference(again, cfg) is None


def test_a_part_of_an_installed_package_is_not_copied(here: Path) -> None:
    cfg = load_config(None, ["loss=monai.losses:DiceLoss"])
    assert cfg.code == {}
    assert in_folder(cfg, here) == cfg
    assert asdict(cfg)["loss"] == "monai.losses:DiceLoss"
    assert Environment.now(1, "cpu").packages["monai"], "its version is on record in place of a hash"


@given(st.text(max_size=30))
def test_any_name_is_a_reference_or_none_and_never_an_error(text: str) -> None:
    reference = Reference.parse(text)
    assert reference is None or str(reference) == text


def test_names_of_encoders_are_no_references() -> None:
    assert Reference.parse("smp:resnet34") is None
    assert load_config(None, ["model.name=smp:resnet34"]).model.name == "smp:resnet34"
    assert Config().code == {}


@pytest.mark.parametrize(
    ("part", "kind"),
    [
        ("configs/ablation/own_parts.py:power_loss", "loss"),
        ("configs/ablation/own_parts.py:DropoutUNet", "model"),
        ("configs/ablation/own_parts.py:fog", "augment"),
        ("configs/ablation/own_parts.py:Lion", "optim"),
        ("configs/ablation/own_parts.py:halves", "schedule"),
        ("monai.losses:DiceLoss", "loss"),
        ("monai.networks.nets:BasicUNet", "model"),
        ("monai.transforms:RandFlipd", "augment"),
        ("torch.optim:NAdam", "optim"),
        ("torch.optim.lr_scheduler:OneCycleLR", "schedule"),
        ("torch.nn:BCEWithLogitsLoss", "loss"),
        ("torch.nn.functional:binary_cross_entropy", "loss"),
    ],
)
def test_the_kind_of_a_part_is_told_from_its_class_and_parameters(part: str, kind: str) -> None:
    name, _, _ = part.rpartition(":")
    where = str(ROOT / name) if name.endswith(".py") else name
    assert kind_of(load(Reference(where, part.rpartition(":")[2]))) == kind


@pytest.mark.law("L13")
def test_check_prints_a_table_and_ends_with_code_2_where_a_law_does_not_hold(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write(here, mine="def good(p, y): return ((p - y) ** 2).mean()\ndef bad(p, y): return (p * y).sum()")
    assert check.command(["mine.py:good"]) == 0
    shown = capsys.readouterr().out
    assert shown.startswith("mine.py:good(): probabilities, mask [b, 1, h, w]; couples no samples; 0.00 for the truth")
    assert "the same on 1, 2 and 4 ranks" in shown
    assert check.command(["mine.py:bad"]) == 2
    assert "fails" in capsys.readouterr().out
    write(here, odd="def f(): pass")
    with pytest.raises(ConfigError, match=r"its kind cannot be told; add --as loss\|model"):
        check.command(["odd.py:f"])
