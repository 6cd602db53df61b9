"""The licence that a data set states: in dataset.json (nnU-Net, decathlon) or dataset_description.json (BIDS).

Needs no nibabel.
"""

from segtrain.config import DataConfig
from segtrain.config.json_text import json_in
from segtrain.config.label_names import DATASET_JSON
from segtrain.config.licence import LONGEST, in_one_line
from segtrain.config.paths import expanded

# https://bids-specification.readthedocs.io/en/stable/modality-agnostic-files/dataset-description.html
DESCRIPTIONS = (DATASET_JSON, "dataset_description.json")
KEYS = ("licence", "license", "License", "Licence")


def stated_licence(cfg: DataConfig) -> str | None:
    """What a description in `data.root` says in one line; None where there is none that can be read."""
    if cfg.root is None:
        return None
    for name in DESCRIPTIONS:
        try:
            about = json_in(expanded(cfg.root) / name)
        except (OSError, ValueError):  # its source says what is wrong with it
            continue
        stated = [about[key] for key in KEYS if key in about] if isinstance(about, dict) else []
        if text := next((in_one_line(value) for value in stated if isinstance(value, str) and value.strip()), ""):
            return text[:LONGEST]
    return None
