"""A learned critic: the same transformer with a head of one number, fitted to sampled returns, then frozen.

V(s) guesses M(s) = E[RM | s], past rewards included, as ``tpg.estimators.critics`` wants it.  The regression is of V at
every prefix of a sampled response onto that response's RM: its minimum over all functions is M itself, and the prefixes
weigh as often as the policy visits them.  What a network of given depth and width leaves of it is its capacity.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from tpg.errors import EstimatorError, TpgError
from tpg.montecarlo.streams import stream
from tpg.neural.exact import Progress, ready, same_sizes
from tpg.neural.generate import generate, source
from tpg.neural.gpt import DTYPES, GPT, make
from tpg.neural.subtrees import compute, plan
from tpg.neural.task import Task
from tpg.numbers import Array, to_float
from tpg.problem.problem import Problem
from tpg.rollouts import Critic


class Fit(NamedTuple):
    """How far V is from M over the prefixes that the policy visits.

    ``rms``: √E (V − M)², in rewards; ``explained``: 1 − E (V − M)² / Var M, 1 for an exact critic, below 0 for one
    that is worse than a constant (NaN where M is the same everywhere).
    """

    rms: float
    explained: float


def make_critic(policy: GPT, *, layers: int, width: int, heads: int = 1, seed: int = 0) -> GPT:
    """A critic for responses of ``policy``, of any depth and width: ``forward`` [n, L+1, 1] are its values."""
    dtype = next(name for name, kind in DTYPES.items() if kind == policy.dtype)
    sizes = {"layers": layers, "width": width, "heads": heads}
    made = make(
        policy.vocab, policy.horizon, policy.prompts, **sizes, seed=seed, dtype=dtype, device=str(policy.device)
    )
    return made.at({**made.params, "head": made.params["head"][:1].clone()})


def train(
    critic: GPT,
    policy: GPT,
    task: Task,
    *,
    steps: int = 400,
    responses: int = 64,
    rate: float = 1e-2,
    seed: int = 0,
    progress: Progress | None = None,
) -> GPT:
    """The critic after ``steps`` of Adam, each on ``responses`` fresh responses; the rate falls to 0, linearly.

    Both networks given stay as they are.  The same seed gives the same critic, bit by bit, on the same machine.
    Raises TpgError on counts below 1, a rate that is not positive, or networks that do not fit the task.
    """
    _check(critic, policy, task, steps, responses, rate)
    leaf = critic.at({name: p.detach().clone().requires_grad_() for name, p in critic.params.items()})
    adam = torch.optim.Adam(list(leaf.params.values()), lr=rate)
    for step in range(steps):
        adam.param_groups[0]["lr"] = rate * (1 - step / steps)
        drawn = stream(seed, "critic", step).choice(task.prompts, responses, p=task.weights)
        prompt = torch.as_tensor(drawn, device=policy.device)
        tokens = generate(policy, task, prompt, source(seed, "critic", step)).tokens
        adam.zero_grad()
        regression(leaf, task, prompt, tokens).backward()  # type: ignore[no-untyped-call]
        adam.step()
        if progress is not None:
            progress(step + 1, steps)
    return leaf.at({name: p.detach() for name, p in leaf.params.items()})


def regression(critic: GPT, task: Task, prompt: Tensor, tokens: Tensor) -> Tensor:
    """Mean of (V(W_{0,t}) − RM(W))² over the prefixes t < L of responses [n, T] (−1 after the end), in rewards²."""
    value = critic.forward(prompt, tokens[:, :-1].clamp(min=0))[..., 0]  # before each of the T tokens
    error = value - task.total(prompt, tokens, critic.dtype)[:, None]
    return (error**2)[tokens >= 0].mean()


def as_critic(critic: GPT, task: Task) -> Critic:
    """The frozen critic as a function of the transformer Problem, for ``replace(row, critic=…)``.

    Its values are computed here, once.  The function raises EstimatorError on a Problem of another tree.
    """
    table = values(critic, task)

    def guess(problem: Problem) -> Array:
        if problem.tree.prompts != task.prompts or not np.array_equal(problem.tree.inner, task.tree().inner):
            raise EstimatorError(
                f"{problem.name}: {problem.tree.nodes} prefixes given to a critic of {len(table)}: "
                f"make the problem and the critic from the same task"
            )
        return problem.field.array(table)

    return guess


def values(critic: GPT, task: Task, chunk: int | None = None) -> Array:
    """V [N] in rewards of every prefix of the task, breadth-first; streamed like the exact gradient."""
    cut, base = plan(task, ready(critic, task, chunk)), len(task.on)
    level = task.prompts * np.cumsum([0] + [base**t for t in range(task.horizon)])
    out = np.empty(task.prefixes)
    above = [(0, task.prompts, 0, cut.split)] if cut.split else []
    below = [(first, last, cut.split, task.horizon - cut.split) for first, last in cut.pieces]
    for first, last, split, height in [*above, *below]:
        with torch.no_grad():
            found = compute(critic, task, first, last, split, height).logits
        for k, value in enumerate(found):
            rows = slice(level[split + k] + first * base**k, level[split + k] + last * base**k)
            out[rows] = value[:, 0].double().cpu().numpy()
    return out


def error(critic: Critic, problem: Problem) -> Fit:
    """V against the exact M, prefixes weighted by how often they are visited."""
    off = to_float(critic(problem) - problem.values[1])
    mass = to_float(problem.weights[problem.tree.prompt] * problem.sampling_reach)
    mass, exact = mass / mass.sum(), to_float(problem.values[1])
    square, spread = float(mass @ off**2), float(mass @ (exact - mass @ exact) ** 2)
    return Fit(square**0.5, 1 - square / spread if spread > 0 else float("nan"))


def _check(critic: GPT, policy: GPT, task: Task, steps: int, responses: int, rate: float) -> None:
    if min(steps, responses) < 1 or not rate > 0:
        raise TpgError(
            f"steps={steps}, responses={responses}, rate={rate} given: needed 1 step of 1 response and a positive rate"
        )
    for network in (policy, critic):
        same_sizes(network, task)
    if critic.params["head"].shape[0] != 1:
        outputs = critic.params["head"].shape[0]
        raise TpgError(f"a critic with {outputs} outputs given, needed 1 number per prefix: use make_critic")
