"""The licence of a data set, which goes with what is made of it: models, predictions, reports, archives.

Imports no torch.
"""

from collections.abc import Iterable

from segtrain.config.choice import name_of
from segtrain.config.schema import DataConfig

LONGEST = 500  # letters of what a data set states
NOTICE = "NOTICE.txt"  # beside predictions, and in a queue's archive
# Of the sources whose data have one licence, whoever gives them away.
LICENCES = {
    "lgg": "CC BY-NC-SA 4.0 (M. Buda et al., Computers in Biology and Medicine 2019; images of TCGA-LGG): "
    "not for commercial use, and what is made of it is shared alike",
    "phantom": "none: patients made up by segtrain, no real data",
}
UNKNOWN = "not known; ask whoever gave the data before you pass on what is made of them"


def licence_of(data: DataConfig) -> str:
    """In one line: what `data.licence` says, else what is known of the source, else UNKNOWN."""
    return in_one_line(data.licence or "") or LICENCES.get(name_of(data.source), UNKNOWN)


def in_one_line(text: str) -> str:
    """The text without line ends and what cannot be printed."""
    return " ".join("".join(letter if letter.isprintable() else " " for letter in text).split())


def notice(what: str, licences: Iterable[tuple[str, str]]) -> str:
    """The text of a notice: `what` it is about, and names of runs with the licence of the data behind each."""
    runs: dict[str, list[str]] = {}
    for run, licence in licences:
        runs.setdefault(licence, []).append(run)
    lines = [f"{', '.join(names)}: {licence}" for licence, names in runs.items()]
    return "\n".join([what.rstrip(), "", "Licence of the data that the networks were trained on:", *lines, ""])
