"""Batched generation on the network's device, keys and values kept along the way."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from tpg.errors import TooLarge, TpgError
from tpg.montecarlo.streams import stream
from tpg.neural.exact import same_sizes
from tpg.neural.gpt import GPT, Past, branch
from tpg.neural.task import Task

ROWS = {"cpu": 1 << 14, "cuda": 1 << 18}  # responses generated at once
MAX_TOKENS = 10**8  # tokens of drawn responses held at once


class Drawn(NamedTuple):
    """Responses [n, T]: ``tokens``, −1 after the end; log π of each in nats and ‖∂log π/∂logits‖², 0 after the end."""

    tokens: Tensor
    logp: Tensor
    score_norm2: Tensor


def generate(
    gpt: GPT,
    task: Task,
    prompt: Tensor,
    seed: int | torch.Generator = 0,
    tokens: Tensor | None = None,
    greedy: bool = False,
    count: int = 1,
) -> Drawn:
    """``count`` responses to each ``prompt`` [n], row after row: [n·count, T], keys and values kept along the way.

    ``tokens`` [n, t]: prefixes to go on from (−1 after an end); they stay in the responses.  ``greedy``: the most
    probable token each time, the first among equals.  The same seed gives the same tokens, but for rounding
    on every device.  Raises TpgError on prompts or prefixes that are not of the task; TooLarge on too many tokens.
    """
    prefix = _prefix(gpt, task, prompt, tokens)
    if count < 1:
        raise TpgError(f"count={count} given: needed at least 1 response per prefix")
    rows, left = len(prompt) * count, task.horizon - prefix.shape[1]
    TooLarge.check(f"{rows} responses", float(rows) * task.horizon, MAX_TOKENS, "draw fewer at a time")
    random = seed if isinstance(seed, torch.Generator) else source(seed, "generate")
    shape = rows, 0 if greedy else left
    u = torch.rand(shape, generator=random, dtype=torch.float64, device=random.device)
    start, prefix = (x.to(gpt.device).repeat_interleave(count, 0) for x in (prompt, prefix))
    pieces = []
    for first in range(0, rows, ROWS[gpt.device.type]):
        here = slice(first, first + ROWS[gpt.device.type])
        pieces.append(_generate(gpt, task, start[here], prefix[here], None if greedy else u[here].to(gpt.device)))
    return Drawn(*(torch.cat(column) for column in zip(*pieces, strict=True)))


def source(seed: int, *what: str | int) -> torch.Generator:
    """The torch generator that belongs to ``what``, as :func:`tpg.montecarlo.streams.stream` names streams."""
    return torch.Generator().manual_seed(int(stream(seed, "neural", *what).integers(2**63)))


@torch.no_grad()
def _generate(gpt: GPT, task: Task, prompt: Tensor, prefix: Tensor, u: Tensor | None) -> Drawn:
    """Some rows of it.  Rows that have said the same so far share one place in the network's batch."""
    kinds, place = torch.unique(prompt, return_inverse=True)  # [U], [n]
    logits, past = gpt.start(kinds)
    alive, steps = torch.ones_like(place, dtype=torch.bool), list[Drawn]()
    for t in range(task.horizon):
        drawn = t - prefix.shape[1]
        token = prefix[:, t] if drawn < 0 else _choose(logits, place, None if u is None else u[:, drawn])
        token = torch.where(alive, token, -1)
        steps.append(_said(logits, place, token))
        alive = (token >= 0) & (token != (-1 if task.end_token is None else task.end_token))
        if t == task.horizon - 1 or not alive.any():
            break
        kinds, onward = torch.unique((place * task.vocab + token)[alive], return_inverse=True)
        place = torch.zeros_like(place).masked_scatter(alive, onward)  # finished rows look anywhere
        parent, last = kinds // task.vocab, kinds % task.vocab
        past = [Past(key[parent], value[parent]) for key, value in past]
        after, new = gpt.extend(past, last[:, None])
        logits, past = after[:, 0], branch(past, new)
    nothing = Drawn(torch.full_like(place, -1), *[torch.zeros(len(place), dtype=torch.float64, device=gpt.device)] * 2)
    steps += [nothing] * (task.horizon - len(steps))
    return Drawn(*(torch.stack(column, 1) for column in zip(*steps, strict=True)))


def _choose(logits: Tensor, place: Tensor, u: Tensor | None) -> Tensor:
    """[n] the first token whose cumulative probability exceeds u ∈ [0, 1), or the most probable one."""
    if u is None:
        return logits.argmax(-1)[place]
    cdf = logits.double().softmax(-1).cumsum(-1)[place]
    return (cdf <= (u * cdf[:, -1])[:, None]).sum(-1).clamp(max=cdf.shape[1] - 1)  # u·Σp may round up to Σp


def _said(logits: Tensor, place: Tensor, token: Tensor) -> Drawn:
    """[n] one position of the responses."""
    logp, there = logits.double().log_softmax(-1), token >= 0
    probs = logp.exp()
    rest = 1 + (probs * probs).sum(-1)
    chosen, chance = (x[place, token.clamp(min=0)] for x in (logp, probs))
    return Drawn(token, torch.where(there, chosen, 0), torch.where(there, rest[place] - 2 * chance, 0))


def _prefix(gpt: GPT, task: Task, prompt: Tensor, tokens: Tensor | None) -> Tensor:
    """The prefixes [n, t], checked."""
    same_sizes(gpt, task)
    if prompt.ndim != 1 or len(prompt) < 1 or not bool(((prompt >= 0) & (prompt < task.prompts)).all()):
        raise TpgError(f"prompts {tuple(prompt.shape)} given: needed [n] numbers 0 … {task.prompts - 1}")
    prefix = prompt.new_zeros(len(prompt), 0) if tokens is None else tokens
    if prefix.ndim != 2 or len(prefix) != len(prompt) or prefix.shape[1] > task.horizon:
        raise TpgError(f"prefixes {tuple(prefix.shape)} given: needed [{len(prompt)}, t ≤ {task.horizon}]")
    end = torch.zeros_like(prefix, dtype=torch.bool) if task.end_token is None else prefix == task.end_token
    ended = end.long().cumsum(1) - end.long() > 0
    if not bool(torch.where(ended, prefix == -1, (prefix >= 0) & (prefix < task.vocab)).all()):
        raise TpgError(f"prefixes hold other than tokens 0 … {task.vocab - 1}, and −1 after the end alone: mask them")
    return prefix.to(gpt.device)
