"""Named problems.  Each is small enough to enumerate and covers at least one contrast between published claims."""

from __future__ import annotations

import difflib
import inspect
from collections.abc import Callable
from typing import Any

import numpy as np

from tpg.errors import ProblemError
from tpg.numbers import FLOAT64, MERSENNE_61, RATIONAL, Array, Field
from tpg.problem.problem import Problem, make
from tpg.problem.tree import Tree, grow

RewardRule = Callable[[tuple[int, ...]], Any]


def response_rewards(tree: Tree, rule: RewardRule, discount: Any, field: Field) -> Array:
    """[N, V] token rewards that are zero but on the last token, where RM(W) = ``rule(tokens)``."""
    from tpg.problem.tree import fork, walk

    rewards = field.zeros(tree.inner.shape)
    _, node, token = walk(tree, np.ones(tree.inner.shape), np.arange(tree.prompts), fork)
    for path, tokens in zip(node, token, strict=True):
        length = int((path >= 0).sum())
        power = field.scalar(discount) ** (length - 1)
        rewards[path[length - 1], tokens[length - 1]] = field.scalar(rule(tuple(tokens[:length].tolist()))) / power
    return rewards


def simplex(rng: np.random.Generator, shape: tuple[int, ...], field: Field) -> Array:
    """Random probabilities along the last axis: small ratios in an ordered field, uniform residues in GF(p).

    In GF(p) all but the last probability are free and uniform, as Schwartz–Zippel needs.
    """
    if not field.ordered:
        free = residues(rng, (*shape[:-1], shape[-1] - 1), field)
        return np.concatenate([free, 1 - free.sum(-1, keepdims=True)], axis=-1)
    parts = field.array(rng.integers(1, 10, size=shape)) if field.exact else rng.random(shape) + 0.1
    return parts / parts.sum(-1, keepdims=True)


def residues(rng: np.random.Generator, shape: tuple[int, ...], field: Field) -> Array:
    """Uniform residues of GF(p), or small integers −4 … 6 where there is an order."""
    low, high = (-4, 7) if field.ordered else (0, MERSENNE_61)
    return field.array(rng.integers(low, high, size=shape))


def random(
    seed: int = 0,
    vocab: int = 3,
    horizon: int = 3,
    prompts: int = 2,
    variable: bool = True,
    shared: int = 0,
    off_policy: bool = False,
    discount: Any = 1,
    values: int = 0,
    field: Field = RATIONAL,
) -> Problem:
    """A random problem: policy, token rewards, prompt weights and (``shared`` = d > 0) features, all from ``seed``.

    ``values`` = K ≥ 2 gives response-level rewards 0 … K−1 on the last token instead of token rewards.
    """
    rng = np.random.Generator(np.random.Philox(seed))
    tree = grow(vocab, horizon, prompts, vocab - 1 if variable else None)
    shape = tree.inner.shape
    if field.ordered:
        weights = field.array(rng.integers(1, 4, size=prompts))
    else:
        weights = simplex(rng, (prompts,), field)
    rewards = residues(rng, shape, field) if not values else field.array(rng.integers(0, values, size=shape))
    if values:
        rewards = np.where(tree.inner, field.scalar(0), rewards)
    return make(
        tree,
        simplex(rng, shape, field),
        rewards,
        weights=weights,
        discount=discount,
        behaviour=simplex(rng, shape, field) if off_policy else None,
        features=residues(rng, (*shape, shared), field) if shared else None,
        end_token=vocab - 1 if variable else None,
        field=field,
        name=f"random-{seed}",
    )


def two_valued(field: Field = RATIONAL) -> Problem:
    """Right or wrong (reward 1 or 0), one prompt, unequal lengths: right = the response holds token 1."""
    tree = grow(3, 3, 1, end_token=2)
    return _written(tree, lambda w: int(1 in w), field, "two-valued", seed=11)


def three_valued(field: Field = RATIONAL) -> Problem:
    """Rewards 0, 1, 3 (wrong, half right, right) on two prompts with unequal lengths: σ-normalisation turns here."""
    tree = grow(3, 3, 2, end_token=2)
    return _written(tree, lambda w: (0, 1, 3, 3)[sum(t == 1 for t in w)], field, "three-valued", seed=12)


def delayed_credit(field: Field = RATIONAL) -> Problem:
    """γ = 9/10, fixed length: the first token decides, the reward is paid on the last."""
    tree = grow(2, 4, 1)
    return _written(tree, lambda w: 2 * w[0] + w[0] * w[3], field, "delayed-credit", seed=13, discount="9/10")


def key_first(field: Field = RATIONAL) -> Problem:
    """Only the first token matters; the other three are noise to be ignored."""
    return _written(grow(2, 4, 1), lambda w: w[0], field, "key-first", seed=14)


def key_last(field: Field = RATIONAL) -> Problem:
    """Only the last token matters."""
    return _written(grow(2, 4, 1), lambda w: w[3], field, "key-last", seed=14)


def hard_easy(field: Field = RATIONAL) -> Problem:
    """A hard prompt (success 1 in 10) and an easy one (9 in 10) of equal weight, one token, reward 0 or 1."""
    tree = grow(2, 1, 2)
    return make(tree, [["9/10", "1/10"], ["1/10", "9/10"]], [[0, 1], [0, 1]], field=field, name="hard-easy")


def shared(field: Field = RATIONAL) -> Problem:
    """Two prompts that share three parameters, unequal lengths, dense token rewards, γ = 9/10."""
    return _named(random(21, shared=3, discount="9/10"), "shared").to(field)


def forbidden(field: Field = RATIONAL) -> Problem:
    """Token 0 may not follow token 0: forbidden tokens have probability 0 and no prefix; dense token rewards."""
    full = grow(3, 3, 1, end_token=2)
    probs = simplex(np.random.Generator(np.random.Philox(15)), full.inner.shape, RATIONAL)
    _, last = full.parent
    keep = np.array([True, True, True, False, True, True, True])  # prefixes (), 0, 1, 00, 01, 10, 11
    probs[last == 0, 0] = 0
    probs = (probs / probs.sum(-1, keepdims=True))[keep]
    inner = full.inner[keep] & ~((probs == 0) & full.inner[keep])
    rewards = np.array([[0, 1, 2], [5, -1, 0], [1, 3, -2], [0, 2, 1], [4, 0, 0], [-3, 1, 1]])
    return make(Tree(inner, 1), field.array(probs), rewards, end_token=2, field=field, name="forbidden")


def cancelling(field: Field = RATIONAL) -> Problem:
    """r₂ = −r₁: the response reward is always 0, the token rewards are not (token rewards can add variance)."""
    tree = grow(2, 2, 1)
    probs = [["1/3", "2/3"], ["1/4", "3/4"], ["2/5", "3/5"]]
    return make(tree, probs, [[1, -2], [-1, -1], [2, 2]], field=field, name="cancelling")


def referenced(field: Field = RATIONAL) -> Problem:
    """On-policy with a reference policy, two prompts, unequal lengths, dense token rewards: what KL terms do."""
    return _named(_with_reference(random(22)), "referenced").to(field)


def stale(field: Field = RATIONAL) -> Problem:
    """Responses of an older policy, a reference policy, two prompts, unequal lengths: what ratios and clips do."""
    return _named(_with_reference(random(23, off_policy=True)), "stale").to(field)


def _with_reference(problem: Problem) -> Problem:
    from dataclasses import replace

    rng = np.random.Generator(np.random.Philox(24))
    return replace(problem, reference=simplex(rng, problem.probs.shape, problem.field))


def large(seed: int = 0, vocab: int = 4, horizon: int = 8, field: Field = FLOAT64) -> Problem:
    """Benchmark tree: float64, fixed length, vocab^horizon responses, two-valued reward by chance."""
    problem = random(seed, vocab, horizon, prompts=1, variable=False, values=2, field=field)
    return _named(problem, f"large-{vocab}^{horizon}")


def _written(tree: Tree, rule: RewardRule, field: Field, name: str, seed: int, discount: Any = 1) -> Problem:
    rng = np.random.Generator(np.random.Philox(seed))
    probs = simplex(rng, tree.inner.shape, RATIONAL)
    end = int(np.flatnonzero(~tree.inner[0])[0]) if not tree.inner[0].all() and tree.depths > 1 else None
    rewards = response_rewards(tree, rule, discount, field)
    weights = [1] if tree.prompts == 1 else [1, 2]
    more = {"weights": weights, "discount": discount, "end_token": end, "field": field, "name": name}
    return make(tree, field.array(probs), rewards, **more)


def _named(problem: Problem, name: str) -> Problem:
    from dataclasses import replace

    return replace(problem, name=name)


ZOO: dict[str, Callable[..., Problem]] = {
    "two-valued": two_valued,
    "three-valued": three_valued,
    "delayed-credit": delayed_credit,
    "key-first": key_first,
    "key-last": key_last,
    "hard-easy": hard_easy,
    "shared": shared,
    "forbidden": forbidden,
    "cancelling": cancelling,
    "referenced": referenced,
    "stale": stale,
    "random": random,
    "large": large,
}


def get(spec: str) -> Problem:
    """A zoo problem by name, with options after a colon: ``"shared"``, ``"random:seed=3,horizon=4,shared=2"``."""
    name, _, options = spec.partition(":")
    if name not in ZOO:
        near = difflib.get_close_matches(name, ZOO, n=3) or sorted(ZOO)
        raise ProblemError(
            f"unknown problem {name!r}: did you mean {', '.join(near)}? (a file name ends in .json, .toml)"
        )
    known = {k: p.default for k, p in inspect.signature(ZOO[name]).parameters.items() if k != "field"}
    return ZOO[name](**dict(_option(name, known, item) for item in options.split(",") if item))


def _option(name: str, known: dict[str, Any], item: str) -> tuple[str, Any]:
    key, _, text = item.partition("=")
    if key not in known:
        raise ProblemError(f"problem {name!r} has no option {key!r}: it takes {', '.join(known) or 'none'}")
    try:
        kind = type(known[key])
        value: Any = text if key == "discount" else int({"true": 1, "false": 0}.get(text.lower(), text))
    except ValueError:
        value = -1
    if value == -1 or (key != "discount" and value < 0):
        raise ProblemError(f"problem {name!r}: {key}={text!r} given, a whole number of at least 0 needed")
    return key, value if key == "discount" else kind(value)
