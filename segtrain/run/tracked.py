"""What trackers were sent of a run, by where they were sent it: tracked.json."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass

from segtrain.errors import RunError
from segtrain.run.layout import RunLayout
from segtrain.run.stored import built, reading, tree_in
from segtrain.runtime import files

AGAIN = "remove it, and all is sent once more"


@dataclass(frozen=True)
class Sent:
    """position: of the last event that was sent, -1 before the first; digest: of all else that was."""

    position: int = -1
    digest: str = ""


def read_tracked(run: RunLayout) -> dict[str, Sent]:
    """All of it; nothing where there is no file. Raises DamagedFile; OSError."""
    try:
        with reading(run.tracked_file, AGAIN):
            tree = tree_in(run.tracked_file, dict, AGAIN)
            return {str(destination): built(Sent, entry) for destination, entry in tree.items()}
    except FileNotFoundError:
        return {}


def write_tracked(run: RunLayout, sent: Mapping[str, Sent]) -> None:
    """Write the file. Raises RunError where it cannot be written."""
    try:
        files.write_json(run.tracked_file, {destination: asdict(entry) for destination, entry in sent.items()})
    except OSError as error:
        raise RunError(
            f"{run.tracked_file}: cannot be written ({error.strerror}), so what was sent is not noted, and is sent "
            "once more the next time; free some space"
        ) from error
