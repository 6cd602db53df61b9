"""What Python and notebooks call: `import segtrain` has these names. Imports no torch.

calls.py         load_config, train, evaluate, predict, report
run.py           a run: its config, tables, weights
pictures.py      what `Run.show` shows
undisturbed.py   the caller's process, left as it was
ranks.py         a training by several processes
launcher.py      what starts them (a process of its own)
rank.py          one of them
objects.py       parts given as classes and functions, written into files
sources.py       the source of a class or function, with all that it uses
"""

from segtrain.api.calls import evaluate, load_config, predict, report, train
from segtrain.api.run import Evaluation, Mean, Run

__all__ = ["Evaluation", "Mean", "Run", "evaluate", "load_config", "predict", "report", "train"]
