# mypy: ignore-errors
# ruff: noqa: C408
"""Optimisers in the conventions of public ones: written for the tests, as their users would."""

import torch
from torch.optim import Optimizer


def with_gradient(group):
    return [p for p in group["params"] if p.grad is not None]


class Lion(Optimizer):
    """One tensor a parameter."""

    def __init__(self, params, lr=1e-4, betas=(0.9, 0.99), weight_decay=0.0):
        super().__init__(params, dict(lr=lr, betas=betas, weight_decay=weight_decay))

    @torch.no_grad()
    def step(self, closure=None):
        for group in self.param_groups:
            for p in with_gradient(group):
                state = self.state[p]
                if not state:
                    state["exp_avg"] = torch.zeros_like(p)
                update = state["exp_avg"] * group["betas"][0] + p.grad * (1 - group["betas"][0])
                p.mul_(1 - group["lr"] * group["weight_decay"]).sub_(update.sign(), alpha=group["lr"])
                state["exp_avg"].mul_(group["betas"][1]).add_(p.grad, alpha=1 - group["betas"][1])


class Prodigal(Optimizer):
    """Made for a rate of 1: its step size is a number in the groups, a sum over all parameters."""

    def __init__(self, params, lr=1.0, d0=1e-6, growth=2.0, weight_decay=0.0):
        super().__init__(params, dict(lr=lr, d=d0, d_max=d0, k=0, growth=growth, weight_decay=weight_decay))

    @torch.no_grad()
    def step(self, closure=None):
        lr = {group["lr"] for group in self.param_groups if group["lr"]}
        if len(lr) > 1:
            raise RuntimeError("different lr values in different parameter groups are not supported")
        way = 0.0
        for group in self.param_groups:
            for p in with_gradient(group):
                state = self.state[p]
                if "start" not in state:
                    state["start"], state["step"] = p.clone(), 0
                    state["exp_avg_sq"] = torch.zeros_like(p)
                state["step"] += 1
                way += float((p.grad * (state["start"] - p)).sum())
        for group in self.param_groups:
            group["d_max"] = max(group["d_max"], abs(way))
            group["d"] = min(group["d"] * group["growth"], max(group["d"], group["d_max"]))
            group["k"] += 1
            for p in with_gradient(group):
                square = self.state[p]["exp_avg_sq"].mul_(0.999).addcmul_(p.grad, p.grad, value=0.001)
                p.addcdiv_(p.grad, square.sqrt().add_(1e-8), value=-group["d"] * group["lr"] * 0.03)


class Belief(Optimizer):
    """Its step is a Python int; its groups hold lists; it prints."""

    def __init__(self, params, lr=1e-3, betas=(0.9, 0.999), eps=1e-16, weight_decay=0.0, rectify=True):
        print("Please check your arguments")  # noqa: T201
        defaults = dict(lr=lr, betas=betas, eps=eps, weight_decay=weight_decay)
        super().__init__(params, dict(**defaults, buffer=[[None, None] for _ in range(10)]))
        self.rectify = rectify

    @torch.no_grad()
    def step(self, closure=None):
        for group in self.param_groups:
            slow, slower = group["betas"]
            for p in with_gradient(group):
                state = self.state[p]
                if len(state) == 0:
                    state["step"] = 0
                    state["exp_avg"] = torch.zeros_like(p)
                    state["exp_avg_var"] = torch.zeros_like(p)
                state["step"] += 1
                buffered = group["buffer"][state["step"] % 10]
                if buffered[0] != state["step"]:
                    buffered[0], buffered[1] = state["step"], 1 - slower ** state["step"]
                mean = state["exp_avg"].mul_(slow).add_(p.grad, alpha=1 - slow)
                state["exp_avg_var"].mul_(slower).addcmul_(p.grad - mean, p.grad - mean, value=1 - slower)
                scale = (state["exp_avg_var"] / buffered[1]).sqrt().add_(1e-6) if self.rectify else 1.0
                p.mul_(1 - group["lr"] * group["weight_decay"]).sub_(group["lr"] * mean / scale)


class Nested(Optimizer):
    """Lists of matrices, one of them transposed, moments in another layout and type, and numbers of the whole."""

    def __init__(self, params, lr=1e-2):
        super().__init__(params, dict(lr=lr))

    @torch.no_grad()
    def step(self, closure=None):
        shared = self.state["all"]
        shared["count"] = shared.get("count", 0) + 1
        for group in self.param_groups:
            for p in with_gradient(group):
                state = self.state[p]
                matrix = p.grad.reshape(len(p), -1)
                if not state:
                    state["sides"] = [torch.zeros(len(p), len(p)), torch.zeros_like(matrix.T).T.contiguous().T.T]
                    state["bases"] = None
                    state["trained"] = torch.zeros(p.shape, dtype=torch.float64)
                state["sides"][0].lerp_(matrix @ matrix.T, 0.1)
                state["bases"] = torch.linalg.qr(state["sides"][0] + torch.eye(len(p)))[0]
                state["trained"].lerp_(p.grad.double(), 0.5)
                turned = (state["bases"].T @ matrix) / (1 + 1 / shared["count"])
                p.sub_(group["lr"] * ((state["bases"] @ turned).view_as(p) + state["trained"].float()))


def two_rates(network, lr, weight_decay=0.0, head=10.0):
    """Groups with rates of their own."""
    *body, last = network.parameters()
    return torch.optim.AdamW([{"params": body}, {"params": [last], "lr": lr * head}], lr=lr, weight_decay=weight_decay)


class Orthogonal(Optimizer):
    """Matrices are orthogonalised, vectors follow the sign: a long vector is no matrix."""

    def __init__(self, params, lr=0.02, momentum=0.95):
        super().__init__(params, dict(lr=lr, momentum=momentum))

    @torch.no_grad()
    def step(self, closure=None):
        for group in self.param_groups:
            for p in with_gradient(group):
                state = self.state[p]
                if "momentum_buffer" not in state:
                    state["momentum_buffer"] = torch.zeros_like(p)
                update = state["momentum_buffer"].mul_(group["momentum"]).add_(p.grad)
                if p.dim() > 1:
                    u, _, v = torch.linalg.svd(update.reshape(len(p), -1), full_matrices=False)
                    update = (u @ v).view_as(p)
                p.sub_(group["lr"] * update)


class Factored(Optimizer):
    """A moment of the rows alone."""

    def __init__(self, params, lr=1e-2):
        super().__init__(params, dict(lr=lr))

    @torch.no_grad()
    def step(self, closure=None):
        for group in self.param_groups:
            for p in with_gradient(group):
                rows = self.state[p].setdefault("rows", torch.zeros(len(p)))
                rows.lerp_(p.grad.flatten(1).square().mean(1) if p.dim() > 1 else p.grad.square(), 0.1)
                p.sub_(group["lr"] * p.grad / rows.sqrt().add(1e-6).view(-1, *[1] * (p.dim() - 1)))


class Stepping(Optimizer):
    """Its step is a number, and its moment has the weights' shape."""

    def __init__(self, params, lr=1e-3):
        super().__init__(params, dict(lr=lr))

    @torch.no_grad()
    def step(self, closure=None):
        for group in self.param_groups:
            for p in with_gradient(group):
                state = self.state[p]
                if len(state) == 0:
                    state["step"] = 0
                    state["exp_avg"] = torch.zeros_like(p)
                state["step"] += 1
                mean = state["exp_avg"].mul_(0.9).add_(p.grad, alpha=0.1)
                p.sub_(group["lr"] * mean / (1 - 0.9 ** state["step"]))
