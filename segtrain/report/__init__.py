"""The report of a run or of an ablation: collected, compared, drawn, written as one page. Imports no torch."""
