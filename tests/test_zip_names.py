"""Archives: every system unpacks them, nothing lands beside the folder, and no file is lost on the way."""

import zipfile
from pathlib import Path, PurePath

import pytest

from jobs.offline import archive
from segtrain.runtime.zip_names import zip_name

PLAIN = ("night/a-fold0/validation/epoch-0001.csv", "masks/ünï字/a b.tif", "masks/--help.png", "a.b.c")
ODD = (
    "a\\b", "..\\..\\x", "C:x", "a\nb", "a\x1b[2J", "\x9b", "CON", "nul.txt", "Lpt1.tar.gz", "dot.", "space ", "...",
    "a?b", 'a"b', "<b>", "a|b", "a*b", "\u202egnp.exe", "caf\udce9",
)  # fmt: skip


def test_plain_names_stay() -> None:
    for name in PLAIN:
        assert zip_name(PurePath(name)) == name


def test_odd_names_become_plain_and_stay_apart() -> None:
    names = [zip_name(PurePath("masks", name, "1.tif")) for name in (*ODD, *(f"{name}_" for name in ODD))]
    assert len(set(names)) == len(names)
    for name in names:
        _, part, last = name.split("/")
        assert last == "1.tif"
        assert not set(part) & set('\\:*?"<>|\n\x1b\x9b\u202e')
        assert part.isprintable()
        assert part.rstrip(". ") == part
        assert part.split(".")[0].lower() not in ("con", "nul", "lpt1")
        name.encode()


@pytest.mark.parametrize("path", ["/etc/passwd", "../x", "a/../../x"])
def test_what_lies_elsewhere_is_refused(path: str) -> None:
    with pytest.raises(ValueError, match="does not lie in the folder"):
        zip_name(PurePath(path))


def test_the_queue_s_archive_holds_all_files_under_plain_names(tmp_path: Path) -> None:
    night = tmp_path / "night"
    for name in ("results.zip", "results.zip.sha256", "a/log.txt", "a/c:\\x.png", "results.zip-seed1/log.txt"):
        (night / name).parent.mkdir(parents=True, exist_ok=True)
        (night / name).write_text(name)
    packed = archive.write(night)
    assert packed is not None
    with zipfile.ZipFile(packed.file) as pack:
        contents = {pack.read(name).decode(): name for name in pack.namelist()}
    assert contents["a/log.txt"] == "night/a/log.txt"
    assert contents["results.zip-seed1/log.txt"] == "night/results.zip-seed1/log.txt", "a run is no archive"
    assert not set("\\:") & set(contents["a/c:\\x.png"])
    assert len(contents) == 3
