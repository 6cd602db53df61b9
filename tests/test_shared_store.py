"""L11 for several users: a folder of stores that a group shares works for each member; private things are named."""

import errno
import fcntl
import os
import stat
import struct
import sys
from pathlib import Path

import pytest
from long_form import all_of
from members import (
    ANNA,
    BERT,
    GROUP,
    PRIVATE,
    SHARED,
    STICKY,
    UMASKS,
    as_user,
    folder,
    needs_users,
    not_shared,
    play,
    segtrain,
    until,
)

from segtrain.config import load_config
from segtrain.data.prepare import ensure_store
from segtrain.runtime import lock

SMALL = ("data.image_size=32", "data.workers=1", "data.phantom={patients: 2, size_px: 64}")
OTHER = ("data.image_size=32", "data.workers=1", "data.phantom={patients: 2, size_px: 64, seed: 1}")
STRICTEST = ["077"]  # the others take fewer rights away, and by the same calls
# Prepares, and waits so many seconds before each of its two patients, so that others can come or a kill can hit.
SLOW = """
import sys, time
from segtrain.commands import prepare as command
from segtrain.data import prepare
one, pauses_s = prepare.prepare_patient, map(float, sys.argv[1].split())
prepare.prepare_patient = lambda *words: (time.sleep(next(pauses_s)), one(*words))[1]
sys.exit(command.command(sys.argv[2:]))
"""


def prepare(user: int, umask: str, store: Path, *settings: str) -> str:
    return segtrain(user, umask, "prepare", f"data.store={store}", *(settings or SMALL))


def slowly(user: int, umask: str, store: Path, pauses_s: str = "2 2") -> str:
    return as_user(user, umask, sys.executable, "-c", SLOW, pauses_s, f"data.store={store}", *SMALL)


def names(store: Path) -> list[str]:
    return sorted(path.name for path in store.iterdir() if not path.name.startswith("."))


@needs_users
@pytest.mark.law("L11")
@pytest.mark.parametrize("umask", all_of(UMASKS, short=STRICTEST))
def test_what_one_member_prepares_is_every_members(tmp_path: Path, umask: str) -> None:
    """One builds while another waits, and is killed; the other builds, then both use it."""
    store = folder(tmp_path / "store", SHARED)
    begun = until(f"ls -A {store} | grep -q building")
    played = play(
        f"{slowly(ANNA, umask, store)} & pid=$!; {begun}; {prepare(BERT, '022', store)}; wait $pid",
        f"{prepare(BERT, umask, store, *OTHER)}",
        f"{prepare(ANNA, umask, store, *OTHER)}",
    )
    assert [code for code, _ in played] == [0, 0, 0], played
    assert "preparing" not in played[2][1]
    assert len(names(store)) == 2
    assert not_shared(store) == []


def give_default_acl(path: Path) -> None:
    """As setfacl -d -m g::rwx,m::rwx: the kernel leaves the umask out."""
    entries = ((1, 7), (4, 7), (16, 7), (32, 5))  # the owner, the group, the mask, others
    acl = struct.pack("<I", 2) + b"".join(struct.pack("<HHI", tag, rights, 0xFFFFFFFF) for tag, rights in entries)
    try:
        os.setxattr(path, "system.posix_acl_default", acl)
    except OSError as error:
        pytest.skip(f"no access control lists here ({error.strerror})")


@needs_users
@pytest.mark.law("L11")
@pytest.mark.parametrize("umask", all_of(["022", "077"], short=STRICTEST))
def test_a_default_acl_shares_a_folder_too(tmp_path: Path, umask: str) -> None:
    store = folder(tmp_path / "store", 0o775)
    give_default_acl(store)
    played = play(prepare(ANNA, umask, store), prepare(BERT, umask, store), prepare(BERT, umask, store, *OTHER))
    assert [code for code, _ in played] == [0, 0, 0], played
    assert not_shared(store, handed_on=False) == []


@needs_users
@pytest.mark.law("L11")
@pytest.mark.parametrize("umask", all_of(UMASKS, short=STRICTEST))
def test_what_a_killed_builder_leaves_stops_no_other_member(tmp_path: Path, umask: str) -> None:
    store = folder(tmp_path / "store", SHARED)
    one_written = f"find {store} -name '*.npy' | grep -q images"
    killed, built = play(
        f"{slowly(ANNA, umask, store, '0 600')} & pid=$!; {until(one_written)}; kill -9 $pid; wait $pid",
        prepare(BERT, "022", store),
    )
    assert killed[0] == 137
    assert built[0] == 0, built
    assert len(names(store)) == 1
    assert not_shared(store) == []
    assert not [path for path in store.iterdir() if "building" in path.name]


@pytest.fixture(scope="module")
def name_of_small(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The name of the folder in which the small store is."""
    return ensure_store(load_config(None, [*SMALL, f"data.store={tmp_path_factory.mktemp('probe')}"]).data).path.name


@needs_users
@pytest.mark.law("L11")
@pytest.mark.parametrize("mode", [SHARED, 0o3775, STICKY], ids=oct)
@pytest.mark.parametrize("umask", ["022", "077"])
def test_what_an_earlier_version_left_stops_no_other_user(
    tmp_path: Path, name_of_small: str, mode: int, umask: str
) -> None:
    """A lock and a folder half-built with the umask of a user who has died."""
    name = name_of_small
    store = folder(tmp_path / "store", mode)
    left = f".{name}.building/images"
    leave = f"cd {store} && touch .{name}.lock && mkdir -p {left} && echo > {left}/P.npy"
    played = play(
        as_user(ANNA, umask, "bash", "-c", leave),
        prepare(BERT, "022", store),
        prepare(BERT, "022", store),
    )
    assert [code for code, _ in played] == [0, 0, 0], played
    assert names(store) == [name]
    assert len(list((store / name / "images").iterdir())) == 2


@needs_users
@pytest.mark.law("L11")
@pytest.mark.parametrize("umask", all_of(UMASKS, short=["027"]))  # which tells the user, the group and others apart
@pytest.mark.parametrize("mode", [PRIVATE, STICKY], ids=oct)
def test_elsewhere_the_umask_rules(tmp_path: Path, umask: str, mode: int) -> None:
    store = folder(tmp_path / "store", mode)
    os.chown(store, ANNA, GROUP)
    assert play(prepare(ANNA, umask, store))[0][0] == 0
    for path in store.rglob("*"):
        usual = (0o777 if path.is_dir() else 0o666) & ~int(umask, 8)
        assert stat.S_IMODE(path.stat().st_mode) == usual, path


@needs_users
@pytest.mark.law("L11")
@pytest.mark.law("L12")
@pytest.mark.parametrize("which", ["the store", "its index", "an array", "the folder of stores"])
def test_a_private_store_is_named_and_only_where_it_is_needed(tmp_path: Path, which: str) -> None:
    store = folder(tmp_path / "store", STICKY)
    if which == "the folder of stores":
        os.chown(store, ANNA, GROUP)
    play(prepare(ANNA, "022", store))
    built = store / names(store)[0]
    private = {
        "the store": built,
        "its index": built / "index.json",
        "an array": built / "images" / "PHANTOM_0000.npy",
        "the folder of stores": store,
    }[which]
    private.chmod(0o700 if private.is_dir() else 0o600)
    (needed, message), (other, more) = play(prepare(BERT, "022", store), prepare(BERT, "022", store, *OTHER))
    assert needed == 2
    line = message.strip().splitlines()[-1]
    assert f"{private} belongs to user {ANNA}, mode {'700' if private.is_dir() else '600'}" in line
    assert "data.store=" in line
    assert not any(word in line for word in ("remove", "delete", "rename", "Traceback"))
    assert other == (2 if which == "the folder of stores" else 0), more


@needs_users
@pytest.mark.law("L12")
def test_a_folder_that_may_not_be_written_is_named_as_that(tmp_path: Path) -> None:
    store = folder(tmp_path / "store", PRIVATE)
    ((code, message),) = play(prepare(BERT, "022", store))
    assert code == 2
    assert f"{store}: cannot write the store (Permission denied, the folder belongs to root)" in message
    assert "space" not in message


def as_on_nfs(monkeypatch: pytest.MonkeyPatch) -> None:
    """Exclusive locks only on files that are open for writing (flock(2), NFS details)."""
    real = fcntl.flock

    def flock(descriptor: int, operation: int) -> None:
        if operation & fcntl.LOCK_EX and fcntl.fcntl(descriptor, fcntl.F_GETFL) & os.O_ACCMODE == os.O_RDONLY:
            raise OSError(errno.EBADF, "Bad file descriptor")
        real(descriptor, operation)

    monkeypatch.setattr(fcntl, "flock", flock)


@pytest.mark.law("L11")
@pytest.mark.parametrize("nfs", [False, True])
@pytest.mark.parametrize("holder", ["writer", "reader"])
@pytest.mark.parametrize("other", ["writer", "reader"])
def test_a_lock_has_one_holder_whoever_may_write_its_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, nfs: bool, holder: str, other: str
) -> None:
    if nfs:
        as_on_nfs(monkeypatch)
    file = tmp_path / "lock"
    file.touch()
    really_open = os.open

    def take(who: str) -> lock.Lock | None:
        def opened(path: Path, flags: int, mode: int = 0o777) -> int:
            if who == "reader" and path == file and flags & os.O_RDWR:
                raise PermissionError(errno.EACCES, "Permission denied", str(path))
            return really_open(path, flags, mode)

        monkeypatch.setattr(os, "open", opened)
        return lock.take(file)

    held = take(holder)
    assert held is not None
    assert lock.is_taken(file)
    assert take(other) is None
    held.release()
    assert not lock.is_taken(file)
    held = take(other)
    assert held is not None
    assert take(holder) is None
    held.release()
