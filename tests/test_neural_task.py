"""Tasks and token rewards against plain Python: numbering, counting, paying, and what a check of a reward finds."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests import neural_references as ref
from tpg.errors import TpgError
from tpg.neural import rewards
from tpg.neural.rewards import ArithmeticReward, HashReward, KeyTokenReward, TableReward
from tpg.neural.task import Task, nodes
from tpg.problem import zoo

SHAPES: dict[str, dict[str, Any]] = {
    "plain": {"vocab": 3, "horizon": 3, "weights": (0.25, 0.75)},
    "end token first": {"vocab": 3, "horizon": 4, "weights": (0.25, 0.75), "end_token": 0},
    "end token in the middle": {"vocab": 4, "horizon": 3, "weights": (0.2, 0.3, 0.5), "end_token": 2},
    "end token last": {"vocab": 3, "horizon": 3, "end_token": 2},
    "a chain": {"vocab": 2, "horizon": 4, "weights": (0.5, 0.5), "end_token": 0},
    "horizon 1": {"vocab": 2, "horizon": 1, "weights": (0.25, 0.75), "end_token": 1},
}
KINDS = ("hash", "arithmetic", "key token", "table")


def padded(twin: ref.Twin) -> tuple[torch.Tensor, torch.Tensor]:
    """Prompt [R] and tokens [R, T] of every response, −1 after the end."""
    rows = [(x, [*w, *[-1] * (twin.horizon - len(w))]) for x in range(len(twin.weights)) for w in twin.words()]
    return torch.tensor([x for x, _ in rows]), torch.tensor([w for _, w in rows])


@pytest.mark.parametrize("shape", SHAPES)
def test_prefixes_are_numbered_as_the_tree_numbers_them(shape: str) -> None:
    task, twin = ref.pair("hash", **SHAPES[shape])
    tree, prefixes = task.tree(), twin.prefixes()
    assert (task.prefixes, task.responses) == (len(prefixes), len(twin.weights) * len(list(twin.words())))
    assert (tree.nodes, tree.depths, tree.prompts) == (task.prefixes, task.horizon, task.prompts)
    parent, by = (array.tolist() for array in tree.parent)
    for number, (prompt, tokens) in enumerate(prefixes):
        before = prefixes[parent[number]] if tokens else None
        assert before == ((prompt, tokens[:-1]) if tokens else None)
        assert by[number] == (tokens[-1] if tokens else -1)
        assert tree.prompt[number] == prompt


@pytest.mark.parametrize("shape", SHAPES)
def test_a_response_walks_from_child_to_child(shape: str) -> None:
    task, twin = ref.pair("hash", **SHAPES[shape])
    prompt, tokens = padded(twin)
    child = task.tree().child
    for start, word, path in zip(prompt.tolist(), tokens.tolist(), task.node(prompt, tokens).tolist(), strict=True):
        here = start
        for token, number in zip(word, path, strict=True):
            assert number == (here if token >= 0 else -1)
            here = int(child[here, token]) if token >= 0 else -1


@pytest.mark.parametrize("shape", SHAPES)
def test_a_run_of_prefixes_of_one_length(shape: str) -> None:
    task, twin = ref.pair("hash", **SHAPES[shape])
    for length in range(task.horizon):
        level = [(x, w) for x, w in twin.prefixes() if len(w) == length]
        for first, last in {(0, len(level)), (0, 1), (len(level) // 2, len(level)), (1, 1)}:
            prompt, tokens = task.prefix(first, last, length)
            assert tokens.shape == (last - first, length)
            assert list(zip(prompt.tolist(), map(tuple, tokens.tolist()), strict=True)) == level[first:last]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("shape", SHAPES)
def test_every_token_is_paid_what_the_rule_says(shape: str, kind: str) -> None:
    task, twin = ref.pair(kind, **SHAPES[shape])
    prompt, tokens = padded(twin)
    words = [tuple(t for t in row if t >= 0) for row in tokens.tolist()]
    right = [twin.rule(x, w) + [0.0] * (task.horizon - len(w)) for x, w in zip(prompt.tolist(), words, strict=True)]
    assert task.rewards(prompt, tokens, torch.float64).tolist() == right
    for x, before in twin.prefixes():
        next_ones = task.next_rewards(torch.tensor([x]), torch.tensor([before], dtype=torch.long), torch.float64)
        assert next_ones.tolist() == [[twin.rule(x, (*before, a))[-1] for a in range(task.vocab)]]
    task.check()


def test_many_prefixes_are_paid_at_once_and_in_the_type_asked_for() -> None:
    task, _ = ref.pair("hash", **SHAPES["plain"])
    prompt, tokens = task.prefix(0, 18, 2)
    together = task.next_rewards(prompt, tokens, torch.float32)
    assert together.dtype == torch.float32
    alone = [task.next_rewards(prompt[i : i + 1], tokens[i : i + 1], torch.float64) for i in range(18)]
    assert torch.equal(together, torch.cat(alone).float())


@given(vocab=st.integers(2, 5), horizon=st.integers(1, 5), prompts=st.integers(1, 3), end=st.none() | st.integers(0, 4))
@settings(max_examples=15)
def test_counts(vocab: int, horizon: int, prompts: int, end: int | None) -> None:
    end = None if end is None else min(end, vocab - 1)
    task, twin = ref.pair("hash", vocab, horizon, (1 / prompts,) * prompts, end)
    assert task.prefixes == len(twin.prefixes()) == task.tree().nodes
    assert task.responses == prompts * sum(1 for _ in twin.words())
    assert task.on == tuple(a for a in range(vocab) if a != end)


# Rewards


def test_the_mixing_is_splitmix64() -> None:
    # The first numbers of the published generator with seed 1234567.
    published = [6457827717110365317, 3203168211198807973, 9817491932198370423, 4593380528125082431]
    golden = 0x9E3779B97F4A7C15
    states = [(1234567 + i * golden) % 2**64 for i in range(4)]
    assert [ref.splitmix(state) for state in states] == published
    signed = torch.tensor([s - 2**64 if s >= 2**63 else s for s in states])
    assert [z % 2**64 for z in rewards._mix(signed).tolist()] == published


@given(
    seed=st.integers(0, 2**40),
    prompt=st.integers(0, 10**6),
    word=st.lists(st.integers(0, 10**5), min_size=1, max_size=6),
)
def test_a_hashed_reward_is_that_of_whole_numbers(seed: int, prompt: int, word: list[int]) -> None:
    found = HashReward(seed)(torch.tensor([prompt]), torch.tensor([word])).tolist()
    assert found == [ref.hashed(seed, prompt, tuple(word))]


def test_hashed_rewards_are_squares_of_uniform_numbers() -> None:
    # √r of n = 8⁵ tokens against the uniform law: P(sup |F_n − F| > d) ≤ 2 exp(−2nd²) (Dvoretzky–Kiefer–Wolfowitz–
    # Massart); at most one seed in 10⁶ fails for d = √(log(2·10⁶)/2n).
    task = Task(8, 5, HashReward(0))
    root = task.next_rewards(*task.prefix(0, 8**4, 4), torch.float64).sqrt().flatten().sort().values.numpy()
    n = len(root)
    assert (root[0] >= 0, root[-1] < 1, len(set(root.tolist()))) == (True, True, n)
    steps = np.arange(n + 1) / n
    assert max((steps[1:] - root).max(), (root - steps[:-1]).max()) < np.sqrt(np.log(2e6) / (2 * n))


def test_hashed_rewards_differ_by_seed_and_prompt() -> None:
    word = torch.tensor([[0, 1, 2]])
    paid = [HashReward(s)(torch.tensor([x]), word) for s in (0, 1) for x in (0, 1)]
    assert len({tuple(p[0].tolist()) for p in paid}) == 4


def test_arithmetic_pays_at_the_end_only() -> None:
    pay = ArithmeticReward(5, 3, end_token=4)
    words = torch.tensor([[0, 1, 0], [1, 4, 0], [4, 0, 0], [2, 3, 1], [1, 0, 4]])
    # 0+1+0 = 1; 1 and the end; the end at once: 0; 2+3+1 = 6 = 1; 1+0 and the end: all but the third add up to 1 mod 5
    task = Task(5, 3, pay, end_token=4)
    tokens = torch.tensor([[0, 1, 0], [1, 4, -1], [4, -1, -1], [2, 3, 1], [1, 0, 4]])
    assert task.rewards(torch.zeros(5, dtype=torch.long), tokens, torch.float64).tolist() == [
        [0, 0, 1],
        [0, 1, 0],
        [0, 0, 0],
        [0, 0, 1],
        [0, 0, 1],
    ]
    assert pay(torch.full((5,), 4), words)[2, 0] == 1  # prompt 4 asks for 5 = 0 mod 5: nothing said is right
    assert (pay(torch.zeros(5, dtype=torch.long), words)[:, :2].sum(0) == torch.tensor([0, 1])).all()


@pytest.mark.parametrize("position", [1, 2, 3])
def test_one_token_at_one_position_is_paid(position: int) -> None:
    words = torch.cartesian_prod(*[torch.arange(3)] * 3)
    paid = KeyTokenReward(3, position)(torch.full((27,), 4), words)  # prompt 4: token 4 mod 3 = 1
    assert paid.sum() == 9
    assert torch.equal(paid[:, position - 1], (words[:, position - 1] == 1).double())


@pytest.mark.parametrize("variable", [False, True])
def test_the_table_of_a_problem_pays_what_the_problem_pays(variable: bool) -> None:
    found = zoo.random(3, vocab=3, horizon=4, prompts=2, variable=variable)
    end = 2 if variable else None
    task = Task(3, 4, TableReward(found.rewards, 2, end), (0.5, 0.5), end)
    child, table = found.tree.child, found.rewards.astype(float)
    prompt, tokens = padded(ref.Twin(3, 4, lambda x, w: [], (0.5, 0.5), end))
    for x, word, paid in zip(
        prompt.tolist(), tokens.tolist(), task.rewards(prompt, tokens, torch.float64).tolist(), strict=True
    ):
        here = x
        for token, reward in zip(word, paid, strict=True):
            assert reward == (table[here, token] if token >= 0 else 0)
            here = child[here, token] if token >= 0 else here
    behind = TableReward(found.rewards, 2, end)(torch.tensor([0, 1]), torch.tensor([[0, 2, 1, 0], [2, 2, 2, 2]]))
    if variable:  # generated on behind the end token, before padding: nothing is paid there
        assert behind[0, 2:].tolist() + behind[1, 1:].tolist() == [0] * 5
    task.check()


# What is refused


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"vocab": 1}, r"^vocab=1, horizon=3 given: needed 2 tokens and 1 position, or more$"),
        ({"horizon": 0}, r"^vocab=3, horizon=0 given: needed 2 tokens and 1 position, or more$"),
        ({"end_token": 3}, r"^end token 3 given: it must be one of the tokens 0 … 2$"),
        ({"end_token": -1}, r"^end token -1 given: it must be one of the tokens 0 … 2$"),
        ({"weights": ()}, r"^weights \(\) given: needed positive numbers that sum to 1$"),
        ({"weights": (0.5, 0.6)}, r"^weights .* given: needed positive numbers that sum to 1$"),
        ({"weights": (0.0, 1.0)}, r"^weights .* given: needed positive numbers that sum to 1$"),
        ({"weights": (-0.5, 1.5)}, r"^weights .* given: needed positive numbers that sum to 1$"),
        ({"weights": (0.5, 0.5, float("nan"))}, r"^weights .* given: needed positive numbers that sum to 1$"),
        ({"discount": 0.0}, r"^discount 0.0 given, needed 0 < γ ≤ 1$"),
        ({"discount": 1.1}, r"^discount 1.1 given, needed 0 < γ ≤ 1$"),
        ({"discount": float("nan")}, r"^discount nan given, needed 0 < γ ≤ 1$"),
    ],
)
def test_a_task_that_is_none_is_refused(change: dict[str, Any], message: str) -> None:
    with pytest.raises(TpgError, match=message):
        Task(**{"vocab": 3, "horizon": 3, "reward": HashReward(), **change})


def pays_the_final_sum(prompt: torch.Tensor, tokens: torch.Tensor) -> torch.Tensor:
    return tokens.sum(1, keepdim=True).expand(tokens.shape).double()


def pays_the_next_token(prompt: torch.Tensor, tokens: torch.Tensor) -> torch.Tensor:
    return torch.cat([tokens[:, 1:], tokens[:, :1] * 0], 1).double()


def pays_when_long_enough(prompt: torch.Tensor, tokens: torch.Tensor) -> torch.Tensor:
    return torch.full(tokens.shape, float(tokens.shape[1] > 2))


def one_column(prompt: torch.Tensor, tokens: torch.Tensor) -> torch.Tensor:
    return tokens[:, -1:].double()


def not_a_number(prompt: torch.Tensor, tokens: torch.Tensor) -> torch.Tensor:
    return torch.where(tokens == 1, float("nan"), tokens.double())


def infinite(prompt: torch.Tensor, tokens: torch.Tensor) -> torch.Tensor:
    return -tokens.double().log()


def transposed(prompt: torch.Tensor, tokens: torch.Tensor) -> torch.Tensor:
    return tokens.double().T


class Counting:
    """Pays more at every call."""

    def __init__(self) -> None:
        self.calls = 0

    def __call__(self, prompt: torch.Tensor, tokens: torch.Tensor) -> torch.Tensor:
        self.calls += 1
        return torch.full(tokens.shape, float(self.calls))


def by_row(prompt: torch.Tensor, tokens: torch.Tensor) -> torch.Tensor:
    return torch.arange(len(tokens))[:, None].expand(tokens.shape).double()


def better_than_the_rest(prompt: torch.Tensor, tokens: torch.Tensor) -> torch.Tensor:
    """Centred in its batch, as advantages are: the order of the batch does not matter, its members do."""
    hit = (tokens == 1).double()
    return hit - hit.mean(0)


CAUSAL, BATCH = r"^the reward is not causal: the first {} tokens are paid", r"^the reward of a response depends on the"
SHAPE = r"^the reward gives {} numbers, needed finite ones \(64, 3\)$"
BAD: dict[str, tuple[Callable[[], Any], str]] = {
    "final sum": (lambda: pays_the_final_sum, CAUSAL.format(1)),
    "next token": (lambda: pays_the_next_token, CAUSAL.format(1)),
    "length": (lambda: pays_when_long_enough, CAUSAL.format(1) + " differently once 2 more follow"),
    "one column": (lambda: one_column, SHAPE.format(r"\(64, 1\)")),
    "transposed": (lambda: transposed, SHAPE.format(r"\(3, 64\)")),
    "NaN": (lambda: not_a_number, SHAPE.format(r"\(64, 3\)")),
    "infinite": (lambda: infinite, SHAPE.format(r"\(64, 3\)")),
    "random": (lambda: lambda x, w: torch.rand(w.shape), r"^the reward is not deterministic: two calls"),
    "stateful": (Counting, r"^the reward is not deterministic: two calls"),
    "by row": (lambda: by_row, BATCH),
    "centred in its batch": (lambda: better_than_the_rest, BATCH),
}


@pytest.mark.parametrize("bad", BAD)
def test_a_reward_that_cannot_be_summed_over_the_tree_is_found(bad: str) -> None:
    reward, message = BAD[bad]
    task = Task(3, 3, reward(), (0.5, 0.5))
    with pytest.raises(TpgError, match=message):
        task.check()


def test_a_reward_of_one_token_needs_no_causality() -> None:
    Task(3, 1, pays_the_final_sum).check()  # nothing follows


# The checks can fail


def test_faults_in_rewards_and_numbers_are_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    word, prompt = (2, 0, 1), torch.tensor([1])
    right = ref.hashed(7, 1, word)
    assert HashReward(7)(prompt, torch.tensor([word])).tolist() == [right]
    monkeypatch.setattr(rewards, "_logical", lambda z, bits: z >> bits)  # keeps the sign
    assert HashReward(7)(prompt, torch.tensor([word])).tolist() != [right]
    # numbers of a tree whose end token is another one
    task, twin = ref.pair("hash", **SHAPES["end token in the middle"])
    prompt, tokens = padded(twin)
    wrong = nodes(prompt, tokens, task.vocab, task.prompts, 3)
    assert not torch.equal(wrong, task.node(prompt, tokens))
    swapped = replace(task, reward=lambda x, w: HashReward(7)(x, w.flip(1)))
    with pytest.raises(TpgError, match="not causal"):
        swapped.check()
