"""The paper's statements on a transformer, against its exact gradient: ``tpg verify --neural``.

A check is given a :class:`tpg.neural.case.Case`; expectations come from the table's rows on the network as a Problem,
the gradient from the streamed backward pass over every response: two roads that share only the network.
"""

from importlib import import_module

ORDER = (
    "exact_gradient",
    "trajectory_pg",
    "advantage",
    "reinforce_family",
    "gae",
    "trepo",
    "variance",
    "every_row",
    "sampling",
    "cost",
)
CLAIMS = [import_module(f"paper_checks.neural.{name}").CLAIM for name in ORDER]
