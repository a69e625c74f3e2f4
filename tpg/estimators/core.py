"""The paper's own rows and the methods it is about: REINFORCE, RLOO, ReMax, GRPO, Dr. GRPO, DAPO, GAE and PPO."""

from __future__ import annotations

from functools import partial

from tpg.estimators import advantages, aggregation, critics, expectations, ratios
from tpg.estimators.estimator import Estimator
from tpg.rollouts import Critic

PPO_LAMBDA = 0.95  # verl's and OpenRLHF's default for PPO


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


ROWS = _rows()
