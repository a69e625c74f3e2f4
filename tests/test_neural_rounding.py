"""float32 against float64: every rounding, forwards and backwards, may go the worst way.

To first order a computed number errs by Σ_i ∂(number)/∂δ_i · δ_i, where δ_i is the relative error of rounding i: at
most k_i u, u = 2⁻²⁴.  A sum of n products counts as k = n + 1 on each of them, in whatever order it is taken (Higham,
Accuracy and Stability of Numerical Algorithms, §3.1).  The network is written out with a δ on every intermediate result
and another on every derivative that the backward pass hands on; automatic differentiation gives the sensitivities.
"""

from __future__ import annotations

import itertools
import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from tests import neural_references as ref
from tpg.neural import exact
from tpg.neural.gpt import GPT
from tpg.neural.problem import random_directions

U = 2.0**-24
WEIGHTS, DISCOUNT = (0.25, 0.75), 0.9


class Slip(torch.autograd.Function):
    """0, whose derivative is passed on times ``off``: what a rounded backward pass adds."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, off: Tensor) -> Tensor:
        ctx.save_for_backward(off)
        return torch.zeros_like(x)

    @staticmethod
    def backward(ctx: Any, *grad: Tensor) -> tuple[Tensor, None]:
        return grad[0] * ctx.saved_tensors[0], None


class Ledger:
    """All δ of a computation, and how large each may be, in units of u."""

    def __init__(self, backwards: int) -> None:
        self.off: list[tuple[Tensor, float]] = []
        self.backwards = backwards  # roundings of a derivative before it is used: sums over rows, tokens and children

    def delta(self, like: Tensor, count: float) -> Tensor:
        self.off.append((torch.zeros_like(like, requires_grad=True), count))
        return self.off[-1][0]

    def there(self, x: Tensor, count: float, size: Tensor | None = None) -> Tensor:
        """x after so many roundings of numbers of ``size``."""
        return x + (x if size is None else size).detach().abs() * self.delta(x, count)

    def back(self, x: Tensor) -> Tensor:
        """x, whose derivative is rounded on its way back."""
        return x + Slip.apply(x, self.delta(x, self.backwards))

    def bound(self, number: Tensor) -> float:
        found = torch.autograd.grad(number, [x for x, _ in self.off], retain_graph=True, allow_unused=True)
        return sum(float(g.abs().sum()) * k * U for g, (_, k) in zip(found, self.off, strict=True) if g is not None)

    def dot(self, a: Tensor, b: Tensor) -> Tensor:
        """Σ over the last axis, everything else broadcast."""
        a, b = torch.broadcast_tensors(a, b)
        return self.there(self.back(a) * self.back(b), a.shape[-1] + 1).sum(-1)

    def linear(self, weight: Tensor, x: Tensor) -> Tensor:
        return self.dot(weight, x[..., None, :])

    def norm(self, x: Tensor, gain: Tensor) -> Tensor:
        n = x.shape[-1]
        mean = self.there(self.back(x), n + 1).mean(-1, keepdim=True)
        # x · root and mean · root may be rounded before they meet; one pass or two, squares are rounded 4n + 8 times
        c = self.there(x, 4) - self.there(mean.expand(x.shape), 4)
        spread = self.there(self.back(c) ** 2, 4 * n + 8).mean(-1, keepdim=True)
        root = self.back(self.there((spread + ref.EPS) ** -0.5, 4).expand(x.shape))
        return self.there(self.back(c) * root * self.back(gain.expand(x.shape)), 4)

    def gelu(self, x: Tensor) -> Tensor:
        """Errs by 16 roundings of x, and its slope by 32 of 1: both cancel where they are small."""
        inner = math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)
        wrong_slope = Slip.apply(x, self.delta(x, 32))
        return self.there(0.5 * self.back(x) * (1 + torch.tanh(self.back(inner))), 16, x) + wrong_slope

    def softmax(self, score: Tensor) -> Tensor:
        """Over the last axis; −∞ is certain."""
        allowed = torch.isfinite(score)
        score = torch.where(allowed, score, 0)
        top = torch.where(allowed, score, -torch.inf).amax(-1, keepdim=True).detach()
        power = torch.where(allowed, self.there(torch.exp(self.back(self.there(score - top, 2))), 4), 0)
        total = self.there(self.back(power), score.shape[-1] + 1).sum(-1, keepdim=True)
        return self.there(self.back(power) / self.back(total.expand(power.shape)), 2)


def logits(net: GPT, prompt: Tensor, tokens: Tensor, book: Ledger) -> Tensor:
    """[n, L+1, V]: ``forward`` written out; parameters are copied for every place of their use."""
    n, length, heads = len(tokens), tokens.shape[1] + 1, net.heads
    p = {name: value.expand(n, length, *value.shape) for name, value in net.params.items()}
    read = torch.cat([net.vocab + prompt[:, None], tokens], 1)
    x = book.there(
        book.back(net.params["embed"][read]) + book.back(net.params["position"][:length].expand(n, -1, -1)), 1
    )
    future = torch.ones(length, length, dtype=torch.bool).triu(1)
    for layer in range(net.layers):
        qkv = book.linear(p[f"{layer}.qkv"], book.norm(x, p[f"{layer}.norm1"]))
        q, k, v = (part.unflatten(-1, (heads, -1)).transpose(1, 2) for part in qkv.chunk(3, -1))  # [n, H, L, d]
        q = book.there(book.back(q) * q.shape[-1] ** -0.5, 2)
        weight = book.softmax(book.dot(q[:, :, :, None], k[:, :, None]).masked_fill(future, -torch.inf))
        mixed = book.dot(weight[..., None, :], v.mT[:, :, None])  # [n, H, L, d]
        x = book.there(x + book.linear(p[f"{layer}.out"], mixed.transpose(1, 2).flatten(2)), 1)
        hidden = book.linear(p[f"{layer}.up"], book.norm(x, p[f"{layer}.norm2"]))
        hidden = book.gelu(book.there(hidden + book.back(p[f"{layer}.up_bias"]), 1))
        down = book.there(book.linear(p[f"{layer}.down"], hidden) + book.back(p[f"{layer}.down_bias"]), 1)
        x = book.there(x + down, 1)
    return book.linear(p["head"], book.norm(x, p["norm"]))


def objective(net: GPT, twin: ref.Twin, book: Ledger) -> Tensor:
    """J = Σ_W P(W) RM(W) over responses of T tokens."""
    rows = [(x, w) for x in range(len(twin.weights)) for w in twin.words()]
    prompt, tokens = torch.tensor([x for x, _ in rows]), torch.tensor([w for _, w in rows])
    chosen = book.softmax(logits(net, prompt, tokens[:, :-1], book)).gather(2, tokens[..., None])[..., 0]
    paid = torch.tensor([twin.weights[x] * twin.total(x, w) for x, w in rows], dtype=torch.float64)
    # V products and sums for each value on the way up, T of them; T factors; rewards, weights and discounts rounded
    count = twin.horizon * (twin.vocab + 6)
    return book.there(book.back(book.there(chosen, 1).prod(1) * paid), count).sum()


SIZES = [
    {"vocab": 3, "horizon": 3, "prompts": 2, "layers": 1, "width": 8, "heads": 1},
    {"vocab": 2, "horizon": 4, "prompts": 2, "layers": 2, "width": 8, "heads": 4},
]


def networks(size: dict[str, int]) -> tuple[GPT, GPT, GPT]:
    """The same float32 numbers in float64 and in float32; and after a passage through bfloat16, 2¹⁶ times coarser."""
    narrow = ref.crooked(31, 0.1, dtype="float32", **size)
    wide = narrow.at({name: p.double() for name, p in narrow.params.items()})
    return wide, narrow, narrow.at({name: p.bfloat16().float() for name, p in narrow.params.items()})


@pytest.mark.parametrize("size", SIZES)
def test_float32_logits_are_within_their_rounding(size: dict[str, int]) -> None:
    wide, narrow, coarse = networks(size)
    tokens = torch.tensor(list(itertools.product(range(wide.vocab), repeat=wide.horizon - 1)))
    prompt, book = torch.arange(len(tokens)) % 2, Ledger(0)
    right = logits(wide, prompt, tokens, book)
    assert ref.apart(right.detach(), wide.forward(prompt, tokens)) < ref.EXACT  # written out right
    allowed = np.array([book.bound(number) for number in right[:, -1].flatten()])
    errors = [(net.forward(prompt, tokens) - right.detach())[:, -1].flatten() for net in (narrow, coarse)]
    off, far = (error.abs().numpy() for error in errors)
    assert off.max() > 0
    assert (off < allowed).all()
    assert (far > allowed).mean() > 0.9  # the bound says something


@pytest.mark.parametrize("size", SIZES)
def test_float32_gradients_are_within_their_rounding(size: dict[str, int]) -> None:
    wide, narrow, coarse = networks(size)
    task, twin = ref.pair("hash", wide.vocab, wide.horizon, WEIGHTS, discount=DISCOUNT)
    # A derivative is summed over at most 4 · width numbers or all prefixes, and rounded some 16 times beside.
    leaf, book = ref.leaf(wide), Ledger(4 * wide.width + task.prefixes + 16)
    total = objective(leaf, twin, book)
    slopes = torch.autograd.grad(total, list(leaf.params.values()), create_graph=True)
    right = torch.cat([g.reshape(-1) for g in slopes])
    true, found, rough = (exact.gradient(net, task) for net in (wide, narrow, coarse))
    assert ref.apart(right.detach(), true.flat) < ref.EXACT  # written out right
    assert found.flat.dtype == torch.float32
    off, far = found.flat.double() - true.flat, rough.flat.double() - true.flat
    for v in [true.flat, off, far, *random_directions(wide, 2)]:
        assert 0 < abs(float(off @ v)) < book.bound(right @ v)
    assert float(far @ far) > book.bound(right @ far)  # the bound says something
    assert 0 < abs(found.objective - true.objective) < book.bound(total) < 1e-3 * true.objective
