"""Distributed training of lesion segmentation networks on brain MRI, with results that can be believed."""

__version__ = "0.1.0"
DISTRIBUTION = "segtrain-mri"  # the name of what pip installs; `segtrain` on PyPI is a stranger's package
