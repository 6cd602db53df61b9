"""A queue whose mirror is a bucket: a real S3 API, and a store that fails, loses and damages what it was given."""

import hashlib
import os
import random
import shutil
import zipfile
from collections.abc import Iterator
from pathlib import Path

import fsspec
import pytest
from mirrors import STEPS, Trainings, needed, results
from queues import StandIns, command, write
from s3 import FAULTS, READ_TIMEOUT_S, Faults, Objects, Store, serving
from s3fs import S3FileSystem

from jobs.offline import archive, manifest, store_retry, sync
from jobs.offline import mirror as mirrors
from jobs.offline.location import Location, locate
from segtrain.errors import ConfigError, SegtrainError

RUNS = ("a", "b")
MACHINES = 30  # at most
HASTY = {"retries": {"max_attempts": 0}, "read_timeout": READ_TIMEOUT_S, "connect_timeout": READ_TIMEOUT_S}


@pytest.fixture(scope="module")
def server() -> Iterator[tuple[Store, str]]:
    store = Store()
    with serving(store) as address:
        yield store, address


@pytest.fixture
def s3(server: tuple[Store, str], monkeypatch: pytest.MonkeyPatch) -> Iterator[Store]:
    """The server, found by the environment as users name one."""
    store, address = server
    store.faults = Faults()
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(name)
    for name, value in {"ACCESS_KEY_ID": "me", "SECRET_ACCESS_KEY": "secret", "ENDPOINT_URL": address}.items():
        monkeypatch.setenv(f"AWS_{name}", value)
    yield store
    S3FileSystem.clear_instance_cache()


@pytest.fixture
def bucket(s3: Store, request: pytest.FixtureRequest) -> str:
    name = hashlib.sha256(request.node.name.encode()).hexdigest()[:20]
    Objects(name).make()
    return name


def test_a_bucket_is_found_and_none_is_made_by_a_typo(s3: Store, bucket: str) -> None:
    locate(f"s3://{bucket}/results")
    locate(f"s3://{bucket}")
    with pytest.raises(ConfigError, match=f"sync: s3://{bucket}x/results: there is no bucket {bucket}x; correct the"):
        locate(f"s3://{bucket}x/results")
    gone = Location(fsspec.filesystem("s3"), f"{bucket}x/results")
    with pytest.raises(FileNotFoundError):
        (gone / "file").write(b"content")
    assert f"{bucket}x" not in fsspec.filesystem("s3").ls("")


def test_a_server_is_named_by_the_environment_or_by_fsspec(
    server: tuple[Store, str], bucket: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    (locate(f"s3://{bucket}/a") / "file").write(b"content")
    monkeypatch.delenv("AWS_ENDPOINT_URL")
    named: dict[str, dict[str, str]] = {}
    fsspec.config.set_conf_env(named, {"FSSPEC_S3_ENDPOINT_URL": server[1]})
    monkeypatch.setitem(fsspec.config.conf, "s3", named["s3"])
    assert (locate(f"s3://{bucket}/a") / "file").read() == b"content"


class Night:
    """A queue that is moved from machine to machine."""

    def __init__(self, folder: Path, bucket: str, store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
        self.folder, self.bucket, self.store, self.monkeypatch = folder, bucket, store, monkeypatch
        self.trainings = Trainings(monkeypatch)

    def on_machine(self, name: str, until: int = STEPS, is_reclaimed: bool = False, is_hasty: bool = False) -> int:
        """Give the command on a machine, where runs train to a step; the exit code.

        Reclaimed, it does not come to its last push. The client of a hasty one tells of a fault rather than try again.
        """
        home = self.folder / name
        home.mkdir(exist_ok=True)
        self.trainings.until = dict.fromkeys(RUNS, until)
        self.trainings.names.clear()
        S3FileSystem.clear_instance_cache()
        with self.monkeypatch.context() as patch:
            patch.setenv("AWS_ACCESS_KEY_ID", name)
            if is_hasty:
                patch.setitem(fsspec.config.conf, "s3", {"config_kwargs": HASTY})
                patch.setattr(S3FileSystem, "retries", 1)
            if is_reclaimed:
                patch.setattr(mirrors.Mirror, "flush", lambda *_, **__: [])
            try:
                return command(write(home, RUNS), "--sync", f"s3://{self.bucket}/results")
            except SegtrainError:
                return 2
            finally:
                if is_reclaimed:
                    self.store.faults.refused.add(name)
                    shutil.rmtree(home, ignore_errors=True)  # where a thread may still write

    def queue(self, name: str) -> Path:
        return self.folder / name / "runs" / "night"


@pytest.mark.law("L7")
@pytest.mark.parametrize("seed", range(int(os.environ.get("CHAOS_SEEDS", "1"))))
def test_nothing_is_lost_to_a_store_with_twenty_faults(
    tmp_path: Path, stand_ins: StandIns, s3: Store, bucket: str, monkeypatch: pytest.MonkeyPatch, seed: int
) -> None:
    """Machines come, train a little and go, some without a last push, while requests fail and objects are damaged."""
    monkeypatch.setattr(mirrors, "PAUSE_S", 0.05)
    monkeypatch.setattr(mirrors, "RETRY_S", 0.1)
    monkeypatch.setattr(store_retry, "PAUSE_S", 0.05)
    monkeypatch.setattr(store_retry, "REACH_S", 5.0)
    chance = random.Random(seed)
    night = Night(tmp_path, bucket, s3, monkeypatch)
    faults = s3.faults = Faults(seed, chance.sample(list(FAULTS), 14))
    damages = [chance.choice(["changed", "truncated", "unsaved"]) for _ in range(6)]
    stopped: list[str] = []  # machines that may come back
    for number in range(MACHINES):
        is_last = not faults.left and not damages
        comes_back = stopped and chance.random() < 0.3
        name = stopped.pop(0) if comes_back else f"machine-{number}"
        is_reclaimed = not is_last and chance.random() < 0.4
        until = STEPS if is_last else 1 + number * STEPS // 8
        code = night.on_machine(name, until, is_reclaimed, is_hasty=not is_last)
        if is_last:
            break
        if not is_reclaimed:
            stopped.append(name)
        if (keys := Objects(bucket).keys()) and damages:
            Objects(bucket).damage(chance.choice(keys), how := damages.pop())
            faults.made.append(f"{how} object")
    assert (code, len(faults.made)) == (0, 20), faults
    check_bucket(Location(fsspec.filesystem("s3"), f"{bucket}/results/night"))
    assert night.on_machine("fresh") == 0
    assert night.trainings.names == [], "all is there"
    (tmp_path / "alone").mkdir()
    assert command(write(tmp_path / "alone", RUNS)) == 0
    for run in RUNS:
        whole, moved = (needed(results(night.queue(name) / run)) for name in ("alone", "fresh"))
        assert moved.pop("config.yaml")
        assert moved == {path: content for path, content in whole.items() if path != "config.yaml"}


def check_bucket(queue: Location) -> None:
    """The bucket holds all objects of all runs whole, and the complete archive."""
    for name in RUNS:
        mirrored = manifest.read(queue / name)
        assert mirrored is not None
        assert mirrored.progress == (STEPS, True)
        for entry in mirrored.files.values():
            for key in entry.objects:
                assert hashlib.sha256((queue / name / sync.OBJECTS / key).read()).hexdigest() == entry.sha256
    packed = queue / archive.NAME
    digest = (queue / archive.checksum(Path(archive.NAME)).name).read().split()[0].decode()
    assert hashlib.sha256(packed.read()).hexdigest() == digest
    with packed.fs.open(packed.path) as stream, zipfile.ZipFile(stream) as pack:
        assert pack.testzip() is None
        inside = {path.removeprefix("night/") for path in pack.namelist()}
    assert {f"{run}/checkpoints/step-{STEPS:08d}/model.safetensors" for run in RUNS} <= inside
