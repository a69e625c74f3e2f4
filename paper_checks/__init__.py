"""The paper's statements, one module per label, each with its ``CLAIM``; ``tpg verify`` computes their status."""

from importlib import import_module

ORDER = (
    "lem_exact_gradient",
    "lem_baseline",
    "thm_trajectory_pg",
    "prop_gamma_weight",
    "thm_advantage",
    "prop_reinforce_family",
    "prop_silent_group",
    "prop_gae_pathwise",
    "prop_reward_class",
    "prop_group_mean",
)
CLAIMS = [import_module(f"paper_checks.{name}").CLAIM for name in ORDER]
