"""A transformer as a :class:`Problem`: its probabilities fill the tables, its directional scores are the features.

With features φ(s, a) = ⟨∇ logit(s, a), v_i⟩ along directions v_1 … v_m the problem's parameters are the t in
θ + Σ_i t_i v_i, at t = 0.  Every estimator, moment, audit and claim then speaks of the transformer's own gradient,
projected: ⟨g, v_i⟩.  With all D unit directions, nothing is lost; with random ones, traces are estimated without bias.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.func import jacrev, jvp, vmap

from tpg.errors import TooLarge, TpgError
from tpg.estimators.estimator import Estimator
from tpg.moments import moments
from tpg.montecarlo.streams import stream
from tpg.neural.exact import Progress, ready
from tpg.neural.gpt import GPT, Params, flat, unflat
from tpg.neural.subtrees import compute, plan
from tpg.neural.task import Task
from tpg.numbers import FLOAT64, Array
from tpg.problem.problem import Problem, make

MAX_TABLE = 1e8  # numbers in the feature table
SAMPLES = 64  # prefixes whose scores are computed at once

Tables = Callable[
    [int, int, int, int], Iterator[tuple[Tensor, Tensor]]
]  # roots, split, height → logits, slopes by level


class Trace(NamedTuple):
    """An unbiased estimate of tr Cov ĝ, and its standard error."""

    estimate: float
    standard_error: float


def random_directions(gpt: GPT, count: int, seed: int = 0) -> Tensor:
    """[count, D] standard normal directions: E[vᵀ C v] = tr C."""
    drawn = stream(seed, "neural directions", gpt.size).standard_normal((count, gpt.size))
    return torch.as_tensor(drawn).to(gpt.device, gpt.dtype)


def problem(gpt: GPT, task: Task, along: Tensor, chunk: int | None = None, progress: Progress | None = None) -> Problem:
    """The Problem whose m parameters are the directions ``along`` [m, D]; one forward-mode pass per prefix.

    Raises TpgError when the directions do not fit the parameters, TooLarge before work starts.
    """
    if along.ndim != 2 or along.shape[1] != gpt.size or not len(along):
        raise TpgError(f"directions {tuple(along.shape)} given, needed [m, {gpt.size}]: one number per parameter")
    chunk, along = ready(gpt, task, chunk), along.to(gpt.device, gpt.dtype)
    _fits(task, len(along), "fewer directions")
    tangents = {n: torch.stack([unflat(v, gpt.params)[n] for v in along]) for n in gpt.params}

    def tables(first: int, last: int, split: int, height: int) -> Iterator[tuple[Tensor, Tensor]]:
        def logits(params: Params) -> tuple[Tensor, ...]:
            return tuple(compute(gpt.at(params), task, first, last, split, height).logits)

        with torch.no_grad():
            here = logits(gpt.params)
            slopes = vmap(lambda v: jvp(logits, (gpt.params,), (v,))[1])(tangents)
        yield from ((x, d.permute(1, 2, 0)) for x, d in zip(here, slopes, strict=True))

    return _filled(gpt, task, len(along), max(1, chunk // (1 + len(along) // 4)), tables, progress)


def full_problem(gpt: GPT, task: Task, progress: Progress | None = None) -> Problem:
    """The Problem that owns all D parameters: ∇ logit of every token after every prefix, one prefix per sample.

    Every prefix is run on its own, from its start and by reverse mode: another road than :func:`problem`.
    """
    ready(gpt, task, None)
    _fits(task, gpt.size, "random directions, or a smaller network")

    def last(params: Params, prompt: Tensor, tokens: Tensor) -> Tensor:
        return gpt.at(params).forward(prompt[None], tokens[None])[0, -1]

    def tables(first: int, stop: int, split: int, height: int) -> Iterator[tuple[Tensor, Tensor]]:
        base = len(task.on)
        for k in range(height):
            prompt, tokens = task.prefix(first * base**k, stop * base**k, split + k, gpt.device)
            with torch.no_grad():
                here = gpt.forward(prompt, tokens)[:, -1]
                scores = vmap(jacrev(last), (None, 0, 0), chunk_size=SAMPLES)(gpt.params, prompt, tokens)
            yield here, torch.cat([x.flatten(2) for x in scores.values()], 2)

    return _filled(gpt, task, gpt.size, 1 << 12, tables, progress)


def tabular(gpt: GPT, task: Task, chunk: int | None = None) -> Problem:
    """The network's probabilities [N, V] as a tabular Problem: the same responses, every prefix owning its logits."""
    return replace(_filled(gpt, task, 0, ready(gpt, task, chunk), _no_slopes(gpt, task), None), features=None)


def rotated(found: Problem) -> Problem:
    """The same problem in at most N·V parameters: an orthonormal basis of what its D scores span.

    Inner products of scores stay what they are, and with them |g|, tr Cov ĝ and every angle.
    """
    rows = found.probs.size
    if found.features is None or found.parameters <= rows:
        return found
    table = found.features.reshape(rows, -1)
    square, basis = np.linalg.eigh(table @ table.T)
    root = basis * np.sqrt(np.maximum(square, 0))
    return replace(found, features=root.reshape(*found.probs.shape, rows))


def trace(found: Problem, estimator: Estimator, group_size: int) -> Trace:
    """tr Cov ĝ of the transformer from the exact variances along the m random directions of ``found``."""
    covariance = moments(found, estimator, group_size, covariance=True).covariance
    assert covariance is not None
    along = np.diag(covariance)
    return Trace(float(along.mean()), float(along.std(ddof=1) / np.sqrt(len(along))))


def project(gradient: Params, along: Tensor) -> Array:
    """[m] ⟨g, v_i⟩."""
    return np.asarray((along @ flat(gradient)).cpu(), dtype=np.float64)


def _filled(
    gpt: GPT,
    task: Task,
    count: int,
    chunk: int,
    tables: Tables,
    progress: Progress | None,
) -> Problem:
    """Put logits and their slopes where the breadth-first order of prefixes wants them."""
    base, cut = len(task.on), plan(task, chunk)
    level = task.prompts * np.cumsum([0] + [base**t for t in range(task.horizon)])
    logit = np.empty((task.prefixes, task.vocab))
    slope, paid = np.empty((*logit.shape, count)), np.empty_like(logit)
    above = [(0, task.prompts, 0, cut.split)] if cut.split else []
    pieces = [*above, *((first, last, cut.split, task.horizon - cut.split) for first, last in cut.pieces)]
    for done, (first, last, split, height) in enumerate(pieces):
        for k, (here, slopes) in enumerate(tables(first, last, split, height)):
            rows = slice(level[split + k] + first * base**k, level[split + k] + last * base**k)
            logit[rows], slope[rows] = _numpy(here), _numpy(slopes)
            prefixes = task.prefix(first * base**k, last * base**k, split + k, gpt.device)
            paid[rows] = _numpy(task.next_rewards(*prefixes, torch.float64))
        if progress is not None:
            progress(done + 1, len(pieces))
    probs = np.exp(logit - logit.max(1, keepdims=True))
    probs /= probs.sum(1, keepdims=True)
    return make(
        task.tree(),
        probs,
        paid,
        weights=np.array(task.weights),
        features=slope,
        discount=task.discount,
        end_token=task.end_token,
        field=FLOAT64,
        name=f"transformer, {task.vocab} tokens, horizon {task.horizon}",
    )


def _no_slopes(gpt: GPT, task: Task) -> Tables:
    def tables(first: int, last: int, split: int, height: int) -> Iterator[tuple[Tensor, Tensor]]:
        with torch.no_grad():
            for x in compute(gpt, task, first, last, split, height).logits:
                yield x, x.new_zeros(*x.shape, 0)

    return tables


def _fits(task: Task, count: int, remedy: str) -> None:
    what = f"scores of {task.prefixes:.3g} prefixes along {count} directions"
    TooLarge.check(what, float(task.prefixes) * task.vocab * count, MAX_TABLE, remedy)


def _numpy(values: Tensor) -> Array:
    return np.asarray(values.detach().cpu(), dtype=np.float64)
