"""A store on each node's own disk: `data.store` names it by a variable that is another folder on each node."""

import logging
from dataclasses import replace
from pathlib import Path

import pytest
from bad_folders import Folder

from segtrain.config import Config, DataConfig, PhantomConfig, load_config, to_yaml
from segtrain.data.prepare import ensure_store
from segtrain.doctor import checks
from segtrain.errors import ConfigError, DataError

ON_NODE = DataConfig(
    store="$SLURM_TMPDIR/prepared", image_size=32, workers=1, phantom=PhantomConfig(patients=3, size_px=64)
)


@pytest.mark.law("L11")
def test_each_node_prepares_once_in_its_own_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    paths = []
    for folder in ("node 1", "node 2", "node 1"):
        monkeypatch.setenv("SLURM_TMPDIR", str(tmp_path / folder))
        paths.append(ensure_store(ON_NODE).path)
    assert [path.parent for path in paths] == [tmp_path / f / "prepared" for f in ("node 1", "node 2", "node 1")]
    assert len({path.name for path in paths}) == 1, "to all ranks it is the same data"
    assert caplog.text.count("preparing") == 2
    assert sorted(path.name for path in tmp_path.iterdir()) == ["node 1", "node 2"]


@pytest.mark.law("L11")
def test_a_store_that_is_prepared_already_is_copied_to_the_node(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """By one of the node's processes; stopped in the middle, it leaves nothing."""
    monkeypatch.chdir(tmp_path)
    shared = ensure_store(replace(ON_NODE, store="prepared"))
    monkeypatch.setenv("SLURM_TMPDIR", str(tmp_path / "node"))
    caplog.set_level(logging.INFO)

    def stop() -> None:
        if any((tmp_path / "node").rglob("*.npy")):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        ensure_store(ON_NODE, stop)
    assert not list((tmp_path / "node").rglob("*.npy"))
    caplog.clear()
    for _ in range(2):
        store = ensure_store(ON_NODE)
    assert caplog.text.count("copying") == 1
    assert "preparing" not in caplog.text
    assert store.path == tmp_path / "node" / "prepared" / shared.path.name
    files = [file.relative_to(store.path) for file in sorted(store.path.rglob("*")) if file.is_file()]
    assert files
    assert all((store.path / file).read_bytes() == (shared.path / file).read_bytes() for file in files)
    assert len(files) == sum(file.is_file() for file in shared.path.rglob("*"))


@pytest.mark.law("L11")
@pytest.mark.law("L12")
@pytest.mark.parametrize("damage", ["a bit", "cut short", "no index"])
def test_a_damaged_store_is_not_copied_and_named_where_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, damage: str
) -> None:
    """The copy would be damaged too, and once it is renamed be copied again."""
    monkeypatch.chdir(tmp_path)
    shared = ensure_store(replace(ON_NODE, store="prepared")).path
    monkeypatch.setenv("SLURM_TMPDIR", str(tmp_path / "node"))
    file = sorted((shared / "masks").iterdir())[1]
    content = file.read_bytes()
    match damage:
        case "a bit":
            file.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
        case "cut short":
            file.write_bytes(content[:-1])
        case "no index":
            (shared / "index.json").unlink()
    with pytest.raises(DataError, match=f"{shared}.*; rename {shared if damage != 'no index' else 'it'} ") as caught:
        ensure_store(ON_NODE)
    assert str(tmp_path / "node") not in str(caught.value)
    assert not [p for p in (tmp_path / "node").rglob("*") if p.is_file() and not p.name.endswith(".lock")]


@pytest.mark.law("L12")
@pytest.mark.parametrize("first", range(8, 14))
def test_copying_ends_at_the_first_error_and_says_which(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, folder: Folder, first: int
) -> None:
    monkeypatch.chdir(tmp_path)
    ensure_store(replace(ON_NODE, store="prepared"))
    monkeypatch.setenv("SLURM_TMPDIR", str(tmp_path / "node"))
    folder.bad(tmp_path / "node", "ENOSPC", first, 1)
    with pytest.raises(DataError, match=r"cannot write the store \(No space left on device, \d+ MiB free\); free some"):
        ensure_store(ON_NODE)
    assert not list((tmp_path / "node").rglob("*.npy"))


@pytest.mark.law("L12")
def test_a_shared_file_that_may_not_be_read_is_told_as_private(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, folder: Folder
) -> None:
    monkeypatch.chdir(tmp_path)
    shared = ensure_store(replace(ON_NODE, store="prepared")).path
    monkeypatch.setenv("SLURM_TMPDIR", str(tmp_path / "node"))
    folder.bad(shared / "images", "EACCES", 0, 10**9)
    with pytest.raises(DataError, match=r"PHANTOM_0000\.npy: a private store: .*; prepare another"):
        ensure_store(ON_NODE)


@pytest.mark.law("L12")
@pytest.mark.parametrize("store", ["$SLURM_TMPDIR/prepared", "/scratch/${SLURM_TMPDIR}"])
def test_a_variable_that_is_not_set_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tiny: Config, store: str
) -> None:
    monkeypatch.delenv("SLURM_TMPDIR", raising=False)
    monkeypatch.chdir(tmp_path)
    data = replace(ON_NODE, store=store)
    with pytest.raises(
        ConfigError, match=r"data\.store=.*: SLURM_TMPDIR is not set on .*; set it, or set data\.store to"
    ):
        ensure_store(data)
    assert "SLURM_TMPDIR is not set" in checks.data(replace(tiny, data=data), 1)[0].message
    assert not list(tmp_path.iterdir())


def test_a_run_keeps_the_variable(tmp_path: Path, tiny: Config) -> None:
    (tmp_path / "run.yaml").write_text(to_yaml(replace(tiny, data=ON_NODE)))
    assert load_config(tmp_path / "run.yaml").data.store == "$SLURM_TMPDIR/prepared"
