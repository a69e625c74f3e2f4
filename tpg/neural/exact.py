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


def objective(gpt: GPT, task: Task, chunk: int | None = None) -> float:
    """J = Σ_x weight(x) V(x), in rewards, without the backward pass.  Raises what :func:`gradient` does."""
    cut = plan(task, ready(gpt, task, chunk))
    height = task.horizon - cut.split
    with torch.no_grad():
        below = [_gains(compute(gpt, task, *ends, cut.split, height), None)[0] for ends in cut.pieces]
        values = torch.cat(below)
        if cut.split:
            values, _ = _gains(compute(gpt, task, 0, task.prompts, 0, cut.split), values)
    return float(torch.tensor(task.weights, dtype=values.dtype, device=values.device) @ values)


def _gains(piece: Piece, below: Tensor | None) -> tuple[Tensor, list[Tensor]]:
    """V [R] of the piece's roots, and π (Q − V) [R·Bᵏ, V] of every level; ``below``: V under its leaves."""
    task, out, on = piece.task, list[Tensor](), list(piece.task.on)
    for k in reversed(range(len(piece.logits))):
        probs = piece.logits[k].detach().softmax(-1)
        q = task.next_rewards(*piece.prefixes(k), probs.dtype)
        if below is not None:
            q[:, on] += task.discount * below.view(len(q), -1)
        below = (probs * q).sum(1)
        out.append(probs * (q - below[:, None]))
    assert below is not None
    return below, out[::-1]


def _backward(piece: Piece, below: Tensor | None) -> Tensor:
    """Add the piece's part of g to the parameters' ``.grad``; V [R] of its roots.  ``below``: V under its leaves."""
    task, depth, on = piece.task, piece.path.shape[1], list(piece.task.on)
    values, gains = _gains(piece, below)
    weight = torch.tensor(task.weights, dtype=values.dtype, device=values.device)
    reach, coefficient = task.discount**depth * weight[piece.prompt] * piece.reach(), []
    for logits, gain in zip(piece.logits, gains, strict=True):
        coefficient.append(reach[:, None] * gain)
        reach = task.discount * (reach[:, None] * logits.detach().softmax(-1))[:, on].reshape(-1)
    torch.autograd.backward(piece.logits, coefficient)
    return values


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
    """Bytes that a piece holds: activations of every layer, attention, pasts of what leads on, and tables over tokens.

    The constants were fitted to peaks of the process (benchmarks/neural.md).
    """
    past = 2 * gpt.width * task.horizon / len(task.on)  # one for all tokens that follow it
    per_layer = 22 * gpt.width + past + 3 * gpt.heads * task.horizon
    numbers = gpt.layers * per_layer + 10 * gpt.width + task.vocab * (8 + 3 * task.horizon)
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
