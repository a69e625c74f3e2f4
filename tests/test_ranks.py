"""Rank-GRPO: autograd of its objective, its reduction, and what clips."""

from __future__ import annotations

from functools import partial

import numpy as np
import pytest
import torch

from tests.literal.ranks import items
from tpg.estimators import ranks
from tpg.estimators.table import ESTIMATORS
from tpg.numbers import FLOAT64, Array
from tpg.problem import zoo
from tpg.rollouts import responses

ROW = ESTIMATORS["rank_grpo"]


def autograd(found: object, index: Array, delimiter: int) -> Array:
    """∂/∂log π of mean_i mean_k min(s_k A, clip(s_k) A), s_k = exp of the mean log ratio of item k."""
    roll = found.group(index, {"reward", "logp", "old_logp", "tokens", "mask"})  # type: ignore[attr-defined]
    logp = torch.tensor(roll.logp, requires_grad=True)
    total = torch.zeros(())
    for g in range(len(index)):
        reward = roll.reward[g]
        spread = reward.std(ddof=1)
        scores = (reward - reward.mean()) / (spread + 1e-6) if np.ptp(reward) else reward * 0
        for i in range(index.shape[1]):
            word = (0, *(int(t) if t != delimiter else 0 for t in roll.tokens[g, i] if t >= 0))
            words = items(word)
            for item in words:
                gap = (logp[g, i, item] - torch.tensor(roll.old_logp[g, i, item])).mean()
                s, a = gap.exp(), float(scores[i])
                total = total + torch.min(s * a, torch.clamp(s, 0.8, 1.2) * a) / (len(words) * index.shape[1])
    total.backward()  # type: ignore[no-untyped-call]
    assert logp.grad is not None
    return logp.grad.numpy()


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_autograd_of_the_objective_equals_the_credits(seed: int) -> None:
    problem = zoo.random(seed, vocab=3, horizon=4, off_policy=True, field=FLOAT64)
    found = responses(problem)
    rng = np.random.default_rng(seed)
    index = rng.choice(np.flatnonzero(found.prompt == 0), (12, 3))
    credits = ROW(found.group(index, ROW.needs))
    np.testing.assert_allclose(credits, autograd(found, index, 0), atol=1e-13)
    assert (credits == 0)[found.mask[index]].any()  # some are clipped
    roll = found.group(index, {"ratio", "tokens", "mask"})
    up, down = (ranks.rank_clip(roll.ratio, roll.tokens, roll.mask, np.full(1, sign)) for sign in (1, -1))
    assert not np.allclose(up, down)  # planted: the other side clipped
    mutant = ROW.advantage(found.group(index, {"reward"}).reward)[..., None] * down / index.shape[1]
    assert not np.allclose(mutant, autograd(found, index, 0), atol=1e-6)


def test_one_item_is_gspo_with_this_clip() -> None:
    # No delimiter: one item, s the geometric mean of the response, 1/L for every token.
    problem = zoo.stale().to(FLOAT64)
    found = responses(problem)
    roll = found.group(np.arange(6)[None], {"ratio", "tokens", "mask", "length", "sequence_ratio"})
    sign = np.ones(1)
    got = partial(ranks.rank_clip, delimiter=99)(roll.ratio, roll.tokens, roll.mask, sign)
    mean = roll.sequence_ratio ** (1 / roll.length)
    kept = np.where(mean > 1.2, 0, mean) / roll.length
    np.testing.assert_allclose(got, np.where(roll.mask, kept[..., None], 0), rtol=1e-13)
