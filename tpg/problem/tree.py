"""The token tree as flat arrays, and the three ways to move on it: lift, descend, walk.

Nodes are the prefixes of all prompts, breadth-first: node i < P is the root of prompt i, and the children of all nodes,
taken in (node, token) order, are exactly the nodes P, P+1, ….  One boolean table therefore describes the whole tree.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property

import numpy as np

from tpg.errors import ProblemError, TooLarge
from tpg.numbers import Array, Field

Choose = Callable[[Array], tuple[Array, Array]]
MAX_NODES = 10**8


class Tree:
    """Shape of a set of token trees.

    ``inner`` [N, V] bool: the token leads to another prefix.  ``level`` [depths+1]: the nodes that hold t tokens are
    ``level[t]:level[t+1]``; ``bounds`` [depths, P+1]: those of prompt x are ``bounds[t, x]:bounds[t, x+1]``.  A token
    that is not inner ends the response (or is forbidden: probability 0).
    """

    def __init__(self, inner: Array, prompts: int) -> None:
        self.inner = inner
        self.prompts = prompts
        self.bounds = _bounds(inner, prompts)
        self.level = np.append(self.bounds[:, 0], len(inner))

    @property
    def nodes(self) -> int:
        """N, the number of prefixes."""
        return len(self.inner)

    @property
    def vocab(self) -> int:
        """V, the vocabulary size."""
        return int(self.inner.shape[1])

    @property
    def depths(self) -> int:
        """The number of levels: the length of the longest response."""
        return len(self.level) - 1

    def at(self, t: int) -> slice:
        """The nodes that hold t tokens."""
        return slice(self.level[t], self.level[t + 1])

    @cached_property
    def full(self) -> list[bool]:
        """Per level: every token of every node leads on, so that tables can be reshaped instead of scattered."""
        return [bool(self.inner[self.at(t)].all()) for t in range(self.depths)]

    @cached_property
    def depth(self) -> Array:
        """[N] tokens that each prefix holds."""
        return np.repeat(np.arange(self.depths), np.diff(self.level))

    @cached_property
    def child(self) -> Array:
        """[N, V] the node that each token leads to, −1 where the response ends."""
        index = np.cumsum(self.inner.ravel()) + (self.prompts - 1)
        return np.where(self.inner, index.reshape(self.inner.shape), -1)

    @cached_property
    def parent(self) -> tuple[Array, Array]:
        """[N], [N] the node and the token that lead to each node; −1 for roots."""
        node, token = np.nonzero(self.inner)
        roots = np.full(self.prompts, -1)
        return np.concatenate([roots, node]), np.concatenate([roots, token])

    @cached_property
    def prompt(self) -> Array:
        """[N] the prompt of each prefix."""
        return np.concatenate([np.repeat(np.arange(self.prompts), np.diff(b)) for b in self.bounds])

    def lift(self, below: Array, t: int, ends: Array) -> Array:
        """Values of the nodes of level t+1 as a table [n_t, V] of level t; ``ends`` [n_t, V] where responses end."""
        if t == self.depths - 1:
            return ends
        if self.full[t]:
            return below.reshape(ends.shape)
        out = ends.copy()
        out[self.inner[self.at(t)]] = below
        return out

    def descend(self, table: Array, t: int) -> Array:
        """A table [n_t, V] of level t as values of the nodes of level t+1."""
        return table.reshape(-1) if self.full[t] else table[self.inner[self.at(t)]]


def _bounds(inner: Array, prompts: int) -> Array:
    """[depths, P+1] where each prompt's nodes lie on each level; every node but the roots must be somebody's child."""
    before = prompts + np.concatenate([[0], np.cumsum(np.count_nonzero(inner, axis=1))])  # children of earlier nodes
    if before[-1] != len(inner):
        raise ProblemError(f"the tree names {before[-1]} nodes, the tables hold {len(inner)}: give one row per prefix")
    bounds = [np.arange(prompts + 1)]
    while bounds[-1][-1] < len(inner):
        bounds.append(before[bounds[-1]])
        if bounds[-1][-1] <= bounds[-1][0]:
            raise ProblemError(
                f"only {bounds[-1][0]} of {len(inner)} nodes can be reached from the roots: drop the others"
            )
    return np.array(bounds)


def grow(vocab: int, horizon: int, prompts: int = 1, end_token: int | None = None) -> Tree:
    """The complete tree: every token leads on, but the end token and the last of ``horizon`` tokens."""
    if vocab < 1 or horizon < 1 or prompts < 1:
        raise ProblemError(f"vocab={vocab}, horizon={horizon}, prompts={prompts} given: each must be at least 1")
    if end_token is not None and not 0 <= end_token < vocab:
        raise ProblemError(f"end token {end_token} given: it must be one of the tokens 0 … {vocab - 1}")
    on = vocab - (end_token is not None)
    nodes = prompts * (horizon if on < 2 else 2 * on ** min(horizon - 1, 1000))  # an upper bound, cheap to compute
    TooLarge.check(f"a tree of {vocab} tokens and horizon {horizon}", nodes * vocab, MAX_NODES, "shorten the horizon")
    sizes = [prompts * on**t for t in range(horizon)]
    inner = np.ones((sum(sizes), vocab), dtype=bool)
    if end_token is not None:
        inner[:, end_token] = False
    inner[sum(sizes[:-1]) :] = False
    return Tree(inner, prompts)


def walk(tree: Tree, probs: Array, roots: Array, choose: Choose) -> tuple[Array, Array, Array]:
    """Generate responses: the only place where tokens are chosen, for the sampler and for the enumerator alike.

    ``choose(p [n, V]) -> (row [m], token [m])`` picks a token for each of n walkers; a row that appears several times
    forks its walker.  Returns ``node`` [R, T] and ``token`` [R, T], −1 after the end, and ``start`` [R], the index of
    each response's root in ``roots``; responses keep the order of their walkers.
    """
    start = np.arange(len(roots))
    node = np.full((len(roots), tree.depths), -1, dtype=np.int64)
    token = np.full((len(roots), tree.depths), -1, dtype=np.int64)
    here = np.asarray(roots, dtype=np.int64)
    for t in range(tree.depths):
        alive = np.flatnonzero(here >= 0)
        row, chosen = choose(probs[here[alive]])
        ended = np.flatnonzero(here < 0)
        source = np.concatenate([ended, alive[row]])
        order = np.argsort(source, kind="stable")
        chosen = np.concatenate([np.full(len(ended), -1), chosen])[order]
        source = source[order]
        start, node, token, here = start[source], node[source], token[source], here[source]
        node[:, t], token[:, t] = here, chosen
        here = np.where(here >= 0, tree.child[here, chosen], -1)
    return start, node, token


def fork(probs: Array) -> tuple[Array, Array]:
    """``choose`` of the enumerator: every token of non-zero probability."""
    row, token = np.nonzero(probs != 0)
    return row, token


def inverse_cdf(uniform: Callable[[int], Array]) -> Choose:
    """``choose`` of the sampler: token = the first whose cumulative probability exceeds u ∈ [0, 1)."""

    def choose(probs: Array) -> tuple[Array, Array]:
        u = uniform(len(probs))
        cdf = np.cumsum(probs, axis=1)
        token = (cdf <= (u * cdf[:, -1])[:, None]).sum(1)  # skips tokens of probability 0
        last = probs.shape[1] - 1 - np.argmax(probs[:, ::-1] > 0, axis=1)
        return np.arange(len(probs)), np.minimum(token, last)  # u·Σp may round up to Σp

    return choose


def reach(tree: Tree, probs: Array, field: Field) -> Array:
    """ρ [N]: probability of generating each prefix, given its prompt."""
    out = field.ones(tree.nodes)
    for t in range(tree.depths - 1):
        here = tree.at(t)
        out[tree.at(t + 1)] = tree.descend(out[here, None] * probs[here], t)
    return out


def expect(tree: Tree, probs: Array, ends: Array) -> tuple[Array, Array]:
    """Backward recursion: M(s, a) [N, V] and M(s) [N], where M(s, a) = ``ends`` at the end of a response."""
    after, here = ends.copy(), np.empty(tree.nodes, dtype=ends.dtype)
    below = ends[:0, 0]
    for t in reversed(range(tree.depths)):
        rows = tree.at(t)
        after[rows] = tree.lift(below, t, ends[rows])
        below = here[rows] = (probs[rows] * after[rows]).sum(-1)
    return after, here
