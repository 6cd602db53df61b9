"""What `make quick` runs, and how the workers of pytest-xdist share the tests: pytest -n 4."""

import os
from pathlib import Path
from typing import Any

import pytest

# Besides the tests that are marked: files whose tests start no command and train for no more than a second or two.
QUICK = (
    "architecture augment augment_intensity augment_options augment_strong build calibration cells "
    "checkpoint_damage code_blocks config config_unread gpu_starts image jobs_cancel jobs_heartbeats jobs_status "
    "jobs_trouble laws live losses losses_options metrics mix models_weights offline_queue_file optim parts "
    "postprocessing precision reference sampler source_protocol sources splits statistics suspects "
    "tables tta uncertainty visible zero zip_names"
)


def _files(names: str) -> frozenset[str]:
    return frozenset(f"test_{name}" for name in names.split())


QUICK_FILES = _files(QUICK)

# The tests of a file stay with one worker, one after the other, so that its fixtures are made once. Not those of these
# files: they are long and have nothing in common.
SINGLE = _files("ablation engine_kills kills shared_run stops train_starts")
# Files that stay together too: their clusters. Two clusters, since their tests wait more than they work.
TOGETHER = {
    "test_array": "cluster",
    "test_coming_back": "another cluster",
    "test_early_moments": "another cluster",
    "test_losing_nodes": "cluster",
    "test_nodes": "cluster",
    "test_own_parts_in_jobs": "cluster",
}
# Minutes of work, which must not begin when all else is done.
LONG = SINGLE | _files(
    "confirm_report dropout engine engines losses_regions micro_batch_training models offline_kills old_runs "
    "own_augmentations_laws patience postprocess_command shared_store train"
)

ONE_OF_SEVERAL = "PYTEST_XDIST_WORKER" in os.environ
WORKER = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw"))


def has_quick_tests(file: Path) -> bool:
    return file.stem in QUICK_FILES or "pytest.mark.quick" in file.read_text()


def turn(item: pytest.Item) -> int:
    """Failures show early: what takes no time comes first, but for what one worker has to wait for from the start."""
    name = item.path.stem
    if name in TOGETHER:
        return 0 if ONE_OF_SEVERAL else 4
    if name in QUICK_FILES:
        return 1
    return 2 if name in LONG else 3


def unit(test: str) -> str:
    """The tests that go to one worker with this one."""
    name = Path(test.partition("::")[0]).stem
    return test if name in SINGLE else TOGETHER.get(name, name)


def scheduler(config: pytest.Config, log: Any) -> Any:
    """Deals the tests to the workers by units, in their order.

    Not `--dist loadgroup`: pytest-xdist 3.8 marks the ids of tests for it, which pytest 9.2 makes anew each time.
    """
    from xdist.scheduler import LoadScopeScheduling

    class Scheduler(LoadScopeScheduling):  # type: ignore[misc]
        def _split_scope(self, nodeid: str) -> str:
            return unit(nodeid)

    config.option.loadscopereorder = False
    return Scheduler(config, log)
