"""The forms in which losses take a prediction and a mask, each made from one logit and a 0/1 mask.

Legend: b batch, h height, w width.
"""

from dataclasses import dataclass
from itertools import product
from typing import Literal

import torch
from torch import Tensor

Takes = Literal["logits", "probabilities", "two_logits", "two_probabilities"]
ONE_CHANNEL: tuple[Takes, ...] = ("logits", "probabilities")
TWO_CHANNELS: tuple[Takes, ...] = ("two_logits", "two_probabilities")

_PREDICTIONS: dict[Takes, str] = {
    "logits": "logits",
    "probabilities": "probabilities",
    "two_logits": "logits of two channels, (0, z)",
    "two_probabilities": "probabilities of two channels, (1 - p, p)",
}


@dataclass(frozen=True)
class Layout:
    """Shapes and type of prediction and mask. `words`: those by which a config may ask for it."""

    words: tuple[str, ...]
    flat: bool = False  # the mask without its channel
    both_flat: bool = False  # the prediction too
    whole_numbers: bool = False  # a mask of int64, which cannot hold the values of data.mixup
    one_hot: bool = False  # a mask of two channels

    def __str__(self) -> str:
        channel = "" if self.flat else "2, " if self.one_hot else "1, "
        kind = " of whole numbers" if self.whole_numbers else ""
        return f"{'prediction and ' if self.both_flat else ''}mask{kind} [b, {channel}h, w]"

    def mask(self, mask: Tensor) -> Tensor:
        """The mask [b, 1, h, w] in this layout."""
        if self.one_hot:
            mask = torch.cat((1 - mask, mask), dim=1)
        if self.flat:
            mask = mask[:, 0]
        return (mask.long() if self.whole_numbers else mask).contiguous()


# In the order in which they are tried.
_OF_ONE_CHANNEL = (
    Layout(("same_shape",)),
    Layout(("flat",), flat=True, both_flat=True),
    Layout(("mask_flat",), flat=True),
    Layout(("same_shape", "index"), whole_numbers=True),
    Layout(("flat", "index"), flat=True, both_flat=True, whole_numbers=True),
    Layout(("mask_flat", "index"), flat=True, whole_numbers=True),
)
_OF_TWO_CHANNELS = (
    Layout(("index",), flat=True, whole_numbers=True),
    Layout(("index", "same_shape"), whole_numbers=True),
    Layout(("one_hot",), one_hot=True),
)


@dataclass(frozen=True)
class Convention:
    """One way to call a loss. `true_first`: as loss(mask, prediction)."""

    takes: Takes
    layout: Layout
    true_first: bool = False

    def __str__(self) -> str:
        order = ", the mask first" if self.true_first else ""
        return f"{_PREDICTIONS[self.takes]}, {self.layout}{order}"

    @property
    def words(self) -> tuple[str, ...]:
        """The words by which a config may ask for it."""
        return self.takes, *self.layout.words, "true_first" if self.true_first else "pred_first"

    def arguments(self, logits: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """What the loss is called with, from logits [b, 1, h, w] and a mask of the same shape and type."""
        prediction = self._prediction(logits)
        if self.layout.both_flat:
            prediction = prediction[:, 0]
        pair = prediction.contiguous(), self.layout.mask(mask)
        return pair[::-1] if self.true_first else pair

    def _prediction(self, logits: Tensor) -> Tensor:
        if self.takes == "logits":
            return logits
        if self.takes == "probabilities":
            return torch.sigmoid(logits)
        if self.takes == "two_logits":
            return torch.cat((torch.zeros_like(logits), logits), dim=1)
        return torch.cat((torch.sigmoid(-logits), torch.sigmoid(logits)), dim=1)


def conventions(takes: Takes, orders: tuple[bool, ...]) -> list[Convention]:
    """All conventions of a kind of prediction, the likeliest first; `orders`: the values of `true_first`."""
    layouts = _OF_ONE_CHANNEL if takes in ONE_CHANNEL else _OF_TWO_CHANNELS
    return [Convention(takes, layout, order) for order, layout in product(orders, layouts)]


WORDS = tuple(
    dict.fromkeys(
        word
        for takes in (*ONE_CHANNEL, *TWO_CHANNELS)
        for convention in conventions(takes, (False, True))
        for word in convention.words
    )
)
