"""Off-policy corrections and clips: a factor of the credits, 1 when π = μ.

w stands for any ratio: π/μ of a token, of a prefix (their product so far) or of the whole response.  A clip is what
differentiating min(w A, clip(w) A) leaves: w, or 0 where the minimum is flat.  Those that need roots or exponentials
are in ``offpolicy``.
"""

from __future__ import annotations

from fractions import Fraction
from typing import Any

import numpy as np

from tpg.numbers import Array, parse, to_float

SLACK = 2.0**-40  # relative: the rounding of a product of a thousand float64 ratios


def on_policy(group_size: int) -> Array:
    """No correction: 1.  The estimator is meant for responses of the current policy."""
    return np.array([1])


def ppo_clip(ratio: Array, sign: Array, *, clip_low: float = 0.2, clip_high: float = 0.2) -> Array:
    """PPO (Schulman et al., arXiv 1707.06347): −∂loss/∂log π of min(r A, clip(r, 1−ε, 1+ε) A), divided by A.

    r where the objective is unclipped, 0 where (A > 0, r > 1 + ``clip_high``) or (A < 0, r < 1 − ``clip_low``).  On the
    first step r = 1: no correction, no clip.  ``sign`` is that of the advantage.  [..., G, T] → [..., G, T].

    >>> ppo_clip(np.array([1.0, 1.5, 1.5]), np.array([1, 1, -1]))
    array([1. , 0. , 1.5])
    """
    return clipped(ratio, sign, 1 - parse(clip_low), 1 + parse(clip_high))


def dual_clip(ratio: Array, sign: Array, *, clip: float = 0.2, dual: float = 3.0) -> Array:
    """Dual-clip PPO (Ye et al., arXiv 1912.09729): for A < 0 the objective is max(min(r A, clip(r) A), c A).

    ``ppo_clip``, and 0 for A < 0 where r > ``dual``: the gradient that the plain clip lets grow without bound.
    [..., G, T] → [..., G, T].

    >>> dual_clip(np.array([2.0, 4.0, 0.5]), np.array([-1, -1, -1]))
    array([2., 0., 0.])
    """
    out = ppo_clip(ratio, sign, clip_low=clip, clip_high=clip)
    return np.where((sign < 0) & above(ratio, parse(dual)), ratio - ratio, out)


def sequence_clip(sequence_ratio: Array, sign: Array, *, clip: float = 0.2) -> Array:
    """TRL's RLOO: the PPO clip of the ratio of the whole response, min(ρ A, clip(ρ, 1−ε, 1+ε) A), ρ = Π_t π/μ.

    [..., G] → [..., G, 1].

    >>> sequence_clip(np.array([1.1, 1.3]), np.array([[1], [1]]))
    array([[1.1],
           [0. ]])
    """
    return clipped(sequence_ratio[..., None], sign, 1 - parse(clip), 1 + parse(clip))


def upper_clip(sequence_ratio: Array, *, clip_high: float = 0.2) -> Array:
    """TIC-GRPO (arXiv 2508.02833): min(ρ, 1+ε) A whatever the sign of A, differentiated: ρ, or 0 above 1+ε.

    Where A < 0 PPO's objective is not clipped there; this one stops those gradients too.  No full text was at hand:
    the reading is one term min(ρ_i, 1+ε) A_i / L_i per response.  [..., G] → [..., G].

    >>> upper_clip(np.array([0.1, 1.2, 1.3]))
    array([0.1, 1.2, 0. ])
    """
    return np.where(above(sequence_ratio, 1 + parse(clip_high)), sequence_ratio - sequence_ratio, sequence_ratio)


def token_is(ratio: Array) -> Array:
    """Token importance sampling, the first-order surrogate Σ_t r_t A (arXiv 2512.01374): r_t = π/μ of the token.

    Off-policy E ĝ = Σ_s ρ_μ(s) Σ_a π(a|s) Q^μ(s, a) ∇log π(a|s): prefixes as μ visits them, continued by μ.
    [..., G, T] → [..., G, T].

    >>> token_is(np.array([[2.0, 0.5]]))
    array([[2. , 0.5]])
    """
    return ratio


def sequence_is(sequence_ratio: Array) -> Array:
    """Importance sampling of whole responses: ρ_{1:L} = Π_t π/μ.

    Unbiased off-policy, for any advantage that is so on-policy, wherever μ > 0 or π = 0.  [..., G] → [..., G].

    >>> sequence_is(np.array([2.0]))
    array([2.])
    """
    return sequence_ratio


def prefix_is(ratio: Array) -> Array:
    """Importance sampling of prefixes: ρ_{1:t} = Π_{k≤t} π/μ.

    Off-policy E ĝ = Σ_s ρ_π(s) Σ_a π(a|s) Q^μ(s, a) ∇log π(a|s): the prefixes of π, but continued by μ.  Exact for
    advantages known at t (Q^π), not for the reward of the response.  [..., G, T] → [..., G, T].

    >>> prefix_is(np.array([[2.0, 0.5, 3.0]]))
    array([[2., 1., 3.]])
    """
    return np.multiply.accumulate(ratio, axis=-1)


def clamp_token(ratio: Array, *, low: Any = None, high: Any = None) -> Array:
    """Clamped weight with the gradient kept: min(max(r_t, ``low``), ``high``), a constant times ∇log π (sg).

    verl's CISPO (arXiv 2506.13585) clamps at 1−ε and 1+ε, TRL's only above and at ε_high itself; TIS (token level)
    truncates at C; A-LoL (arXiv 2305.14718) clamps at 1±ε.  None: no bound.  [..., G, T] → [..., G, T].

    >>> clamp_token(np.array([[0.1, 1.0, 7.0]]), low=0.8, high=5)
    array([[0.8, 1. , 5. ]])
    """
    return clamped(ratio, low, high)


def clamp_sequence(sequence_ratio: Array, *, low: Any = None, high: Any = None) -> Array:
    """The same for the ratio of the whole response: min(max(ρ, ``low``), ``high``).  [..., G] → [..., G].

    >>> clamp_sequence(np.array([0.5, 7.0]), high=2)
    array([0.5, 2. ])
    """
    return clamped(sequence_ratio, low, high)


def mask_token(ratio: Array, *, low: Any, high: Any) -> Array:
    """MIS, token level (verl ``rollout_rs``; IcePop with its own bounds): r_t where ``low`` ≤ r_t ≤ ``high``, else 0.

    [..., G, T] → [..., G, T].

    >>> mask_token(np.array([[0.4, 0.5, 2.0, 2.1]]), low=0.5, high=2)
    array([[0. , 0.5, 2. , 0. ]])
    """
    return masked(ratio, low, high)


def mask_sequence(sequence_ratio: Array, *, low: Any, high: Any) -> Array:
    """MIS, response level (verl ``rollout_rs``): ρ where ``low`` ≤ ρ ≤ ``high``, else 0.  [..., G] → [..., G].

    >>> mask_sequence(np.array([0.5, 2.1]), low=0.5, high=2)
    array([0.5, 0. ])
    """
    return masked(sequence_ratio, low, high)


# What they are made of


def above(ratio: Array, bound: Any) -> Array:
    """``ratio`` > ``bound``, strictly.  In float64 an excess that rounding alone explains is none."""
    if ratio.dtype == object:
        return ratio * bound.denominator > bound.numerator  # exact ratios are compared with whole numbers
    return ratio > to_float(bound) * (1 + SLACK)


def below(ratio: Array, bound: Any) -> Array:
    """``ratio`` < ``bound``, strictly, in the same sense."""
    if ratio.dtype == object:
        return ratio * bound.denominator < bound.numerator
    return ratio < to_float(bound) * (1 - SLACK)


def clipped(ratio: Array, sign: Array, low: Any, high: Any) -> Array:
    """``ratio``, or 0 where min(w A, clip(w, low, high) A) is flat: A > 0 and w > high, or A < 0 and w < low."""
    flat = ((sign > 0) & above(ratio, high)) | ((sign < 0) & below(ratio, low))
    return np.where(flat, ratio - ratio, ratio)


def clamped(ratio: Array, low: Any, high: Any) -> Array:
    """``ratio`` brought into [low, high]."""
    out = ratio
    if low is not None:
        out = np.where(below(out, parse(low)), _at(out, parse(low)), out)
    if high is not None:
        out = np.where(above(out, parse(high)), _at(out, parse(high)), out)
    return out


def masked(ratio: Array, low: Any, high: Any) -> Array:
    """``ratio``, or 0 outside [low, high]."""
    return np.where(above(ratio, parse(high)) | below(ratio, parse(low)), ratio - ratio, ratio)


def _at(ratio: Array, bound: Fraction) -> Array:
    """``bound`` in the number type of ``ratio``."""
    return (ratio - ratio + bound.numerator) / bound.denominator
