"""What an update costs: expected generated tokens, exactly."""

from __future__ import annotations

from typing import Any

import numpy as np

from tpg.errors import EstimatorError
from tpg.estimators.estimator import Estimator
from tpg.moments.anchored import paths_of
from tpg.moments.coupling import chances, compositions, credits_by_class, kept_groups
from tpg.moments.paths import Paths, settings_of
from tpg.numbers import Array
from tpg.problem.problem import Problem
from tpg.rollouts import every, greedy


def generated_tokens(problem: Problem, estimator: Estimator, group_size: int) -> Any:
    """Expected tokens generated for one update: a group of ``group_size`` responses of every prompt.

    With those of groups that are drawn again, of fresh continuations (K from every prefix where the response needs a
    value, none shared between responses) and of the greedy response where one is read.  Exact values, critics and
    expected rewards count as known: they cost nothing here, whatever a run would have to pay for them.
    """
    return tokens_by_prompt(problem, estimator, group_size).sum()


def tokens_by_prompt(problem: Problem, estimator: Estimator, group_size: int) -> Array:
    """[P] the same for each prompt."""
    each = _length(problem)
    if estimator.continuations is not None:
        each = each + estimator.continuations * _continued(problem, estimator, group_size)
    out = group_size * each
    if estimator.keep is not None:
        out = out / _share_kept(problem, estimator, group_size)
    return out + greedy(problem).length if "greedy_reward" in estimator.needs else out


def _length(problem: Problem) -> Array:
    """[P] E L = Σ_t P(L > t): 1 less what has ended, so that a fixed length is a whole number."""
    tree, out = problem.tree, problem.field.zeros(problem.prompts)
    alive = problem.field.ones(problem.prompts)
    for t in range(problem.horizon):
        rows, out = tree.at(t), out + alive
        leaves = np.where(tree.inner[rows], problem.field.scalar(0), problem.sampling[rows]).sum(1)
        np.subtract.at(alive, tree.prompt[rows], problem.sampling_reach[rows] * leaves)
    return out


def remaining(problem: Problem) -> Array:
    """[N] expected tokens still to come from each prefix, under the current policy."""
    out, below = problem.field.zeros(problem.tree.nodes), problem.field.zeros(0)
    for t in reversed(range(problem.horizon)):
        rows = problem.tree.at(t)
        onward = problem.tree.lift(below, t, problem.field.zeros(problem.probs[rows].shape))
        below = out[rows] = 1 + (problem.probs[rows] * onward).sum(-1)
    return out


def _continued(problem: Problem, estimator: Estimator, group_size: int) -> Array:
    """[P] Σ_t P(M_t is read) E[tokens to come after t] of one response, over the continuation fields."""
    if not estimator.collapsible:
        raise EstimatorError(f"{estimator.name}: peers act on single tokens, which values it reads is not known")
    paths = paths_of(problem, estimator, group_size)
    singles, uses = paths.singles, paths.uses()[:, :-1]
    each = np.where(singles.mask, uses * remaining(problem)[singles.node], problem.field.scalar(0)).sum(1)
    out = problem.field.zeros(problem.prompts)
    np.add.at(out, singles.prompt, singles.probability * each)
    return out


def _share_kept(problem: Problem, estimator: Estimator, group_size: int) -> Array:
    """[P] the chance that a group is kept."""
    out = problem.field.zeros(problem.prompts)
    if not estimator.collapsible:
        for prompt, singles, index, chance in every(problem, group_size, estimator.given):
            kept = kept_groups(estimator, singles.group(index, estimator.needs), len(index))
            out[prompt] += chance[kept].sum()
        return out
    paths = Paths(problem, estimator, group_size)
    for prompt, mass in enumerate(paths.mass):
        here = np.flatnonzero(mass != 0)
        fields = {name: values[prompt, here] for name, values in paths.fields.items()}
        settings = settings_of(problem, estimator, group_size, prompt)
        for counts in compositions(len(here), group_size):
            _, kept = credits_by_class(estimator, fields, counts, settings, problem.field)
            out[prompt] += chances(counts, mass[here], problem.field)[kept].sum()
    return out
