"""The examples for Kubernetes and SkyPilot, as far as they can be read without either."""

import shlex
from typing import Any

import yaml
from documents import ROOT, blocks

from docs.pages import parser_of
from segtrain.config import load_config
from segtrain.errors import EXIT_DIVERGED, EXIT_STOPPED

PAGE = ROOT / "docs" / "kubernetes.md"
JOB, TASK = (yaml.safe_load(block.text) for block in blocks(PAGE) if block.language == "yaml")


def pod() -> Any:
    return JOB["spec"]["template"]["spec"]


def container() -> Any:
    (one,) = pod()["containers"]
    return one


def test_what_a_pod_is_ended_for_decides_before_its_code_does() -> None:
    """What can go on is not ended for good: a pod that is preempted counts for nothing, any other as a crash."""
    disruption, codes = JOB["spec"]["podFailurePolicy"]["rules"]
    assert (disruption["action"], disruption["onPodConditions"]) == ("Ignore", [{"type": "DisruptionTarget"}])
    assert codes["action"] == "FailJob"
    assert codes["onExitCodes"]["values"] == [EXIT_DIVERGED], "what else ends a pod may go on"
    assert codes["onExitCodes"]["containerName"] == container()["name"]
    assert pod()["restartPolicy"] == "Never"


def test_the_pod_trains_by_what_it_mounts() -> None:
    words = container()["args"]
    assert words[0] == "train"
    nproc = int(words[words.index("--nproc") + 1])
    limits = container()["resources"]["limits"]
    assert nproc == limits["nvidia.com/gpu"]
    assert limits["cpu"] == container()["resources"]["requests"]["cpu"], "threads follow the limit"
    cfg = load_config(words[words.index("--config") + 1], [word for word in words if "=" in word])
    mounts = {mount["name"]: mount["mountPath"] for mount in container()["volumeMounts"]}
    assert mounts.keys() == {volume["name"] for volume in pod()["volumes"]}
    for path in (cfg.data.root, cfg.runs_dir, cfg.data.store):
        assert path
        assert path.startswith(mounts["work"] + "/"), "what a pod writes elsewhere goes with it"


def test_the_pod_runs_as_the_image_does() -> None:
    user = pod()["securityContext"]["runAsUser"]
    assert f"USER {user}" in (ROOT / "docker" / "Dockerfile").read_text()
    assert container()["workingDir"] == "/work"


def test_the_task_of_skypilot_mirrors_its_queue() -> None:
    words = shlex.split(TASK["run"])
    assert words[:2] == [".venv/bin/segtrain", "offline"]
    arguments = parser_of("offline").parse_args(words[2:])
    assert (ROOT / arguments.queue).is_file()
    assert arguments.sync.startswith("s3://")
    root = next(word.removeprefix("data.root=") for word in words if word.startswith("data.root="))
    assert list(TASK["file_mounts"]) == [root]
    assert "-c constraints.txt" in TASK["setup"]
    assert "s3fs" in TASK["setup"]
    assert arguments.spot
    assert TASK["resources"]["job_recovery"]["recover_on_exit_codes"] == [EXIT_STOPPED]
