"""What follows an ablation's jobs: table and report, made by the snapshot that went with them."""

import csv
import os
import re
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest
from slurm_programs import entry, squeue_lines
from trainings import run_to_end

from jobs import ablate, ablation_report, submission
from jobs import sbatch as executors
from jobs.queue import foreground, preflight
from jobs.queue.items import Item
from jobs.resources import Resources
from jobs.submission import Submission
from segtrain.config import Config, to_yaml
from segtrain.errors import LaunchError
from segtrain.run import Member, Outcome, expand, missing
from segtrain.runtime.process import run_command

SPEC = "name: loss\nbase: base.yaml\nvariants: {dice: {}, bce: {loss: bce}, focal: {loss: focal}}\nseeds: [7]\n"


@pytest.fixture
def members(tmp_path: Path, tiny: Config) -> list[Member]:
    (tmp_path / "base.yaml").write_text(to_yaml(tiny))
    (tmp_path / "spec.yaml").write_text(SPEC)
    return expand(tmp_path / "spec.yaml", [f"runs_dir={tmp_path / 'runs'}"])[1]


@pytest.fixture
def made(tmp_path: Path, members: list[Member]) -> Submission:
    rows = [{"name": m.cfg.name, "variant": m.variant, "fold": m.fold, "seed": m.seed} for m in members]
    asked = Resources(time="0-00:20:00")
    members[0].run.root.parent.mkdir(parents=True)
    return submission.create(str(tmp_path / "runs"), "loss", [m.cfg for m in members], asked, members=rows)


def test_the_snapshot_makes_table_and_report(tmp_path: Path, members: list[Member], made: Submission) -> None:
    for member in members[1:]:  # the baseline's failed
        run_to_end(tmp_path, member.cfg, 1)
    code = "from segtrain.report import page; from jobs import ablation_report; "
    code += f"print(page.__file__, ablation_report.write({str(made.root)!r}))"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd="/", capture_output=True, text=True, timeout=200, check=True,
        env=os.environ | {"PYTHONPATH": str(made.code), "PYTHONSAFEPATH": "1"},
    )  # fmt: skip
    page = tmp_path / "runs" / "loss" / ablation_report.REPORT / "index.html"
    assert done.stdout.split() == [str(made.code / "segtrain/report/page.py"), str(page)]
    with (tmp_path / "runs" / "loss" / "results.csv").open() as file:
        states = {row["variant"]: row["state"] for row in csv.DictReader(file)}
    assert states == {"dice": "none", "bce": "finished", "focal": "finished"}
    text = page.read_text()
    assert all(member.cfg.name in text for member in members)
    assert 'class="card' in text, "the atlas of the runs that finished"


def test_without_any_run_the_table_stands_alone(members: list[Member], made: Submission) -> None:
    written = ablation_report.write(str(made.root))
    assert Path(written).name == "results.csv"
    assert Path(written).read_text().count("none") == len(members)


def test_runs_that_cannot_be_read_cost_the_others_nothing(
    tmp_path: Path, members: list[Member], made: Submission
) -> None:
    """The baseline's config is empty, another run's outcome is cut off."""
    for member in members[:2]:
        member.run.root.mkdir(parents=True)
    (members[0].run.root / "config.yaml").write_text("")
    (members[1].run.root / "config.yaml").write_text(to_yaml(members[1].cfg))
    (members[1].run.root / "outcome.json").write_text('{"state": "fin')
    run_to_end(tmp_path, members[2].cfg, 1)
    page = Path(ablation_report.write(str(made.root)))
    assert page == tmp_path / "runs" / "loss" / ablation_report.REPORT / "index.html"
    assert members[2].cfg.name in page.read_text()
    with (tmp_path / "runs" / "loss" / "results.csv").open() as file:
        rows = {row["variant"]: row for row in csv.DictReader(file)}
    assert [rows[variant]["state"] for variant in ("dice", "bce", "focal")] == ["running", "unreadable", "finished"]
    assert rows["bce"]["run"] == members[1].cfg.name
    assert float(rows["focal"]["best_dsc"]) > 0


def test_the_report_asks_for_no_more_time_than_a_run(made: Submission, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Resources] = []

    def executor(made: Submission, name: str, resources: Resources, most: int) -> None:
        asked.append(resources)
        raise RuntimeError("sbatch: error: enough")

    monkeypatch.setattr(executors, "_executor", executor)
    with pytest.raises(RuntimeError):
        executors.submit_report(made, {"dice-seed7": "12_0"})
    assert (asked[0].minutes, asked[0].dependency, asked[0].gpus_per_node) == (20, "afterany:12", 0)


@pytest.fixture
def cluster(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """SLURM's commands: `queue` is what squeue lists; sbatch takes no report while `strict` exists."""
    folder = tmp_path / "slurm"
    folder.mkdir()
    scripts = {
        "squeue": f"cat {folder}/queue",
        "srun": "",
        "sbatch": f"""if [ "$1" = --test-only ]; then exit 0; fi
            if grep -q job-name=loss-report "$1"; then
            if [ -e {folder}/strict ]; then echo "sbatch: error: Job requires GPUs" >&2; exit 1; fi
            cat "$1" >> {folder}/reports; echo Submitted batch job 99
        else
            cp "$1" {folder}/newest; echo >> {folder}/arrays
            echo Submitted batch job $((11 + $(wc -l < {folder}/arrays)))
        fi""",
    }
    for name, script in scripts.items():
        (folder / name).write_text(f"#!/bin/sh\n{script}\n")
        (folder / name).chmod(0o755)
    (folder / "queue").touch()
    monkeypatch.setenv("PATH", str(folder), prepend=os.pathsep)
    monkeypatch.delenv("SLURM_JOB_ID", raising=False)
    return folder


def queue(jobs: str) -> str:
    """What squeue lists of jobs, each given as `12_0|RUNNING`."""
    return squeue_lines(*(entry(*job.split("|")) for job in jobs.split()))


def finish(member: Member) -> None:
    """As if it had been trained."""
    member.run.root.mkdir(parents=True)
    (member.run.root / "config.yaml").write_text(to_yaml(member.cfg))
    member.run.end(Outcome("finished", 4, member.cfg.train.epochs, 0.5))


def test_a_report_job_that_is_refused_is_caught_up_on_and_costs_the_array_nothing(
    tmp_path: Path, cluster: Path, members: list[Member], capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = [str(tmp_path / "spec.yaml"), "--executor", "slurm", f"runs_dir={tmp_path / 'runs'}"]
    folder = tmp_path / "runs" / "loss"
    by_hand = f"segtrain report {folder} --out {folder / 'report'}"
    (cluster / "strict").touch()
    assert ablate.command(arguments) == 0
    told = capsys.readouterr()
    assert told.out.count("Submitted job 12_") == len(members)
    logs = folder.parent / ".jobs" / "loss" / "001" / "logs"
    assert f"Logs:  {logs}, each by the name of its run: {members[0].cfg.name}.out\n" in told.out
    assert (logs / f"{members[1].cfg.name}.out").readlink() == Path("12_1_0_log.out")
    assert f"When all have ended: {by_hand}\n" in told.out
    assert "the runs are submitted, no job for the report is: sbatch refused the job" in told.err
    assert "Job requires GPUs" in told.err

    (cluster / "strict").unlink()
    (cluster / "queue").write_text(queue("12_0|RUNNING 12_1|PENDING"))
    finish(members[2])
    assert ablate.command(arguments) == 0
    assert f"(job 99): {folder / 'report' / 'index.html'}\n" in capsys.readouterr().out
    assert "#SBATCH --dependency=afterany:12\n" in (cluster / "reports").read_text()
    (cluster / "queue").write_text(queue("12_0|RUNNING 12_1|PENDING 99|PENDING"))
    assert ablate.command(arguments) == 0
    assert "(job 99)" not in capsys.readouterr().out
    assert (cluster / "reports").read_text().count("job-name") == 1

    (cluster / "queue").write_text(queue("12_1|PENDING 99|PENDING"))  # the first has failed, and is submitted again
    assert ablate.command(arguments) == 0
    assert "#SBATCH --dependency=afterany:12:13\n" in (cluster / "reports").read_text()

    (cluster / "queue").write_text(queue("99|PENDING"))
    for member in members[:2]:
        finish(member)
    capsys.readouterr()
    assert ablate.command(arguments) == 0
    assert "There is no report" not in capsys.readouterr().out, "a job is about to make it"


def test_the_limit_of_runs_at_a_time_counts_over_all_arrays(
    tmp_path: Path, cluster: Path, members: list[Member], capsys: pytest.CaptureFixture[str]
) -> None:
    """An array is submitted, some of its runs fail, the same command submits those beside what is left of the first."""
    arguments = [str(tmp_path / "spec.yaml"), "--executor", "slurm", f"runs_dir={tmp_path / 'runs'}"]

    def submitted(limit: int, jobs: str, *options: str) -> tuple[str | None, str | None]:
        """The indices and limit of the new array, None of a single job, and what it waits for."""
        (cluster / "queue").write_text(queue(jobs))
        assert ablate.command([*arguments, "--max-parallel", str(limit), *options]) == 0
        script = (cluster / "newest").read_text()
        values = [re.search(rf"--{option}=(\S+)", script) for option in ("array", "dependency")]
        return values[0] and values[0][1], values[1] and values[1][1]

    assert submitted(2, "") == ("0-2%2", None)
    assert submitted(2, "12_0|RUNNING") == ("0-1%1", None), "two have failed"
    assert "--max-parallel 2: 1 at a time beside those in the queue" in capsys.readouterr().out
    finish(members[0])
    waits = "13_1|PENDING"
    assert submitted(1, waits, "--dependency", "afterok:7") == (None, "afterok:7,afterany:13"), "one more has failed"
    assert "--max-parallel 1: they begin when job 13 has ended" in capsys.readouterr().out
    with pytest.raises(LaunchError, match=r"--dependency afterok:7\?afterok:8: with --max-parallel .* wait for job 13"):
        submitted(1, waits, "--dependency", "afterok:7?afterok:8")


def test_an_ablation_that_is_finished_without_a_report_says_how_to_make_it(
    tmp_path: Path, cluster: Path, members: list[Member], capsys: pytest.CaptureFixture[str]
) -> None:
    for member in members:
        finish(member)
    arguments = [str(tmp_path / "spec.yaml"), "--executor", "slurm", f"runs_dir={tmp_path / 'runs'}"]
    folder = tmp_path / "runs" / "loss"
    assert ablate.command(arguments) == 0
    assert f"There is no report yet: segtrain report {folder} --out {folder / 'report'}" in capsys.readouterr().out
    (folder / "report").mkdir()
    (folder / "report" / "index.html").touch()
    assert ablate.command(arguments) == 0
    assert "There is no report" not in capsys.readouterr().out


def test_what_waits_in_slurm_is_not_trained_here_beside_it(
    tmp_path: Path, cluster: Path, members: list[Member], made: Submission, monkeypatch: pytest.MonkeyPatch
) -> None:
    made.keep(runs={members[0].cfg.name: "12_0"})
    (cluster / "queue").write_text(queue("12_0|PENDING"))
    trained: list[str] = []

    def train(snapshot: Submission, items: Sequence[Item], *_: object) -> int:
        trained.extend(item.name for item in items)
        return 75

    monkeypatch.setattr(preflight, "problems", lambda *_: {})
    monkeypatch.setattr(foreground, "train", train)
    assert ablate.command([str(tmp_path / "spec.yaml"), f"runs_dir={tmp_path / 'runs'}"]) == 75
    assert trained == [member.cfg.name for member in members[1:]]


def test_variants_that_lack_something_are_named_and_nothing_is_submitted(
    tmp_path: Path, cluster: Path, members: list[Member], capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "spec.yaml").write_text(SPEC.replace("bce: {loss: bce}", "bce: {model.weights: nowhere.pt}"))
    assert ablate.command([str(tmp_path / "spec.yaml"), "--cluster", "cpu", f"runs_dir={tmp_path / 'new'}"]) == 2
    told = capsys.readouterr()
    assert "variant bce: model.weights=nowhere.pt: there is no such file" in told.err
    assert "Submitted" not in told.out
    assert not (tmp_path / "new").exists()


def test_a_damaged_run_is_told_of_in_one_line(
    tmp_path: Path, cluster: Path, members: list[Member], capsys: pytest.CaptureFixture[str]
) -> None:
    finish(members[0])
    (members[0].run.root / "outcome.json").write_text("{")
    assert missing(members) == {}
    (members[0].run.root / "config.yaml").write_text("")
    assert run_command(ablate.command, [str(tmp_path / "spec.yaml"), f"runs_dir={tmp_path / 'runs'}"]) == 2
    assert "holds no readable run" in capsys.readouterr().err
