"""A token tree in pieces: every prefix is computed once, keys and values shared by all that follow it.

The tree is cut after ``split`` tokens.  A piece is a run of subtrees that start there; the prefixes above are one more
piece.  What a piece needs of its past (one path per subtree) it computes again: t ≤ T prefixes beside thousands.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from tpg.neural.gpt import GPT, Past, branch
from tpg.neural.task import Task

CHUNK = {"cpu": 1 << 12, "cuda": 1 << 18}  # prefixes per piece: what fits caches, and what keeps a GPU busy
WORK = {"cpu": 1e14, "cuda": 1e17}  # floating-point operations that stay a matter of an hour


@dataclass(frozen=True)
class Plan:
    """How a tree is cut: subtrees ``first`` … ``last`` − 1 per piece, all rooted after ``split`` tokens.

    ``largest``: prefixes of the largest piece, paths to its roots included.
    """

    task: Task
    split: int
    pieces: tuple[tuple[int, int], ...]
    largest: int


@dataclass(frozen=True, eq=False)
class Piece:
    """Subtrees of one height: where their roots are and what the policy says at every prefix.

    ``path`` [R, c] tokens before the roots of ``prompt`` [R]; ``path_logits`` [R, c, V] the policy along it;
    ``logits[k]`` [R·Bᵏ, V] the policy k tokens below the roots, B = the tokens that lead on.
    """

    task: Task
    prompt: Tensor
    path: Tensor
    path_logits: Tensor
    logits: list[Tensor]

    def prefixes(self, k: int) -> tuple[Tensor, Tensor]:
        """Prompt [R·Bᵏ] and tokens [R·Bᵏ, c+k] of the prefixes k tokens below the roots."""
        on = torch.tensor(self.task.on, device=self.path.device)
        prompt, tokens = self.prompt, self.path
        for _ in range(k):
            n = len(tokens)
            tokens = torch.cat([tokens.repeat_interleave(len(on), 0), on.repeat(n)[:, None]], 1)
            prompt = prompt.repeat_interleave(len(on))
        return prompt, tokens

    def reach(self) -> Tensor:
        """ρ [R] the probability of the path to each root."""
        chosen = self.path_logits.detach().log_softmax(-1).gather(2, self.path[..., None])[..., 0]
        return chosen.sum(1).exp()


def plan(task: Task, chunk: int) -> Plan:
    """The lowest cut with pieces of at most ``chunk`` prefixes; if there is none, the one with the smallest pieces."""
    width = len(task.on)
    levels = [width**t for t in range(task.horizon)]
    below = [sum(levels[: task.horizon - c]) + c for c in range(task.horizon)]  # of one root, its path included
    above = [task.prompts * sum(levels[:c]) for c in range(task.horizon)]
    largest = [max(pair) for pair in zip(above, below, strict=True)]
    split = next((c for c, size in enumerate(largest) if size <= chunk), largest.index(min(largest)))
    roots, each = task.prompts * levels[split], max(1, chunk // below[split])
    pieces = tuple((first, min(first + each, roots)) for first in range(0, roots, each))
    return Plan(task, split, pieces, max(above[split], min(each, roots) * below[split]))


def compute(gpt: GPT, task: Task, first: int, last: int, split: int, height: int) -> Piece:
    """Run the network over subtrees of that ``height`` (levels) whose roots hold ``split`` tokens."""
    prompt, path = task.prefix(first, last, split, gpt.device)
    logits, past = gpt.start(prompt)
    along = []
    for t in range(split):
        along.append(logits)
        after, new = gpt.extend(past, path[:, t : t + 1])
        logits, past = after[:, 0], branch(past, new)
    none = logits.new_zeros(len(path), 0, task.vocab)
    return Piece(
        task, prompt, path, torch.stack(along, 1) if along else none, list(_levels(gpt, task, logits, past, height))
    )


def _levels(gpt: GPT, task: Task, logits: Tensor, past: list[Past], height: int) -> Iterator[Tensor]:
    """[R·Bᵏ, V] logits for k = 0 … height − 1."""
    on = torch.tensor(task.on, device=gpt.device)
    yield logits
    for k in range(1, height):
        after, new = gpt.extend(past, on[None])
        logits = after.flatten(0, 1)
        yield logits
        if k < height - 1:
            past = branch(past, new)
