"""claim:grpo-one-number: GRPO's and DAPO's rows give a response one number for all tokens, 0 where rewards tie."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import numpy as np

from paper_checks.common import PAPER, both
from paper_checks.laws import two_valued
from paper_checks.prop_reinforce_family import one_number, peers_per_token
from paper_checks.prop_silent_group import raw_where_tied, vanish
from tpg.claims import Claim, Finding, close
from tpg.claims.record import Check
from tpg.estimators import advantages, aggregation
from tpg.estimators.estimator import Estimator
from tpg.estimators.table import ESTIMATORS
from tpg.numbers import FLOAT64
from tpg.problem.problem import Problem
from tpg.rollouts import every

GRPO, DAPO = ESTIMATORS["grpo"], ESTIMATORS["dapo"]


def in_float64(check: Check) -> Check:
    """The check on the same problem in float64, and with rewards that tie."""
    return lambda problem: [found for made in (problem, two_valued(problem)) for found in check(made.to(FLOAT64))]


def written_out(estimator: Estimator, size: int, of_group: bool = False) -> Check:
    """c[i,t] = (R_i − mean)/((std + ε) · |o_i| G), or with Σ_j |o_j| for |o_i| G (``of_group``), group by group."""

    def check(problem: Problem) -> Sequence[Finding]:
        gaps, largest = [], 1.0
        for _, singles, index, _ in every(problem, size):
            credits = estimator(singles.group(index, estimator.needs))
            reward, length = singles.reward[index], singles.length[index]
            deviation = reward - reward.mean(1, keepdims=True)
            std = np.sqrt((deviation**2).sum(1, keepdims=True) / (size - 1))
            divisor = length.sum(1, keepdims=True) if of_group else length * size
            said = np.where(np.ptp(reward, axis=1, keepdims=True) > 0, deviation / (std + 1e-6) / divisor, 0.0)
            gaps.append(np.where(singles.mask[index], credits - said[:, :, None], 0.0).ravel())
            largest = max(largest, float(np.abs(said).max()))
        return [close(f"credits of {estimator.name} as written, G = {size}", np.concatenate(gaps), largest)]

    return check


CLAIM = Claim(
    label="claim:grpo-one-number",
    statement="GRPO gives every token of a response one and the same number, (R_i − mean)/((σ + ε)|o_i| G), DAPO with "
    "Σ_j |o_j| for |o_i| G, as REINFORCE, RLOO and ReMax do with theirs; where all rewards of the group are equal it "
    "is exactly 0, bit for bit",
    source=f"{PAPER}; arXiv 2402.03300, 2503.14476; ledger 5, 7",
    hypotheses=("first step: no clip", "std over G − 1, ε = 10⁻⁶"),
    group_sizes=(2, 3),
    check=both(
        *(in_float64(one_number(estimator)) for estimator in (GRPO, DAPO)),
        *(in_float64(written_out(GRPO, size)) for size in (2, 3)),
        *(in_float64(written_out(DAPO, size, of_group=True)) for size in (2, 3)),
        *(vanish(estimator, size) for estimator in (GRPO, DAPO) for size in (2, 3)),
    ),
    mutants={
        "a baseline per token": in_float64(one_number(Estimator("per token", peers_per_token))),
        "the population std": in_float64(
            written_out(Estimator("ddof 0", partial(advantages.z_score, ddof=0), aggregation.seq_mean_token_mean), 3)
        ),
        "DAPO divides by the own length": in_float64(written_out(DAPO, 2)),
        "ties get the raw reward": vanish(Estimator("raw where tied", raw_where_tied)),
        "exact advantages vanish, too": vanish(ESTIMATORS["exact_advantage"]),
    },
    needs=("prop:reinforce-family", "prop:silent-group"),
    algebraic=False,
    wording="REINFORCE, RLOO, ReMax and GRPO use one baseline of t = 0 for all tokens (read: GRPO gives all tokens of "
    "a response one number)",
    as_worded=in_float64(one_number(GRPO)),
)
