"""The command `segtrain export`: a trained network as a zip, with a card on what it is and how good, or as ONNX."""

import argparse
import logging
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from segtrain import DISTRIBUTION, __version__
from segtrain.commands.arguments import runs_and_overrides, runs_parser
from segtrain.config import LESION, Config, name_of
from segtrain.config.licence import licence_of
from segtrain.data.prepare import ensure_store
from segtrain.data.splits import hash_of
from segtrain.errors import ConfigError
from segtrain.evaluation.ensemble import TrainedCheckpoint, select_checkpoints
from segtrain.run.events import EvaluationEvent, evaluations
from segtrain.run.layout import RunLayout, step_of
from segtrain.run.manifest import weights_sha256
from segtrain.run.model_archive import unpacked, write_model
from segtrain.runtime.process import start_logging

log = logging.getLogger(__name__)

EXAMPLES = """\
examples:
  segtrain export runs/lgg
  segtrain export runs/lgg --checkpoint last --out models/lgg.zip
  segtrain export runs/mine --licence 'data: CC BY 4.0, doi:10.5281/zenodo.0'
  segtrain predict lgg.zip --images /data/new --out predictions
  segtrain export runs/lgg --onnx data.root=/data/kaggle_3m    # lgg.onnx

The zip holds the weights, the config and preparation, the split with its hash, the scores of each validation patient,
the code of own parts, and MODEL_CARD.md. It names the patients of both sides: without, nobody could tell whether a
patient was trained on. It predicts, and cannot be resumed.

--onnx is for programs that know neither segtrain nor torch. The file gives probabilities of prepared slices; metadata
in it say how slices are prepared, what channels and regions are, the thresholds, and the licence. It is kept only if
onnxruntime gives what torch gives on slices of validation patients, so the data have to be there.
"""
ONNX_KEYS = ("data.root", "data.store")  # where those are


def command(argv: Sequence[str]) -> int:
    """Write the zip."""
    parser = runs_parser("segtrain export", "Write a trained network as one file.", EXAMPLES, keys=ONNX_KEYS)
    add = parser.add_argument
    add("--out", type=Path, metavar="FILE", help="a new file (default: NAME.zip or NAME.onnx here)")
    add("--onnx", action="store_true", help="write an ONNX file in place of the zip, for other programs")
    add("--licence", metavar="TEXT", help="of the data (default: data.licence of the run, or as known)")
    arguments: argparse.Namespace = parser.parse_intermixed_args(list(argv))
    start_logging()
    if not arguments.onnx and len(arguments.words) != 1:
        raise ConfigError(f"{', '.join(arguments.words)}: name one run, and no settings")
    runs, overrides = runs_and_overrides(arguments.words, ONNX_KEYS)
    if len(runs) != 1:
        raise ConfigError(f"{', '.join(map(str, runs))}: name one run")
    if arguments.onnx:
        return _write_onnx(unpacked(runs[0]), arguments, overrides)
    (selected,) = select_checkpoints(runs, arguments.checkpoint, [])
    run, cfg = selected.run, selected.cfg
    out = arguments.out or Path(f"{cfg.name}.zip")
    event = next((one for one in evaluations(run.events()) if one.step == step_of(selected.folder.name)), None)
    table = run.validation_table(event.epoch) if event else None
    licence = arguments.licence or licence_of(cfg.data)
    card = model_card(selected, event, licence, out.name, arguments.checkpoint)
    write_model(run, selected.folder, table if table and table.exists() else None, card, out, arguments.licence)
    log.info("model: %s, %.1f MiB; licence of the data: %s", out.resolve(), _mib(out), licence)
    return 0


def _write_onnx(run: Path, arguments: argparse.Namespace, overrides: Sequence[str]) -> int:
    from segtrain.evaluation.onnx_model import require_packages, write_onnx  # imports torch

    require_packages()  # before data are prepared
    (selected,) = select_checkpoints([run], arguments.checkpoint, overrides)
    cfg = selected.cfg
    if arguments.licence:
        cfg = replace(cfg, data=replace(cfg.data, licence=arguments.licence))
    out = arguments.out or Path(f"{cfg.name}.onnx")
    check = write_onnx(replace(selected, cfg=cfg), ensure_store(cfg.data), out)
    log.info("network: %s, %.1f MiB; licence of the data: %s", out.resolve(), _mib(out), licence_of(cfg.data))
    log.info(
        "checked against torch on %d real slices: largest difference of a probability %.1e (at most %g), %d voxels on "
        "the other side of a threshold",
        check.slices,
        check.largest_difference,
        check.tolerance,
        check.other_side,
    )
    return 0


def _mib(file: Path) -> float:
    return file.stat().st_size / 2**20


def model_card(one: TrainedCheckpoint, event: EvaluationEvent | None, licence: str, file: str, which: str) -> str:
    """The card: what it is, how good, of which data, how it is used."""
    cfg, data = one.cfg, one.cfg.data
    checkpoint = "" if one.is_best else f" --checkpoint {which}"
    spacing = f", {data.spacing_mm:g} mm in plane" if data.spacing_mm else ""
    neighbours = f", {data.neighbours} neighbours on each side" if data.neighbours else ""
    return f"""# {cfg.name}

A network that segments {_regions(cfg)} on slices of brain MRI, trained by segtrain.

## How good

{_score(one, event)}

## What it is

- network: `{name_of(cfg.model.name)}`, {cfg.model.features} features at the first level
- contrasts, in order: {", ".join(data.contrast_names)}
- preparation: protocol `{data.protocol}`, slices of {data.image_size} px{spacing}{neighbours}
- training: loss `{cfg.loss}`, {cfg.train.epochs} epochs, batches of {cfg.train.global_batch}, seed {cfg.seed}
- made by: {_made_by(one)}
- weights: step {step_of(one.folder.name)}, SHA-256 `{weights_sha256(one.folder)}`

## Data

- source `{name_of(data.source)}`: {len(one.train)} patients trained, {len(one.validation)} validated
- split: SHA-256 `{hash_of(one.train, one.validation)}`, names in `{RunLayout(Path()).split_file.name}`
- licence: {licence}

## Use

```sh
segtrain predict {file}{checkpoint} --images DIR --out DIR
```

For research. It is no medical device, and nobody has tested it on other scanners than those of its data.
"""


def _made_by(one: TrainedCheckpoint) -> str:
    if not (starts := one.run.known_starts()):
        return "not known"
    start = starts[-1]
    packages = start.packages
    return (
        f"segtrain {packages.get(DISTRIBUTION) or __version__} ({start.git_commit or 'no commit'}), "
        f"torch {packages.get('torch')}, {start.device_name or start.device}"
    )


def _regions(cfg: Config) -> str:
    regions = cfg.data.layout.regions
    return "lesions" if regions == (LESION,) else f"{len(regions)} regions ({', '.join(regions)})"


def _score(one: TrainedCheckpoint, event: EvaluationEvent | None) -> str:
    if event is None:
        return "Not known: the run has no scores of this checkpoint."
    interval = f"95% CI {event.ci_low:.3f} to {event.ci_high:.3f}" if event.ci_low is not None else "no interval"
    choice_of_epoch = (
        "This epoch was chosen on these patients, so the score is too good."
        if one.is_best
        else "No score chose this epoch."
    )
    regions = "".join(f"\n- {name}: mean DSC {means['dsc']:.4f}" for name, means in event.regions.items())
    return (
        f"Mean DSC **{event.val_dsc:.4f}** over the run's validation patients (n = {event.n}, {interval}; empty masks: "
        f"{event.empty_masks}), in the prepared geometry. {choice_of_epoch} Each patient's is in "
        f"`{event.per_patient}`.{regions}"
    )
