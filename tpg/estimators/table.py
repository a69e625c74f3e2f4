"""ESTIMATORS: one row per published algorithm = advantage × ratio / divisor, with its source and exact expectation."""

from __future__ import annotations

import difflib
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Literal

import numpy as np

from tpg.errors import EstimatorError
from tpg.estimators import advantages, aggregation, critics, expectations, ratios
from tpg.estimators.expectations import Expectation
from tpg.estimators.parts import Part, apply, parameters, peers_of, per_token, reads
from tpg.numbers import Array, powers
from tpg.rollouts import Critic, Rollouts

PPO_LAMBDA = 0.95  # verl's and OpenRLHF's default for PPO


@dataclass(frozen=True, eq=False)
class Estimator:
    """A policy-gradient estimator: credits c[i,t] = (advantage · ratio + penalty) / aggregation on each token.

    ĝ = Σ_i Σ_t c[i,t] ∇log π(w_{i,t}).  ``numbers``: what the formula runs in: "any" field, those with an
    order (a clip), or float64 alone (a square root).
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

    @property
    def parts(self) -> tuple[Part, ...]:
        """The functions that the credits are made of."""
        return self.advantage, self.aggregation, self.ratio, *(() if self.penalty is None else (self.penalty,))

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
        return 2 if peers_of(self.advantage) else 1

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
        return not any(per_token(part) or part in (self.ratio, self.penalty) for part in coupled)

    @cached_property
    def response_level(self) -> bool:
        """All tokens of a response get the same credit."""
        return not any(per_token(part) for part in self.parts)

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


def _rows() -> list[Estimator]:
    a, w, e = advantages, aggregation, expectations
    rows = [
        Estimator("reinforce", a.response_reward, source="Williams 1992; arXiv 2506.02553 thm:trajectory-pg"),
        Estimator("reinforce_baseline", a.prompt_baseline, source="Williams 1992; lem:baseline"),
        Estimator("reward_to_go", a.reward_to_go, source="Sutton et al. 2000; lem:exact-gradient"),
        Estimator("trajectory_pg", a.trajectory_value, source="arXiv 2506.02553 thm:trajectory-pg, exact M_t"),
        Estimator("exact_advantage", a.exact_advantage, source="arXiv 2506.02553 thm:advantage, exact M_t"),
        Estimator(
            "zra_discounted",
            a.zra_discounted,
            expectation=e.DISCOUNTED_BACK,
            source="arXiv 2506.02553 prop:gamma-weight",
        ),
        Estimator(
            "zra_discounted_start",
            a.zra_discounted_start,
            expectation=e.DISCOUNTED_START,
            source="ours: prop:gamma-weight",
        ),
        Estimator("rloo", a.rloo, source="Kool et al. 2019; arXiv 2402.14740", aliases=("rloo_vectorized",)),
        Estimator("group_mean", a.group_mean, expectation=e.GROUP_MEAN, source="arXiv 2402.03300 without std"),
        Estimator("remax", a.greedy, source="arXiv 2310.10505"),
        Estimator(
            "grpo", a.z_score, w.seq_mean_token_mean, expectation=e.GRPO, source="arXiv 2402.03300", numbers="float64"
        ),
        Estimator("dr_grpo", a.group_mean, w.seq_mean_token_sum_norm, expectation=e.DR_GRPO, source="arXiv 2503.20783"),
        Estimator(
            "dapo",
            a.z_score,
            w.token_mean,
            expectation=e.TOKEN_MEAN,
            source="arXiv 2503.14476, first step",
            aliases=("bnpo",),
            numbers="float64",
        ),
    ]
    return rows + [_actor_critic(kind, suffix, critic) for kind in ("gae", "ppo") for suffix, critic in CRITICS.items()]


CRITICS: dict[str, Critic] = {
    "": critics.exact_critic,
    "_position_critic": critics.position_critic,
    "_wrong_critic": critics.wrong_critic,
}


def _actor_critic(kind: str, suffix: str, critic: Critic) -> Estimator:
    exact = critic is critics.exact_critic
    return Estimator(
        kind + suffix,
        partial(critics.gae, lam=PPO_LAMBDA),
        ratio=ratios.ppo_clip if kind == "ppo" else ratios.on_policy,
        expectation=expectations.UNBIASED if exact else expectations.gae_with(critic, PPO_LAMBDA),
        source="arXiv 1506.02438" if kind == "gae" else "arXiv 1707.06347, first step, no whitening",
        critic=critic,
        numbers="any" if kind == "gae" else "ordered",
    )


ESTIMATORS: dict[str, Estimator] = {row.name: row for row in _rows()}
ALIASES: dict[str, str] = {alias: row.name for row in ESTIMATORS.values() for alias in row.aliases}


def get(name: str) -> Estimator:
    """A row by its name or alias; an unknown name lists near matches."""
    row = ESTIMATORS.get(ALIASES.get(name, name))
    if row is None:
        near = difflib.get_close_matches(name, [*ESTIMATORS, *ALIASES], n=3) or sorted(ESTIMATORS)
        raise EstimatorError(f"unknown estimator {name!r}: did you mean {', '.join(near)}? (`tpg list` shows all)")
    return row
