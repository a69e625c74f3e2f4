"""Responses drawn from a transformer, and the credits that every table estimator gives them.

Two roads to the fields that an estimator reads.  With a :class:`Problem` of the same network all of them are there,
looked up at ``task.node``.  Without one, on trees too large to list, there is what sampling itself knows: rewards,
lengths, probabilities, the greedy response, and K drawn continuations from every prefix.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
import torch
from torch import Tensor

from tpg.errors import EstimatorError, TooLarge, TpgError
from tpg.estimators.estimator import Estimator
from tpg.estimators.parts import apply, reads
from tpg.moments.noise import to_draw
from tpg.montecarlo.streams import stream
from tpg.neural.generate import MAX_TOKENS, Drawn, generate, source
from tpg.neural.gpt import GPT
from tpg.neural.task import Task
from tpg.numbers import FLOAT64, Array, to_float
from tpg.problem.problem import Problem
from tpg.problem.tree import inverse_cdf
from tpg.rollouts import PER_PROMPT, Responses, Rollouts

REDRAWS = 1000  # rounds in which groups that are not kept are drawn again
MAX_NUMBER = 2.0**62  # of a prefix, as an integer


@dataclass(frozen=True, eq=False)
class Draws:
    """``batches`` times one group of ``group_size`` responses per prompt: n = batches·P·G rows, in that order.

    ``prompt`` [n]; ``tokens``, ``logp``, ``score_norm2`` [n, T] as in :class:`Drawn`.  ``seed`` is also that of the
    anchors and continuations which estimators ask for.
    """

    gpt: GPT
    task: Task
    group_size: int
    batches: int
    seed: int
    prompt: Tensor
    tokens: Tensor
    logp: Tensor
    score_norm2: Tensor

    @property
    def mask(self) -> Tensor:
        """[n, T] True on the tokens of the responses."""
        return self.tokens >= 0

    @property
    def weight(self) -> Tensor:
        """[n] weight of each response's prompt."""
        return torch.tensor(self.task.weights, dtype=self.gpt.dtype, device=self.gpt.device)[self.prompt]

    @property
    def reward(self) -> Tensor:
        """RM [n] = Σ_t γ^{t−1} r_t, in rewards."""
        return self.task.total(self.prompt, self.tokens)

    @property
    def layout(self) -> tuple[int, int, int]:
        """(batches, P, G)."""
        return self.batches, self.task.prompts, self.group_size


def draw(
    gpt: GPT, task: Task, group_size: int, batches: int = 1, seed: int = 0, keep: Estimator | None = None
) -> Draws:
    """Draw groups as :func:`tpg.rollouts.draw` does; those that ``keep.keep`` does not want are drawn again.

    Raises TpgError on sizes below 1, EstimatorError where hardly a group is ever kept, TooLarge before work starts.
    """
    if group_size < 1 or batches < 1:
        raise TpgError(f"group_size={group_size}, batches={batches} given: needed at least 1 of each")
    TooLarge.check("drawn tokens", float(batches) * task.prompts * group_size * task.horizon, MAX_TOKENS, "draw fewer")
    prompt = torch.arange(task.prompts, device=gpt.device).repeat_interleave(group_size).repeat(batches)
    random = source(seed, "responses")
    draws = Draws(gpt, task, group_size, batches, seed, prompt, *generate(gpt, task, prompt, random))
    if keep is None or keep.keep is None:
        return draws
    if keep.batch:
        raise EstimatorError(f"{keep.name}: groups of a batch cannot be drawn again one by one: drop the filter")
    rows = torch.arange(len(prompt), device=gpt.device)
    for _ in range(REDRAWS):
        again = torch.as_tensor(~_kept(_pick(draws, rows), keep), device=gpt.device)
        rows = rows.view(-1, group_size)[again].flatten()
        if not len(rows):
            return draws
        for name, column in generate(gpt, task, prompt[rows], random)._asdict().items():
            getattr(draws, name)[rows] = column
    raise EstimatorError(f"a group is still not kept after {REDRAWS} draws: give another task or a larger group")


def credits(draws: Draws, estimator: Estimator, problem: Problem | None = None) -> Tensor:
    """[n, T] what ``estimator`` gives every token, 0 after the end; ĝ = Σ weight · credit · ∇log π.

    Raises EstimatorError as :func:`rollouts` does.
    """
    found = estimator(rollouts(draws, estimator, problem)).reshape(tuple(draws.tokens.shape))
    return torch.as_tensor(np.ascontiguousarray(found)).to(draws.gpt.device, draws.gpt.dtype)


def rollouts(draws: Draws, estimator: Estimator, problem: Problem | None = None) -> Rollouts:
    """The fields that ``estimator`` reads, with axes [batches, P, G]: from the ``problem`` of this network, or without.

    Anchors are drawn by the estimator's law, continuation values by the network where the row has ``continuations``.
    EstimatorError: a field that only a whole tree knows, a Problem of something else, groups that should have been
    drawn again.
    """
    if estimator.keep is not None and not (kept := _kept(draws, estimator)).all():
        off = f"{int((~kept).sum())} of {kept.size} groups are not to be kept"
        raise EstimatorError(f"{estimator.name}: {off}: draw them with keep=this estimator")
    if problem is None:
        return _told(draws, estimator, estimator.needs, draws.layout)
    node, token, prompt = (_numpy(x) for x in (draws.task.node(draws.prompt, draws.tokens), draws.tokens, draws.prompt))
    problem = problem.to(FLOAT64)
    _check_same(draws, problem, node, token)
    estimates = {name: _numpy(_continued(draws, name, estimator)) for name in to_draw(estimator)}
    anchor = None if estimator.anchors is None else _numpy(_anchors(draws, estimator))
    found = Responses(problem, node, token, prompt, estimator.given, anchor, estimates=estimates)
    return found.group(np.arange(len(node)).reshape(draws.layout), estimator.needs)


def _pick(draws: Draws, rows: Tensor) -> Draws:
    """Some groups, out of their layout."""
    return replace(draws, **{name: getattr(draws, name)[rows] for name in ("prompt", *Drawn._fields)})


def _kept(draws: Draws, estimator: Estimator) -> Array:
    """[groups] bool: those that the estimator uses."""
    assert estimator.keep is not None
    layout = len(draws.prompt) // draws.group_size, draws.group_size
    found = apply(estimator.keep, _told(draws, estimator, reads(estimator.keep), layout))[..., 0]
    return np.broadcast_to(found, layout[:1])


def _told(draws: Draws, estimator: Estimator, needs: frozenset[str], layout: tuple[int, ...]) -> Rollouts:
    """Rollouts with axes ``layout`` [..., G] from what sampling knows."""
    known, rows = _known(draws, estimator), {}
    for name in sorted(needs):
        if name not in known:
            drawn = ", or continuations=K to the estimator" if "continuation" in name else ""
            raise EstimatorError(
                f"{estimator.name} reads {name!r}, which drawn responses do not tell: "
                f"give the Problem of this network{' with a reference policy' * name.count('ref_')}{drawn}"
            )
        value = _numpy(known[name]())
        rows[name] = value.reshape(*layout[: -1 if name in PER_PROMPT else None], *value.shape[1:])
    return Rollouts(draws.group_size, draws.task.horizon, draws.task.discount, **rows)


def _known(draws: Draws, estimator: Estimator) -> dict[str, Callable[[], Tensor]]:
    """What sampling knows, by the name of its field in :class:`Rollouts`: [n, …]."""
    mask, logp = draws.mask, draws.logp
    known: dict[str, Callable[[], Tensor]] = {
        "reward": lambda: draws.reward,
        "length": lambda: mask.sum(1),
        "mask": lambda: mask,
        "tokens": lambda: draws.tokens,
        "token_reward": lambda: draws.task.rewards(draws.prompt, draws.tokens, torch.float64),
        **dict.fromkeys(("prob", "old_prob"), logp.exp),  # 1 after the end
        **dict.fromkeys(("logp", "old_logp"), lambda: logp),
        "ratio": lambda: torch.ones_like(logp),
        "sequence_ratio": lambda: torch.ones_like(logp[:, 0]),
        "sequence_logp": lambda: logp.sum(1),
        "score_norm2": lambda: draws.score_norm2,
        "prefix": lambda: _places(draws),
        "greedy_reward": lambda: _greedy(draws),
    }
    if estimator.anchors is not None:
        known["anchor"] = lambda: _anchors(draws, estimator)
    return known | {name: partial(_continued, draws, name, estimator) for name in to_draw(estimator)}


def _numpy(values: Tensor) -> Array:
    return np.asarray(values.detach().cpu())


def _places(draws: Draws) -> Tensor:
    """[n, T+1] number of the prefix that holds t tokens, −1 at and after the end."""
    TooLarge.check("numbering the prefixes", float(draws.task.prefixes), MAX_NUMBER, "shorten the horizon")
    node = draws.task.node(draws.prompt, draws.tokens)
    return torch.cat([node, torch.full_like(node[:, :1], -1)], 1)


def _greedy(draws: Draws) -> Tensor:
    """[groups, 1] reward of the greedy response to each group's prompt."""
    prompt = torch.arange(draws.task.prompts, device=draws.gpt.device)
    best = draws.task.total(prompt, generate(draws.gpt, draws.task, prompt, greedy=True).tokens)
    return best[draws.prompt[:: draws.group_size], None]


def _anchors(draws: Draws, estimator: Estimator) -> Tensor:
    """[n, T+1] bool: anchors by the estimator's law, drawn for each response."""
    assert estimator.anchors is not None
    patterns, chance = estimator.anchors(draws.task.horizon)
    uniform = stream(draws.seed, "neural", "anchors").random
    _, which = inverse_cdf(uniform)(to_float(chance).T[_numpy(draws.mask.sum(1))])
    return torch.as_tensor(patterns[which])


def _continued(draws: Draws, field: str, estimator: Estimator) -> Tensor:
    """[n, T+1] mean reward of K fresh responses from every prefix; RM from the end on.  Nothing is shared."""
    count, task = estimator.continuations or 1, draws.task
    out = draws.reward[:, None].repeat(1, task.horizon + 1)
    for t in range(task.horizon):
        rows = draws.mask[:, t].nonzero()[:, 0]
        if len(rows):
            prompt, random = draws.prompt[rows], source(draws.seed, field, t)
            tokens = generate(draws.gpt, task, prompt, random, draws.tokens[rows, :t], count=count).tokens
            out[rows, t] = task.total(prompt.repeat_interleave(count), tokens).view(-1, count).mean(1)
    return out


def _check_same(draws: Draws, problem: Problem, node: Array, token: Array) -> None:
    """The Problem must be that of the network and the task that the responses came from."""
    task = draws.task
    given = problem.prompts, problem.vocab, problem.horizon, problem.end_token, len(problem.probs)
    wanted = task.prompts, task.vocab, task.horizon, task.end_token, task.prefixes
    if given != wanted:
        raise EstimatorError(
            f"a Problem of prompts, vocab, horizon, end token, prefixes = {given} given, the responses have {wanted}: "
            f"build it from their task"
        )
    if not problem.on_policy:
        raise EstimatorError(f"{problem.name} has another behaviour policy: the responses are the network's own")
    paid = np.where(node >= 0, problem.rewards[node, token], 0)
    pairs = {
        "policy": (np.where(node >= 0, problem.probs[node, token], 1), _numpy(draws.logp.exp())),
        "reward": (paid, _numpy(task.rewards(draws.prompt, draws.tokens, torch.float64))),
        "discount": (np.array([float(problem.discount)]), np.array([float(task.discount)])),
        "weight": (problem.weights, np.array(task.weights)),
    }
    rounding = torch.finfo(draws.gpt.dtype).eps ** 0.5
    for what, (listed, drawn) in pairs.items():
        if np.abs(listed - drawn).max() > rounding * (1 + np.abs(drawn).max()):
            raise EstimatorError(f"{problem.name} has another {what} than the responses: build it from their network")
