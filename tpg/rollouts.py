"""Rollouts: what an estimator may read.  Filled with every group and its probability, or with drawn groups."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, fields, replace
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np

from tpg.errors import EstimatorError, TooLarge
from tpg.numbers import Array, dot, to_float
from tpg.problem.problem import Problem
from tpg.problem.tree import fork, inverse_cdf, walk

Critic = Callable[[Problem], Array]  # [N] a guess of M(s)
Model = Callable[[Problem], Array]  # [N, V] a process reward for every token
Constant = Callable[[Problem, int], Array]  # [P] a number per prompt, which may depend on the group size
AnchorLaw = Callable[[int], tuple[Array, Array]]  # horizon → patterns [n, T+1] bool, chance [n, T+1] given the length
ROUNDS = 1000  # in which groups that are not kept are drawn again
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
    sequence_ratio: Array | None = None  # [..., G] Π_t π/μ of the whole response
    score_norm2: Array | None = None  # [..., G, T] ‖∂log π/∂logits‖² = 1 − 2π(w_t) + Σ_b π_b², 0 after the end
    logp: Array | None = None  # [..., G, T] log π in nats (float64)
    old_logp: Array | None = None  # [..., G, T] log μ in nats (float64)
    ref_logp: Array | None = None  # [..., G, T] log of the reference policy in nats (float64)
    sequence_logp: Array | None = None  # [..., G] log π of the whole response in nats (float64)
    sequence_ref_logp: Array | None = None  # [..., G] log of the reference policy of the whole response (float64)
    prefix: Array | None = None  # [..., G, T+1] number of the prefix that holds t tokens, −1 at and after the end
    continuation_value: Array | None = None  # [..., G, T+1] M_0 … M_T: expected RM given the first t tokens
    second_continuation_value: Array | None = None  # [..., G, T+1] the same from continuations of their own
    anchor: Array | None = None  # [..., G, T+1] bool: t is an anchor; drawn by the estimator, not by the policy
    process_reward: Array | None = None  # [..., G, T] what the estimator's model pays for each token, 0 after the end
    value: Array | None = None  # [..., G, T+1] a critic's guess of M_t; 0 at and after the end
    expected_reward: Array | None = None  # [..., 1] M_0: the prompt's expected reward
    greedy_reward: Array | None = None  # [..., 1] reward of the prompt's greedy response
    prompt_constant: Array | None = None  # [..., 1] the estimator's own number for the prompt


FIELDS = tuple(f.name for f in fields(Rollouts) if f.name not in ("group_size", "horizon", "discount"))
PER_PROMPT = ("expected_reward", "greedy_reward", "prompt_constant")  # one number per prompt


class Given(NamedTuple):
    """What an estimator brings along beside its formula: functions of the Problem, and a law of its own anchors."""

    critic: Critic | None = None
    model: Model | None = None
    constant: Constant | None = None
    anchors: AnchorLaw | None = None


NOTHING = Given()
Keep = Callable[["Responses", Array], Array]  # responses, members [n, G] → [n] bool


@dataclass(frozen=True, eq=False)
class Responses:
    """R single responses as paths: ``node``, ``token`` [R, T] (−1 after the end) and their ``prompt`` [R].

    Every field of :class:`Rollouts` is computed here once per response, [R, …]; groups only index it.
    """

    problem: Problem
    node: Array
    token: Array
    prompt: Array
    given: Given = NOTHING
    anchor: Array | None = None  # [R, T+1], and then responses are listed once per pattern of anchors
    anchor_chance: Any = 1  # [R]
    estimates: Mapping[str, Array] | None = None  # continuation fields [R, T+1] from drawn continuations

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
    def ref_prob(self) -> Array | None:
        reference = self.problem.reference
        return None if reference is None else self._along(reference, 1)

    @property
    def ratio(self) -> Array:
        return self.prob / self.old_prob

    @property
    def score_norm2(self) -> Array:
        probs = self.problem.probs
        return self._along(1 - 2 * probs + dot(probs, probs)[:, None])

    @property
    def logp(self) -> Array:
        return _log(self.prob)

    @property
    def old_logp(self) -> Array:
        return _log(self.old_prob)

    @property
    def ref_logp(self) -> Array | None:
        return None if self.ref_prob is None else _log(self.ref_prob)

    @property
    def sequence_ratio(self) -> Array:
        return np.multiply.reduce(self.ratio, axis=1)

    @property
    def sequence_logp(self) -> Array:
        return self.logp.sum(1)

    @property
    def sequence_ref_logp(self) -> Array | None:
        return None if self.ref_logp is None else self.ref_logp.sum(1)

    @property
    def prefix(self) -> Array:
        return np.concatenate([self.node, np.full((len(self.node), 1), -1)], axis=1)

    @property
    def process_reward(self) -> Array | None:
        return None if self.given.model is None else self._along(self.given.model(self.problem))

    @property
    def expected_reward(self) -> Array:
        return self.problem.values[1][self.prompt]

    @property
    def continuation_value(self) -> Array:
        return self._estimated("continuation_value")

    @property
    def second_continuation_value(self) -> Array:
        return self._estimated("second_continuation_value")

    def _estimated(self, field: str) -> Array:
        if self.estimates is not None and field in self.estimates:
            return self.estimates[field]
        after = np.where(self.mask, self._along(self.problem.values[0]), self.reward[:, None])
        return np.concatenate([self.expected_reward[:, None], after], axis=1)

    @property
    def value(self) -> Array | None:
        if self.given.critic is None:
            return None
        guess = self.given.critic(self.problem)
        zero = self.problem.field.zeros((len(self.node), 1))
        return np.concatenate([np.where(self.mask, guess[self.node], zero), zero], axis=1)

    @cached_property
    def probability(self) -> Array:
        """[R] probability of each response (and its anchors), given its prompt, under the policy that generates."""
        return np.multiply.reduce(self.old_prob, axis=1) * self.anchor_chance

    def group(self, index: Array, needs: Iterable[str], group_size: int | None = None) -> Rollouts:
        """The responses ``index`` [..., G] as Rollouts that hold the fields ``needs``."""
        problem, size = self.problem, group_size or index.shape[-1]
        table = {n: getattr(self, n) for n in FIELDS if n in set(needs) and n not in PER_PROMPT}
        rows = {n: a[index] for n, a in table.items() if a is not None}
        first = self.prompt[index[..., :1]]
        rows |= {n: a[first] for n, a in per_prompt(problem, needs, self.given, size).items()}
        return Rollouts(size, problem.horizon, problem.discount, **rows)


def _log(prob: Array) -> Array:
    """log in nats; −∞ where a policy forbids what another generated."""
    with np.errstate(divide="ignore"):
        return np.log(to_float(prob))


class Groups(NamedTuple):
    """A block of groups of one prompt: ``members`` [n, G] of ``responses``, with exact ``probability`` [n]."""

    prompt: int
    responses: Responses
    members: Array
    probability: Array


def responses(problem: Problem, given: Given = NOTHING) -> Responses:
    """Every response of positive probability of every prompt, in lexicographic order, once per pattern of anchors."""
    size = float(np.count_nonzero(problem.ends)) * problem.horizon
    TooLarge.check(f"{problem.name}: enumerating every response", size, MAX_ENTRIES, "sample, or shorten the horizon")
    prompt, node, token = walk(problem.tree, problem.sampling, np.arange(problem.prompts), fork)
    plain = Responses(problem, node, token, prompt, given)
    if given.anchors is None:
        return plain
    patterns, chance = given.anchors(problem.horizon)
    TooLarge.check(f"{problem.name}: every response with every anchor", size * len(patterns), MAX_ENTRIES, "use fewer")
    likely = chance[:, plain.length]  # [n, R]
    which, row = np.nonzero(likely)
    weight = problem.field.array(likely[which, row])
    return Responses(problem, node[row], token[row], prompt[row], given, patterns[which], weight)


def every(problem: Problem, group_size: int, given: Given = NOTHING) -> Iterator[Groups]:
    """Every group of ``group_size`` responses of each prompt, ordered, with its exact probability, in blocks."""
    singles = responses(problem, given)
    counts = np.bincount(singles.prompt, minlength=problem.prompts).astype(float)
    total = float((counts**group_size).sum()) * group_size * problem.horizon
    what, remedy = f"{problem.name}: every group of {group_size}", "lower the group size"
    TooLarge.check(what, total, 10 * MAX_ENTRIES, remedy)
    for prompt in range(problem.prompts):
        members = np.flatnonzero(singles.prompt == prompt)
        shape = (len(members),) * group_size
        for start in range(0, len(members) ** group_size, CHUNK):
            block = np.arange(start, min(start + CHUNK, len(members) ** group_size))
            index = members[np.stack(np.unravel_index(block, shape), axis=-1)]
            yield Groups(prompt, singles, index, np.multiply.reduce(singles.probability[index], axis=-1))


def draw(
    problem: Problem,
    group_size: int,
    rng: np.random.Generator,
    batches: int = 1,
    given: Given = NOTHING,
    continuations: Mapping[str, int] | None = None,
    keep: Keep | None = None,
) -> tuple[Responses, Array]:
    """Sampled responses and their index [batches, P, G]: one group of ``group_size`` per prompt and batch.

    ``continuations``: fields that are means of so many drawn continuations (the others hold exact values).
    ``keep``: groups for which it is False are drawn again.  EstimatorError when one is not kept in ``ROUNDS`` rounds.
    """
    roots = np.tile(np.repeat(np.arange(problem.prompts), group_size), batches)
    shape = (batches, problem.prompts, group_size)
    node, token = (np.empty((len(roots), problem.horizon), dtype=np.int64) for _ in range(2))
    groups = np.arange(len(roots)).reshape(-1, group_size)
    for _ in range(ROUNDS):
        rows = groups.ravel()
        _, node[rows], token[rows] = walk(
            problem.tree, to_float(problem.sampling), roots[rows], inverse_cdf(rng.random)
        )
        drawn, here = Responses(problem, node[rows], token[rows], roots[rows], given), np.arange(len(rows))
        groups = groups[:0] if keep is None else groups[~keep(drawn, here.reshape(groups.shape))]
        if not len(groups):
            break
    else:
        raise EstimatorError(
            f"{problem.name}: {ROUNDS} times no group was kept for a prompt: keep more, or larger groups"
        )
    out = Responses(problem, node, token, roots, given)
    if given.anchors is not None:
        patterns, chance = given.anchors(problem.horizon)
        _, which = inverse_cdf(rng.random)(to_float(chance).T[out.length])
        out = replace(out, anchor=patterns[which])
    if continuations:
        out = replace(out, estimates={field: _continued(out, count, rng) for field, count in continuations.items()})
    return out, np.arange(len(roots)).reshape(shape)


def _continued(found: Responses, count: int, rng: np.random.Generator) -> Array:
    """[R, T+1] mean reward of ``count`` fresh responses from every prefix, under π; RM from the end on.

    Nothing is shared: neither between prefixes, nor with the response itself.
    """
    problem, out = found.problem, found.continuation_value
    rows, t = np.nonzero(found.mask)
    _, node, token = walk(
        problem.tree, to_float(problem.probs), found.node[rows, t].repeat(count), inverse_cdf(rng.random)
    )
    drawn = Responses(problem, node, token, found.prompt[rows].repeat(count))
    out[rows, t] = drawn.reward.reshape(len(rows), count).sum(1) / count
    return out


def per_prompt(problem: Problem, needs: Iterable[str], given: Given = NOTHING, group_size: int = 1) -> dict[str, Array]:
    """Those of the fields ``needs`` that belong to prompts: [P] each."""
    made: dict[str, Callable[[], Array | None]] = {
        "expected_reward": lambda: problem.values[1][: problem.prompts],
        "greedy_reward": lambda: greedy(problem).reward,
        "prompt_constant": lambda: None if given.constant is None else given.constant(problem, group_size),
    }
    found = {name: make() for name, make in made.items() if name in set(needs)}
    return {name: table for name, table in found.items() if table is not None}


def greedy(problem: Problem) -> Responses:
    """The greedy response of each prompt: the most probable token each time, the first among equals."""

    def choose(probs: Array) -> tuple[Array, Array]:
        return np.arange(len(probs)), np.argmax(problem.field.key(probs), axis=1)

    prompt, node, token = walk(problem.tree, problem.probs, np.arange(problem.prompts), choose)
    return Responses(problem, node, token, prompt)
