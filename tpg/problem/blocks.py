"""What every estimator needs of a problem, worked out once, in pieces that fit a core's cache.

Blocks are read as [V, n]: tokens first, so that sums over tokens run along memory.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from tpg.errors import TooLarge
from tpg.numbers import Array

if TYPE_CHECKING:
    from tpg.problem.problem import Problem

BLOCK = 1 << 16  # table entries per block
MAX_VALUES = 4096  # distinct rewards of a prompt; more cannot be composed into groups anyway


class Block(NamedTuple):
    """Some rows of one level, all of one prompt; their children are ``below`` among the nodes of the next level."""

    t: int
    prompt: int
    rows: slice
    below: slice


class Prefixes(NamedTuple):
    """What every prefix knows of its past."""

    reach: Array  # [N] ρ under the policy that generates
    past: Array  # [N] discounted reward so far
    path: Array  # [N] ‖Z‖² (tabular) or [N, d] Z (shared)


class Endings(NamedTuple):
    """Where and how responses end."""

    rewards: list[list[Any]]  # the distinct rewards of each prompt, in order of appearance
    place: Array  # [N, V] which of them is paid here; −1 where no response ends; rows without an ending are not filled
    mass: Array  # [P, rewards, T] probability, by length − 1


def blocks(problem: Problem) -> list[list[Block]]:
    """The nodes of each level in pieces of about ``BLOCK`` table entries, each of one prompt."""
    return [list(_level(problem, t)) for t in range(problem.horizon)]


def _level(problem: Problem, t: int) -> Iterator[Block]:
    tree, step, done = problem.tree, max(1, BLOCK // problem.vocab), 0
    for prompt in range(problem.prompts):
        for start in range(tree.bounds[t, prompt], tree.bounds[t, prompt + 1], step):
            rows = slice(start, min(start + step, int(tree.bounds[t, prompt + 1])))
            lead = (rows.stop - start) * tree.vocab if tree.full[t] else int(np.count_nonzero(tree.inner[rows]))
            yield Block(t, prompt, rows, slice(done, done + lead))
            done += lead


def go_down(problem: Problem) -> Prefixes:
    """ρ, past reward and ‖Z‖² or Z of every prefix: tabular scores of different prefixes are orthogonal."""
    tree, shared = problem.tree, problem.features is not None
    dtype, roots = problem.rewards.dtype, slice(0, tree.prompts)
    reach, past = np.empty(tree.nodes, dtype=dtype), np.empty(tree.nodes, dtype=dtype)
    path = np.empty((tree.nodes, problem.parameters) if shared else tree.nodes, dtype=dtype)
    reach[roots], past[roots], path[roots] = problem.field.scalar(1), problem.field.scalar(0), problem.field.scalar(0)
    for t, _, rows, below in (block for level in problem.blocks[:-1] for block in level):
        probs = problem.probs[rows].T
        to = slice(tree.level[t + 1] + below.start, tree.level[t + 1] + below.stop)
        leads = None if tree.full[t] else tree.inner[rows]
        _lead_on(reach[to], reach[rows] * problem.sampling[rows].T, leads)
        _lead_on(past[to], past[rows] + problem.powers[t] * problem.rewards[rows].T, leads)
        if shared:
            path[to] = (path[rows, None, :] + problem.scores[rows])[tree.inner[rows]]
        else:
            _lead_on(path[to], path[rows] + 1 + row_dot(probs, probs) - 2 * probs, leads)
    return Prefixes(reach, past, path)


def _lead_on(out: Array, table: Array, leads: Array | None) -> None:
    """The entries of ``table`` [V, n] that lead to another prefix, in the order of the children; None: all do."""
    if leads is None:
        out.reshape(-1, len(table))[...] = table.T
    else:
        out[...] = table.T[leads]


def row_dot(x: Array, y: Array) -> Array:
    """Σ_b x_b y_b [n] of tables [V, n]."""
    return np.asarray((x * y).sum(0) if x.dtype == object else np.einsum("vn,vn->n", x, y))


def totals_of(problem: Problem, block: Block) -> Array:
    """[V, n] RM(W) of responses that end in a block."""
    if problem.merged_totals is not None:
        return problem.merged_totals[block.rows].T
    out = problem.powers[block.t] * problem.rewards[block.rows].T
    out += problem.prefixes.past[block.rows]
    return np.asarray(out)


def ending_blocks(problem: Problem) -> Iterator[Block]:
    """The blocks in which a response can end."""
    return (block for level in problem.blocks for block in level if not problem.tree.full[block.t])


def endings(problem: Problem, by_reward: bool) -> Endings:
    """Tell responses apart by their reward, or (not ``by_reward``) only from prefixes that lead on."""
    known: list[list[Any]] = [[] if by_reward else [None] for _ in range(problem.prompts)]
    place = np.empty(problem.probs.shape, dtype=np.int8, order="F")
    mass: dict[tuple[int, int, int], Any] = defaultdict(int)
    for block in ending_blocks(problem):
        mine, totals = known[block.prompt], totals_of(problem, block) if by_reward else None
        chance = problem.prefixes.reach[block.rows] * problem.sampling[block.rows].T
        left = chance != 0
        if block.t < problem.horizon - 1:
            left = np.greater(left, problem.tree.inner[block.rows].T, order="C")
        found, k = np.full(left.shape, -1, dtype=np.int16), 0
        while k < len(mine) or left.any():
            if k == len(mine) and totals is not None:
                mine += dict.fromkeys(totals[left].tolist())
                TooLarge.check(f"{problem.name}: distinct rewards", len(mine), MAX_VALUES, "choose a smaller problem")
            here = left if totals is None else left & (totals == mine[k])
            found += here * np.int16(k + 1)
            mass[block.prompt, k, block.t] = mass.get((block.prompt, k, block.t), 0) + (
                chance.ravel() @ here.ravel().astype(chance.dtype)
            )
            left, k = left ^ here, k + 1
        if len(mine) > np.iinfo(place.dtype).max:
            place = place.astype(np.int16)
        place[block.rows] = found.T
    table = problem.field.zeros((problem.prompts, max(map(len, known)), problem.horizon))
    for index, value in mass.items():
        table[index] = value
    return Endings(known, place, table)
