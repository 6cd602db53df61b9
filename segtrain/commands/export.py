"""The command `segtrain export`: a trained network as one zip, with a card that says what it is and how good."""

import argparse
import logging
from collections.abc import Sequence
from pathlib import Path

from segtrain import DISTRIBUTION, __version__
from segtrain.commands.arguments import runs_and_overrides, runs_parser
from segtrain.config import LESION, Config, name_of
from segtrain.config.licence import licence_of
from segtrain.data.splits import hash_of
from segtrain.errors import ConfigError
from segtrain.evaluation.ensemble import TrainedCheckpoint, select_checkpoints
from segtrain.run.events import EvaluationEvent, evaluations
from segtrain.run.layout import RunLayout, step_of
from segtrain.run.manifest import weights_sha256
from segtrain.run.model_archive import write_model
from segtrain.runtime.process import start_logging

log = logging.getLogger(__name__)

EXAMPLES = """\
examples:
  segtrain export runs/lgg
  segtrain export runs/lgg --checkpoint last --out models/lgg.zip
  segtrain export runs/mine --licence 'data: CC BY 4.0, doi:10.5281/zenodo.0'
  segtrain predict lgg.zip --images /data/new --out predictions

The zip holds the weights, the config and preparation, the split with its hash, the scores of each validation patient,
the code of own parts, and MODEL_CARD.md. It names the patients of both sides: without, nobody could tell whether a
patient was trained on. It predicts, and cannot be resumed.
"""


def command(argv: Sequence[str]) -> int:
    """Write the zip."""
    parser = runs_parser("segtrain export", "Write a trained network as one zip.", EXAMPLES, keys=())
    add = parser.add_argument
    add("--out", type=Path, metavar="FILE", help="the zip, a new file (default: NAME.zip here)")
    add("--licence", metavar="TEXT", help="of the data (default: data.licence of the run, or as known)")
    arguments: argparse.Namespace = parser.parse_intermixed_args(list(argv))
    start_logging()
    if len(arguments.words) != 1:
        raise ConfigError(f"{', '.join(arguments.words)}: name one run, and no settings")
    runs, _ = runs_and_overrides(arguments.words, ())
    (selected,) = select_checkpoints(runs, arguments.checkpoint, [])
    run, cfg = selected.run, selected.cfg
    out = arguments.out or Path(f"{cfg.name}.zip")
    event = next((one for one in evaluations(run.events()) if one.step == step_of(selected.folder.name)), None)
    table = run.validation_table(event.epoch) if event else None
    licence = arguments.licence or licence_of(cfg.data)
    card = model_card(selected, event, licence, out.name, arguments.checkpoint)
    write_model(run, selected.folder, table if table and table.exists() else None, card, out, arguments.licence)
    log.info("model: %s, %.1f MiB; licence of the data: %s", out.resolve(), out.stat().st_size / 2**20, licence)
    return 0


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
