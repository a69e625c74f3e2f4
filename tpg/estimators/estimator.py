"""An estimator: credits = (advantage · ratio + penalty) / divisor, and what it declares about them."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property, partial
from typing import Literal

import numpy as np

from tpg.estimators import aggregation, expectations, ratios
from tpg.estimators.expectations import Expectation
from tpg.estimators.parts import SWEEPABLE, Part, apply, parameters, peers_of, per_token, reads, spans_batch
from tpg.numbers import Array, powers
from tpg.problem.problem import Problem
from tpg.rollouts import AnchorLaw, Constant, Critic, Given, Keep, Model, Rollouts


@dataclass(frozen=True, eq=False)
class Estimator:
    """A policy-gradient estimator: credits c[i,t] = (advantage · ratio + penalty) / aggregation on each token.

    ĝ = Σ_i Σ_t c[i,t] ∇log π(w_{i,t}).

    - ``expectation``: what E ĝ is on-policy; ``off_policy``: what it is whatever policy generates (None: not said).
    - ``numbers``: what the formula runs in: "any" field, those with an order (a clip), or float64 alone (root, log).
    - ``critic``, ``model``, ``constant``: functions of the Problem behind the fields ``value``, ``process_reward`` and
      ``prompt_constant``.  ``anchors``: law of the field ``anchor``, independent for each response.
    - ``continuations``: K fresh responses behind every entry of ``continuation_value`` (None: exact values).
    - ``keep``: groups that do not satisfy it are drawn again, [..., 1] bool.
    """

    name: str
    advantage: Part
    aggregation: Part = aggregation.seq_mean_token_sum
    ratio: Part = ratios.on_policy
    expectation: Expectation = expectations.UNBIASED
    source: str = ""
    aliases: tuple[str, ...] = ()
    critic: Critic | None = None
    penalty: Part | None = None
    numbers: Literal["any", "ordered", "float64"] = "any"
    off_policy: Expectation | None = None
    model: Model | None = None
    constant: Constant | None = None
    anchors: AnchorLaw | None = None
    continuations: int | None = None
    keep: Part | None = None
    smallest_group: int = 1

    @property
    def parts(self) -> tuple[Part, ...]:
        """The functions that the credits are made of."""
        more = (part for part in (self.penalty, self.keep) if part is not None)
        return self.advantage, self.aggregation, self.ratio, *more

    @property
    def given(self) -> Given:
        """What the rollouts must know beside the problem."""
        return Given(self.critic, self.model, self.constant, self.anchors)

    @cached_property
    def batch(self) -> bool:
        """Credits read the groups of other prompts too."""
        return any(spans_batch(part) for part in self.parts)

    @cached_property
    def needs(self) -> frozenset[str]:
        """The Rollouts fields that the credits are made from."""
        return frozenset({"mask"}).union(*(reads(part) for part in self.parts))

    @property
    def peers(self) -> frozenset[str]:
        """The fields of other responses of the group that a response's credits depend on."""
        return frozenset().union(*(peers_of(part) for part in self.parts))

    @property
    def min_group(self) -> int:
        """The smallest group for which the credits are defined."""
        compares = peers_of(self.advantage) and not spans_batch(self.advantage)
        return max(self.smallest_group, 2 if compares else 1)

    def declares(self, problem: Problem) -> Expectation | None:
        """What is said of E ĝ on this problem; None where another policy generates and only on-policy is spoken of."""
        return self.expectation if problem.on_policy else self.off_policy

    @property
    def algebraic(self) -> bool:
        """Rational in (π, r): identities about it can be proved over GF(p)."""
        return self.numbers == "any"

    @property
    def formula(self) -> str:
        """First line of the advantage's docstring: citation and formula."""
        doc = self.advantage.func.__doc__ if isinstance(self.advantage, partial) else self.advantage.__doc__
        return (doc or "").strip().splitlines()[0]

    @cached_property
    def collapsible(self) -> bool:
        """Responses meet only through response-level factors, so that groups can be counted by class."""
        coupled = [part for part in self.parts if peers_of(part)]
        return not self.batch and not any(per_token(part) or part in (self.ratio, self.penalty) for part in coupled)

    @cached_property
    def sweepable(self) -> bool:
        """Credits are the same on all tokens of a response and read no more of it than reward and length."""
        return self.needs <= SWEEPABLE | {"mask"} and not any(per_token(part) for part in self.parts)

    @property
    def kept(self) -> Keep | None:
        """Which of the groups ``members`` [n, G] are kept, [n] bool; None when all are."""
        if self.keep is None:
            return None
        part = self.keep
        return lambda singles, members: apply(part, singles.group(members, reads(part)))[..., 0]

    def __call__(self, rollouts: Rollouts) -> Array:
        """Credits [..., G, T], 0 off the mask."""
        mask = apply(whole_mask, rollouts)
        advantage = _along(self.advantage, apply(self.advantage, rollouts))
        credit = advantage * _along(self.ratio, apply(self.ratio, rollouts, sign=_sign(self.ratio, advantage)))
        if self.penalty is not None:
            credit = credit + _along(self.penalty, apply(self.penalty, rollouts))
        return np.where(mask, credit / _along(self.aggregation, apply(self.aggregation, rollouts)), 0)

    @cached_property
    def terms(self) -> tuple[Term, ...]:
        """The credits as a sum of products of a factor that reads peers and one that does not.

        A clip reads the sign of the advantage: where that depends on peers, A·ρ(sign A) = A⁺ρ(+1) + A⁻ρ(−1).
        """
        signs = (1, -1) if "sign" in parameters(self.ratio) and peers_of(self.advantage) else (0,)
        penalty = () if self.penalty is None else (Term(self, 0, True),)
        return (*(Term(self, sign, False) for sign in signs), *penalty)


@dataclass(frozen=True, eq=False)
class Term:
    """One product of the credits: ``coupled`` · ``own``."""

    row: Estimator
    sign: int  # +1, −1: that part of the advantage; 0: all of it
    penalty: bool

    def coupled(self, rollouts: Rollouts) -> Array:
        """[..., G] the factors that read other responses."""
        out = powers(rollouts.discount, 1)  # 1 in the number type of the problem
        if not self.penalty and peers_of(self.row.advantage):
            advantage = apply(self.row.advantage, rollouts)
            out = np.where(advantage * self.sign > 0, advantage, 0 * advantage) if self.sign else advantage
        if peers_of(self.row.aggregation):
            out = out / apply(self.row.aggregation, rollouts)
        return out

    def own(self, rollouts: Rollouts) -> Array:
        """[..., G, T or 1] the factors that do not."""
        row = self.row
        out = powers(rollouts.discount, 1)[None]
        if self.penalty and row.penalty is not None:
            out = _along(row.penalty, apply(row.penalty, rollouts))
        elif not self.penalty:
            if not peers_of(row.advantage):
                out = _along(row.advantage, apply(row.advantage, rollouts))
            sign = np.array([[self.sign]]) if self.sign else _sign(row.ratio, out)
            out = out * _along(row.ratio, apply(row.ratio, rollouts, sign=sign))
        if not peers_of(row.aggregation):
            out = out / _along(row.aggregation, apply(row.aggregation, rollouts))
        return out


def _sign(ratio: Part, advantage: Array) -> Array | None:
    """The sign of the advantage, for ratios that clip by it."""
    if "sign" not in parameters(ratio):
        return None
    return np.where(advantage > 0, 1, np.where(advantage < 0, -1, 0))


def whole_mask(mask: Array) -> Array:
    """The response mask itself."""
    return mask


def _along(part: Part, value: Array) -> Array:
    """Response-level numbers [..., G] with a token axis."""
    return value if per_token(part) else value[..., None]
