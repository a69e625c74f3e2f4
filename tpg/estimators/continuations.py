"""Credit from fresh continuations: the paper's two theorems with K draws, VinePPO, the readings of TRePO.

``continuation_value`` [..., G, T+1] holds M_0 … M_T: M_t = E[RM | first t tokens], RM itself from the end on.  It is
exact or, in rows with ``continuations`` = K, the mean of K fresh responses from that prefix; all credits here are
linear in it, so that E ĝ stays the same.

Conventions.  The root always opens the first block and the end of a response always closes the last one: M_0 and RM
cost no anchor.  Anchors after the end are drawn and stay without effect, but for interpolated advantages, which run
down to A = 0 there.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np

from tpg.estimators import anchors, prefix_tree
from tpg.estimators import continuations_expected as expected
from tpg.estimators.advantages import exact_advantage, trajectory_value
from tpg.estimators.estimator import Estimator
from tpg.numbers import Array, parse

RATE = "1/2"  # of the anchors of TRePO's rows
PAPER_K = 9  # continuations per step in VinePPO


def independent_advantage(continuation_value: Array, second_continuation_value: Array) -> Array:
    """thm:advantage (arXiv 2506.02553) with continuations of their own for Q and V: A_t = M_t − M'_{t−1}.

    E ĝ = g, and the same variance as with shared ones, for twice the continuations: the error of M_t, shared with the
    next token's baseline, is uncorrelated with that token's score.  [..., G, T+1] twice → [..., G, T], in rewards.

    >>> independent_advantage(np.array([[0.5, 0.75, 1.0]]), np.array([[0.25, 0.5, 1.0]]))
    array([[0.5, 0.5]])
    """
    return continuation_value[..., 1:] - second_continuation_value[..., :-1]


def vine_step(tokens: Array, length: Array, continuation_value: Array, *, delimiter: int = 0) -> Array:
    """VinePPO (Kazemnejad et al., arXiv 2410.01679): A_t = M_u − M_s for every token t of the step (s, u].

    A step ends with the token ``delimiter`` or with the response; the published V(end) = 0 with the reward paid there
    is M_u = RM.  E ĝ = g: step ends are stopping times, so E[M_u | W_{0,t}] = M_t.  Without whitening, which turns it,
    and before any clip.  [..., G, T], [..., G], [..., G, T+1] → [..., G, T], in rewards.

    >>> vine_step(np.array([[1, 0, 1]]), np.array([3]), np.array([[0.5, 0.5, 0.75, 1.0]]))
    array([[0.25, 0.25, 0.25]])
    """
    return block(_after(tokens == delimiter), length, continuation_value)


def anchors_only(anchor: Array, continuation_value: Array, *, inclusion: Any = 1) -> Array:
    """TRePO (arXiv 2506.02553), reading 0: A_t = (M_t − M_{t−1}) / ``inclusion`` at anchors, 0 elsewhere.

    E ĝ = Σ_t ρ_t E[A_t S_t] / inclusion, ρ_t the chance that t is an anchor: ρ g for a constant chance and g where
    ``inclusion`` is that chance.  No full text of the algorithm was at hand.
    [..., G, T+1] twice → [..., G, T], in rewards.

    >>> anchors_only(np.array([[False, True, False]]), np.array([[0.5, 0.75, 1.0]]), inclusion="1/2")
    array([[0.5, 0. ]])
    """
    chance, gain = parse(inclusion), exact_advantage(continuation_value)
    return np.where(anchor[..., 1:], gain * chance.denominator / chance.numerator, 0 * gain)


def advantage_interpolation(anchor: Array, continuation_value: Array) -> Array:
    """TRePO (arXiv 2506.02553), reading (a), as worded: A_t = M_t − M_{t−1} at anchors, interpolated between them.

    E ĝ = ρ g, no more than the anchors alone give: E[A_u S_t] = 0 for u ≠ t, interpolated tokens hold noise only.
    Before the first anchor and after the last A_t is that of the nearest; without any, 0.  Weights look at positions
    alone, so anchors after the end count with A = 0; to skip them would look ahead.
    [..., G, T+1] twice → [..., G, T], in rewards.

    >>> advantage_interpolation(np.array([[False, True, False, True]]), np.array([[0.0, 1.0, 1.0, 3.0]]))
    array([[1. , 1.5, 2. ]])
    """
    gain, here = exact_advantage(continuation_value), anchor[..., 1:]
    steps = here.shape[-1]
    place = np.arange(steps)
    left = np.maximum.accumulate(np.where(here, place, -1), axis=-1)
    right = np.flip(np.minimum.accumulate(np.flip(np.where(here, place, steps), -1), axis=-1), -1)
    some = here.any(-1, keepdims=True)
    left, right = np.where(left < 0, right, left), np.where(right == steps, left, right)
    left, right = np.where(some, left, 0), np.where(some, right, 0)
    span = np.where(right == left, 1, right - left)
    first, last = (np.take_along_axis(gain, index, axis=-1) for index in (left, right))
    return np.where(some, first + (last - first) * (place - left) / span, 0 * gain)


def value_interpolation(anchor: Array, length: Array, continuation_value: Array) -> Array:
    """TRePO (arXiv 2506.02553), reading (b), values interpolated: A_t = (M_u − M_s)/(u − s) in the block (s, u].

    Biased: a token weighs 1 over the length of its block, which differs from place to place and, where responses
    end early, with what is still to come.  [..., G, T+1], [..., G], [..., G, T+1] → [..., G, T], in rewards per token.

    >>> value_interpolation(np.array([[False, False, True, False]]), np.array([3]), np.array([[0.0, 1.0, 1.0, 3.0]]))
    array([[0.5, 0.5, 2. ]])
    """
    start, end = _blocks(anchor, length)
    return block(anchor, length, continuation_value) / np.maximum(end - start, 1)


def block(anchor: Array, length: Array, continuation_value: Array) -> Array:
    """TRePO (arXiv 2506.02553), reading (c), telescoped: A_t = M_u − M_s for every token t of the block (s, u].

    E ĝ = g for every law of anchors that is blind to the future (E[M_u | W_{0,t}] = M_t, M_s a baseline).  No anchors:
    REINFORCE with V(s_0); all of them: the exact advantage.
    [..., G, T+1], [..., G], [..., G, T+1] → [..., G, T], in rewards.

    >>> block(np.array([[False, False, True, False]]), np.array([3]), np.array([[0.0, 1.0, 1.0, 3.0]]))
    array([[1., 1., 2.]])
    """
    start, end = _blocks(anchor, length)
    above, below = (np.take_along_axis(continuation_value, index, axis=-1) for index in (end, start))
    return above - below


def _blocks(closes: Array, length: Array) -> tuple[Array, Array]:
    """Where the block of each token starts and ends [..., G, T]: s < t ≤ u; the end of the response closes the last."""
    steps = closes.shape[-1] - 1
    place = np.arange(steps + 1)
    start = np.maximum.accumulate(np.where(closes, place, 0), axis=-1)[..., :-1]
    end = np.flip(np.minimum.accumulate(np.flip(np.where(closes, place, steps), -1), axis=-1), -1)[..., 1:]
    return start, np.minimum(end, length[..., None])


def _after(here: Array) -> Array:
    """Tokens [..., T] as the positions [..., T+1] after them."""
    return np.concatenate([here[..., :1] & False, here], axis=-1)


def _rows() -> list[Estimator]:
    vine, paper = "arXiv 2410.01679, first step, no whitening", "arXiv 2506.02553"
    return [
        Estimator("vineppo", vine_step, source=f"{vine}, exact values", aliases=("trepo_block_delimiter",)),
        Estimator("vineppo_k", vine_step, source=f"{vine}, K = 9", continuations=PAPER_K),
        Estimator("trajectory_pg_k", trajectory_value, source=f"{paper} thm:trajectory-pg, K = 4", continuations=4),
        Estimator("exact_advantage_k1", exact_advantage, source=f"{paper} thm:advantage, K = 1", continuations=1),
        Estimator("exact_advantage_k4", exact_advantage, source=f"{paper} thm:advantage, K = 4", continuations=4),
        Estimator(
            "exact_advantage_k1_independent",
            independent_advantage,
            source=f"{paper} thm:advantage, K = 1 for Q and again for V",
            continuations=1,
        ),
        *_trepo(f"{paper}, TRePO in words only"),
        Estimator("tempo", prefix_tree.tempo, expectation=expected.TREE, source="arXiv 2509.18314", aliases=("p2t",)),
        Estimator(
            "tempo_std",
            prefix_tree.tempo_std,
            expectation=expected.TREE_STD,
            source="arXiv 2509.18314",
            numbers="float64",
        ),
        Estimator("tempo_unbiased", prefix_tree.tree_leave_one_out, source="ours, after arXiv 2509.18314"),
    ]


def _trepo(source: str) -> list[Estimator]:
    """The readings of TRePO, with every position an anchor half of the time, and the block reading with other laws."""
    half = partial(anchors.bernoulli, rate=RATE)
    scaled, by_length = expected.at_rate(RATE), expected.value_interpolation(RATE)
    weighted = partial(anchors_only, inclusion=RATE)
    one, looking = partial(anchors.subset, size=1), partial(anchors.subset_of_length, size=1)
    interpolated = advantage_interpolation
    return [
        Estimator("trepo_anchors", anchors_only, expectation=scaled, source=source, anchors=half),
        Estimator("trepo_ipw", weighted, source=source, anchors=half),
        Estimator("trepo_adv_interp", interpolated, expectation=scaled, source=source, anchors=half),
        Estimator(
            "trepo_adv_interp_k1", interpolated, expectation=scaled, source=source, anchors=half, continuations=1
        ),
        Estimator("trepo_value_interp", value_interpolation, expectation=by_length, source=source, anchors=half),
        Estimator("trepo_block", block, source=source, anchors=half),
        Estimator("trepo_block_k1", block, source=source, anchors=half, continuations=1),
        Estimator("trepo_block_subset", block, source=source, anchors=one),
        Estimator("trepo_block_subset_len", block, expectation=expected.ONE_OF_LENGTH, source=source, anchors=looking),
    ]


ROWS = _rows()
