"""prop:gae-pathwise on a transformer: GAE with a critic that was learned from sampled responses, then frozen."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np

from paper_checks.common import PAPER
from paper_checks.neural.common import declared, expectation, near, off
from tpg.claims import Claim, Finding
from tpg.estimators import critics, expectations
from tpg.estimators.estimator import Estimator
from tpg.neural.case import Case
from tpg.numbers import Array

ALONE = 1  # response per prompt


def learned(case: Case, lam: Any, part: Any = critics.gae) -> Estimator:
    """GAE(λ) on the reward paid at the end, with the case's critic."""
    said = expectations.gae_with(case.critic, lam)
    return Estimator("gae_learned", partial(part, lam=lam), critic=case.critic, expectation=said)


def unbiased(case: Case, lam: Any, part: Any = critics.gae) -> Sequence[Finding]:
    """E ĝ = g."""
    mean, size = expectation(case, learned(case, lam, part), ALONE)
    return [near(case, f"E ĝ = g for GAE({lam}), {case.capacity}", mean - case.g, size)]


def biased_as_declared(case: Case, lam: Any) -> Sequence[Finding]:
    """E ĝ is the closed form in the critic's errors, and not g."""
    estimator = learned(case, lam)
    mean, size = expectation(case, estimator, ALONE)
    return [
        *declared(estimator, ALONE)(case),
        off(case, f"E ĝ of GAE({lam}) is not g, {case.capacity}", mean - case.g, size),
    ]


def peeking(reward: Array, length: Array, mask: Array, value: Array, *, lam: Any) -> Array:
    """Mutant: V after the token stands where V before it should: the baseline knows the action."""
    return critics.gae(
        reward, length, mask, np.where(mask, value[..., 1:], 0)[..., [*range(mask.shape[-1]), -1]], lam=lam
    )


def check(case: Case) -> Sequence[Finding]:
    """λ = 1, and two below."""
    return [*unbiased(case, 1), *biased_as_declared(case, 0), *biased_as_declared(case, 0.95)]


CLAIM = Claim(
    label="neural:gae",
    statement="on a transformer: with a learned, frozen critic GAE(1) is unbiased whatever the critic says; below λ = "
    "1 its errors enter E ĝ, exactly as the closed form says",
    source=PAPER,
    hypotheses=("the critic was fitted to other responses", "γ = 1 in the advantage, RM already discounted"),
    check=check,
    mutants={
        "λ = 0.95 is unbiased": partial(unbiased, lam=0.95),
        "a critic that knows the token": partial(unbiased, lam=1, part=peeking),
    },
    needs=("neural:advantage",),
    algebraic=False,
    group_sizes=(ALONE,),
)
