"""The folder of stores on this machine, which may be another on each node."""

import os
import re
import socket
from pathlib import Path

from segtrain.config import DataConfig
from segtrain.config.paths import expanded
from segtrain.errors import ConfigError


def stores_folder(cfg: DataConfig) -> Path:
    """The parent folder of stores, data.store with ~ and $VARIABLES as they are on this machine. Raises ConfigError."""
    text = os.path.expandvars(cfg.store)
    if unset := re.search(r"\$\{?(\w+)", text):
        raise ConfigError(
            f"data.store={cfg.store}: {unset[1]} is not set on {socket.gethostname()}; set it, or set data.store to a "
            "folder that is here"
        )
    return expanded(text)
