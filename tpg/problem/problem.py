"""A Problem: token trees with known token-level rewards, three policies, and a way to differentiate them."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import numpy as np

from tpg.errors import ProblemError
from tpg.numbers import FLOAT64, RATIONAL, Array, Field, dot, powers
from tpg.problem import blocks
from tpg.problem.blocks import Block, Endings, Prefixes
from tpg.problem.tree import Tree, expect, reach

Progress = Callable[[int, int], None]  # steps done, steps in all
MAX_SORTED = 1 << 20  # table entries
TOLERANCE = 1e-9  # how far float64 probabilities may sum from 1; exact ones may not


@dataclass(frozen=True, eq=False)
class Problem:
    """Token-generation problem over N prefixes and V tokens.

    - ``tree``: the prefixes of all prompts, breadth-first.
    - ``probs`` [N, V]: current policy π.  Probability 0 forbids a token.
    - ``rewards`` [N, V]: token reward r(prefix, token), in rewards; RM(W) = Σ_t γ^{t−1} r_t.
    - ``discount``: γ.  ``weights`` [P]: prompt distribution, sums to 1.
    - ``behaviour``, ``reference`` [N, V]: the policy μ that generates, and the one a KL term refers to.  None: π.
    - ``features`` [N, V, d]: shared parameters, logits = φ·θ + base, score φ(s,a) − E_π φ(s,·).  None: tabular, every
      prefix owns V logits, score ∂log π(a)/∂logit_b = 1[a=b] − π_b.
    - ``end_token``: the token that ends a response, if any.  ``field``: number type of all tables.
    """

    tree: Tree
    probs: Array
    rewards: Array
    weights: Array
    discount: Any = 1
    behaviour: Array | None = None
    reference: Array | None = None
    features: Array | None = None
    end_token: int | None = None
    field: Field = field(default=FLOAT64)
    name: str = "problem"

    def __post_init__(self) -> None:
        self._check_tables((self.tree.nodes, self.tree.vocab))
        if self.end_token is not None and not 0 <= self.end_token < self.tree.vocab:
            raise ProblemError(f"{self.name}: end token {self.end_token}, needed a token 0 … {self.tree.vocab - 1}")
        for label, table in self.policies().items():
            self._check_policy(label, table)
        if len(self.weights) != self.tree.prompts or (self.field.ordered and (self.weights <= 0).any()):
            raise ProblemError(f"{self.name}: weights {self.weights}, needed {self.tree.prompts} positive numbers")
        if self.weights.sum() != 1 if self.field.exact else abs(self.weights.sum() - 1) > TOLERANCE:
            raise ProblemError(f"{self.name}: weights sum to {self.weights.sum()}, needed 1: divide them by their sum")
        object.__setattr__(self, "discount", self.field.scalar(self.discount))
        if self.field.ordered and not 0 < self.discount <= 1:
            raise ProblemError(f"{self.name}: discount {self.discount}, needed 0 < γ ≤ 1")
        if not self.field.exact:
            for label, table in [*self.policies().items(), ("rewards", self.rewards)]:
                object.__setattr__(self, label, np.asfortranarray(table))  # sums over tokens run along memory

    def _check_tables(self, shape: tuple[int, int]) -> None:
        if self.features is not None and self.features.ndim != 3:
            raise ProblemError(f"{self.name}: features have {self.features.ndim} axes, needed [node, token, parameter]")
        for label, table in self._tables().items():
            if table.shape[:2] != shape:
                raise ProblemError(f"{self.name}: {label} has shape {table.shape}, needed {shape} [node, token]")
            if self.field.ordered and not self.field.exact and not np.isfinite(table).all():
                raise ProblemError(f"{self.name}: {label} holds NaN or infinity: give finite numbers")

    def _tables(self) -> dict[str, Array]:
        more = {} if self.features is None else {"features": self.features}
        return {**self.policies(), "rewards": self.rewards, **more}

    def policies(self) -> dict[str, Array]:
        """The policy tables that were given, by name."""
        named = {"probs": self.probs, "behaviour": self.behaviour, "reference": self.reference}
        return {label: table for label, table in named.items() if table is not None}

    def _check_policy(self, label: str, table: Array) -> None:
        if self.field.ordered and (table < 0).any():
            raise ProblemError(f"{self.name}: {label} holds a negative probability: probabilities lie in [0, 1]")
        off = table.sum(-1) - 1
        bad = np.flatnonzero(off != 0) if self.field.exact else np.flatnonzero(np.abs(off) > TOLERANCE)
        if len(bad):
            raise ProblemError(f"{self.name}: {label} of node {bad[0]} sums to {off[bad[0]] + 1}, needed 1")
        if label != "reference":
            self._check_leads_on(table)

    def _check_leads_on(self, table: Array) -> None:
        """What may be generated before the horizon must have a prefix, unless it ends the response."""
        if self.end_token is not None and self.tree.inner[:, self.end_token].any():
            raise ProblemError(f"{self.name}: end token {self.end_token} leads to another prefix: it ends a response")
        early = ~self.tree.inner & (table != 0) & (self.tree.depth < self.tree.depths - 1)[:, None]
        if self.end_token is not None:
            early[:, self.end_token] = False
        if early.any():
            node, token = np.argwhere(early)[0]
            raise ProblemError(
                f"{self.name}: token {token} of node {node} has positive probability, is not the end token and leads "
                f"nowhere before the horizon: add the prefix or forbid the token"
            )

    @property
    def prompts(self) -> int:
        """P, the number of prompts."""
        return self.tree.prompts

    @property
    def horizon(self) -> int:
        """T, the number of tokens of the longest response."""
        return self.tree.depths

    @property
    def vocab(self) -> int:
        """V, the vocabulary size."""
        return self.tree.vocab

    @property
    def tabular(self) -> bool:
        """Every prefix owns its logits."""
        return self.features is None

    @property
    def parameters(self) -> int:
        """The number of policy parameters: N·V logits, or d shared ones."""
        return self.probs.size if self.features is None else int(self.features.shape[2])

    @property
    def sampling(self) -> Array:
        """[N, V] the policy that generates responses: μ, or π on-policy."""
        return self.probs if self.behaviour is None else self.behaviour

    @property
    def on_policy(self) -> bool:
        """Responses are generated by the policy that is differentiated."""
        return self.behaviour is None or bool((self.behaviour == self.probs).all())

    @cached_property
    def forbids(self) -> bool:
        """Some token has probability 0."""
        return any(bool((table == 0).any()) for table in (self.probs, self.sampling))

    def ends_at(self, rows: slice) -> Array:
        """[n, V] bool: a response of positive probability (under π or μ) ends with this token."""
        possible = np.not_equal(self.probs[rows].T, 0, order="C")
        if self.behaviour is not None:
            possible |= self.behaviour[rows].T != 0
        return np.asarray(np.greater(possible, self.tree.inner[rows].T, order="C").T, dtype=bool)

    @property
    def ends(self) -> Array:
        """[N, V] bool: where responses end, over all prefixes."""
        return self.ends_at(slice(None))

    @cached_property
    def powers(self) -> Array:
        """[T+1] γ⁰ … γᵀ."""
        return powers(self.discount, self.horizon + 1)

    @property
    def totals(self) -> Array:
        """[N, V] discounted reward Σ_{k≤t} γ^{k−1} r_k up to and including each token: RM(W) where responses end."""
        return self._totals() if self.merged_totals is None else self.merged_totals

    @cached_property
    def merged_totals(self) -> Array | None:
        """``totals`` in float64 with equal rewards made equal again: 0.1 + 0.2 and 0.3 are one reward.

        None where nothing is rounded, and on trees too large to sort.
        """
        if self.field.exact or self.probs.size > MAX_SORTED:
            return None
        out, size = self._totals().ravel(), replace(self, rewards=np.abs(self.rewards))._totals().ravel()
        order = np.argsort(out, kind="stable")
        values, rounding = out[order], 8 * np.finfo(np.float64).eps * size[order]  # what adding up may have cost
        apart = np.append(True, np.diff(values) > np.maximum(rounding[1:], rounding[:-1]))
        merged = np.empty_like(out)
        merged[order] = values[apart][np.cumsum(apart) - 1]
        return np.asfortranarray(merged.reshape(self.probs.shape))

    def _totals(self) -> Array:
        out = np.empty_like(self.rewards)
        past = self.field.zeros(self.prompts)
        for t in range(self.horizon):
            rows = self.tree.at(t)
            out[rows] = past[:, None] + self.powers[t] * self.rewards[rows]
            if t < self.horizon - 1:
                past = self.tree.descend(out[rows], t)
        return out

    @cached_property
    def values(self) -> tuple[Array, Array]:
        """M(s, a) [N, V] and M(s) [N]: expected RM(W) given the prefix, under π; past rewards included."""
        return expect(self.tree, self.probs, self.totals)

    @cached_property
    def expected_reward(self) -> Array:
        """E[RM] [P] of each prompt under the policy that generates."""
        if self.behaviour is None:
            return self.values[1][: self.prompts]
        return expect(self.tree, self.behaviour, self.totals)[1][: self.prompts]

    @cached_property
    def blocks(self) -> list[list[Block]]:
        """The prefixes of each level in pieces that fit a core's cache."""
        return blocks.blocks(self)

    @cached_property
    def prefixes(self) -> Prefixes:
        """What every prefix knows of its past."""
        return blocks.go_down(self)

    @cached_property
    def endings(self) -> Endings:
        """Where responses end, and with which of their distinct rewards."""
        return blocks.endings(self, by_reward=True)

    @cached_property
    def plain_endings(self) -> Endings:
        """Where responses end, whatever their reward."""
        return blocks.endings(self, by_reward=False)

    @cached_property
    def reach(self) -> Array:
        """ρ_π [N]: probability that the current policy generates each prefix, given its prompt."""
        return reach(self.tree, self.probs, self.field)

    @cached_property
    def sampling_reach(self) -> Array:
        """ρ_μ [N]: the same under the policy that generates."""
        return self.reach if self.behaviour is None else reach(self.tree, self.behaviour, self.field)

    @cached_property
    def scores(self) -> Array:
        """[N, V, d] ∂log π(a|s)/∂θ for shared parameters."""
        if self.features is None:
            raise ProblemError(f"{self.name} is tabular: its scores 1[a=b] − π_b are never stored")
        return self.features - (self.probs[:, :, None] * self.features).sum(1, keepdims=True)

    @cached_property
    def digest(self) -> str:
        """SHA-256 of every number that defines the problem."""
        seal = hashlib.sha256(repr((self.field.name, str(self.discount), self.tree.prompts, self.tree.vocab)).encode())
        for table in (self.tree.inner, self.weights, *self._tables().values()):
            seal.update(repr(table.ravel().tolist()).encode() if table.dtype == object else table.tobytes())
        return seal.hexdigest()

    def pull(self, coefficient: Array) -> Array:
        """Σ_{s,a} coefficient(s, a) · score(s, a) per prompt: [N, V] tabular (a row is a prompt's), [P, d] shared."""
        if self.features is None:
            return coefficient - self.probs * coefficient.sum(-1, keepdims=True)
        terms = (coefficient[:, :, None] * self.scores).sum(1)
        out = self.field.zeros((self.prompts, self.parameters))
        np.add.at(out, self.tree.prompt, terms)
        return out

    def inner(self, u: Array, v: Array) -> Array:
        """[P] ⟨u, v⟩ of each prompt's own part, for gradients as ``pull`` returns them."""
        rows = dot(u, v)
        if self.features is not None:
            return rows
        out = self.field.zeros(self.prompts)
        np.add.at(out, self.tree.prompt, rows)
        return out

    def combine(self, gradient: Array) -> Array:
        """Σ_x weight(x) · gradient_x as one vector [parameters]."""
        if self.features is not None:
            return (self.weights[:, None] * gradient).sum(0)
        return (self.weights[self.tree.prompt][:, None] * gradient).ravel()

    def to(self, number_type: Field) -> Problem:
        """The same problem in another number type; float64 tables keep the decimals they were written with."""
        if number_type is self.field:
            return self
        changed: dict[str, Any] = {label: number_type.array(table) for label, table in self._tables().items()}
        return replace(self, **changed, weights=number_type.array(self.weights), field=number_type)


def make(
    tree: Tree,
    probs: Any,
    rewards: Any,
    *,
    weights: Any = None,
    field: Field = RATIONAL,
    **more: Any,
) -> Problem:
    """A Problem from anything array-like ("p/q" strings included); ``weights`` are divided by their sum."""
    given = {k: v for k, v in more.items() if v is not None}
    for name in {"behaviour", "reference", "features"} & given.keys():
        given[name] = field.array(given[name])
    raw = field.ones(tree.prompts) if weights is None else field.array(weights)
    if field.ordered and not ((raw > 0) & (raw - raw == 0)).all():  # NaN and infinity fail too
        raise ProblemError(f"weights {weights} given: every prompt needs a positive weight")
    return Problem(tree, field.array(probs), field.array(rewards), raw / raw.sum(), field=field, **given)
