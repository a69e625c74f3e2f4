"""Parts of an estimator: how a pure function declares what it reads, and how it is called."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from fractions import Fraction
from functools import cache, partial
from typing import Any

from tpg.errors import EstimatorError
from tpg.numbers import Array
from tpg.rollouts import FIELDS, Rollouts

Part = Callable[..., Array]
SETTINGS = ("group_size", "horizon", "discount")  # always known
SWEEPABLE = frozenset({"reward", "length", "expected_reward", "greedy_reward", "prompt_constant"})
RESPONSE_LEVEL = SWEEPABLE | {"sequence_ratio", "sequence_logp", "sequence_ref_logp"}
REFERENCE = "give the problem a reference policy, as --problem referenced has one"
REMEDY = {
    "value": "give the estimator a critic",
    "greedy_reward": "build the rollouts from a Problem",
    "expected_reward": "build the rollouts from a Problem",
    "continuation_value": "build the rollouts from a Problem, which knows M_t",
    "token_reward": "build the rollouts from a Problem with token-level rewards",
    "ref_prob": REFERENCE,
    "ref_logp": REFERENCE,
    "sequence_ref_logp": REFERENCE,
    "process_reward": "give the estimator a model",
    "prompt_constant": "give the estimator a constant",
    "anchor": "give the estimator a law of anchors",
}


def peers(*names: str) -> Callable[[Part], Part]:
    """Mark a part as reading fields ``names`` of the other responses of its group."""

    def mark(part: Part) -> Part:
        part.peers = frozenset(names)  # type: ignore[attr-defined]
        return part

    return mark


def batch_peers(*names: str) -> Callable[[Part], Part]:
    """Mark a part as reading fields ``names`` of all responses of the batch: its fields have axes [..., P, G]."""

    def mark(part: Part) -> Part:
        part.peers, part.batch = frozenset(names), True  # type: ignore[attr-defined]
        return part

    return mark


def spans_batch(part: Part) -> bool:
    """``part`` reads other groups of the batch."""
    return getattr(_plain(part), "batch", False)


def leave_one_out(scale: Callable[[int], Fraction], worth: Part | None = None) -> Callable[[Part], Part]:
    """Mark an advantage as A_i = scale(G) · (S_i − mean_{j≠i} S_j), so that its moments have a closed form.

    S is the reward, or ``worth``: a function of the response alone, with the same options as the advantage.
    """

    def mark(part: Part) -> Part:
        part.leave_one_out, part.worth = scale, worth  # type: ignore[attr-defined]
        return part

    return mark


def scale_of(part: Part) -> Callable[[int], Fraction] | None:
    """The scale of a leave-one-out advantage, None for any other."""
    return getattr(_plain(part), "leave_one_out", None)


def worth_of(part: Part) -> Part | None:
    """What a leave-one-out advantage compares, None for the reward itself."""
    worth = getattr(_plain(part), "worth", None)
    return None if worth is None else partial(worth, **getattr(part, "keywords", {}))


def _plain(part: Part) -> Part:
    return _plain(part.func) if isinstance(part, partial) else part


def peers_of(part: Part) -> frozenset[str]:
    """The fields of other responses that ``part`` reads."""
    return getattr(_plain(part), "peers", frozenset())


@cache
def parameters(part: Part) -> tuple[str, ...]:
    """The inputs of ``part`` by name; keyword-only parameters are its options."""
    given = inspect.signature(part).parameters.values()
    return tuple(p.name for p in given if p.kind is not p.KEYWORD_ONLY)


def reads(part: Part) -> frozenset[str]:
    """The Rollouts fields that ``part`` names as parameters."""
    return frozenset(parameters(part)) & frozenset(FIELDS)


def per_token(part: Part) -> bool:
    """``part`` returns a number per token, because it looks along the response."""
    return not reads(part) <= RESPONSE_LEVEL or "sign" in parameters(part)


def apply(part: Part, rollouts: Rollouts, **computed: Any) -> Array:
    """Call ``part`` with the fields it names; ``computed`` holds what the estimator made on the way."""
    given: dict[str, Any] = {}
    for name in parameters(part):
        value = computed.get(name, getattr(rollouts, name, None))
        if value is None:
            raise lacking(getattr(_plain(part), "__name__", "part"), name)
        given[name] = value
    return part(**given)


def lacking(what: str, field: str) -> EstimatorError:
    """The error for a field that ``what`` needs and the rollouts lack."""
    return EstimatorError(f"{what} needs {field!r}, which these rollouts lack: {REMEDY.get(field, 'add the field')}")


def too_small(what: str, given: int, needed: int) -> EstimatorError:
    """The error for a group too small to be compared."""
    message = f"{what} compares the responses of a group: group_size={given} given, at least {needed} needed"
    return EstimatorError(message)
