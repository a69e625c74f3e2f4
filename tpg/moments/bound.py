"""How large ⟨ĝ, v⟩ can ever get: the range that a betting test needs to be told."""

from __future__ import annotations

import numpy as np

from tpg.estimators.estimator import Estimator
from tpg.moments.coupling import compositions, credits_by_class
from tpg.moments.paths import Paths, settings_of
from tpg.numbers import Array
from tpg.problem.problem import Problem


def credit_bound(problem: Problem, estimator: Estimator, group_size: int, along: Array) -> float:
    """max |⟨ĝ, v⟩| ≤ Σ_x weight(x) · G · max |coupled credit| · max_W |Σ_t w_t ⟨S_t, v⟩|.

    ``along`` [N, V] holds ⟨score, v⟩.  The coupled factor is run on every composition of the classes, the own factor
    on every response.
    """
    paths = Paths(problem, estimator, group_size)
    singles = paths.singles
    shadow = np.abs((paths.weight * np.where(singles.mask, along[singles.node, singles.token], 0)).sum(2))  # [F, R]
    total = 0.0
    for prompt, weight in enumerate(problem.weights):
        mine = singles.prompt == prompt
        here = np.unique(paths.code[mine])
        fields = {name: values[prompt, here] for name, values in paths.fields.items()}
        settings = settings_of(problem, estimator, group_size, prompt)
        blocks = compositions(len(here), group_size)
        sizes = [np.abs(credits_by_class(estimator, fields, c, settings, problem.field)[0]).max((0, 2)) for c in blocks]
        total += float(weight) * group_size * float(np.max(sizes, axis=0) @ shadow[:, mine].max(1))
    return total
