"""Token trees: numbering, the three moves, generation."""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests import references as ref
from tests.strategies import MEDIUM, problems
from tpg.errors import ProblemError, TooLarge
from tpg.numbers import RATIONAL
from tpg.problem import tree as trees
from tpg.problem.problem import Problem
from tpg.problem.tree import Tree, expect, fork, grow, reach, walk

anything = problems(MEDIUM, prompts=3, off_policy=None, dead=True)


@given(anything)
def test_nodes_are_the_prefixes_breadth_first(problem: Problem) -> None:
    # The reference numbers the prefixes by walking the table itself.  Wrong: prompts mixed up, levels off by one.
    tree, prefixes = problem.tree, list(ref.read(problem).policy)
    number = {prefix: i for i, prefix in enumerate(prefixes)}
    assert tree.nodes == len(prefixes)
    assert tree.depth.tolist() == [len(p) - 1 for p in prefixes]
    assert tree.prompt.tolist() == [p[0] for p in prefixes]
    assert tree.depths == max(len(p) for p in prefixes)
    node, token = tree.parent
    assert node.tolist() == [number.get(p[:-1], -1) for p in prefixes]
    assert token.tolist() == [p[-1] if len(p) > 1 else -1 for p in prefixes]
    assert tree.child.tolist() == [[number.get((*p, a), -1) for a in range(tree.vocab)] for p in prefixes]
    for t in range(tree.depths):
        assert prefixes[tree.at(t)] == [p for p in prefixes if len(p) == t + 1]
        for x in range(tree.prompts):
            mine = prefixes[tree.bounds[t, x] : tree.bounds[t, x + 1]]
            assert mine == [p for p in prefixes if len(p) == t + 1 and p[0] == x]


@given(anything)
def test_lift_and_descend_follow_the_children(problem: Problem) -> None:
    # Wrong: the fast path for full levels transposes, or a scattered table is filled in another order.
    tree = problem.tree
    here, down = np.arange(tree.nodes), -1 - np.arange(tree.nodes * tree.vocab).reshape(-1, tree.vocab)
    for t in range(tree.depths):
        rows = tree.at(t)
        below = here[tree.at(t + 1)] if t < tree.depths - 1 else here[:0]
        expected = np.where(tree.inner[rows], tree.child[rows], down[rows])
        assert (tree.lift(below, t, down[rows]) == expected).all()
        if t < tree.depths - 1:
            node, token = tree.parent
            children = tree.at(t + 1)
            assert (tree.descend(down[rows], t) == down[node[children], token[children]]).all()


@given(anything)
def test_reach_and_expect_are_products_and_means_along_paths(problem: Problem) -> None:
    twin, tree = ref.read(problem), problem.tree
    chance = [math.prod((twin.policy[p][a] for p, a in ref.steps(s)), start=Fraction(1)) for s in twin.policy]
    assert ref.fractions(reach(tree, problem.probs, RATIONAL)) == chance
    after, here = expect(tree, problem.probs, problem.totals)
    assert ref.fractions(here) == [twin.value[s] for s in twin.policy]
    assert ref.fractions(after) == [[twin.value[(*s, a)] for a in range(tree.vocab)] for s in twin.policy]


@given(anything, st.lists(st.integers(0, 2), max_size=4))
def test_walk_with_fork_lists_every_response_in_order(problem: Problem, picked: list[int]) -> None:
    # Several walkers may start at one root; each lists all responses, shorter ones in their lexicographic place.
    twin = ref.read(problem)
    roots = np.array([x % problem.prompts for x in picked], dtype=np.int64)
    start, node, token = walk(problem.tree, problem.sampling, roots, fork)
    number = {prefix: i for i, prefix in enumerate(twin.policy)}
    expected = [(i, w) for i, x in enumerate(roots.tolist()) for w in sorted(ref.responses(twin, x))]
    assert start.tolist() == [i for i, _ in expected]
    for nodes, tokens, (_, response) in zip(node.tolist(), token.tolist(), expected, strict=True):
        pad = [-1] * (problem.horizon - ref.length(response))
        assert tokens == [*response[1:], *pad]
        assert nodes == [*(number[prefix] for prefix, _ in ref.steps(response)), *pad]


@pytest.mark.parametrize(
    ("vocab", "horizon", "prompts", "end", "nodes"), [(3, 3, 2, None, 26), (3, 3, 2, 1, 14), (1, 3, 1, 0, 1)]
)
def test_grow_is_complete(vocab: int, horizon: int, prompts: int, end: int | None, nodes: int) -> None:
    # 2·(1 + 3 + 9) prefixes; with an end token two of three tokens lead on: 2·(1 + 2 + 4).
    tree = grow(vocab, horizon, prompts, end)
    assert tree.nodes == nodes
    leads = tree.depth[:, None] < horizon - 1
    assert (tree.inner == (leads & (np.arange(vocab) != (-1 if end is None else end)))).all()


@pytest.mark.parametrize(
    ("inner", "message"),
    [
        ([[True, True], [False, False]], "the tree names 3 nodes, the tables hold 2: give one row per prefix"),
        ([[False, False], [True, False]], "only 1 of 2 nodes can be reached from the roots: drop the others"),
    ],
)
def test_a_table_that_is_no_tree_is_refused(inner: list[list[bool]], message: str) -> None:
    with pytest.raises(ProblemError, match=f"^{message}$"):
        Tree(np.array(inner), 1)


@pytest.mark.parametrize("size", [(0, 1, 1), (1, 0, 1), (1, 1, 0)])
def test_an_empty_tree_is_refused(size: tuple[int, int, int]) -> None:
    with pytest.raises(ProblemError, match=r"^vocab=\d, horizon=\d, prompts=\d given: each must be at least 1$"):
        grow(*size)


@pytest.mark.parametrize("token", [-1, 2])
def test_the_end_token_of_a_tree_is_a_token(token: int) -> None:
    with pytest.raises(ProblemError, match=f"^end token {token} given: it must be one of the tokens 0 … 1$"):
        grow(2, 2, end_token=token)


def test_a_tree_beyond_memory_is_refused_with_its_size(monkeypatch: pytest.MonkeyPatch) -> None:
    # 10 · (1 + 10 + … + 10⁴⁹) table entries, or an upper bound within a factor 2; not one of them is allocated.
    message = r"^a tree of 10 tokens and horizon 50 would need [12][.\d]*e\+50 entries, the limit is 1e\+08: shorten"
    with pytest.raises(TooLarge, match=message):
        grow(10, 50)
    monkeypatch.setattr(trees, "MAX_NODES", 2 * 14)
    assert grow(2, 3).inner.size == 14
    with pytest.raises(TooLarge, match=r"would need .* shorten the horizon$"):
        grow(2, 5)  # 62
