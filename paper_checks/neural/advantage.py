"""thm:advantage on a transformer."""

from __future__ import annotations

from functools import partial

from paper_checks import thm_advantage as theorem
from paper_checks.common import PAPER, row
from paper_checks.neural.common import GROUP, unbiased
from tpg.claims import Claim
from tpg.estimators import advantages, critics

CLAIM = Claim(
    label="neural:advantage",
    statement="on a transformer: credit M_t − M_{t−1}, PPO's advantage with an exact critic, is unbiased",
    source=PAPER,
    hypotheses=("the critic is exact: V(W_{0,t}) = M_t",),
    check=unbiased(row(advantages.exact_advantage)),
    mutants={
        "a critic of limited capacity with λ = 0": unbiased(row(partial(critics.gae, lam=0), critics.position_critic)),
        "twice M_t": unbiased(row(theorem.doubled)),
    },
    needs=("neural:trajectory-pg",),
    algebraic=False,
    group_sizes=(GROUP,),
)
