"""One damaged input: made from its kind and seed, read within limits, judged."""

import os
import random
import shutil
import traceback
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from data_readers import Files
from limits import Exceeded, limited
from mutations import mutated
from readers import KINDS, Kind

from segtrain.errors import EXIT_USER_ERROR, SegtrainError

LONGEST_MESSAGE = 2100
ODD_NAMES = ("a\nb", "\x1b[31m", "-", "a b", "é", b"\xff".decode(errors="surrogateescape"), "a" * 230)


@dataclass(frozen=True)
class Fault:
    """What went wrong with one input; `place`: where, by which faults are told apart."""

    kind: str
    seed: int
    place: str
    story: str

    def __str__(self) -> str:
        return f"FUZZ_ONLY={self.kind}:{self.seed} pytest tests/fuzz -s   # {self.place}\n{self.story}"


def inputs(kind: Kind, seed: int, damaged: bool = True) -> tuple[Files, list[tuple[str, str]], random.Random]:
    """The files of this seed, what becomes of some in the file system, and the generator for the reader's options."""
    rng = random.Random(seed)
    files = dict(kind.files(rng))
    names = [name for name in files if name.endswith(kind.targets)]
    changes = []
    damaged = damaged and rng.random() >= kind.undamaged
    for _ in range(rng.choice((1, 1, 1, 2)) if damaged else 0):
        name = rng.choice([n for n in names if n.endswith(rng.choice(kind.targets))] or names)
        if rng.random() < 0.04:
            changes.append(
                (name, rng.choice(("pipe", "folder", "itself", "nowhere", "zero", "empty", "gone", "renamed")))
            )
        else:
            files[name] = mutated(name, files[name], rng)
    return files, changes, rng


def write(folder: Path, files: Files, changes: list[tuple[str, str]], rng: random.Random) -> None:
    """Put the input into an empty folder."""
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    for name, change in changes:
        path = folder / name
        if not path.is_file() or path.is_symlink():  # changed already
            continue
        if change == "empty":
            path.write_bytes(b"")
            continue
        if change == "renamed":
            path.rename(path.with_name(rng.choice(ODD_NAMES) + path.suffix))
            continue
        path.unlink()
        if change == "pipe":
            os.mkfifo(path)
        elif change == "folder":
            path.mkdir()
        elif change != "gone":
            path.symlink_to({"itself": path.name, "nowhere": "/no/such/file", "zero": "/dev/zero"}[change])


def trial(name: str, seed: int, folder: Path, damaged: bool = True) -> tuple[bool, Fault | None]:
    """Whether the input of this seed was read, else refused; and what is wrong with that. The folder is made anew."""
    kind = KINDS[name]
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    files, changes, rng = inputs(kind, seed, damaged)
    write(folder, files, changes, rng)
    try:
        with limited(folder, kind.cpu_s), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            kind.read(folder, rng)
    except SegtrainError as error:
        if problem := _problem(error, kind, folder):
            return False, Fault(name, seed, f"{problem}: {_place(error)}", _told(error))
        return False, None
    except (Exception, Exceeded) as error:  # noqa: BLE001  whatever it is, it is a fault
        return False, Fault(name, seed, f"{type(error).__name__}: {_place(error)}", _told(error))
    finally:
        sprung = (folder / "sprung").exists()
    return True, Fault(name, seed, "code was run", "sprung") if sprung else None


def _problem(error: SegtrainError, kind: Kind, folder: Path) -> str | None:
    message = str(error)
    if error.exit_code != EXIT_USER_ERROR:
        return f"exit code {error.exit_code}"
    if not any(name in message for name in (str(folder), *kind.names)):
        return "names no file"
    if len(message) > LONGEST_MESSAGE:
        return "is longer than a line"
    functions = {frame.name for frame in traceback.extract_tb(error.__traceback__)}
    is_short = any(isinstance(one, MemoryError) or "llocate" in str(one) for one in _chain(error))
    if is_short and not functions & {*kind.may_ask}:
        return "asks for too much memory"
    if (folder / "sprung").exists():
        return "code was run"
    return None


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def _place(error: BaseException) -> str:
    """The innermost line of ours."""
    frames = [
        f for f in traceback.extract_tb(error.__traceback__) if "/segtrain/" in f.filename or "/jobs/" in f.filename
    ]
    if not frames:
        frames = list(traceback.extract_tb(error.__traceback__))
    last = frames[-1]
    return f"{Path(last.filename).name}:{last.lineno} {last.name}"


def _told(error: BaseException) -> str:
    lines = "".join(traceback.format_exception(error)).splitlines()
    return "\n".join(line[:300] for line in lines[-30:])
