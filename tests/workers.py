"""What `make quick` runs, and how the workers of pytest-xdist share the tests: pytest -n 4."""

import os
from pathlib import Path
from typing import Any

import pytest

# Besides the tests that are marked: files whose tests start no command and train for no more than a second or two.
QUICK = (
    "architecture augment augment_intensity augment_options augment_strong build calibration checkpoint_damage config "
    "image jobs_cancel jobs_status jobs_trouble laws losses losses_options metrics mix models_weights neighbours "
    "offline_queue_file optim parts phantom report_runs sampler source_protocol sources splits statistics "
    "postprocessing suspects tables tta uncertainty zero"
)
QUICK_FILES = frozenset(f"test_{name}" for name in QUICK.split())

# Files whose tests stay with one worker, one after the other, so that a cluster, a browser or a run is made once. Two
# clusters: their tests wait more than they work.
TOGETHER = {
    "test_array": "cluster",
    "test_coming_back": "another cluster",
    "test_losing_nodes": "cluster",
    "test_nodes": "cluster",
} | {name: name for name in ("test_gallery", "test_predict", "test_report_browser", "test_scoring", "test_train")}

ONE_OF_SEVERAL = "PYTEST_XDIST_WORKER" in os.environ
WORKER = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw"))


def turn(item: pytest.Item) -> int:
    """Failures show early: what takes no time comes first, but for what one worker has to wait for from the start."""
    if "cluster" in TOGETHER.get(item.path.stem, ""):
        return 0 if ONE_OF_SEVERAL else 4
    if item.get_closest_marker("quick"):
        return 1
    return 2 if item.path.stem in TOGETHER else 3


def scheduler(config: pytest.Config, log: Any) -> Any:
    """Deals single tests to the workers, and those of `TOGETHER` by the group, in their order.

    Not `--dist loadgroup`: pytest-xdist 3.8 marks the ids of tests for it, which pytest 9.2 makes anew each time.
    """
    from xdist.scheduler import LoadScopeScheduling

    class Scheduler(LoadScopeScheduling):  # type: ignore[misc]
        def _split_scope(self, nodeid: str) -> str:
            return TOGETHER.get(Path(nodeid.partition("::")[0]).stem, nodeid)

    config.option.loadscopereorder = False
    return Scheduler(config, log)
