"""The outputs of a network of the user's own that are used: the main one, and what each of them is."""

from collections import deque
from dataclasses import dataclass

import torch
from torch import Tensor

from segtrain.config import OutputName
from segtrain.errors import ConfigError
from segtrain.models.graph import endings, leaves
from segtrain.models.outputs import Calls, Candidate, Form, Head, Kind, as_logits, given_for, ratio, watched

# Layers whose output may lie within 0 and 1 by chance.
LINEAR = {"Convolution", "ConvolutionOverrideable", "Addmm", "Mm", "NativeBatchNorm", "CudnnBatchNorm"}
SLACK = 1e-3  # by which interpolated probabilities may leave 0 to 1


@dataclass(frozen=True)
class Expected:
    """What the config says of a network's outputs; `name` is for messages."""

    name: str
    declared: OutputName | None
    supervised: bool
    regions: int = 1


def find_form(
    found: list[Candidate], image_bchw: Tensor, calls: Calls, expected: Expected
) -> tuple[Form, list[Candidate]]:
    """The form of what a network returned for images of which the last is loud, and the candidates that it uses.

    Raises ConfigError where that cannot be told, or cannot be used.
    """
    main = _main(found, expected.name)
    used = [main]
    if expected.supervised:
        others = [one for one in found if one is not main and ratio(one.tensor, image_bchw)]
        if not others:
            raise ConfigError(
                f"model.deep_supervision is set, and {expected.name} gives one output while it trains; leave it out, "
                "or switch the network's other outputs on by an option of its own"
            )
        used += sorted(others, key=lambda one: (ratio(one.tensor, image_bchw), -len(leaves(one.node))))
    calls = deque(calls, maxlen=watched(len(found)))
    heads = tuple(_head(one, image_bchw, calls, expected) for one in used)
    return Form(heads, len(found)), used


def _main(found: list[Candidate], name: str) -> Candidate:
    """The output that depends on the most parameters; of those that depend on as many, the finest."""
    reach = {id(one): (len(leaves(one.node)), one.tensor.shape[-1]) for one in found}
    best = max(reach.values())
    first, *more = [one for one in found if reach[id(one)] == best]
    if any(other.node is not first.node for other in more):
        places = ", ".join(str(list(one.path)) for one in (first, *more))
        raise ConfigError(
            f"model.name={name}: cannot tell its main output, since those at {places} depend on equally many "
            "parameters; name a function that returns a network with one output"
        )
    return first


def _head(one: Candidate, image_bchw: Tensor, calls: Calls, expected: Expected) -> Head:
    times = ratio(one.tensor, image_bchw)
    if not times:
        raise ConfigError(no_mask(expected, str(list(one.tensor.shape)), image_bchw))
    kind, channels = _kind(one, expected), one.tensor.shape[1]
    given = given_for(one.tensor, calls)
    exact = kind != "logits" and given is not None and _is_logit(given, one.tensor, kind, expected.regions)
    return Head(one.path, kind, channels, times, exact, expected.regions)


def _kind(one: Candidate, expected: Expected) -> Kind:
    """What the output is: by the function that it ends in and its values, or else as `model.output` says."""
    ends, output = endings(one.node), one.tensor.detach()
    channels = output.shape[1]
    bounded = bool(((output >= -SLACK) & (output <= 1 + SLACK)).all())
    if expected.declared == "logits":
        return "logits"
    if expected.regions > 1 and ends <= {"Softmax", "LogSoftmax"}:
        raise ConfigError(
            f"model.name={expected.name}: a softmax makes {channels} regions exclude each other, and each voxel may be "
            "in any of them; let it return logits, or a sigmoid of each, by an option of its own"
        )
    if ends == {"Softmax"} and channels == 1:
        raise ConfigError(
            f"model.name={expected.name}: a softmax over its one channel is 1 everywhere; give it two classes by an "
            "option of its own, or a sigmoid"
        )
    sigmoids = expected.regions > 1 or channels == 1
    if ends == {"Sigmoid"} and not sigmoids:
        raise ConfigError(
            f"model.name={expected.name}: gives two channels through a sigmoid, and which is the lesion is unknown; "
            "give it one class by an option of its own"
        )
    if ends in ({"Sigmoid"}, {"Softmax"}) and bounded:
        return "sigmoid" if sigmoids else "softmax"
    if expected.declared == "probabilities":
        return "sigmoid" if sigmoids else "softmax"
    varies = not torch.equal(output, output.flatten()[0].expand_as(output))  # a new head may give zeros alone
    if bounded and varies and not ends <= LINEAR:
        raise ConfigError(
            f"model.name={expected.name}: cannot tell whether it gives logits or probabilities: values stay within 0 "
            f"and 1, but come from {' and '.join(sorted(ends))}; set model.output=probabilities or model.output=logits"
        )
    return "logits"


def _is_logit(given: Tensor, output: Tensor, kind: Kind, regions: int) -> bool:
    """Whether what the function was given has the output's probabilities, which fails along another dimension."""
    if given.shape != output.shape:
        return False
    probability = output if kind == "sigmoid" else output[:, 1:]
    return torch.allclose(torch.sigmoid(as_logits(given, regions)), probability, atol=1e-5)


def has_mask(found: list[Candidate], image_bchw: Tensor, supervised: bool) -> bool:
    """Whether an output covers the image by a whole ratio; all of them have to where all are trained."""
    ratios = [ratio(one.tensor, image_bchw) for one in found]
    return bool(ratios) and (min(ratios) if supervised else max(ratios)) > 0


def no_mask(expected: Expected, shapes: str, image_bchw: Tensor) -> str:
    """The message for outputs that are no mask of the image."""
    number = expected.regions
    channels = f"{number} channels, one a region," if number > 1 else "one channel (or two)"
    return (
        f"model.name={expected.name}: gives {shapes} for images {list(image_bchw.shape)}, and a mask has {channels} "
        "and the image's size, or a whole fraction of it; set its classes or its padding by options of its own"
    )
