"""Jobs in trouble: SLURM that does not answer, file systems that stall, orders that nobody reads. No cluster."""

import json
import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
from slurm_programs import entry, program, squeue_lines

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
    """The time of jobs/, which passes only where it waits; subprocess waits by the real one."""
    now = [1000.0]
    passing = SimpleNamespace(monotonic=lambda: now[0], sleep=lambda seconds: now.__setitem__(0, now[0] + seconds))
    for module in (cancel, rendezvous, scheduler):
        monkeypatch.setattr(module, "time", passing)
    return now


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


def nodes(folder: Path, count: int = 2) -> list[rendezvous.Rendezvous]:
    """All nodes of a start, which have met."""
    made = [rendezvous.Rendezvous(folder / "start", index, count, f"n{index + 1}") for index in range(count)]
    for one in made:
        one.open()
        one.beat()
    for one in made:
        assert one.silent() == []
    return made


def test_a_node_that_falls_silent_is_noticed_by_one_that_looks_on(tmp_path: Path, clock: list[float]) -> None:
    first, second = nodes(tmp_path)
    quiet_s = 0.0
    while not (gone := first.silent()):
        clock[0] += rendezvous.STALLED_S / 2
        quiet_s += rendezvous.STALLED_S / 2
    assert (gone, quiet_s > rendezvous.SILENT_S, quiet_s < rendezvous.SILENT_S + rendezvous.STALLED_S) == (
        [1],
        True,
        True,
    )
    second.beat()
    assert first.silent() == []


def test_a_node_that_never_comes_is_given_up_by_the_first_one(tmp_path: Path, clock: list[float]) -> None:
    """SLURM may fail to start one task of a step, and leaves the others waiting."""
    first, second, _ = (rendezvous.Rendezvous(tmp_path / "start", index, 3, "n", 300.0) for index in range(3))
    for one in (first, second):
        one.open()
        one.beat()
    begun_s = clock[0]
    while not (gone := first.silent() or first.absent()):
        clock[0] += node.POLL_EVERY_S
        second.beat()
    assert gone == [2]
    assert 300 < clock[0] - begun_s < 301
    second.report(0, 1)
    assert first.missing(0, node.REPORT_S) == [2]
    assert clock[0] - begun_s < 302, "it is not waited for once more"


def test_a_node_has_its_time_to_come_anew_where_the_first_one_stood_still(tmp_path: Path, clock: list[float]) -> None:
    first = rendezvous.Rendezvous(tmp_path / "start", 0, 2, "n", 300.0)
    first.open()
    first.silent()
    clock[0] += 400.0
    assert (first.silent(), first.absent()) == ([], [])


@pytest.mark.parametrize("vanished", [True, False])
def test_a_node_that_is_known_to_be_gone_is_not_waited_for_once_more(
    tmp_path: Path, clock: list[float], vanished: bool
) -> None:
    """A start is over within a minute of the loss; a launcher of a node that lives gets its time to end."""
    first, second, third = nodes(tmp_path, 3)
    lost_s = clock[0]
    while vanished and not first.silent():
        clock[0] += node.POLL_EVERY_S
        third.beat()
    third.report(0, 1)
    asked_s = clock[0]
    assert first.missing(0, node.REPORT_S) == [second.index]
    waited_s = clock[0] - asked_s
    assert (waited_s < 1, clock[0] - lost_s < 50) == (True, True) if vanished else waited_s >= node.REPORT_S


def test_a_node_that_is_told_to_stop_does_not_look_for_the_others(tmp_path: Path, clock: list[float]) -> None:
    """SLURM kills the step soon after its signal: what becomes of the job must be decided before."""
    first, _ = nodes(tmp_path)
    asked_s = clock[0]
    assert first.missing(0, node.REPORT_S, lambda: clock[0] > asked_s + 1) == []
    assert clock[0] - asked_s < 2


def test_a_file_system_that_stalls_for_all_nodes_makes_none_of_them_dead(tmp_path: Path, clock: list[float]) -> None:
    first, second = nodes(tmp_path)
    clock[0] += 10 * rendezvous.SILENT_S
    assert (first.silent(), second.silent()) == ([], [])
    clock[0] += rendezvous.STALLED_S / 2
    assert first.silent() == []


def test_a_heartbeat_that_cannot_be_written_does_not_end_the_job(tmp_path: Path, clock: list[float]) -> None:
    first, second = nodes(tmp_path)
    second.folder, folder = tmp_path / "gone", second.folder
    clock[0] += rendezvous.BEAT_EVERY_S
    second.beat()
    second.folder = folder
    clock[0] += rendezvous.BEAT_EVERY_S
    second.beat()
    assert (folder / "beat-1").read_text() == "3"
    assert first.silent() == []


def test_a_node_alone_does_not_beat(tmp_path: Path) -> None:
    assert [list(one.folder.iterdir()) for one in nodes(tmp_path, 1)] == [[]]


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
