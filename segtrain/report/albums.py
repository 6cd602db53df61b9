"""The pictures that a run drew of its patients, small enough for a page."""

import warnings
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from io import BufferedReader
from pathlib import Path

from PIL import Image

from segtrain.errors import DAMAGED, DamagedFile
from segtrain.report.collect import Collected
from segtrain.report.page_parts import webp
from segtrain.report.texts import Say
from segtrain.run.stored import damaged
from segtrain.text_file import open_file

WIDEST_PX, QUALITY = 1024, 75
MOST_PIXELS = 50_000_000  # a picture of a few kilobytes may unfold to gigabytes
# What Pillow raises of a broken file.
BROKEN = (*DAMAGED, SyntaxError, EOFError, MemoryError, zlib.error, Image.DecompressionBombError)


@dataclass(frozen=True)
class Album:
    """The pictures of a run, each with its caption and data URL; what is left out, and why."""

    run: str
    pictures: Sequence[tuple[str, str]] = ()
    remark: str = ""


def albums(runs: Sequence[Collected], room: float, limit_mb: float, say: Say) -> Iterator[Album]:
    """The pictures of each run's last and best epoch, while there is `room` for them (bytes)."""
    for run in runs:
        epochs = {run.best.epoch: "best"} if run.best else {}
        if run.last:
            epochs[run.last.epoch] = "last"  # also where it is the best
        pictures, remarks = [], []
        for epoch, which in sorted(epochs.items(), reverse=True):
            file = run.run.validation_picture(epoch)
            try:
                pictures.append((say("picture", run=run.name, epoch=epoch, which=say(which)), webp_url(file)))
            except FileNotFoundError:  # none was drawn
                continue
            except DamagedFile as error:
                remarks.append(say("no_picture", reason=error))
        size = sum(len(url) for _, url in pictures)
        if size > room:
            pictures = []
            remarks.append(say("no_room", run=run.name, limit_mb=limit_mb))
        if pictures or remarks:
            yield Album(run.name, pictures, " ".join(remarks))
        room -= sum(len(url) for _, url in pictures)


def _opened(file: BufferedReader) -> Image.Image:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # the limit here is lower
        return Image.open(file, formats=["PNG"])


def webp_url(path: Path) -> str:
    """The picture as a data URL. Raises DamagedFile; FileNotFoundError."""
    try:
        with open_file(path) as file, _opened(file) as picture:
            if picture.width * picture.height > MOST_PIXELS:
                raise ValueError(f"{picture.width} x {picture.height} pixels")
            picture.thumbnail((WIDEST_PX, 16_000))
            return webp(picture, QUALITY)
    except FileNotFoundError:
        raise
    except BROKEN as error:
        raise damaged(path, str(error)) from error
