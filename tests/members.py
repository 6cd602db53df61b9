"""Members of a group who work on the same folders: commands of several users, each with an umask. Needs root."""

import os
import shlex
import stat
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
GROUP, ANNA, BERT = 5000, 5001, 5002  # numbers without a name
UMASKS = ("002", "022", "027", "077")
SHARED, PRIVATE, STICKY = 0o2775, 0o755, 0o1777  # modes of folders


def _why_not() -> str | None:
    if os.geteuid():
        return "several users need root"
    if subprocess.run(["unshare", "-m", "true"], check=False, capture_output=True).returncode:
        return "this machine does not allow namespaces (unshare)"
    return None


needs_users = pytest.mark.skipif(_why_not() is not None, reason=str(_why_not()))


def as_user(user: int, umask: str, *words: object) -> str:
    """A line of a script: the command as that member of the group, who has neither a name nor a home."""
    command = f"setpriv --reuid={user} --regid={GROUP} --clear-groups env HOME=/nonexistent {_quoted(*words)}"
    return f"(umask {umask}; exec {command})"


def segtrain(user: int, umask: str, *words: object) -> str:
    return as_user(user, umask, sys.executable, "-m", "segtrain", *words)


def until(condition: str) -> str:
    """Words of a line that wait for a condition, which a process in the background, pid, is to bring about."""
    gives_up = "[ $i -lt 1200 ] || { kill -9 $pid; exit 1; }"
    return f"for i in $(seq 1200); do {condition} && break; {gives_up}; sleep .1; done"


def _quoted(*words: object) -> str:
    return shlex.join(map(str, words))


def folder(path: Path, mode: int) -> Path:
    """A folder of the group's below tmp_path, which all users reach."""
    path.mkdir()
    os.chown(path, 0, GROUP)
    path.chmod(mode)
    for above in path.parents:
        if not above.stat().st_mode & 0o001:
            above.chmod(above.stat().st_mode | 0o055)
    return path


def play(*lines: str, timeout_s: float = 240) -> list[tuple[int, str]]:
    """The exit code and the output of each line, one after the other, in a namespace where private folders are open."""
    with tempfile.TemporaryDirectory() as places:
        script = "".join(_open(parent, names, Path(places)) for parent, names in _closed().items() if names)
        script += "".join(f"{{ {line}; }} 2>&1; code=$?; echo; echo CODE=$code\n" for line in lines)
        done = subprocess.run(
            ["unshare", "-m", "bash", "-c", script],
            capture_output=True,
            text=True,
            timeout=timeout_s,
            env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
            check=False,
        )
    ends = done.stdout.split("CODE=")
    codes = [int(end.split(None, 1)[0]) for end in ends[1:]]
    outputs = [ends[0], *(end.split("\n", 1)[1] for end in ends[1:-1])]
    assert len(codes) == len(lines), done.stdout + done.stderr
    return list(zip(codes, outputs, strict=True))


def _closed() -> dict[Path, set[str]]:
    """Folders that are root's alone, and what in them other users need: Python, the code, pytest's folders.

    Another pytest that starts meanwhile closes the folder of all folders again.
    """
    home, scratch = Path("/root"), Path(tempfile.gettempdir(), "pytest-of-root")
    needed = [Path(sys.executable).resolve(), Path(sys.prefix), ROOT]
    in_home = {path.relative_to(home).parts[0] for path in needed if path.is_relative_to(home)}
    return {home: in_home, scratch: {path.name for path in scratch.glob("pytest-*") if path.is_dir()}}


def _open(parent: Path, names: set[str], places: Path) -> str:
    """Lines that put in the place of `parent` a folder with these children alone, which all may enter."""
    real = places / parent.name
    lines = [f"mkdir {real}; mount --bind {parent} {real}; mount -t tmpfs -o mode=755 none {parent}"]
    lines += [f"mkdir {parent}/{name}; mount --bind {real}/{name} {parent}/{name}" for name in sorted(names)]
    return "\n".join([*lines, ""])


def not_shared(top: Path, handed_on: bool = True) -> list[str]:
    """What in the folder the group may not write, or, where its rights are `handed_on`, not to what is made in it."""
    bad = []
    for path in top.rglob("*"):
        if path.is_symlink():
            continue
        now = path.stat()
        rights = (0o2070 if handed_on else 0o070) if path.is_dir() else 0o060
        if now.st_mode & rights != rights or now.st_gid != GROUP:
            bad.append(f"{path.relative_to(top)} {stat.S_IMODE(now.st_mode):o}")
    return bad
