"""The report of a run or of an ablation: collected, compared, drawn, written as one page. Imports no torch.

Called, it is the function `segtrain.report`.
"""

import sys

from segtrain import CallableModule

sys.modules[__name__].__class__ = CallableModule
