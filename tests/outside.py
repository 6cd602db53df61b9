"""A script of a user's, for the type checker: what `import segtrain` gives has types, and none of it is Any."""

from pathlib import Path
from typing import Any, assert_type

from torch import nn

import segtrain


class Loss(nn.Module):
    pass


def use() -> None:
    config = segtrain.load_config("phantom", "train.epochs=2", name="mine")
    run = segtrain.train(config, nproc=2, loss=Loss)
    assert_type(run, segtrain.Run)
    assert_type(run.epochs, list[dict[str, Any]])
    assert_type(run.dsc, segtrain.Mean | None)
    assert_type(run.best, Path | None)
    assert_type(run.network(), nn.Module)
    assert_type(run.config.train.epochs, int)
    scores = segtrain.evaluate([run, "runs/other"], "evaluate.tta=flips", out="scores")
    assert_type(scores, segtrain.Evaluation)
    assert_type(segtrain.predict(run, Path("images"), "out"), Path)
    assert_type(segtrain.report(run, "report", language="zh"), Path)
    try:
        segtrain.train(seed=1)
    except segtrain.errors.SegtrainError as error:
        assert_type(error.exit_code, int)
