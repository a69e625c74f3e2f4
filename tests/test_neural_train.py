"""Ascent of a transformer: J against the exact route, first-order gains, Adam written out, randomness, refusals."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pytest
import torch

from tpg import truth
from tpg.errors import EstimatorError, TooLarge, TpgError
from tpg.estimators.table import ESTIMATORS
from tpg.neural import exact, gpt, train
from tpg.neural.exact import objective
from tpg.neural.gpt import GPT, unflat
from tpg.neural.problem import problem, tabular
from tpg.neural.rewards import ArithmeticReward, HashReward, KeyTokenReward
from tpg.neural.task import Task
from tpg.neural.train import ascend, ascend_exactly

RLOO = ESTIMATORS["rloo"]
TASK = Task(3, 3, HashReward())


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def small(task: Task = TASK, seed: int = 0) -> GPT:
    return gpt.make(task.vocab, task.horizon, task.prompts, layers=1, width=8, heads=2, seed=seed)


TASKS = {
    "dense": TASK,
    "arithmetic": Task(4, 3, ArithmeticReward(4, 3)),
    "prompts, end token, discount": Task(3, 3, HashReward(1), weights=(0.25, 0.75), end_token=1, discount=0.9),
}


@pytest.mark.parametrize("name", TASKS)
def test_objective_is_that_of_two_other_routes(name: str) -> None:
    # Streamed gradient, and the tables of the network's Problem.  Chunks of 1 piece and of many.
    task = TASKS[name]
    net = small(task)
    known = exact.gradient(net, task).objective
    assert objective(net, task) == pytest.approx(known, rel=1e-13)
    largest = 1 + task.horizon + len(task.on) * task.prompts
    assert objective(net, task, chunk=largest) == pytest.approx(known, rel=1e-13)
    table = problem(net, task, torch.zeros(1, net.size, dtype=net.dtype))
    assert float(truth.objective(table)) == pytest.approx(known, rel=1e-13)


def errors_of_first_order(net: GPT, task: Task, rates: tuple[float, float]) -> list[float]:
    """J(θ₁) − J(θ₀) − ε|g|² for each ε."""
    g, out = exact.gradient(net, task), []
    for rate in rates:
        curve = ascend_exactly(net, task, 1, rate).objective[0]
        out.append(float(curve[1] - g.objective - rate * (g.flat @ g.flat)))
    return out


@pytest.mark.parametrize("name", TASKS)
def test_steps_along_g_gain_what_it_promises(name: str) -> None:
    # J(θ + εg) − J(θ) = ε|g|² + O(ε²): halving ε must quarter the error, up to a third-order part that halves with ε:
    # the errors are aε² + bε³, their ratio 4 + 2bε/a + …, which at ε = 10⁻³ is within a few percent.
    first, second = errors_of_first_order(small(TASKS[name]), TASKS[name], (1e-3, 5e-4))
    assert first / second == pytest.approx(4, rel=0.05)


def planted(monkeypatch: pytest.MonkeyPatch, factor: float) -> None:
    """The slope multiplied by a number, which is −1 for descent."""
    honest = exact.gradient

    def changed(net: GPT, task: Task, *rest: object) -> exact.Exact:
        found = honest(net, task)
        return replace(found, gradient={name: factor * g for name, g in found.gradient.items()})

    monkeypatch.setattr(train.exact, "gradient", changed)


@pytest.mark.parametrize("factor", [-1.0, 2.0])
def test_a_wrong_sign_or_scale_would_be_seen(monkeypatch: pytest.MonkeyPatch, factor: float) -> None:
    # With f·g in place of g the error is (f − 1)ε|g|² + O(ε²): it halves instead.  g itself is taken before planting.
    net, g = small(), exact.gradient(small(), TASK)
    planted(monkeypatch, factor)
    gains = [float(ascend_exactly(net, TASK, 1, rate).objective[0, 1] - g.objective) for rate in (1e-3, 5e-4)]
    off = [gain - rate * float(g.flat @ g.flat) for gain, rate in zip(gains, (1e-3, 5e-4), strict=True)]
    assert off[0] / off[1] == pytest.approx(2, rel=0.05)


def test_the_flow_never_descends() -> None:
    # Along g with ε below 2/L, L the curvature met, J cannot fall; L from first-order errors, |e| ≤ ε²L|g|²/2 at the
    # start, and ten times as much is left for the way.
    net, task = small(), TASK
    g = exact.gradient(net, task).flat
    curvature = 2 * abs(errors_of_first_order(net, task, (1e-3, 1e-3))[0]) / (1e-6 * float(g @ g))
    rate = 0.1 * 2 / max(curvature, 1.0)
    curve = ascend_exactly(net, task, 25, rate)
    assert (np.diff(curve.objective[0]) > 0).all()
    assert (curve.responses, curve.group_size, curve.objective.shape) == (0, 0, (1, 26))


def test_the_curve_starts_before_the_first_update_and_holds_each() -> None:
    # One update at a time from the parameters written out; an off-by-one curve starts or ends elsewhere.
    net, rate, expected = small(), 0.3, []
    for _ in range(3):
        found = exact.gradient(net, TASK)
        expected.append(found.objective)
        net = net.at({name: p + rate * found.gradient[name] for name, p in net.params.items()})
    expected.append(exact.gradient(net, TASK).objective)
    start = small()
    before = {name: p.clone() for name, p in start.params.items()}
    np.testing.assert_allclose(ascend_exactly(start, TASK, 3, rate).objective[0], expected, rtol=1e-12)
    assert all(torch.equal(before[name], p) for name, p in start.params.items())  # the start stays as it is


def adam(net: GPT, steps: int, rate: float) -> list[float]:
    """Kingma and Ba 2015, algorithm 1, uphill."""
    theta, m, v, out = gpt.flat(net.params), 0.0, 0.0, []
    for k in range(1, steps + 1):
        g = exact.gradient(net, TASK).flat
        m, v = 0.9 * m + 0.1 * g, 0.999 * v + 0.001 * g * g
        theta = theta + rate * (m / (1 - 0.9**k)) / ((v / (1 - 0.999**k)).sqrt() + 1e-8)
        net = net.at(unflat(theta, net.params))
        out.append(exact.gradient(net, TASK).objective)
    return out


def test_adam_is_adam() -> None:
    curve = ascend_exactly(small(), TASK, 4, 0.01, "adam")
    np.testing.assert_allclose(curve.objective[0, 1:], adam(small(), 4, 0.01), rtol=1e-10)
    assert curve.optimiser == "adam"


def test_runs_are_drawn_by_their_number_alone() -> None:
    # Wrong: one stream for all runs, a stream that knows the number of steps, or one that the seed does not reach.
    net = small()
    many = ascend(net, TASK, RLOO, 2, 4, 0.05, runs=3, seed=5)
    few = ascend(net, TASK, RLOO, 2, 3, 0.05, runs=2, seed=5).objective
    assert (many.objective[:2, :4] == few).all()
    assert (many.objective[0] != many.objective[1]).any()
    assert (ascend(net, TASK, RLOO, 2, 3, 0.05, seed=6).objective[0] != few[0]).any()
    assert (many.responses, many.objective.shape) == (8, (3, 5))
    assert (many.objective[:, 0] == objective(net, TASK)).all()
    assert len(set(many.objective[0])) == 5  # every update draws anew and moves


@pytest.mark.parametrize("name", ["rloo", "exact_advantage", "vineppo_k"])
def test_sampled_updates_average_to_the_exact_one(name: str) -> None:
    # E J(θ + εĝ) = J + ε⟨E ĝ, g⟩ + O(ε²); 30 runs of one update, a false alarm beyond 6 standard errors.
    # exact_advantage reads the tables of the whole tree, vineppo_k draws continuations.
    net, rate = small(), 1e-4
    g = exact.gradient(net, TASK).flat
    gains = np.diff(ascend(net, TASK, ESTIMATORS[name], 64, 1, rate, runs=30).objective)[:, 0] / rate
    off = abs(gains.mean() - float(g @ g))
    noise = gains.std() / np.sqrt(len(gains))
    assert off < 6 * noise + 1e-2 * float(g @ g)
    assert abs(gains.mean() + float(g @ g)) > 6 * noise  # descent would be seen


def test_tables_follow_the_policy(monkeypatch: pytest.MonkeyPatch) -> None:
    # Wrong: exact values of the start at every update.  sample.credits refuses a Problem of another policy.
    curve = ascend(small(), TASK, ESTIMATORS["exact_advantage"], 4, 3, 0.5)
    assert np.isfinite(curve.objective).all()
    stale = tabular(small(), TASK)
    monkeypatch.setattr(train, "tabular", lambda *_: stale)
    with pytest.raises(EstimatorError, match=r": build it from"):
        ascend(small(), TASK, ESTIMATORS["exact_advantage"], 4, 3, 0.5)


def test_estimators_that_compare_with_the_start_are_trained() -> None:
    curve = ascend(small(), TASK, ESTIMATORS["rloo_kl"], 4, 2, 0.5)
    assert np.isfinite(curve.objective).all()


def test_key_token_is_learned() -> None:
    # J rises from about 1/3 towards 1; 30 exact updates along g of a concave-enough problem end above 0.9.
    task = Task(3, 2, KeyTokenReward(3))
    assert ascend_exactly(small(task), task, 30, 1.0).objective[0, -1] > 0.9


def test_progress_counts_all_updates() -> None:
    seen: list[tuple[int, int]] = []
    ascend(small(), TASK, RLOO, 2, 2, 0.1, runs=2, progress=lambda done, total: seen.append((done, total)))
    assert seen == [(1, 4), (2, 4), (3, 4), (4, 4)]


def test_what_cannot_be_trained_is_refused_before_work() -> None:
    net = small()
    with pytest.raises(TpgError, match=r"^steps=0, rate=1.0 given: needed 1 update or more and a finite rate above 0$"):
        ascend_exactly(net, TASK, 0, 1.0)
    with pytest.raises(TpgError, match=r"^steps=1, rate=-1.0 given"):
        ascend(net, TASK, RLOO, 2, 1, -1.0)
    with pytest.raises(TpgError, match=r"^optimiser 'rmsprop' given, needed sgd or adam$"):
        ascend_exactly(net, TASK, 1, 1.0, "rmsprop")
    with pytest.raises(TpgError, match=r"^runs=0 given: needed at least 1$"):
        ascend(net, TASK, RLOO, 2, 1, 1.0, runs=0)
    with pytest.raises(EstimatorError, match=r"^group_size=1 given, rloo needs at least 2$"):
        ascend(net, TASK, RLOO, 1, 1, 1.0)
    with pytest.raises(TpgError, match=r"the task has"):
        ascend_exactly(net, Task(3, 4, HashReward()), 1, 1.0)
    with pytest.raises(TpgError, match=r"not deterministic"):
        ascend_exactly(net, replace(TASK, reward=lambda prompt, tokens: torch.rand(tokens.shape)), 1, 1.0)
    with pytest.raises(TooLarge, match=r"shorten the horizon"):
        objective(gpt.make(32, 12), Task(32, 12, HashReward()))


def test_an_update_that_leaves_no_policy_is_told() -> None:
    with pytest.raises(TpgError, match=r"^update 1 of 2 leaves J = nan: rate=1e\+300 is too large for these weights$"):
        ascend_exactly(small(), TASK, 2, 1e300)
