"""Jobs in trouble: SLURM that does not answer, file systems that stall, orders that nobody reads. No cluster."""

import json
import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
from slurm_programs import entry, program, squeue_lines, stand_in_clock

from jobs import cancel, history, lookup, node, rank, rendezvous, requeue, resources, sbatch, scheduler, submission
from jobs.lookup import Job
from segtrain.config import Config
from segtrain.errors import LaunchError, SegtrainError, Stopped, StopReason
from segtrain.run import Outcome, Run
from segtrain.runtime import launcher

ASKED = resources.Resources()


@pytest.fixture
def slurm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of SLURM's commands; a test writes those that it needs."""
    folder = tmp_path / "slurm"
    folder.mkdir()
    monkeypatch.setenv("PATH", str(folder), prepend=os.pathsep)
    return folder


def test_the_snapshot_goes_before_what_the_setup_puts_on_the_path() -> None:
    asked = resources.Resources(setup=("module load python", "export PYTHONPATH=/site"))
    lines = sbatch.script(submission.Submission(Path("/runs/.jobs/a/001")), "a", asked).splitlines()
    setup = lines.index("export PYTHONPATH=/site")
    assert lines.index("export PYTHONPATH=/runs/.jobs/a/001/code${PYTHONPATH:+:$PYTHONPATH}") > setup
    assert lines[setup - 1] == "module load python"


@pytest.mark.parametrize(("inside", "seen"), [(True, {"SLURM_CONF"}), (False, {"SLURM_CONF", "SBATCH_ACCOUNT"})])
def test_a_job_that_submits_does_not_hand_down_its_own_options(
    slurm: Path, tmp_path: Path, tiny: Config, monkeypatch: pytest.MonkeyPatch, inside: bool, seen: set[str]
) -> None:
    """A user's defaults on a login node stay."""
    for name in [name for name in os.environ if name.startswith(("SLURM", "SBATCH"))]:
        monkeypatch.delenv(name)
    given = {"SLURM_CONF": "/etc/slurm.conf", "SBATCH_ACCOUNT": "mri"}
    given |= {"SLURM_JOB_ID": "7", "SLURM_CPUS_PER_TASK": "3"} if inside else {}
    for name, value in given.items():
        monkeypatch.setenv(name, value)
    program(slurm, "sbatch", f"env > {tmp_path}/seen; echo Submitted batch job 12")
    program(slurm, "srun", "")
    program(slurm, "squeue", "")  # SLURM's own waits half a minute for a file that is not there
    made = submission.create(str(tmp_path / "runs"), "tiny", [tiny], ASKED)
    assert sbatch.submit(made, ["tiny"]) == {"tiny": "12"}
    names = {line.partition("=")[0] for line in (tmp_path / "seen").read_text().splitlines()}
    assert {name for name in names if name.startswith(("SLURM_", "SBATCH_"))} == seen
    assert given.items() <= os.environ.items()


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    return stand_in_clock(monkeypatch, cancel, scheduler)


@pytest.mark.parametrize(
    ("script", "state", "waited_s"),
    [
        ("echo RUNNING", "RUNNING", 0),
        ("", None, 0),
        ("echo slurm_load_jobs error: Invalid job id specified >&2; exit 1", None, 0),
        ("echo slurm_load_jobs error: Unable to contact slurm controller >&2; exit 1", scheduler.UNKNOWN, 55),
        ("[ -e again ] && echo RUNNING && exit; touch again; exit 1", "RUNNING", 5),
    ],
)
def test_a_squeue_that_fails_is_asked_again_and_does_not_mean_that_there_is_no_job(
    slurm: Path, clock: list[float], monkeypatch: pytest.MonkeyPatch, script: str, state: str | None, waited_s: int
) -> None:
    monkeypatch.chdir(slurm)
    program(slurm, "squeue", script)
    begun = clock[0]
    assert scheduler.state_of("7") == state
    assert clock[0] - begun >= waited_s


@pytest.mark.law("L12")
def test_a_queue_that_cannot_be_read_is_no_empty_queue(slurm: Path) -> None:
    program(slurm, "squeue", "echo 'slurm_load_jobs error: Socket timed out' >&2; exit 1")
    with pytest.raises(LaunchError, match=r"^squeue: .*Socket timed out; .* try again when SLURM answers$"):
        lookup.alive([Job.of("12", {})])
    assert lookup.alive([Job.of("local-1", {})]) == {}, "without SLURM nobody asks it"
    (slurm / "queue").write_text(squeue_lines(entry("12", "RUNNING"), entry("13_2", "COMPLETED")))
    program(slurm, "squeue", f"cat {slurm}/queue")
    assert [job.id for job in lookup.alive([Job.of("12", {}), Job.of("13_2", {})])] == ["12"]


@pytest.mark.parametrize(
    ("raised", "end"),
    [
        (None, rank.RankEnd(0)),
        (LaunchError("no such device"), rank.RankEnd(2, None, "no such device")),
        (Stopped("stopped, somehow", StopReason.STOP_FILE), rank.RankEnd(75, StopReason.STOP_FILE, "stopped, somehow")),
    ],
)
def test_a_rank_leaves_its_code_its_reason_and_its_message(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, raised: SegtrainError | None, end: rank.RankEnd
) -> None:
    def command(argv: Sequence[str]) -> int:
        if raised:
            raise raised
        return 0

    monkeypatch.setattr(rank, "command", command)
    monkeypatch.setenv(rank.START_FOLDER, str(tmp_path))
    assert rank.main([]) == end.code
    assert rank.rank_ends(tmp_path) == [end]


@pytest.mark.parametrize(
    ("earlier", "now", "how"),
    [
        (StopReason.SIGUSR2, StopReason.STOP_FILE, "stopped"),
        (StopReason.STOP_FILE, StopReason.SIGUSR2, "requeued"),
    ],
)
def test_what_an_earlier_start_said_does_not_decide_what_becomes_of_this_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, earlier: StopReason, now: StopReason, how: str
) -> None:
    monkeypatch.setenv("SLURM_JOB_ID", "7")
    monkeypatch.setattr(scheduler, "state_of", lambda job: "RUNNING")
    monkeypatch.setattr(scheduler, "requeue", lambda job: None)
    run = Run(tmp_path / "runs" / "a")
    run.checkpoint(40).mkdir(parents=True)
    run.end(Outcome("stopped", 40, 1, reason=earlier, message=f"Stopped: stopped by {earlier.sentence} at step 40"))
    starts = history.History(run)
    requeue.conclude(starts, "7", requeue.StartEnd(1, [rank.RankEnd(75, now, f"stopped by {now.sentence}")] * 2))
    assert starts.entries("7")[-1]["how"] == how


def test_a_job_that_is_to_start_over_is_told_so_and_its_history_begins_at_nothing(tmp_path: Path, tiny: Config) -> None:
    cfg = replace(tiny, runs_dir=str(tmp_path / "runs"))
    alone = node.Node(0, 1, "n1", "7", 0)
    for fresh in (False, True):
        made = submission.create(cfg.runs_dir, "tiny", [cfg], ASKED, fresh=fresh)
        command = node.Start(made, "tiny", alone, node.StopSignal())._command(rendezvous.Endpoint("n1", 1))
        assert ("--fresh" in command) == fresh
    run = Run.of(cfg)
    run.checkpoint(600).mkdir(parents=True)
    starts = history.History(run)
    starts.begin("7", fresh=True)
    starts.begin("7", fresh=True)
    starts.begin("8")
    assert [entry["step"] for entry in starts.entries()] == [0, 600, 600]


def test_a_run_is_started_over_once_and_a_start_that_comes_back_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As segtrain.train asks, in the foreground as under SLURM."""
    run = Run(tmp_path / "a")
    for job, restart in ((launcher.LOCAL_JOB, launcher.LOCAL_RESTART), ("SLURM_JOB_ID", "SLURM_RESTART_COUNT")):
        for name in (launcher.LOCAL_JOB, launcher.LOCAL_RESTART, "SLURM_JOB_ID", "SLURM_RESTART_COUNT"):
            monkeypatch.delenv(name, raising=False)
        run.root.mkdir(exist_ok=True)
        (run.root / "environment.json").write_text(json.dumps([{"job": "7"}]))
        monkeypatch.setenv(job, "7")
        assert (launcher.restarted(), run.begun_by(launcher.job_id())) == (False, True)
        monkeypatch.setenv(restart, "1")
        assert (launcher.restarted(), run.begun_by(launcher.job_id())) == (True, True)


def test_the_stop_file_of_a_cancelled_job_does_not_meet_the_next(
    slurm: Path, tmp_path: Path, tiny: Config, clock: list[float]
) -> None:
    """Of three jobs one leaves by itself, one waits, and one must be ended by scancel, which it needs a while for."""
    runs_dir = tmp_path / "runs"
    names = ["leaves", "waits", "stays"]
    configs = [replace(tiny, name=name, runs_dir=str(runs_dir / "spec")) for name in names]
    made = submission.create(str(runs_dir), "spec", configs, ASKED, members=[])
    made.keep(runs={"leaves": "1", "waits": "2", "stays": "3"})
    for name in names:
        made.run(name).checkpoint(0).mkdir(parents=True)
    for job, state in (("1", "RUNNING"), ("2", "PENDING"), ("3", "RUNNING")):
        (slurm / f"line{job}").write_text(squeue_lines(entry(job, state)))
    program(
        slurm,
        "squeue",
        f"""cd {slurm}
        [ -e 2 ] || cat line2
        if [ ! -e seen ]; then touch seen; cat line1; fi
        [ -e 3 ] && echo . >> ending; [ "$(wc -l < ending 2>/dev/null || echo 0)" -ge 3 ] || cat line3""",
    )
    program(slurm, "scancel", f"touch {slurm}/$1")
    assert cancel.command(["spec", "--runs-dir", str(runs_dir), "--wait", "5"]) == 0
    assert [made.run(name).stop_file.exists() for name in names] == [False] * 3
    assert [(slurm / str(number)).exists() for number in (1, 2, 3)] == [False, True, True]
    assert len((slurm / "ending").read_text().splitlines()) == 3, "it was waited for"
