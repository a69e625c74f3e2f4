"""alg:trepo: Token-Reinforced Policy Optimization, published in words; what each way to read them estimates."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from paper_checks.common import PAPER, both, expectation, gradient, unbiased
from paper_checks.continued import always, at_positions, draws, row, sets
from paper_checks.laws import turned
from paper_checks.prop_trepo_value_interpolation import keeps_direction
from tpg.claims import Claim, Finding, nonzero, positive, zero
from tpg.claims.record import Check
from tpg.estimators import continuations
from tpg.estimators.estimator import Estimator
from tpg.estimators.table import ESTIMATORS
from tpg.moments import moments
from tpg.numbers import Array
from tpg.problem import zoo
from tpg.problem.problem import Problem

READINGS = {  # with a coin at every position: E ĝ in units of g; None where g is turned
    "trepo_anchors": "1/2",
    "trepo_adv_interp": "1/2",
    "trepo_value_interp": None,
    "trepo_block": "1",
    "trepo_ipw": "1",
}
KNOWN = [unbiased(ESTIMATORS[name], 1, factor) for name, factor in READINGS.items() if factor is not None]


def between_anchors(anchor: Array, continuation_value: Array) -> Array:
    """What interpolation adds: the credits of tokens that are no anchors."""
    whole = continuations.advantage_interpolation(anchor, continuation_value)
    return whole - continuations.anchors_only(anchor, continuation_value)


def one_draw(name: str, factor: int) -> Check:
    """Anchors at 1, 3, …: ``factor`` times E[D_t S_t] there, for blocks everywhere; every drawn continuation listed."""

    def check(problem: Problem) -> Sequence[Finding]:
        pattern = np.arange(problem.horizon + 1) % 2 == 1
        weight = pattern[1:].astype(int) * factor if name != "trepo_block" else np.ones(problem.horizon, dtype=int)
        gap = draws(problem, 1, pattern).mean(ESTIMATORS[name]) - at_positions(problem, weight)
        return [zero(f"{name}, one continuation, anchors at 1, 3, …", gap)]

    return check


def signal(met: int) -> Check:
    """Where there is an anchor, the tokens that are none add ``met`` times their E[D_t S_t]: 0, or as worded 1."""

    def check(problem: Problem) -> Sequence[Finding]:
        gaps = [
            always(problem, pattern).mean(row(between_anchors)) - at_positions(problem, met * ~pattern[1:])
            for pattern in sets(problem.horizon)
            if pattern.any()
        ]
        return [zero(f"interpolated tokens add {met} · E[D_t S_t]", np.concatenate(gaps))]

    return check


def example() -> Sequence[Finding]:
    """Reading (b) turns g; reading (a) is dearer than REINFORCE with the expected reward."""
    out = []
    for problem in (zoo.three_valued(), zoo.shared(), zoo.key_last()):
        found = expectation(problem, ESTIMATORS["trepo_value_interp"])
        out.append(nonzero(f"(b) turns g on {problem.name}", turned(found, gradient(problem))))
    problem = zoo.three_valued()
    plain, block, anchors, interpolated = (
        noise(problem, ESTIMATORS[name], factor)
        for name, factor in (
            ("reinforce_baseline", 1),
            ("trepo_block", 1),
            ("trepo_anchors", 2),
            ("trepo_adv_interp", 2),
        )
    )
    return [
        *out,
        positive("three-valued: (c) is less noisy than REINFORCE with E RM", plain - block),
        positive("three-valued: (a), scaled to g, is noisier than REINFORCE with E RM", interpolated - plain),
        positive("three-valued: (a) is noisier than the anchors alone", interpolated - anchors),
    ]


def noise(problem: Problem, estimator: Estimator, scale: int) -> Array:
    """Total variance of ``scale`` · ĝ."""
    return scale**2 * moments(problem, estimator, 1).total_variance


CLAIM = Claim(
    label="alg:trepo",
    statement="anchors drawn blindly with chance ρ, E ĝ is ρ g for anchors alone and for (a) interpolated advantages, "
    "as worded, whose interpolated tokens add nothing; in general a turned g for (b) interpolated values; exactly g "
    "for (c) block-telescoped values and (d) anchors over ρ",
    source=f"{PAPER}, in words only; the readings are ours; ledger 8",
    hypotheses=("anchors are blind to the response", "continuations are fresh, from the current policy"),
    check=both(
        *KNOWN,
        signal(0),
        one_draw("trepo_anchors", 1),
        one_draw("trepo_adv_interp", 1),
        one_draw("trepo_ipw", 2),
        one_draw("trepo_block", 1),
    ),
    example=example,
    mutants={
        "interpolated tokens are met": signal(1),
        "(a) is unbiased": unbiased(ESTIMATORS["trepo_adv_interp"]),
        "(b) keeps the direction": keeps_direction,
        "(c) counts ρ": unbiased(ESTIMATORS["trepo_block"], 1, "1/2"),
        "(d) counts ρ": unbiased(ESTIMATORS["trepo_ipw"], 1, "1/2"),
    },
    needs=(
        "prop:trepo-advantage-interpolation",
        "prop:trepo-value-interpolation",
        "prop:trepo-block",
        "prop:trepo-inverse-probability",
    ),
    wording="advantages estimated at a few random tokens and interpolated between them estimate the advantage at all "
    "tokens",
    as_worded=signal(1),
)
