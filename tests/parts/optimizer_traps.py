# mypy: ignore-errors
# ruff: noqa: B905, C408
"""Optimisers that cannot be trained with, or not as they seem, in the conventions of public ones."""

import numpy as np
import torch
import torch.distributed as dist
from optimizers import Lion, with_gradient
from torch.optim import Optimizer


def leaves_out(network, lr):
    return torch.optim.SGD(list(network.parameters())[:-1], lr=lr)


def foreign(network, lr):
    return torch.optim.SGD([*network.parameters(), torch.zeros(1, requires_grad=True)], lr=lr)


class Sharp(Optimizer):
    """Two gradients a step."""

    def __init__(self, params, base_optimizer, rho=0.05, **kwargs):
        super().__init__(params, dict(rho=rho, **kwargs))
        self.base_optimizer = base_optimizer(self.param_groups, **kwargs)

    def first_step(self):
        pass

    def step(self, closure=None):
        assert closure is not None


class Curved(Lion):
    """A Hessian from an extra backward pass."""

    def update_hessian(self):
        pass


class Swapping(Lion):
    def train(self):
        pass

    def eval(self):
        pass


class Closed(Optimizer):
    def __init__(self, params, lr=1e-3):
        super().__init__(params, dict(lr=lr))

    def step(self, closure):
        closure()


class Ahead(Optimizer):
    """Around another optimiser, whose slow weights are not in its state."""

    def __init__(self, optimizer, k=5, alpha=0.5):
        self.optimizer, self.k, self.alpha = optimizer, k, alpha
        self.param_groups, self.state, self.counter = optimizer.param_groups, optimizer.state, 0
        self.slow = [[p.detach().clone() for p in group["params"]] for group in self.param_groups]

    def zero_grad(self):
        self.optimizer.zero_grad()

    def step(self, closure=None):
        self.optimizer.step()
        self.counter += 1
        for group, slow in zip(self.param_groups, self.slow):
            for p, q in zip(group["params"], slow):
                if self.counter % self.k == 0:
                    p.data.copy_(q.lerp_(p.detach(), self.alpha))


def ahead(network, lr):
    return Ahead(torch.optim.SGD(network.parameters(), lr=lr))


class AheadWithInit(Ahead):
    def __init__(self, optimizer):
        Optimizer.__init__(self, optimizer.param_groups, {})
        super().__init__(optimizer, k=20)


def ahead_with_init(network, lr):
    return AheadWithInit(torch.optim.SGD(network.parameters(), lr=lr))


class Counting(Lion):
    """Its counter is an attribute, which is lost at a resume."""

    def __init__(self, params, lr=1e-4):
        super().__init__(params, lr)
        self.count = 0

    def step(self, closure=None):
        self.count += 1
        for group in self.param_groups:
            group["lr"] /= self.count
        super().step()


class Pickled(Lion):
    def step(self, closure=None):
        super().step()
        for state in self.state.values():
            state["random"] = np.random.RandomState(0)


class Noisy(Lion):
    @torch.no_grad()
    def step(self, closure=None):
        super().step()
        for group in self.param_groups:
            for p in with_gradient(group):
                p.add_(torch.randn_like(p), alpha=1e-4 * group["lr"])


class Ranked(Lion):
    """Divides the work among ranks itself."""

    def step(self, closure=None):
        if dist.is_initialized() and dist.get_rank() == 0:
            super().step()


class Upwards(Lion):
    def step(self, closure=None):
        for group in self.param_groups:
            for p in with_gradient(group):
                p.grad.neg_()
        super().step()


class FirstRate(Lion):
    """The rate of its first group for all of them."""

    def step(self, closure=None):
        for group in self.param_groups:
            group["lr"] = self.param_groups[0]["lr"]
        super().step()


class OwnRate(Lion):
    """A rate that no schedule reaches."""

    def step(self, closure=None):
        for group in self.param_groups:
            group["lr"] = 1e-3
        super().step()


class Unready(Lion):
    """Begins at ones."""

    @torch.no_grad()
    def step(self, closure=None):
        for group in self.param_groups:
            for p in with_gradient(group):
                square = self.state[p].setdefault("square", torch.ones_like(p))
                square.mul_(0.9).addcmul_(p.grad, p.grad, value=0.1)
                p.sub_(group["lr"] * p.grad / square.sqrt())


class Plain:
    def __init__(self, params, lr=1e-3):
        self.params = params

    def step(self):
        pass


class Fails(Lion):
    def step(self, closure=None):
        raise ZeroDivisionError("no such thing")


def unclear(things, lr=1e-3):
    return Lion(things, lr)


class Keeping(Lion):
    """Keeps the last gradient, not a copy of it."""

    @torch.no_grad()
    def step(self, closure=None):
        for group in self.param_groups:
            for p in with_gradient(group):
                last = self.state[p].get("last", p.grad)
                p.sub_(group["lr"] * (p.grad + 0.5 * (p.grad - last)))
                self.state[p]["last"] = p.grad
