"""A trained network as one zip: a run's folder with one checkpoint's weights, and a card about it.

NAME.zip holds NAME/ with MODEL_CARD.md, config.yaml, split.json, code/ and postprocessing/ where the run has them, the
table of the checkpoint's scores, and the checkpoint without its moments. So it predicts, and is not resumed.
"""

import atexit
import io
import json
import lzma
import shutil
import tempfile
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import BinaryIO

import yaml

from segtrain.errors import RunError
from segtrain.run import layout, manifest
from segtrain.run.reader import RunReader
from segtrain.runtime import files
from segtrain.text_file import text_of

CARD = "MODEL_CARD.md"
WEIGHTS = (layout.MODEL, layout.STATE)
BAD_ZIP = (zipfile.BadZipFile, zlib.error, lzma.LZMAError, EOFError, NotImplementedError, RuntimeError, ValueError)
MOST_GROWTH = 20  # weights hardly pack, tables and code by less than this
ALWAYS_FINE = 64 * 2**20  # bytes
WHEN = (1980, 1, 1, 0, 0, 0)  # equal models, equal archives


def write_model(
    run: RunReader, checkpoint: Path, table: Path | None, card: str, out: Path, licence: str | None = None
) -> None:
    """Write the zip, whole or not at all. table: the scores of the checkpoint, if there are any.

    licence: of the data, where it is not that of the run's config; it goes into the config in the zip.

    Raises RunError: the weights are not what was written, or `out` is there; OSError.
    """
    if out.exists():
        raise RunError(f"{out}: is there already; name another file with --out, or move it")
    listed = manifest.read_manifest(checkpoint)
    for name in WEIGHTS:
        if manifest.fingerprint(checkpoint / name) != listed[name]:
            raise RunError(f"{checkpoint / name}: is not what was written; choose another with --checkpoint")
    about = json.dumps(manifest.manifest_of({name: listed[name] for name in WEIGHTS}), indent=1)
    pointers = [run.latest_pointer] + [run.best_pointer] * (run.best_checkpoint() == checkpoint.name)
    texts = {
        run.root / CARD: card,
        run.config_file: _config_text(run, licence),
        checkpoint / layout.MANIFEST: about,
        **dict.fromkeys(pointers, checkpoint.name),
    }
    files.make_folder(out.parent)
    with files.aside(out) as temporary, zipfile.ZipFile(temporary, "w") as pack:
        for file, text in texts.items():
            _add(pack, run, file, io.BytesIO(f"{text.rstrip()}\n".encode()))
        for file in [*_files(run), *([table] if table else []), *(checkpoint / name for name in WEIGHTS)]:
            with file.open("rb") as stream:
                _add(pack, run, file, stream)


def _config_text(run: RunReader, licence: str | None) -> str:
    """The config, with that licence of its data where one is given."""
    text = text_of(run.config_file)
    if licence is None:
        return text
    tree = run.config_tree()
    tree["data"] = {**(tree.get("data") or {}), "licence": licence}
    command = "".join(line for line in text.splitlines(keepends=True) if line.startswith("#"))
    return f"{command}{layout.BEGIN}{yaml.safe_dump(tree, sort_keys=False)}{layout.END}"


def _files(run: RunReader) -> Iterator[Path]:
    yield run.split_file
    for folder in (run.code, run.postprocessing):
        inside = sorted(folder.rglob("*"))
        yield from (file for file in inside if file.is_file() and "__pycache__" not in file.parts)


def _add(pack: zipfile.ZipFile, run: RunReader, file: Path, stream: BinaryIO) -> None:
    about = zipfile.ZipInfo(str(PurePosixPath(run.root.resolve().name, *file.relative_to(run.root).parts)), WHEN)
    about.compress_type = zipfile.ZIP_STORED if file.name == layout.MODEL else zipfile.ZIP_DEFLATED
    about.external_attr = 0o644 << 16
    with pack.open(about, "w", force_zip64=True) as target:
        shutil.copyfileobj(stream, target)


def unpacked(path: Path) -> Path:
    """The run's folder in a zip of a model, unpacked until this process ends; any other path as it is.

    Raises RunError: a zip without a run, or a damaged one.
    """
    if path.suffix != ".zip" or not path.is_file():
        return path
    folder = Path(tempfile.mkdtemp(prefix="segtrain-model-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    try:
        with zipfile.ZipFile(path) as pack:
            _refuse_growth(path, sum(one.file_size for one in pack.infolist()))  # no entry gives more than it says
            pack.extractall(folder)  # which keeps names within the folder, and makes no links
    except BAD_ZIP as error:
        raise RunError(f"{path}: cannot be unpacked ({error}); restore it from a copy") from error
    roots = [one.parent for one in sorted(folder.glob(f"*/{layout.CONFIG}"))]
    if len(roots) != 1:
        raise RunError(f"{path}: holds {len(roots)} runs, not one; give what segtrain export made, or a run's folder")
    return roots[0]


def _refuse_growth(path: Path, unpacked_bytes: int) -> None:
    packed_bytes = path.stat().st_size
    if unpacked_bytes > max(ALWAYS_FINE, MOST_GROWTH * packed_bytes):
        raise RunError(
            f"{path}: {packed_bytes} bytes would unpack to {unpacked_bytes}, which no model does; "
            "give what segtrain export made"
        )
