"""The exact policy gradient of a transformer over every response, from V^{T−1} prefixes and one backward pass.

g = Σ_s γ^{t−1} ρ(s) Σ_a π(a|s) (Q(s, a) − V(s)) ∇ logit(s, a): the coefficients of a prefix add up to 0, so that they
are the gradient in its logits.  Values come from one backward sweep over the tree, which a piece does for its own
subtrees; the piece above the cut gets the values of the roots below it.  Memory is that of the largest piece.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from tpg.errors import TooLarge, TpgError
from tpg.neural.gpt import GPT, Params, flat
from tpg.neural.subtrees import CHUNK, WORK, Piece, compute, plan
from tpg.neural.task import Task

Progress = Callable[[int, int], None]


@dataclass(frozen=True, eq=False)
class Exact:
    """``objective`` J in rewards and its ``gradient`` by parameter; ``largest``: prefixes held at once."""

    objective: float
    gradient: Params
    prefixes: int
    largest: int

    @property
    def flat(self) -> Tensor:
        """g [D]."""
        return flat(self.gradient)


@torch.enable_grad()
def gradient(gpt: GPT, task: Task, chunk: int | None = None, progress: Progress | None = None) -> Exact:
    """J and ∇J, exactly; in pieces of at most ``chunk`` prefixes.

    Raises TooLarge before any work when the tree, or one piece of it, cannot fit; TpgError on a task of
    other sizes than the network's.  The reward is not tried out here: :meth:`Task.check` does.
    """
    chunk = ready(gpt, task, chunk)
    cut = plan(task, chunk)
    leaf = gpt.at({name: p.detach().requires_grad_() for name, p in gpt.params.items()})
    below, done = [], 0
    for first, last in cut.pieces:
        piece = compute(leaf, task, first, last, cut.split, task.horizon - cut.split)
        below.append(_backward(piece, None))
        done += sum(len(x) for x in piece.logits)
        if progress is not None:
            progress(done, task.prefixes)
    values = torch.cat(below)
    if cut.split:
        values = _backward(compute(leaf, task, 0, task.prompts, 0, cut.split), values)
    if progress is not None:
        progress(task.prefixes, task.prefixes)
    weight = torch.tensor(task.weights, dtype=values.dtype, device=values.device)
    found = {name: torch.zeros_like(p) if p.grad is None else p.grad for name, p in leaf.params.items()}
    return Exact(float(weight @ values), found, task.prefixes, cut.largest)


def _backward(piece: Piece, below: Tensor | None) -> Tensor:
    """Add the piece's part of g to the parameters' ``.grad``; V [R] of its roots.  ``below``: V under its leaves."""
    task, depth = piece.task, piece.path.shape[1]
    probs = [x.detach().softmax(-1) for x in piece.logits]
    gain = []  # Q − V
    for k in reversed(range(len(probs))):
        q = task.next_rewards(*piece.prefixes(k), probs[k].dtype)
        if below is not None:
            q[:, list(task.on)] += task.discount * below.view(len(q), -1)
        below = (probs[k] * q).sum(1)
        gain.append(q - below[:, None])
    weight = torch.tensor(task.weights, dtype=probs[0].dtype, device=probs[0].device)
    reach = task.discount**depth * weight[piece.prompt] * piece.reach()
    coefficient = []
    for p, difference in zip(probs, reversed(gain), strict=True):
        joint = reach[:, None] * p
        coefficient.append(joint * difference)
        reach = task.discount * joint[:, list(task.on)].reshape(-1)
    torch.autograd.backward(piece.logits, coefficient)
    return below if below is not None else reach[:0]


def ready(gpt: GPT, task: Task, chunk: int | None) -> int:
    """Refuse before work starts what cannot fit; the number of prefixes per piece."""
    same_sizes(gpt, task)
    if chunk is not None and chunk < 1:
        raise TpgError(f"chunk={chunk} given: it must be at least 1 prefix")
    work = operations(gpt, task)
    if work > WORK[gpt.device.type]:
        raise TooLarge(
            f"vocab={task.vocab}, horizon={task.horizon}: {_float(task.prefixes):.3g} prefixes, {gpt.size} parameters: "
            f"about {work:.2g} operations, the limit on {gpt.device.type} is {WORK[gpt.device.type]:.0g}: "
            "shorten the horizon, or take a smaller vocabulary or network"
        )
    size = CHUNK[gpt.device.type] if chunk is None else chunk
    largest = plan(task, size).largest
    if chunk is not None and largest > chunk:
        raise TooLarge(f"pieces of {chunk} prefixes given, this tree cannot be cut below {largest}: give as many")
    need, have = footprint(gpt, largest, task), available(gpt.device)
    if need > have:
        raise TooLarge(f"pieces of {largest} prefixes need about {need:.2g} bytes, {have:.2g} are free: give fewer")
    return size


def same_sizes(gpt: GPT, task: Task) -> None:
    """TpgError unless the network speaks the task's tokens, prompts and horizon."""
    sizes, wanted = (gpt.vocab, gpt.horizon, gpt.prompts), (task.vocab, task.horizon, task.prompts)
    if sizes != wanted:
        raise TpgError(
            f"a network of vocab, horizon, prompts = {sizes} given, the task has {wanted}: make both of the same sizes"
        )


def operations(gpt: GPT, task: Task) -> float:
    """Floating-point operations of forward and backward pass: 6 per parameter and prefix, and attention."""
    attention = 12 * gpt.layers * gpt.width * task.horizon
    return _float(task.prefixes) * (6.0 * gpt.size + attention)


def _float(count: int) -> float:
    """A count that may be beyond floats."""
    return float(min(count, 10**300))


def footprint(gpt: GPT, prefixes: int, task: Task) -> float:
    """Bytes that a piece holds: about 24 widths of activations per layer, attention, and tables over tokens."""
    per_layer = 24 * gpt.width + 3 * gpt.heads * task.horizon
    numbers = gpt.layers * per_layer + 8 * task.vocab + task.vocab * (task.horizon + 4)
    return float(prefixes) * numbers * gpt.params["embed"].element_size()


def available(device: torch.device) -> float:
    """Free bytes of the device, or of this machine."""
    if device.type == "cuda":
        return float(torch.cuda.mem_get_info(device)[0])
    try:
        with open("/proc/meminfo", encoding="ascii") as lines:
            kilobytes = next(int(line.split()[1]) for line in lines if line.startswith("MemAvailable"))
    except (OSError, StopIteration):
        return float("inf")  # the operating system does not say
    return 1024.0 * kilobytes
