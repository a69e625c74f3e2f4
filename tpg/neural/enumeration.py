"""∇J by two other roads, slow and literal: every response run from its start, and differences of J.

J = Σ_W P(W) RM(W) over all responses, each a row of one plain forward pass, differentiated as it stands: no values, no
tree, no shared keys.
"""

from __future__ import annotations

import torch
from torch import Tensor

from tpg.errors import TooLarge
from tpg.neural.gpt import GPT, flat, log_prob, unflat
from tpg.neural.task import Task

MAX_RESPONSES = 10**7
CHUNK = 1 << 13  # responses per pass


def objective(gpt: GPT, task: Task) -> float:
    """J = Σ_W P(W) RM(W)."""
    with torch.no_grad():
        return float(sum(_expected(gpt, task, first) for first in _starts(task)))


def gradient(gpt: GPT, task: Task) -> tuple[float, Tensor]:
    """J and ∇J [D] by automatic differentiation of the sum over all responses."""
    leaf = gpt.at({name: p.detach().requires_grad_() for name, p in gpt.params.items()})
    total = 0.0
    for first in _starts(task):
        part = _expected(leaf, task, first)
        part.backward()  # type: ignore[no-untyped-call]
        total += float(part.detach())
    return total, flat({n: torch.zeros_like(p) if p.grad is None else p.grad for n, p in leaf.params.items()})


def difference(gpt: GPT, task: Task, direction: Tensor, step: float) -> float:
    """(J(θ + hv) − J(θ − hv)) / 2h → ⟨∇J, v⟩ with an error of order h²."""
    v = unflat(direction, gpt.params)
    ahead, behind = (gpt.at({n: p + s * step * v[n] for n, p in gpt.params.items()}) for s in (1, -1))
    return (objective(ahead, task) - objective(behind, task)) / (2 * step)


def _starts(task: Task) -> range:
    TooLarge.check("every response", float(_rows(task)), MAX_RESPONSES, "shorten the horizon")
    return range(0, _rows(task), CHUNK)


def _rows(task: Task) -> int:
    """Strings of T tokens; those that go on behind an end token are met again and left out."""
    return task.prompts * task.vocab**task.horizon


def _expected(gpt: GPT, task: Task, first: int) -> Tensor:
    """Σ weight · P(W) · RM(W) of one run of responses."""
    index = torch.arange(first, min(first + CHUNK, _rows(task)), device=gpt.device)
    tokens = torch.stack([(index // task.vocab**k) % task.vocab for k in reversed(range(task.horizon))], 1)
    prompt = index // task.vocab**task.horizon
    if task.end_token is not None:
        ended = (tokens == task.end_token).long()
        behind = ended.cumsum(1) - ended > 0
        kept = (~behind | (tokens == task.end_token)).all(1)  # behind the end nothing but the end token: listed once
        tokens, prompt = torch.where(behind, -1, tokens)[kept], prompt[kept]
    weight = torch.tensor(task.weights, device=gpt.device, dtype=gpt.dtype)[prompt]
    return (weight * log_prob(gpt, prompt, tokens).sum(1).exp() * task.total(prompt, tokens, gpt.dtype)).sum()
