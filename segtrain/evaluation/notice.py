"""The licence of the data behind checkpoints, told with what they predict."""

from collections.abc import Sequence

from segtrain.config.licence import UNKNOWN, licence_of, notice
from segtrain.evaluation.ensemble import TrainedCheckpoint

WHAT = """\
Masks and probabilities in this folder were predicted by networks that segtrain trained. The images in overlays and
sheets are those that were predicted: their licence is that of whoever gave them.
"""


def licence_behind(one: TrainedCheckpoint) -> str:
    """The licence of the data that a checkpoint was trained on; of weights alone nobody knows the data."""
    data = one.cfg.data
    return UNKNOWN if one.is_bare and not data.licence else licence_of(data)


def notice_of(checkpoints: Sequence[TrainedCheckpoint]) -> str:
    """The notice beside what these checkpoints predict."""
    return notice(WHAT, [(one.cfg.name, licence_behind(one)) for one in checkpoints])
