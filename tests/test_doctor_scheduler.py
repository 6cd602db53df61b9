"""What `segtrain doctor` says of SLURM's commands: all there and answering, some missing, one that does not answer."""

from pathlib import Path

import pytest

from jobs import partitions, scheduler
from segtrain.doctor import cluster


def states() -> dict[str, str]:
    return {finding.check: finding.state for finding in cluster.check()}


def test_the_scheduler(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def programs(**codes: int) -> None:
        for file in tmp_path.iterdir():
            file.unlink()
        for name, code in codes.items():
            file = tmp_path / name
            file.write_text(f"#!/bin/sh\necho no answer >&2\nexit {code}\n")
            file.chmod(0o755)

    monkeypatch.setenv("PATH", str(tmp_path))
    assert states() == {"scheduler": "ok"}
    programs(sbatch=0, squeue=0)
    [found] = cluster.check()
    assert (found.state, "scancel" in found.message) == ("failure", True)
    whole = dict.fromkeys(cluster.COMMANDS, 0)
    programs(**{**whole, "squeue": 1})
    [found] = cluster.check()
    assert (found.state, "no answer" in found.message) == ("warning", True)
    programs(**whole, sacct=1)
    assert states() == {"scheduler": "ok", "accounting": "warning"}
    programs(**whole, sacct=0)
    assert states() == {"scheduler": "ok", "accounting": "ok"}


def test_filters_of_a_user_s_are_for_none_of_slurm_s_programs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """SQUEUE_STATES, say, hides jobs, and one that is misspelt has squeue fail."""
    filters = {"squeue": "SQUEUE_STATES", "sacct": "SACCT_FORMAT", "sinfo": "SINFO_STATES"}
    for name in (*cluster.COMMANDS, "sacct", "sinfo"):
        file = tmp_path / name
        variable = filters.get(name, "SLURM_TIME_FORMAT")
        file.write_text(f'#!/bin/sh\n[ -z "${variable}" ] || exit 1\necho "1|4|8|gpu:1|a|idle"\n')
        file.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    for variable in (*filters.values(), "SLURM_TIME_FORMAT"):
        monkeypatch.setenv(variable, "wrong")
    assert states() == {"scheduler": "ok", "accounting": "ok"}
    assert len(partitions.kinds("any")) == 1
    assert scheduler.state_of("7") == "1|4|8|gpu:1|a|idle"
    assert scheduler.cancel("7") is None
