"""The shape of the code: imports go down the layers, files and functions stay small, names and dicts agree."""

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

from segtrain.config import AUGMENTATIONS, ENGINES, LOSSES, NETWORKS, OPTIMIZERS, SCHEDULES, Part, load
from segtrain.config.networks import SMP

ROOT = Path(__file__).resolve().parent.parent
FILES = sorted((ROOT / "segtrain").rglob("*.py"))

# From the top down; a module imports from the layers below its room's, or from its own room.
LAYERS: list[set[str]] = [
    {"api"},  # which segtrain/__init__.py looks up when somebody asks for its names
    {"commands"},  # with the entries train.py and __main__.py
    {"doctor"},
    {"training", "report", "tracking"},
    {"evaluation"},
    {"data", "engines", "run"},
    {"runtime", "losses", "models"},
    {"config"},
    {"errors", "text_file", "__init__"},
]
# What may import torch when it is imported; all the rest does so in a function, or not at all.
TORCH = {
    "losses", "models", "engines", "data.augment", "data.feed", "data.resident",
    "runtime.gpu", "runtime.out_of_memory", "runtime.peers", "runtime.store", "runtime.torchrun_rendezvous",
    "runtime.world", "run.checkpoint", "run.tensorboard",
    "evaluation.evaluate", "evaluation.predictor", "evaluation.spread", "evaluation.tta", "evaluation.gallery",
    "training.auto_compile", "training.auto_precision", "evaluation.onnx_model",
    "training.build", "training.start", "training.parts", "training.resume", "training.log", "training.loop",
    "training.micro_batch", "training.in_step", "training.session", "doctor.trial", "doctor.rank",
}  # fmt: skip
# Likewise for jobs/, which imports from segtrain what needs no torch.
JOBS_LAYERS: list[set[str]] = [
    {"ablate", "search"},
    {"grid", "trials"},
    {"proposals"},
    {"submit", "status", "cancel", "logs", "clean", "batch", "offline", "resubmit", "cut_off"},
    {"queue", "outputs"},
    {"overview", "checks"},
    {"run_state"},
    {"sbatch", "local", "status_table", "progress", "parallel"},
    {"node", "ablation_report", "plan", "confirm"},
    {"requeue", "rendezvous", "submission", "takeover", "network", "partitions"},
    {"launch", "lookup"},
    {"rank"},
    {"history", "resources"},
    {"scheduler"},
    {"__init__"},
]
JOBS = sorted((ROOT / "jobs").rglob("*.py"))
LEVEL = {name: level for level, names in enumerate(LAYERS) for name in names}


def unit(path: Path) -> str:
    """The layer unit of a file: its package below segtrain, or its own name."""
    parts = path.relative_to(ROOT / "segtrain").with_suffix("").parts
    return "commands" if parts[0] in ("train", "__main__") else parts[0]


def imported_units(path: Path) -> set[str]:
    units = set()
    tree = ast.parse(path.read_text())
    if path == ROOT / "segtrain" / "__init__.py":  # for type checkers alone: see the test below
        tree.body = [node for node in tree.body if not isinstance(node, ast.If)]
    for node in ast.walk(tree):
        modules = [a.name for a in node.names] if isinstance(node, ast.Import) else []
        if isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            modules = [f"segtrain.{a.name}" if node.module == "segtrain" else str(node.module) for a in node.names]
        units |= {m.split(".")[1] for m in modules if m.startswith("segtrain.")}
    return {name if name in LEVEL else "__init__" for name in units}


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(ROOT)))
def test_imports_go_down(path: Path) -> None:
    own = unit(path)
    assert own in LEVEL, f"{own} has no layer; give it one in LAYERS above"
    above = {name for name in imported_units(path) if name != own and LEVEL[name] <= LEVEL[own]}
    assert not above, f"{path.name} imports {above} from its own layer or above"


def test_importing_segtrain_imports_nothing_of_it() -> None:
    code = (
        "import sys, segtrain; print([m for m in sys.modules if m.startswith('segtrain.') or m == 'typing_extensions'])"
    )
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True, cwd=ROOT)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize("path", JOBS, ids=lambda p: str(p.relative_to(ROOT)))
def test_imports_of_jobs_go_down(path: Path) -> None:
    level = {name: level for level, names in enumerate(JOBS_LAYERS) for name in names}
    own = path.relative_to(ROOT / "jobs").with_suffix("").parts[0]
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and str(node.module).split(".")[0] == "jobs":
            parts = str(node.module).split(".")[1:2] or [alias.name for alias in node.names]
            above = {name for name in parts if name != own and level[name] <= level[own]}
            assert not above, f"{path.name} imports {above} from its own layer or above"


def test_segtrain_knows_nothing_of_jobs() -> None:
    """Only the console command looks commands of jobs/ up, by name and when they are given."""
    for path in FILES:
        text = path.read_text()
        assert not re.search(r"^\s*(from|import) jobs\b", text, re.MULTILINE), path
        assert path.name == "__main__.py" or not re.search(r"import_module\(.*jobs", text), path


@pytest.mark.parametrize("path", [*FILES, *JOBS], ids=lambda p: str(p.relative_to(ROOT)))
def test_files_and_functions_are_small(path: Path) -> None:
    assert len(path.read_text().splitlines()) <= 300
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.FunctionDef):
            assert (node.end_lineno or 0) - node.lineno < 50, f"{path.name}: {node.name} is over 50 lines"


def test_torch_is_imported_by_what_may_alone() -> None:
    """All other modules, and all of jobs/, imported in one process leave torch out of it."""
    modules = [".".join(path.relative_to(ROOT).with_suffix("").parts) for path in (*FILES, *JOBS)]
    light = [name for name in modules if not _may_import_torch(name) and "__main__" not in name]
    code = (
        "import importlib, sys\n"
        f"for name in {light!r}:\n"
        "    importlib.import_module(name)\n"
        "    if 'torch' in sys.modules: sys.exit(name)"
    )
    done = subprocess.run([sys.executable, "-c", code], check=False, capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, f"imports torch: {done.stderr}"


def _may_import_torch(module: str) -> bool:
    parts = module.split(".")[1:]
    return module.startswith("segtrain.") and any(".".join(parts[:n]) in TORCH for n in range(1, len(parts) + 1))


@pytest.mark.parametrize(
    "part",
    [
        *NETWORKS.values(),
        SMP,
        *LOSSES.values(),
        *OPTIMIZERS.values(),
        *SCHEDULES.values(),
        *AUGMENTATIONS.values(),
        *ENGINES.values(),
    ],
    ids=lambda part: part.function,
)
def test_every_row_of_the_tables_of_parts_has_its_function(part: Part) -> None:
    assert callable(part.load())


def test_every_builtin_config_loads_and_opens_with_its_command() -> None:
    for path in sorted((ROOT / "configs").glob("*.yaml")):
        overrides = ["data.root=/data"] if "lgg" in path.name else []
        assert load.load_config(path, overrides).name == path.stem
        assert path.read_text().startswith("# torchrun ")
        assert f"--config configs/{path.name}" in path.read_text().splitlines()[0]


@pytest.mark.parametrize("folder", ["tests", "benchmarks"])
def test_what_tests_and_measures_is_small_too(folder: str) -> None:
    long = {path.name for path in (ROOT / folder).rglob("*.py") if len(path.read_text().splitlines()) > 300}
    assert not long, "a file over 300 lines hides a second idea"
