"""A learned critic: its values, what it is fitted to, what it leaves, and GAE with it against the exact gradient."""

from __future__ import annotations

import math
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch

from tpg import truth
from tpg.audit import error_bound
from tpg.errors import EstimatorError, TpgError
from tpg.estimators import critics, expectations
from tpg.estimators.estimator import Estimator
from tpg.moments import moments
from tpg.montecarlo import eprocess
from tpg.neural import critic, exact, gpt, problem
from tpg.neural.gpt import GPT
from tpg.neural.rewards import HashReward
from tpg.neural.task import Task
from tpg.numbers import Array
from tpg.problem.problem import Problem
from tpg.rollouts import Critic, Responses, responses

# torch.func builds its forward-mode rules with it; nothing here does.
torch.set_num_threads(1)  # tiny products

TASK = Task(4, 4, HashReward(1), (0.25, 0.75), end_token=0)
ROUNDING = 1e-12  # of numbers about 1, two routes of some hundred float64 operations
STEPS = 120


@pytest.fixture(scope="module")
def policy() -> GPT:
    return gpt.make(4, 4, 2, layers=1, width=8, heads=2, seed=3)


@pytest.fixture(scope="module")
def along(policy: GPT) -> torch.Tensor:
    return problem.random_directions(policy, 3)


@pytest.fixture(scope="module")
def tables(policy: GPT, along: torch.Tensor) -> Problem:
    return problem.problem(policy, TASK, along)


@pytest.fixture(scope="module")
def fitted(policy: GPT) -> dict[int, GPT]:
    """Trained critics by width."""
    made = {width: critic.make_critic(policy, layers=1, width=width, heads=2, seed=5) for width in (4, 32)}
    return {width: critic.train(each, policy, TASK, steps=STEPS) for width, each in made.items()}


def on_paths(found: Problem) -> tuple[Responses, torch.Tensor, torch.Tensor]:
    """Every response: as a path, and as prompt and tokens."""
    paths = responses(found)
    return paths, torch.as_tensor(paths.prompt), torch.as_tensor(paths.token)


# Values


def test_values_of_the_tree_are_those_of_whole_responses(fitted: dict[int, GPT], tables: Problem) -> None:
    # Streamed breadth-first with shared keys and values, against one forward pass per response.
    paths, prompt, tokens = on_paths(tables)
    along_path = fitted[32].forward(prompt, tokens[:, :-1].clamp(min=0))[..., 0].numpy()
    table = critic.values(fitted[32], TASK)
    np.testing.assert_allclose(table[paths.node][paths.mask], along_path[paths.mask], rtol=0, atol=ROUNDING)
    pieces = critic.values(fitted[32], TASK, chunk=16)
    np.testing.assert_allclose(pieces, table, rtol=0, atol=ROUNDING)
    later = np.roll(along_path, -1, axis=1)  # mutant: the value after the token
    assert np.abs(table[paths.node] - later)[:, :-1][paths.mask[:, 1:]].min() > 1e6 * ROUNDING


@pytest.mark.parametrize("discount", [1.0, 0.5])
def test_the_target_is_the_reward_of_the_response_past_included(
    policy: GPT, fitted: dict[int, GPT], discount: float
) -> None:
    task = replace(TASK, discount=discount)
    found = problem.problem(policy, task, problem.random_directions(policy, 1))
    paths, prompt, tokens = on_paths(found)
    target = task.total(prompt, tokens, torch.float64).numpy()
    np.testing.assert_allclose(target, paths.reward, rtol=0, atol=ROUNDING)
    # One number per prefix t < L of every response, all alike.
    gap = critic.values(fitted[4], task)[paths.node] - paths.reward[:, None]
    loss = float(critic.regression(fitted[4], task, prompt, tokens))
    assert math.isclose(loss, (gap[paths.mask] ** 2).mean(), rel_tol=ROUNDING)
    past = np.cumsum(paths.token_reward, 1) - paths.token_reward
    to_go = gap + past  # mutant: the reward to go
    assert not math.isclose(loss, (to_go[paths.mask] ** 2).mean(), rel_tol=1e-3)


def test_error_is_weighted_by_visits(tables: Problem) -> None:
    assert critic.error(critics.exact_critic, tables) == (0, 1)
    # E over prefixes of a response: Σ_t weight P(W) over responses, from the list of paths.
    paths, mass = responses(tables), np.zeros(tables.tree.nodes)
    visits = (tables.weights[paths.prompt] * paths.probability)[:, None] * paths.mask
    np.add.at(mass, paths.node[paths.mask], visits[paths.mask])
    mass /= mass.sum()
    mean = mass @ tables.values[1]
    constant = critic.error(lambda p: np.full(p.tree.nodes, mean), tables)
    assert math.isclose(constant.rms, math.sqrt(mass @ (tables.values[1] - mean) ** 2), rel_tol=ROUNDING)
    assert abs(constant.explained) < ROUNDING
    off = critic.error(lambda p: p.values[1] + (np.arange(p.tree.nodes) == 3), tables)
    assert math.isclose(off.rms, math.sqrt(mass[3]), rel_tol=ROUNDING)
    assert not math.isclose(off.rms, math.sqrt(1 / tables.tree.nodes), rel_tol=1e-3)  # mutant: all prefixes alike
    nothing = replace(tables, rewards=np.zeros_like(tables.rewards))
    assert math.isnan(critic.error(critics.exact_critic, nothing).explained)


# Training


def test_training_reduces_the_error_and_capacity_bounds_it(
    policy: GPT, fitted: dict[int, GPT], tables: Problem
) -> None:
    fits = {width: critic.error(critic.as_critic(each, TASK), tables) for width, each in fitted.items()}
    fresh = critic.make_critic(policy, layers=1, width=32, heads=2, seed=5)
    untrained = critic.error(critic.as_critic(fresh, TASK), tables)
    position = critic.error(critics.position_critic, tables)
    # One number per position is the least a causal network can learn; 4 of width do better, 32 better still.
    assert fits[32].rms < fits[4].rms < position.rms < untrained.rms
    assert untrained.explained < 0 < fits[4].explained < fits[32].explained < 1
    # 8 (12 embed + position) + norms, qkv, out, up, down with biases + head, by hand for width D:
    # (V + P + T) D + 12 D² + 2 D + 5 D + D + D = (10 + 9) D + 12 D².
    assert [fitted[width].size for width in (4, 32)] == [19 * d + 12 * d**2 for d in (4, 32)]


def test_training_on_the_reward_to_go_is_noticed(
    policy: GPT, fitted: dict[int, GPT], tables: Problem, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Mutant: rewards of the last token alone, so that the past is forgotten.
    right = critic.error(critic.as_critic(fitted[32], TASK), tables)

    def last_only(task: Task, prompt: Any, tokens: Any, dtype: Any = torch.float64) -> Any:
        length = (tokens >= 0).sum(1, keepdim=True)
        return task.rewards(prompt, tokens, dtype).gather(1, length - 1)[:, 0]

    monkeypatch.setattr(Task, "total", last_only)
    made = critic.make_critic(policy, layers=1, width=32, heads=2, seed=5)
    wrong = critic.error(critic.as_critic(critic.train(made, policy, TASK, steps=STEPS), TASK), tables)
    assert wrong.explained < 0 < right.explained


def test_training_is_adam_on_prompts_by_their_weights(policy: GPT, monkeypatch: pytest.MonkeyPatch) -> None:
    seen, generate = list[tuple[torch.Tensor, torch.Tensor]](), critic.generate

    def noted(*given: Any) -> Any:
        drawn = generate(*given)
        seen.append((given[2], drawn.tokens))
        return drawn

    monkeypatch.setattr(critic, "generate", noted)
    made = critic.make_critic(policy, layers=1, width=4, seed=1)
    found = critic.train(made, policy, TASK, steps=2, responses=2000, rate=0.1)
    # Adam (Kingma & Ba, arXiv 1412.6980, algorithm 1) by hand; the rate falls from 0.1 to 0.05, the next would be 0.
    at, first, second = gpt.flat(made.params), 0.0, 0.0
    for step, (prompt, tokens) in enumerate(seen, start=1):
        leaf = made.at({n: p.clone().requires_grad_() for n, p in gpt.unflat(at, made.params).items()})
        slopes = torch.autograd.grad(critic.regression(leaf, TASK, prompt, tokens), list(leaf.params.values()))
        slope = torch.cat([x.flatten() for x in slopes])
        first, second = 0.9 * first + 0.1 * slope, 0.999 * second + 0.001 * slope**2
        size = (second / (1 - 0.999**step)) ** 0.5 + 1e-8
        at = at - 0.1 * (3 - step) / 2 * first / (1 - 0.9**step) / size
    np.testing.assert_allclose(gpt.flat(found.params).numpy(), at.numpy(), rtol=0, atol=1e-9)
    second_prompt = torch.cat([prompt for prompt, _ in seen]).numpy().astype(float)
    for weight, wrong in ((0.75, False), (0.5, True)):  # mutant: prompts alike
        test = eprocess.update(eprocess.begin(weight, 0.0, 1.0), second_prompt)
        assert eprocess.rejected(test) is wrong


def test_same_seed_same_bits_and_nothing_given_is_touched(policy: GPT) -> None:
    made = critic.make_critic(policy, layers=1, width=4, seed=1)
    kept = [{name: p.clone() for name, p in network.params.items()} for network in (policy, made)]
    steps: list[tuple[int, int]] = []
    runs = [
        critic.train(made, policy, TASK, steps=3, responses=8, seed=seed, progress=lambda *done: steps.append(done))
        for seed in (0, 0, 1)
    ]
    assert steps == [(1, 3), (2, 3), (3, 3)] * 3
    assert all(torch.equal(p, runs[1].params[name]) for name, p in runs[0].params.items())
    assert not torch.equal(runs[0].params["head"], runs[2].params["head"])
    for network, before in zip((policy, made), kept, strict=True):
        assert all(torch.equal(p, before[name]) and p.grad is None for name, p in network.params.items())
    assert not any(p.requires_grad for p in runs[0].params.values())  # frozen


# GAE with it, against the exact gradient


def gae(lam: float, guess: Critic, part: Any = critics.gae) -> Estimator:
    return Estimator("gae_learned", partial(part, lam=lam), critic=guess, expectation=expectations.gae_with(guess, lam))


def off(found: Problem, row: Estimator, wanted: Array) -> tuple[float, float]:
    """|E ĝ − wanted| of groups of 2, and a bound of what rounding explains."""
    seen = moments(found, row, 2)
    return float(np.linalg.norm(found.combine(seen.mean) - wanted)), error_bound(seen, row)


@pytest.mark.parametrize("width", [4, 32])
def test_gae_of_one_is_unbiased_whatever_the_critic(
    policy: GPT, along: torch.Tensor, fitted: dict[int, GPT], tables: Problem, width: int
) -> None:
    g = problem.project(exact.gradient(policy, TASK).gradient, along)  # one backward pass: no Problem in it
    guess = critic.as_critic(fitted[width], TASK)
    gap, rounding = off(tables, gae(1, guess), g)
    assert gap <= rounding < 1e-9 * np.linalg.norm(g)
    gap, rounding = off(tables, gae(0.95, guess), g)
    assert gap > 1e6 * rounding


@pytest.mark.parametrize("lam", [0, 0.5, 0.95])
def test_gae_below_one_is_biased_as_declared(fitted: dict[int, GPT], tables: Problem, lam: float) -> None:
    g = truth.gradient(tables)
    for each in fitted.values():
        row = gae(lam, critic.as_critic(each, TASK))
        gap, rounding = off(tables, row, tables.combine(row.expectation(tables, 2, g)))
        assert gap <= rounding
        assert off(tables, row, tables.combine(g))[0] > 1e6 * rounding


def test_a_critic_that_sees_the_wrong_prefix_is_caught(fitted: dict[int, GPT], tables: Problem) -> None:
    guess, g = critic.as_critic(fitted[32], TASK), truth.gradient(tables)

    def shifted(reward: Array, length: Array, mask: Array, value: Array, *, lam: Any, by: int) -> Array:
        inside = np.concatenate([mask, mask[..., :1] & False], -1)
        return critics.gae(reward, length, mask, np.where(inside, np.roll(value, -by, -1), 0), lam=lam)

    # The next token read: no baseline any more, biased even for λ = 1.
    gap, rounding = off(tables, gae(1, guess, partial(shifted, by=1)), tables.combine(g))
    assert gap > 1e6 * rounding
    # Values one position late: still a baseline, but not the critic whose bias was declared.
    late = gae(0.5, guess, partial(shifted, by=-1))
    assert off(tables, late, tables.combine(late.expectation(tables, 2, g)))[0] > 1e6 * rounding


# Bad input


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"steps": 0}, "steps=0, responses=64, rate=0.01 given: needed 1 step of 1 response and a positive rate"),
        ({"rate": math.nan}, "rate=nan given"),
        ({"task": replace(TASK, horizon=3)}, r"\(4, 4, 2\) given, the task has \(4, 3, 2\): make both of the same"),
    ],
)
def test_refusals_to_train(policy: GPT, change: dict[str, Any], message: str) -> None:
    made = critic.make_critic(policy, layers=1, width=4)
    with pytest.raises(TpgError, match=message):
        critic.train(made, policy, **{"task": TASK, **change})


def test_a_policy_is_no_critic_and_a_critic_belongs_to_its_task(policy: GPT, tables: Problem) -> None:
    with pytest.raises(TpgError, match="4 outputs given, needed 1 number per prefix: use make_critic"):
        critic.train(policy, policy, TASK)
    other = Task(4, 3, HashReward(1), (0.25, 0.75), end_token=0)
    made = critic.make_critic(gpt.make(4, 3, 2, layers=1, width=4, heads=1), layers=1, width=4)
    with pytest.raises(EstimatorError, match="80 prefixes given to a critic of 26: make the problem and the critic"):
        critic.as_critic(made, other)(tables)
