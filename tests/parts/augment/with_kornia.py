"""kornia's way of naming what it is given, in a container of our own."""

import torch


class Sequential(torch.nn.Module):
    """Moves what `data_keys` names; by default the image alone."""

    def __init__(self):
        super().__init__()
        self.data_keys = ["input"]

    def forward(self, *batches, data_keys=None):
        flips = torch.rand(batches[0].shape[0]) < 0.5
        keys = data_keys or self.data_keys
        return [
            torch.where(flips[:, None, None, None], batch.flip(-1), batch) if key in ("input", "mask") else batch
            for batch, key in zip(batches, keys, strict=True)
        ]
