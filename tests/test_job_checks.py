"""What is found before a job is submitted. SLURM's commands are stand-ins that answer as SLURM 22.05 does."""

import os
from pathlib import Path

import pytest

from jobs import ablate, submit
from segtrain.config import Config, to_yaml
from segtrain.runtime.process import run_command

SCONTROL = """#!/bin/sh
echo PartitionName=cpu Default=YES MaxNodes=UNLIMITED MaxTime=UNLIMITED MaxMemPerNode=UNLIMITED TRES=cpu=8,mem=8M
echo PartitionName=gpu Default=NO MaxNodes=3 MaxTime=1-00:00:00 State=UP MaxMemPerNode=400000
"""
SINFO = """#!/bin/sh
case "$*" in
*-p\\ cpu*) echo '2|4|4000|(null)|(null)|idle' ;;
*) echo '8|48|500000|gpu:a100:4(S:0-1),nvme:2|nvlink|mix'
   echo '4|64|250000|gpu:v100:2|(null)|drain*' ;;
esac
"""
SBATCH = """#!/bin/sh
if [ "$1" = --help ]; then echo '      --reservation=name  allocate from it'; echo '  -p, --partition=x'; exit; fi
if [ "$1" = --test-only ]; then
    text=$(cat)
    case "$text" in
    *reservaton*) echo "sbatch: unrecognized option '--reservaton=mri'" >&2; exit 255 ;;
    *constraint=\\'no*) echo "allocation failure: Invalid feature specification" >&2; exit 1 ;;
    *constraint=\\'drained*) echo "allocation failure: Requested node configuration is not available" >&2; exit 1 ;;
    *comment=away*) echo "sbatch: error: Unable to contact slurm controller (connect failure)" >&2; exit 1 ;;
    esac
    env | grep ^SBATCH_ >"$FOLDER/tested"
    exit 0
fi
env | grep ^SBATCH_ >"$FOLDER/submitted"
echo Submitted batch job 12
"""
SRUN = """#!/bin/sh
case "$*" in
--help) echo '  -l, --label   prepend task number'; echo '      --cpu-bind=x' ;;
*labl*) echo "srun: unrecognized option '--labl'" >&2; exit 1 ;;
esac
"""
DEFAULT = ["--cpus-per-node", "4"]


@pytest.fixture
def cluster(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cluster of two partitions; a folder of data with three patients."""
    folder = tmp_path / "slurm"
    folder.mkdir()
    scripts = {"scontrol": SCONTROL, "sinfo": SINFO, "sbatch": SBATCH, "srun": SRUN, "squeue": "#!/bin/sh\n"}
    for name, text in scripts.items():
        (folder / name).write_text(text)
        (folder / name).chmod(0o755)
    for name in [name for name in os.environ if name.startswith(("SLURM", "SBATCH"))]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("PATH", str(folder), prepend=os.pathsep)
    monkeypatch.setenv("FOLDER", str(folder))
    monkeypatch.chdir(tmp_path)
    for patient in ("TCGA_CS_1", "TCGA_CS_2", "TCGA_CS_3"):
        (tmp_path / "kaggle_3m" / patient).mkdir(parents=True)
        (tmp_path / "kaggle_3m" / patient / f"{patient}_1.tif").touch()
    return folder


def told(words: list[str], capsys: pytest.CaptureFixture[str]) -> tuple[int, str, str]:
    """Exit code, standard output and errors of `segtrain submit`."""
    code = run_command(submit.command, words)
    captured = capsys.readouterr()
    return code, captured.out, captured.err


LGG = ["data.source=lgg", "data.root=kaggle_3m"]
REFUSED = {
    "no data": (
        ["data.source=lgg", "data.root=kagle_3m"],
        "data.root=kagle_3m: there is no kagle_3m in {here}, did you mean kaggle_3m?; if only the nodes see it",
    ),
    "empty data": (["data.source=lgg", "data.root=slurm"], "slurm: 0 patient folders in it; set data.root"),
    "no split": ([*LGG, "data.split=file", "data.split_file=s.json"], "data.split_file=s.json: there is no s.json in"),
    "no weights": (["model.weights=nowhere.pt"], "model.weights=nowhere.pt: there is no such file; name an existing"),
    "batch": (
        ["--processes-per-node", "3"],
        "train.global_batch=16 cannot be shared by 3 ranks (nodes=1, 3 processes on each); set it to 15 or 18",
    ),
    "patients": (
        [*LGG, "data.validation_patients=1", "--processes-per-node", "4"],
        "4 ranks (nodes=1, 4 processes on each): 2 training patients make 2 lanes",
    ),
    "processes": (
        ["--gpus-per-node", "2", "--processes-per-node", "4", "--partition", "gpu"],
        "processes_per_node=4: a node has 2 GPUs (gpus_per_node=2), and each process needs its own; use 2, or device",
    ),
    "device": (["device=cuda"], "device=cuda needs a GPU, and the job asks for none; add --gpus-per-node 1"),
    "warn_s": (["--time", "10", "--warn-s", "600"], "warn_s=600: the job gets 600 s (time=10)"),
    "time": (
        ["--partition", "gpu", "--time", "2-00:00:00"],
        "time=2-00:00:00: partition gpu gives 1-00:00:00 at most; set time to 1-00:00:00, the job comes back",
    ),
    "nodes": (["--partition", "gpu", "--nodes", "4"], "nodes=4: partition gpu gives a job 3 at most; ask for fewer"),
    "gpus": (
        ["--partition", "gpu", "--gpus-per-node", "8"],
        "gpus_per_node=8: nodes of partition gpu have 4 at most (types: a100, v100); change gpus_per_node or the",
    ),
    "type": (["--partition", "gpu", "--gpus-per-node", "h100:2"], "gpus_per_node=h100:2: nodes of partition gpu"),
    "cpus": (["--partition", "gpu", "--cpus-per-node", "65"], "cpus_per_node=65: nodes of partition gpu have 64 at"),
    "mem": (["--partition", "gpu", "--mem", "450G"], "mem=450G: nodes of partition gpu have 400000M to give at most"),
    "together": (
        ["--partition", "gpu", "--gpus-per-node", "4", "--cpus-per-node", "60"],
        "nodes=1 with gpus_per_node=4 with cpus_per_node=60: nodes of partition gpu have all of it on 0",
    ),
    "partition": (["--partition", "gpus"], "partition=gpus: the cluster has no such partition, only cpu, gpu; did you"),
    "anywhere": (["--mem", "900G"], "mem=900G: nodes of partition cpu have 4000M to give at most"),
    "option": (["--slurm", "reservaton=mri"], "slurm: reservaton: sbatch has no such option here, or not with that"),
    "step": (["--srun", "labl"], "srun: labl: srun has no such option here, or not with that value; did you"),
    "feature": (["--constraint", "no&such"], "sbatch would not run the job: allocation failure: Invalid feature spec"),
}  # fmt: skip


@pytest.mark.law("L12")
@pytest.mark.parametrize("case", REFUSED)
def test_what_would_fail_or_wait_forever_is_refused_and_nothing_is_written(
    tmp_path: Path, cluster: Path, capsys: pytest.CaptureFixture[str], case: str
) -> None:
    words, message = REFUSED[case]
    before = sorted(tmp_path.rglob("*"))
    code, out, errors = told([*DEFAULT, *words, "runs_dir=runs"], capsys)
    assert (code, out) == (2, "")
    assert message.format(here=tmp_path) in errors.splitlines()[-1]
    assert sorted(tmp_path.rglob("*")) == before


WARNED = {
    "save_s": (
        ["--save-s", "200"],
        "save_s=200: at the time limit the job ends 120 s (warn_s) after it was told to save, before such",
    ),
    "data of nodes": (
        ["data.source=lgg", "data.root=/temp/kaggle_3m"],
        "data.root=/temp/kaggle_3m: this machine has no /temp (did you mean /tmp?); the job fails if its nodes have",
    ),
    "weights of nodes": (
        ["model.weights=/temp/unet.pt"],
        "model.weights=/temp/unet.pt: this machine has no /temp (did you mean /tmp?); the job fails if its nodes have",
    ),
    "nodes that are down": (
        ["--constraint", "drained&v100", "--partition", "gpu", "--gpus-per-node", "2"],
        "Requested node configuration is not available; some nodes of the partition are down, the job waits until",
    ),
    "another partition": (
        ["--gpus-per-node", "a100:4", "--cpus-per-node", "48"],
        "gpus_per_node=a100:4: nodes of partition cpu have 0 at most; change gpus_per_node or the partition; name "
        "another partition if the site does not choose one by itself",
    ),
}


@pytest.mark.parametrize("case", WARNED)
def test_what_may_be_right_is_submitted_with_a_warning(
    cluster: Path, capsys: pytest.CaptureFixture[str], case: str
) -> None:
    words, message = WARNED[case]
    code, out, errors = told([*DEFAULT, *words], capsys)
    assert code == 0
    assert "Submitted job 12" in out
    [warning] = errors.splitlines()
    assert warning.startswith("segtrain: warning: ")
    assert message in warning


@pytest.mark.parametrize(
    "words",
    [
        [],
        ["--partition", "gpu", "--gpus-per-node", "a100:2", "--constraint", "nvlink", "--mem", "100G"],
        ["--data-on-nodes", "true", "data.source=lgg", "data.root=here_is_none"],
        ["--data-on-nodes", "true", "model.weights=here_is_none.pt"],
        ["--comment", "away"],  # slurmctld: sbatch itself says so
        ["--srun", "label", "--python", "apptainer exec x.sif python", "engine=deepspeed"],
    ],
)
def test_what_fits_is_submitted_without_a_word(
    cluster: Path, capsys: pytest.CaptureFixture[str], words: list[str]
) -> None:
    code, out, errors = told([*DEFAULT, *words], capsys)
    assert (code, errors) == (0, "")
    assert "Submitted job 12" in out


def test_options_count_more_than_variables_and_the_command_says_so(
    cluster: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """To sbatch they would count less; a user's defaults that no option stands against stay."""
    variables = {
        "SBATCH_PARTITION": "debug", "SBATCH_TIMELIMIT": "1", "SBATCH_MEM_PER_CPU": "1", "SBATCH_ARRAY_INX": "0-9",
        "SBATCH_WAIT": "1", "SBATCH_NO_REQUEUE": "1", "SBATCH_GRES": "gpu:1", "SBATCH_ACCOUNT": "mri",
        "SBATCH_EXPORT": "NONE",
    }  # fmt: skip
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    words = ["--partition", "gpu", "--mem", "8G", "--gpus-per-node", "1"]
    code, _, errors = told([*DEFAULT, *words], capsys)
    assert code == 0
    for seen in ("tested", "submitted"):
        assert set((cluster / seen).read_text().split()) == {"SBATCH_ACCOUNT=mri", "SBATCH_EXPORT=NONE"}
    assert "SBATCH_PARTITION=debug: not used, the job's own options count" in errors
    assert "SBATCH_ACCOUNT=mri: used by sbatch" in errors
    assert variables.items() <= os.environ.items()


def test_an_ablation_is_checked_as_a_whole(
    tmp_path: Path, cluster: Path, tiny: Config, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "base.yaml").write_text(to_yaml(tiny))
    (tmp_path / "spec.yaml").write_text(
        "name: loss\nbase: base.yaml\nvariants: {dice: {}, odd: {train.global_batch: 5}}\nseeds: [7]\n"
    )
    words = ["spec.yaml", *DEFAULT, "--processes-per-node", "2", "runs_dir=runs"]
    assert run_command(ablate.command, words) == 2
    captured = capsys.readouterr()
    assert "train.global_batch=5 cannot be shared by 2 ranks" in captured.err
    assert not (tmp_path / "runs").exists()
