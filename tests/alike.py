"""Whether two runs came to the same: weights, moments, losses, scores."""

from collections.abc import Sequence
from typing import Any

import pytest
import torch

# Where sums are rounded in another way than where the files were made: with SSE 4.1 in place of AVX-512, the weights
# differed by 4e-7 at the end.
TOLERANCES = {"loss": 1e-4, "val_loss": 1e-4, "val_dsc": 1e-2}
WEIGHTS_TOLERANCE = 1e-4

State = dict[str, Any]


def without_intervals(events: Sequence[Any]) -> list[Any]:
    """The old code wrote percentile intervals, which cover too little; all that they are made of is compared."""
    return [{key: value for key, value in event.items() if key not in ("ci_low", "ci_high")} for event in events]


def assert_alike(state: State, expected: State, bitwise: bool) -> None:
    """The same weights, moments, losses and scores; bit by bit, or as close as two kinds of CPU come."""
    for part in ("model", "optimizer"):
        assert state[part].keys() == expected[part].keys()
        for name, tensor in state[part].items():
            other = expected[part][name]
            assert torch.allclose(tensor, other, rtol=0, atol=0 if bitwise else WEIGHTS_TOLERANCE), name
    for key in ("state", "step", "epochs"):
        assert state["outcome"][key] == expected["outcome"][key]
    assert state["best"] == expected["best"]
    if bitwise:
        assert without_intervals(state["events"]) == without_intervals(expected["events"])
        assert state["tables"] == expected["tables"]
        # Pictures mark missed and false lesions now; that those of the old code stay is tested apart.
        assert state["pictures"].keys() == expected["pictures"].keys()
        assert state["outcome"]["best_dsc"] == expected["outcome"]["best_dsc"]
        return
    for one, other in zip(state["events"], expected["events"], strict=True):
        assert (one["event"], one["step"]) == (other["event"], other["step"])
        for key, tolerance in TOLERANCES.items():
            assert one.get(key) == pytest.approx(other.get(key), abs=tolerance), (key, one["step"])
