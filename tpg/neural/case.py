"""A network with its task, its exact gradient and itself as a Problem: what a claim at neural scale is checked on."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property

import torch
from torch import Tensor

from tpg.errors import TooLarge, TpgError
from tpg.neural import critic as learned
from tpg.neural import exact, gpt, problem
from tpg.neural.exact import Exact
from tpg.neural.gpt import GPT
from tpg.neural.rewards import ArithmeticReward, HashReward, KeyTokenReward
from tpg.neural.task import Task
from tpg.numbers import Array
from tpg.problem.problem import Problem
from tpg.rollouts import Critic, responses

RANDOM = 3  # directions beside g
MANY = 16  # random directions, where all parameters are too many
MAX_LISTED = 2e7  # numbers
THREADED = 1e9  # prefixes × parameters from which threads pay
STEPS = 200  # of the critic's regression
DISTANCE = 0.05  # of the behaviour and the reference network, per parameter
WEIGHTS = (0.3, 0.7)


@dataclass(frozen=True)
class Size:
    """What a user chooses: the tree, the network, its number type and where it runs."""

    vocab: int = 4
    horizon: int = 5
    layers: int = 2
    width: int = 32
    heads: int = 4
    dtype: str = "float64"
    device: str = "cpu"
    seed: int = 0


@dataclass(frozen=True, eq=False)
class Case:
    """``network`` on ``task``: exact gradient [D] by streaming, and a Problem along g and a few random directions."""

    name: str
    network: GPT
    task: Task
    seed: int = 0

    @cached_property
    def exact(self) -> Exact:
        """J and ∇J over every response."""
        return exact.gradient(self.network, self.task)

    @cached_property
    def along(self) -> Tensor:
        """[m, D] g/|g| and random directions."""
        size = self.exact.flat.norm()
        if not size > 0:
            raise TpgError(
                f"{self.name}: the gradient is zero, so there is nothing to compare: take more tokens, or another seed"
            )
        drawn = problem.random_directions(self.network, RANDOM, self.seed)
        return torch.cat([self.exact.flat[None] / size, drawn])

    @cached_property
    def g(self) -> Array:
        """[m] ⟨g, v_i⟩."""
        return problem.project(self.exact.gradient, self.along)

    @cached_property
    def rewards(self) -> int:
        """How many distinct rewards responses have."""
        return len(set(responses(self.problem).reward.tolist()))

    @cached_property
    def problem(self) -> Problem:
        """The network along ``along``, with a nearby network as the reference policy."""
        found = problem.problem(self.network, self.task, self.along)
        reference = problem.tabular(gpt.nearby(self.network, DISTANCE, self.seed + 1), self.task).probs
        return replace(found, reference=reference, name=self.name)

    @cached_property
    def stale(self) -> Problem:
        """The same, with responses from another nearby network."""
        behaviour = problem.tabular(gpt.nearby(self.network, DISTANCE, self.seed + 2), self.task).probs
        return replace(self.problem, behaviour=behaviour, name=f"{self.name}, stale")

    @cached_property
    def whole(self) -> Problem:
        """The network with all its parameters, for total variances; where they are too many, ``MANY`` directions."""
        if self.small:
            found = problem.rotated(problem.full_problem(self.network, self.task))
        else:
            found = problem.problem(self.network, self.task, problem.random_directions(self.network, MANY, self.seed))
        return replace(found, name=self.name)

    @property
    def small(self) -> bool:
        """The scores of all parameters fit into memory."""
        return self.task.prefixes * self.task.vocab * self.network.size <= problem.MAX_TABLE

    @property
    def counted(self) -> str:
        """What ``whole`` holds."""
        return "all parameters" if self.small else f"{MANY} random directions"

    @cached_property
    def learned(self) -> GPT:
        """A critic of one layer, a quarter as wide, fitted to returns of sampled responses and then frozen."""
        width = max(1, self.network.width // 4)
        fresh = learned.make_critic(self.network, layers=1, width=width, seed=self.seed + 3)
        return learned.train(fresh, self.network, self.task, steps=STEPS, seed=self.seed)

    @cached_property
    def critic(self) -> Critic:
        """Its values on the Problem."""
        return learned.as_critic(self.learned, self.task)

    @cached_property
    def capacity(self) -> str:
        """How large the critic is and how far it is off."""
        fit = learned.error(self.critic, self.problem)
        return f"a critic of {self.learned.size} parameters, rms error {fit.rms:.2g}, explaining {fit.explained:.0%}"

    @property
    def eps(self) -> float:
        """Relative rounding error of one operation."""
        return float(torch.finfo(self.network.dtype).eps)


def spare_threads(case: Case) -> None:
    """One thread for small networks: sharing out tiny products costs more than it saves, far more on a busy machine."""
    if case.task.prefixes * case.network.size < THREADED:
        torch.set_num_threads(1)


def cases(size: Size) -> list[Case]:
    """Two prompts of unequal weight; 0/1 rewards and unequal lengths, dense discounted ones, and a key token."""
    end, prompts = 1, len(WEIGHTS)
    network = gpt.make(
        size.vocab,
        size.horizon,
        prompts,
        layers=size.layers,
        width=size.width,
        heads=size.heads,
        seed=size.seed,
        dtype=size.dtype,
        device=size.device,
    )
    kinds = {
        "arithmetic task, unequal lengths": Task(
            size.vocab, size.horizon, ArithmeticReward(size.vocab, size.horizon, end), WEIGHTS, end
        ),
        "dense rewards, γ = 0.9, unequal lengths": Task(
            size.vocab, size.horizon, HashReward(size.seed), WEIGHTS, end, 0.9
        ),
        "key token, fixed length": Task(size.vocab, size.horizon, KeyTokenReward(size.vocab), WEIGHTS),
    }
    for task in kinds.values():
        _fits(network, task)
        task.check(size.device)
    return [Case(name, network, task, size.seed) for name, task in kinds.items()]


def _fits(network: GPT, task: Task) -> None:
    """Claims list every response and its scores along a few directions: refuse before work starts."""
    exact.ready(network, task, None)
    what, remedy = "every response of a claim", "a smaller vocabulary or horizon (exact.gradient alone streams any)"
    TooLarge.check(what, float(task.responses) * task.horizon * (1 + RANDOM), MAX_LISTED, remedy)
