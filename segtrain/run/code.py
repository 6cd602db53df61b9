"""The code of a run's own parts, copied when the run begins and found there by whoever uses the run later.

code/<part>/...   the files of a part, as they lay to each other; their hashes are in config.yaml
"""

import json
import logging
import shutil
from pathlib import Path

from segtrain.config import Config
from segtrain.config.own_code import MARK
from segtrain.config.own_parts import files_of, in_folder, moved, own_parts
from segtrain.errors import ConfigError, RunError
from segtrain.run.reader import RunReader
from segtrain.runtime import files

log = logging.getLogger(__name__)


def copy_code(cfg: Config, folder: Path) -> Config:
    """Copy the files of the config's own parts into `folder`; the config with its parts there.

    Raises OSError. Where the files lie there already, nothing is written.
    """
    places: dict[str, Path] = {}
    for part in own_parts(cfg):
        copies = [(folder / part.folder / name, file) for name, file in files_of(part)]
        for copy, file in copies:
            if copy.exists():
                continue
            files.make_folder(copy.parent)
            with files.aside(copy) as temporary:
                shutil.copyfile(file, temporary)
        if copies:
            places[part.folder] = copies[0][0]
            files.write_text(folder / part.folder / MARK, json.dumps({"part": str(part.reference)}) + "\n")
    return moved(cfg, places)


def with_own_code(run: RunReader, cfg: Config) -> Config:
    """The config of a run with its own parts in the copies that the run keeps.

    Raises RunError: a copy is missing or is not what the run was trained with.
    """
    if not cfg.code:
        return cfg
    try:
        return in_folder(cfg, run.code)
    except ConfigError as error:
        raise RunError(f"{run.root}: {error}") from error
