"""Rollouts: what an estimator may read.  Filled with every group and its probability, or with drawn groups."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, fields
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np

from tpg.errors import TooLarge
from tpg.numbers import Array, to_float
from tpg.problem.problem import Problem
from tpg.problem.tree import fork, inverse_cdf, walk

Critic = Callable[[Problem], Array]
MAX_ENTRIES = 10**8  # tokens of enumerated responses held at once
CHUNK = 1 << 16  # groups per block


@dataclass(frozen=True)
class Rollouts:
    """Responses in groups.  Leading axes ``...`` are free: one group, all groups, or prompts [..., P] of a batch.

    A field is None unless asked for; an estimator reads a field by naming it as a parameter.
    """

    group_size: int  # G
    horizon: int  # T, the longest response, in tokens
    discount: Any  # γ
    reward: Array | None = None  # [..., G] response reward RM(W)
    length: Array | None = None  # [..., G] tokens of the response, end token included
    mask: Array | None = None  # [..., G, T] True on the tokens of the response
    tokens: Array | None = None  # [..., G, T] token ids, −1 after the end
    token_reward: Array | None = None  # [..., G, T] true token reward r_t (undiscounted), 0 after the end
    prob: Array | None = None  # [..., G, T] π(w_t | prefix), 1 after the end
    old_prob: Array | None = None  # [..., G, T] μ(w_t | prefix) of the behaviour policy, 1 after the end
    ref_prob: Array | None = None  # [..., G, T] reference policy, 1 after the end
    ratio: Array | None = None  # [..., G, T] π/μ, 1 after the end
    logp: Array | None = None  # [..., G, T] log π in nats (float64)
    old_logp: Array | None = None  # [..., G, T] log μ in nats (float64)
    ref_logp: Array | None = None  # [..., G, T] log of the reference policy in nats (float64)
    continuation_value: Array | None = None  # [..., G, T+1] M_0 … M_T: expected RM given the first t tokens
    value: Array | None = None  # [..., G, T+1] a critic's guess of M_t; 0 at and after the end
    expected_reward: Array | None = None  # [..., 1] M_0: the prompt's expected reward
    greedy_reward: Array | None = None  # [..., 1] reward of the prompt's greedy response


FIELDS = tuple(f.name for f in fields(Rollouts) if f.name not in ("group_size", "horizon", "discount"))
PER_PROMPT = ("expected_reward", "greedy_reward")  # one number per prompt


@dataclass(frozen=True, eq=False)
class Responses:
    """R single responses as paths: ``node``, ``token`` [R, T] (−1 after the end) and their ``prompt`` [R].

    Every field of :class:`Rollouts` is computed here once per response, [R, …]; groups only index it.
    """

    problem: Problem
    node: Array
    token: Array
    prompt: Array
    critic: Critic | None = None

    def _along(self, table: Array, after_end: Any = 0) -> Array:
        """``table`` [N, V] read along the paths: [R, T]."""
        return np.where(self.mask, table[self.node, self.token], self.problem.field.scalar(after_end))

    @cached_property
    def mask(self) -> Array:
        return self.node >= 0

    @cached_property
    def length(self) -> Array:
        return self.mask.sum(-1)

    @property
    def tokens(self) -> Array:
        return self.token

    @cached_property
    def last(self) -> tuple[Array, Array]:
        """The node and the token where each response ends."""
        rows = np.arange(len(self.node))
        return self.node[rows, self.length - 1], self.token[rows, self.length - 1]

    @cached_property
    def reward(self) -> Array:
        return self.problem.totals[self.last]

    @property
    def token_reward(self) -> Array:
        return self._along(self.problem.rewards)

    @property
    def prob(self) -> Array:
        return self._along(self.problem.probs, 1)

    @property
    def old_prob(self) -> Array:
        return self._along(self.problem.sampling, 1)

    @property
    def ref_prob(self) -> Array:
        reference = self.problem.reference
        return self._along(self.problem.probs if reference is None else reference, 1)

    @property
    def ratio(self) -> Array:
        return self.prob / self.old_prob

    @property
    def logp(self) -> Array:
        return np.log(to_float(self.prob))

    @property
    def old_logp(self) -> Array:
        return np.log(to_float(self.old_prob))

    @property
    def ref_logp(self) -> Array:
        return np.log(to_float(self.ref_prob))

    @property
    def expected_reward(self) -> Array:
        return self.problem.values[1][self.prompt]

    @property
    def continuation_value(self) -> Array:
        after = np.where(self.mask, self._along(self.problem.values[0]), self.reward[:, None])
        return np.concatenate([self.expected_reward[:, None], after], axis=1)

    @property
    def value(self) -> Array | None:
        if self.critic is None:
            return None
        guess = self.critic(self.problem)
        zero = self.problem.field.zeros((len(self.node), 1))
        return np.concatenate([np.where(self.mask, guess[self.node], zero), zero], axis=1)

    @property
    def greedy_reward(self) -> Array:
        return greedy(self.problem).reward[self.prompt]

    @cached_property
    def probability(self) -> Array:
        """[R] probability of generating each response, given its prompt, under the policy that generates."""
        return np.multiply.reduce(self.old_prob, axis=1)

    def group(self, index: Array, needs: Iterable[str], group_size: int | None = None) -> Rollouts:
        """The responses ``index`` [..., G] as Rollouts that hold the fields ``needs``."""
        table = {n: getattr(self, n) for n in FIELDS if n in set(needs)}
        rows = {n: a[index[..., :1] if n in PER_PROMPT else index] for n, a in table.items() if a is not None}
        problem = self.problem
        return Rollouts(group_size or index.shape[-1], problem.horizon, problem.discount, **rows)


class Groups(NamedTuple):
    """A block of groups of one prompt: ``members`` [n, G] of ``responses``, with exact ``probability`` [n]."""

    prompt: int
    responses: Responses
    members: Array
    probability: Array


def responses(problem: Problem, critic: Critic | None = None) -> Responses:
    """Every response of positive probability of every prompt, in lexicographic order."""
    size = float(np.count_nonzero(problem.ends)) * problem.horizon
    TooLarge.check(f"{problem.name}: enumerating every response", size, MAX_ENTRIES, "sample, or shorten the horizon")
    prompt, node, token = walk(problem.tree, problem.sampling, np.arange(problem.prompts), fork)
    return Responses(problem, node, token, prompt, critic)


def every(problem: Problem, group_size: int, critic: Critic | None = None) -> Iterator[Groups]:
    """Every group of ``group_size`` responses of each prompt, ordered, with its exact probability, in blocks."""
    singles = responses(problem, critic)
    counts = np.bincount(singles.prompt, minlength=problem.prompts).astype(float)
    total = float((counts**group_size).sum()) * group_size * problem.horizon
    TooLarge.check(f"{problem.name}: every group of {group_size}", total, 10 * MAX_ENTRIES, "use class collapse")
    for prompt in range(problem.prompts):
        members = np.flatnonzero(singles.prompt == prompt)
        shape = (len(members),) * group_size
        for start in range(0, len(members) ** group_size, CHUNK):
            block = np.arange(start, min(start + CHUNK, len(members) ** group_size))
            index = members[np.stack(np.unravel_index(block, shape), axis=-1)]
            yield Groups(prompt, singles, index, np.multiply.reduce(singles.probability[index], axis=-1))


def draw(
    problem: Problem, group_size: int, rng: np.random.Generator, batches: int = 1, critic: Critic | None = None
) -> tuple[Responses, Array]:
    """Sampled responses and their index [batches, P, G]: one group of ``group_size`` per prompt and batch."""
    roots = np.tile(np.repeat(np.arange(problem.prompts), group_size), batches)
    _, node, token = walk(problem.tree, to_float(problem.sampling), roots, inverse_cdf(rng.random))
    shape = (batches, problem.prompts, group_size)
    return Responses(problem, node, token, roots, critic), np.arange(len(roots)).reshape(shape)


def per_prompt(problem: Problem, needs: Iterable[str]) -> dict[str, Array]:
    """Those of the fields ``needs`` that belong to prompts: [P] each."""
    wanted = set(needs)
    expected = {"expected_reward": problem.values[1][: problem.prompts]} if "expected_reward" in wanted else {}
    return expected | ({"greedy_reward": greedy(problem).reward} if "greedy_reward" in wanted else {})


def greedy(problem: Problem) -> Responses:
    """The greedy response of each prompt: the most probable token each time, the first among equals."""

    def choose(probs: Array) -> tuple[Array, Array]:
        return np.arange(len(probs)), np.argmax(problem.field.key(probs), axis=1)

    prompt, node, token = walk(problem.tree, problem.probs, np.arange(problem.prompts), choose)
    return Responses(problem, node, token, prompt)
