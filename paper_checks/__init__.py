"""The statements, one module per label, each with its ``CLAIM``; ``tpg verify`` computes their status.

``prop_``, ``thm_``, ``lem_``, ``alg_``: the paper's statements and ours; ``claim_``: what other publications claim.
"ledger n" in a source: row n of the list of published claims, 1 … 30, that this package was to decide.
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
KINDS = ("lem_", "thm_", "prop_", "alg_", "claim_")
OTHERS = sorted(
    found.name for found in iter_modules(__path__) if found.name.startswith(KINDS) and found.name not in PAPER
)


def _in_order(names: list[str]) -> list[str]:
    """By name, but what a claim needs before it."""
    claims = {name: import_module(f"paper_checks.{name}").CLAIM for name in names}
    home = {claim.label: name for name, claim in claims.items()}
    done: dict[str, None] = {}

    def visit(name: str) -> None:
        for label in claims[name].needs:
            if label in home and home[label] not in done and home[label] != name:
                visit(home[label])
        done[name] = None

    for name in names:
        if name not in done:
            visit(name)
    return list(done)


ORDER = _in_order([*PAPER, *OTHERS])
CLAIMS = [import_module(f"paper_checks.{name}").CLAIM for name in ORDER]
