"""The statements, one module per label, each with its ``CLAIM``; ``tpg verify`` computes their status.

``prop_``, ``thm_``, ``lem_``, ``alg_``: the paper's statements and ours; ``claim_``: what other publications claim.
"""

from importlib import import_module
from pkgutil import iter_modules

PAPER = (  # in the order of the paper; the rest follows by name
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
OTHERS = sorted(found.name for found in iter_modules(__path__) if "_" in found.name and found.name not in PAPER)
CLAIMS = [import_module(f"paper_checks.{name}").CLAIM for name in (*PAPER, *OTHERS)]
