"""Rows normalised over the batch: credits, engines and closed forms, against every batch written out."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from dataclasses import replace
from fractions import Fraction
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests import references as ref
from tests.literal import batch as lit
from tests.strategies import DYADIC, SMALL, problems
from tests.test_moments import agree
from tests.test_problem import residue
from tpg import truth
from tpg.errors import EstimatorError, TooLarge
from tpg.estimators import advantages, aggregation, batch, batch_expected, ratios
from tpg.estimators.estimator import Estimator
from tpg.estimators.parts import batch_peers
from tpg.estimators.table import ESTIMATORS
from tpg.moments import Moments, brute_force, brute_force_batch, collapse, collapse_batch, coupling, moments, report_of
from tpg.moments import batch as engine
from tpg.numbers import FLOAT64, RATIONAL, Array, gf
from tpg.problem import zoo
from tpg.problem.problem import Problem, make
from tpg.problem.tree import grow
from tpg.rollouts import Rollouts, draw, responses

NAMES = [row.name for row in batch.ROWS]
ROWS = pytest.mark.parametrize("name", NAMES)
BANDITS = ((2, 1), (3, 1))
few = partial(problems, discounts=DYADIC)


def numbers(problem: Problem, row: Estimator) -> Problem:
    return problem.to(FLOAT64) if row.numbers == "float64" else problem


def members_of(problem: Problem, group_size: int) -> Array:
    """Every batch of ``problem`` as indices of responses [n, P, G]."""
    found = responses(problem)
    groups = [
        list(itertools.product(np.flatnonzero(found.prompt == x).tolist(), repeat=group_size))
        for x in range(problem.prompts)
    ]
    return np.array(list(itertools.product(*groups)))


def faults(problem: Problem, row: Estimator, name: str, group_size: int) -> list[Any]:
    """The batches on which the credits of ``row`` are not the literal ones of ``name``."""
    twin, made, out = ref.read(problem), numbers(problem, row), []
    found, members = responses(made), members_of(made, group_size)
    words = [(int(x), *(t for t in w if t >= 0)) for x, w in zip(found.prompt, found.token.tolist(), strict=True)]
    credits = row(found.group(members, row.needs))
    assert credits.shape == (*members.shape, made.horizon)
    for got, chosen in zip(credits, members.tolist(), strict=True):
        groups = [[words[i] for i in group] for group in chosen]
        for x, i in itertools.product(range(problem.prompts), range(group_size)):
            wanted = lit.BATCH[name](twin, groups, x, i)
            wanted += [0] * (made.horizon - len(wanted))
            if ref.off(got[x, i], wanted, float(max(abs(c) for c in wanted)) + 1e-3):
                out.append(groups)
    return out


def smallest(name: str, problem: Problem) -> int:
    """REINFORCE++ does without groups where there are other prompts."""
    return 1 if name in NAMES[:2] and problem.prompts > 1 else 2


# Credits, moments, expectation: each row against its formula on every batch


@ROWS
@settings(max_examples=8)
@given(problem=few((*BANDITS, (2, 2)), prompts=2, off_policy=None))
def test_credits_are_the_literal_formula_on_every_batch(name: str, problem: Problem) -> None:
    for size in range(smallest(name, problem), 3):
        assert not faults(problem, ESTIMATORS[name], name, size)


@ROWS
@pytest.mark.parametrize(
    ("shapes", "prompts", "size"), [(((2, 2), (3, 1)), 2, 2), (((2, 1),), 3, 2), (((2, 2),), 1, 3)]
)
@settings(max_examples=5)
@given(data=st.data())
def test_brute_force_is_the_literal_mean_and_covariance(
    name: str, shapes: tuple[tuple[int, int], ...], prompts: int, size: int, data: st.DataObject
) -> None:
    # Mean, Var ĝ_x and tr Cov(ĝ_x, ĝ_y); and the declared expectation against the literal mean.
    row, problem = ESTIMATORS[name], data.draw(few(shapes, prompts=prompts, off_policy=None))
    twin, made = ref.read(problem), numbers(problem, row)
    means, between = lit.moments_of(twin, lit.BATCH[name], size)
    found = brute_force_batch(made, row, size)
    terms = float(sum(between[x][x] + sum(v * v for v in means[x].values()) for x in range(twin.prompts)))
    expected = ref.mixed(twin, means)
    assert found.between is not None
    assert not ref.off(made.combine(found.mean), expected, math.sqrt(terms))
    assert not ref.off(found.between.ravel(), [v for line in between for v in line], terms)
    assert not ref.off(found.variance, [between[x][x] for x in range(twin.prompts)], terms)
    weighed = [
        twin.weight[x] * twin.weight[y] * between[x][y] for x in range(twin.prompts) for y in range(twin.prompts)
    ]
    assert not ref.off([found.total_variance], [sum(weighed)], terms)
    if problem.on_policy:
        declared = made.combine(row.expectation(made, size, truth.gradient(made)))
        assert not ref.off(declared, expected, math.sqrt(terms))


def same_moments(one: Moments, two: Moments) -> None:
    agree(one, two)
    assert one.between is not None
    assert two.between is not None
    size = float(np.abs(two.between.astype(float)).max()) + float(np.abs(two.problem.totals.astype(float)).max()) ** 2
    assert not ref.off(one.between.ravel(), [ref.exact(v) for v in two.between.ravel()], size)
    whole = sum(float(v) for v in np.diagonal(two.covariance)) if two.covariance is not None else two.total_variance
    assert not ref.off([one.total_variance], [float(whole)], size)


@ROWS
@settings(max_examples=12)
@given(data=st.data())
def test_class_collapse_is_brute_force(name: str, data: st.DataObject) -> None:
    # One sweep where parameters are a table, listed paths otherwise and for covariances; two or three prompts.
    row, size = ESTIMATORS[name], data.draw(st.integers(1, 3))
    shapes = {1: SMALL, 2: ((2, 2), (3, 1)), 3: ((2, 1),)}[size]
    problem = data.draw(few(shapes, prompts=3 if size < 3 else 2, off_policy=None))
    size = max(size, smallest(name, problem))
    made = numbers(problem, row)
    expected = brute_force_batch(made, row, size, covariance=True)
    for found in (collapse_batch(made, row, size), collapse_batch(made, row, size, True), moments(made, row, size)):
        same_moments(found, expected)


@settings(max_examples=10)
@given(problem=few(((2, 2), (3, 1)), prompts=2, off_policy=None))
def test_gpg_is_rational_and_its_image_in_a_finite_field(problem: Problem) -> None:
    row = ESTIMATORS["gpg"]
    exact, image = (collapse_batch(p, row, 2) for p in (problem, problem.to(gf())))
    for table in ("mean", "between"):
        wanted = [residue(ref.exact(v)) for v in getattr(exact, table).ravel()]
        assert [int(v) for v in getattr(image, table).ravel()] == wanted
    same_moments(collapse_batch(problem.to(FLOAT64), row, 2), exact)
    declared = row.expectation(problem, 2, truth.gradient(problem))
    if problem.on_policy:
        assert (declared == exact.mean).all()


CLIPPED = Estimator("clipped", batch.gpg, batch.batch_token_mean, ratios.ppo_clip, numbers="ordered")
PULLED = replace(CLIPPED, name="pulled", penalty=lambda ref_prob, prob: ref_prob / prob - 2)


@pytest.mark.parametrize("row", [CLIPPED, PULLED], ids=lambda row: row.name)
@settings(max_examples=8)
@given(problem=few(((2, 2), (3, 1)), prompts=2, off_policy=True, reference=True))
def test_class_collapse_is_brute_force_for_sums_of_products(row: Estimator, problem: Problem) -> None:
    # Clips read the sign of an advantage that depends on the batch; penalties are divided by the tokens of the batch.
    for covariance in (False, True):
        same_moments(collapse_batch(problem, row, 2, covariance), brute_force_batch(problem, row, 2, covariance=True))


def test_blocks_do_not_change_the_moments(monkeypatch: pytest.MonkeyPatch) -> None:
    made = zoo.random(1, 2, 2, 2, shared=2, values=3)  # 3 responses a prompt: 9 · 9 batches, 6 · 6 compositions at most
    for row, problem in ((ESTIMATORS["gpg"], made), (ESTIMATORS["lite_ppo"], made.to(FLOAT64))):
        whole, steps = brute_force_batch(problem, row, 2), list[tuple[int, int]]()
        monkeypatch.setattr(engine, "BLOCK", 60)
        monkeypatch.setattr(coupling, "HELD", 60)
        note = partial(_note, steps)
        same_moments(brute_force_batch(problem, row, 2, progress=note), whole)
        same_moments(collapse_batch(problem, row, 2, progress=note), whole)
        monkeypatch.undo()
        assert steps.index((81, 81)) > 1
        assert steps[-1][0] < steps[-1][1] <= 36


def _note(steps: list[tuple[int, int]], done: int, many: int) -> None:
    steps.append((done, many))


# What the batch is


ALONE = {
    "dapo_batch": ESTIMATORS["dapo"],
    "lite_ppo": Estimator("z", partial(advantages.z_score, eps=1e-4), aggregation.token_mean, numbers="float64"),
}


@pytest.mark.parametrize("name", ALONE)
@settings(max_examples=10)
@given(problem=few(SMALL, prompts=1))
def test_a_prompt_alone_has_the_formula_of_its_group(name: str, problem: Problem) -> None:
    # P = 1: the batch is the group.  Wrong: a normaliser that counts prompts.
    made = problem.to(FLOAT64)
    agree(collapse_batch(made, ESTIMATORS[name], 3), collapse(made, ALONE[name], 3))


@settings(max_examples=10)
@given(few(SMALL, prompts=1))
def test_with_one_prompt_whitening_forgets_the_group_mean(problem: Problem) -> None:
    # (R − c) whitened is R whitened: REINFORCE++-baseline differs from REINFORCE++ across prompts only.
    one, two = (collapse_batch(problem.to(FLOAT64), ESTIMATORS[name], 3) for name in (NAMES[0], NAMES[2]))
    agree(one, two)


@ROWS
@settings(max_examples=6)
@given(problem=few(((2, 2), (3, 1)), prompts=2))
def test_the_order_of_prompts_and_responses_does_not_matter(name: str, problem: Problem) -> None:
    row = ESTIMATORS[name]
    made = numbers(problem, row)
    found, members = responses(made), members_of(made, 2)
    straight = row(found.group(members, row.needs))
    for turn in (np.s_[:, ::-1], np.s_[:, :, ::-1]):
        mixed = row(found.group(members[turn], row.needs))
        assert not ref.off(mixed.ravel(), [ref.exact(c) for c in straight[turn].ravel()], 1.0)


def test_equal_weights_give_the_mean_over_all_tokens_of_the_batch() -> None:
    # Two prompts, tokens 1 + 3 and 2 + 2: Σ_x ½ ĝ_x divides every credit by 8.
    divisor = batch.batch_token_mean(np.array([[1, 3], [2, 2]]), RATIONAL.scalar(1))
    assert ref.fractions(RATIONAL.scalar("1/2") / divisor) == [[Fraction(1, 8)] * 2] * 2
    assert isinstance(batch.batch_token_mean(np.array([[1], [2]]), 1.0)[0, 0], float)


def published(name: str, reward: torch.Tensor, length: torch.Tensor, logp: torch.Tensor, mask: torch.Tensor) -> Any:
    """The loss of a batch [P, G, T] as the frameworks write it: rewards spread over tokens, masks, means."""

    def whiten(values: torch.Tensor) -> torch.Tensor:  # verl's masked_whiten
        mean = (values * mask).sum() / mask.sum()
        variance = ((values - mean) ** 2 * mask).sum() / mask.sum() * mask.sum() / (mask.sum() - 1)
        return (values - mean) * torch.rsqrt(variance + 1e-8)

    spread, centred = reward[..., None] * mask, reward - reward.mean(-1, keepdim=True)
    if name == "reinforce_plus_plus_response":
        score = (reward - reward.mean()) * torch.rsqrt(reward.var() + 1e-8)
        return -(score[..., None] * logp * mask).sum(-1).mean()
    token = {
        "reinforce_plus_plus": lambda: whiten(spread),
        "reinforce_plus_plus_baseline": lambda: whiten(centred[..., None] * mask),
        "lite_ppo": lambda: (centred / (reward.std() + 1e-4))[..., None],
        "gpg": lambda: (centred * reward.numel() / (centred.abs() > 1e-9).sum())[..., None],
        "dapo_batch": lambda: (centred / (reward.std(-1, keepdim=True) + 1e-6))[..., None],
    }[name]()
    return -(token * logp * mask).sum() / mask.sum()


@ROWS
def test_autograd_of_the_published_loss_is_the_gradient_of_the_credits(name: str) -> None:
    problem = zoo.random(5, 3, 3, 2, values=3).to(FLOAT64)
    problem = replace(problem, weights=np.array([0.5, 0.5]))
    row, found = ESTIMATORS[name], responses(problem)
    rng = np.random.default_rng(1)
    for _ in range(5):
        pick = [rng.choice(np.flatnonzero(found.prompt == x), 3) for x in (0, 1)]
        members = np.stack(pick)
        if len(np.unique(found.reward[members])) < 2:
            continue
        logits = torch.log(torch.tensor(problem.probs.copy())).requires_grad_()
        node, token = (torch.tensor(np.maximum(table[members], 0)) for table in (found.node, found.token))
        logp = torch.log_softmax(logits, -1)[node, token]
        reward, length = (torch.tensor(np.array(table[members])) for table in (found.reward, found.length))
        published(name, reward, length, logp, torch.tensor(found.mask[members]).double()).backward()
        credits = row(found.group(members, row.needs))
        table, rows = np.zeros(problem.probs.shape), found.mask[members]
        np.add.at(table, (found.node[members][rows], found.token[members][rows]), credits[rows])
        assert logits.grad is not None
        np.testing.assert_allclose(problem.combine(problem.pull(table)), -logits.grad.numpy().ravel(), atol=1e-14)


@batch_peers("reward")
def centred_on_the_batch(reward: Array) -> Array:
    return reward - reward.sum((-2, -1), keepdims=True) / (reward.shape[-1] * reward.shape[-2])


@batch_peers("reward", "length")
def centred_on_the_tokens(reward: Array, length: Array) -> Array:
    both = (-2, -1)
    return reward - (length * reward).sum(both, keepdims=True) / length.sum(both, keepdims=True)


@given(few(((2, 2), (3, 1)), prompts=2), st.sampled_from([1, 2]))
def test_the_mean_of_the_batch_shortens_the_gradient_by_one_response(problem: Problem, size: int) -> None:
    # R21 without 1/std: own share 1/N of the mean, N = P·G responses, so E ĝ = (1 − 1/N) g: exact for N → ∞.
    row = Estimator("batch mean", centred_on_the_batch)
    found = brute_force_batch(problem, row, size)
    kept = RATIONAL.scalar(1 - Fraction(1, problem.prompts * size))
    assert (found.mean == kept * truth.gradient(problem)).all()
    same_moments(collapse_batch(problem, row, size), found)


@settings(max_examples=10)
@given(few(SMALL, prompts=1))
def test_token_weighted_centring_is_opo_where_the_batch_is_one_group(problem: Problem) -> None:
    # R21: the bias of whitening over tokens begins with that of OPO.
    row = Estimator("token mean", centred_on_the_tokens)
    agree(collapse_batch(problem, row, 2), collapse(problem, ESTIMATORS["opo"], 2))


def test_whitening_over_tokens_turns_the_gradient_and_more_responses_mend_it() -> None:
    # R21: off direction at N = 2 … 5, less with every response where only the centring is random.
    problem = zoo.two_valued().to(FLOAT64)
    row, g = Estimator("token mean", centred_on_the_tokens), truth.gradient(problem)
    turned = [report_of(collapse_batch(problem, row, size), g).direction_bias for size in (2, 3, 4, 5)]
    assert all(a is not None and b is not None and a > b > 1e-4 for a, b in itertools.pairwise(turned))
    full = report_of(collapse_batch(problem, ESTIMATORS["reinforce_plus_plus"], 4), g).direction_bias
    assert full is not None
    assert turned[2] is not None
    assert full > turned[2]  # with the token mean and the random divisor on top


def test_fixed_lengths_and_one_std_leave_the_direction() -> None:
    # hard_easy: one token each.  Whitening over tokens is whitening over responses.
    problem = zoo.hard_easy().to(FLOAT64)
    one, two = (collapse_batch(problem, ESTIMATORS[name], 3) for name in NAMES[:2])
    agree(one, two)


def test_prompts_that_share_parameters_are_not_independent() -> None:
    # Wrong: variances added up as if the normaliser were each prompt's own.
    problem = zoo.random(1, 2, 2, 2, shared=2, values=3).to(FLOAT64)
    found = collapse_batch(problem, ESTIMATORS["reinforce_plus_plus"], 2, covariance=True)
    assert found.covariance is not None
    alone = replace(found, between=None).total_variance
    assert math.isclose(found.total_variance, np.trace(found.covariance), rel_tol=1e-12)
    assert abs(alone - found.total_variance) > 1e-3 * found.total_variance


# What is undefined, and what is refused


@ROWS
@pytest.mark.parametrize("reward", [0.0, 0.1, 1 / 3, -1e300 / 9])
def test_equal_rewards_give_exactly_no_credit(name: str, reward: float) -> None:
    roll = Rollouts(3, 2, 1.0, np.full((2, 3), reward), np.array([[1, 2, 2], [1, 1, 2]]), np.ones((2, 3, 2), bool))
    if abs(reward) < 1:
        assert (ESTIMATORS[name](roll) == 0).all()
    assert (ESTIMATORS["gpg"](replace(roll, reward=np.full((2, 3), reward))) == 0).all()


def test_rounding_is_no_signal() -> None:
    # 0.1, 0.2, 0.3: the middle one has A = 0 but for rounding.  α = 6/2 of the first group alone.
    reward = np.array([[0.1, 0.2, 0.3], [0.7, 0.7, 0.7]])
    assert np.array([0.1, 0.2, 0.3]).sum() / 3 != 0.2  # or this test tests nothing
    np.testing.assert_allclose(batch.gpg(reward), [[-0.3, 0, 0.3], [0, 0, 0]], atol=1e-15)


@pytest.mark.parametrize("part", [batch.response_whitened, batch.batch_scaled, batch.gpg])
def test_a_batch_of_one_response_and_a_missing_axis_are_refused(part: Callable[[Array], Array]) -> None:
    with pytest.raises(EstimatorError, match=r"^\w+ compares the responses of a batch: 1 response given, at least 2"):
        part(np.ones((5, 1, 1)))
    with pytest.raises(EstimatorError, match=r"^\w+ normalises over a batch: rewards of shape \(2,\) given, \[P, G\]"):
        part(np.ones(2))


@ROWS
def test_a_group_of_one_is_refused_where_groups_are_compared(name: str) -> None:
    problem = numbers(zoo.three_valued(), ESTIMATORS[name])
    if name in NAMES[:2]:
        assert collapse_batch(problem, ESTIMATORS[name], 1).total_variance > 0  # the other prompt is there
        return
    with pytest.raises(EstimatorError, match=r"^\w+ compares the responses of a group: group_size=1 given, at least 2"):
        moments(problem, ESTIMATORS[name], 1)


@pytest.mark.parametrize("name", [n for n in NAMES if n not in ("gpg", "dapo_batch")])
def test_roots_of_exact_numbers_are_refused(name: str) -> None:
    with pytest.raises(
        EstimatorError, match=r"^\w+ takes a square root, exact numbers have none: use a float64 problem"
    ):
        collapse_batch(zoo.three_valued(), ESTIMATORS[name], 2)


def test_too_many_batches_are_refused_before_they_are_listed(monkeypatch: pytest.MonkeyPatch) -> None:
    row, problem = ESTIMATORS["dapo_batch"], zoo.hard_easy().to(FLOAT64)
    monkeypatch.setattr(coupling, "MAX_CELLS", 63)  # C(4, 3)² compositions of 6 responses in 4 classes: 96
    with pytest.raises(
        TooLarge, match=r"^groups of 3 from 2 × 2 classes of responses would need 96 entries.*lower the group size$"
    ):
        collapse_batch(problem, row, 3)
    monkeypatch.setattr(engine, "MAX_ENTRIES", 100)  # 2⁶ batches of 6 tokens: 384
    with pytest.raises(TooLarge, match=r"^hard-easy: every batch of 2 groups of 3 would need 384 entries"):
        brute_force_batch(problem, row, 3)
    monkeypatch.setattr(batch_expected, "MAX_PEERS", 1000)
    with pytest.raises(TooLarge, match=r"^the closed form by batches would need 144 entries, the limit is 100: lower"):
        row.expectation(problem, 3, truth.gradient(problem))  # 3 · 4 sets of 2 and of 3, 2 kinds, 2 · 3 responses


def test_what_the_batch_engines_cannot_do_is_refused() -> None:
    problem, row = zoo.hard_easy(), ESTIMATORS["gpg"]
    kept = replace(row, keep=lambda reward: reward[..., :1] == reward[..., :1])
    for run in (brute_force_batch, collapse_batch):
        with pytest.raises(
            EstimatorError, match=r"^gpg: groups of a batch cannot be drawn again one by one: drop the filt"
        ):
            run(problem, kept, 2)

    @batch_peers("mask")
    def alive(mask: Array) -> Array:
        return np.broadcast_to(np.maximum(mask.sum((-3, -2), keepdims=True), 1), mask.shape)

    tokens = Estimator("alive", advantages.response_reward, alive)
    with pytest.raises(
        EstimatorError, match=r"^alive: peers act on single tokens, classes cannot tell: use brute force$"
    ):
        collapse_batch(problem, tokens, 2)
    assert moments(problem, tokens, 2).total_variance == brute_force_batch(problem, tokens, 2).total_variance

    @batch_peers("reward")
    def to_the_next(reward: Array) -> Array:
        return reward - np.roll(reward, -1, axis=-1)

    for made in (problem, problem.to(FLOAT64)):
        with pytest.raises(EstimatorError, match=r"^next depends on the order of the group: use brute_force$"):
            collapse_batch(made, Estimator("next", to_the_next), 3)


# Sampling


@ROWS
def test_drawn_batches_have_the_credits_of_the_same_batches_one_by_one(name: str) -> None:
    # The sampler hands over [batches, P, G].  Wrong: a mean over the batches drawn together.
    row, problem = ESTIMATORS[name], zoo.three_valued().to(FLOAT64)
    singles, members = draw(problem, 3, np.random.default_rng(0), 20)
    assert members.shape == (20, 2, 3)
    together = row(singles.group(members, row.needs))
    for got, one in zip(together, members, strict=True):
        np.testing.assert_allclose(got, row(singles.group(one, row.needs)), atol=1e-15)


@ROWS
@settings(max_examples=5)
@given(problem=few(((2, 2), (3, 1)), prompts=2), seed=st.integers(0, 99))
def test_the_bound_of_a_batch_is_never_exceeded(name: str, problem: Problem, seed: int) -> None:
    row, made = ESTIMATORS[name], problem.to(FLOAT64)
    along = made.pull(np.random.default_rng(seed).standard_normal(made.probs.shape)) if made.tabular else None
    if along is None:
        along = np.asarray(made.scores @ np.random.default_rng(seed).standard_normal(made.parameters))
    found, members = responses(made), members_of(made, 2)
    credits = row(found.group(members, row.needs))
    shade = np.where(found.mask, along[found.node, found.token], 0)[members]
    along_v = np.abs((made.weights * (credits * shade).sum((2, 3))).sum(1)).max()
    assert along_v <= engine.batch_bound(made, row, 2, along) * (1 + 1e-12)


# Planted faults


def mutant_parts() -> dict[str, tuple[str, dict[str, Any]]]:
    """Wrong rows: name → (row, what is changed)."""

    def whiten(values: Array, weight: Array, ddof: int = 1, eps: float = 1e-8, outside: bool = False) -> Array:
        both = (-2, -1)
        count = weight.sum(both, keepdims=True)
        off = values - (weight * values).sum(both, keepdims=True) / count
        variance = (weight * off * off).sum(both, keepdims=True) / (count - ddof)
        spread = np.sqrt(variance) + eps if outside else np.sqrt(variance + eps)
        return np.divide(off, spread, out=np.zeros_like(off), where=spread > 0)

    def part(rule: Callable[[Array, Array], Array]) -> Callable[..., Array]:
        return batch_peers("reward", "length")(lambda reward, length: rule(reward, length))

    def share(reward: Array) -> Array:
        return reward - reward.mean(-1, keepdims=True)

    def gpg(reward: Array, live: Array) -> Array:
        return share(reward) * live.size / live.shape[0] / np.maximum(live.sum((-2, -1), keepdims=True), 1)

    ones = np.ones_like
    lengths = part(lambda r, n: whiten(r, ones(r)))
    group = batch_peers("length")(lambda length: length.sum(-1, keepdims=True) + 0 * length)
    return {
        "whitened over responses": ("reinforce_plus_plus", {"advantage": lengths}),
        "population variance": ("reinforce_plus_plus", {"advantage": part(lambda r, n: whiten(r, n, ddof=0))}),
        "tokens of the group": ("reinforce_plus_plus", {"aggregation": group}),
        "eps beside the root": (
            "reinforce_plus_plus_response",
            {"advantage": part(lambda r, n: whiten(r, ones(r), eps=1e-3, outside=True))},
        ),
        "weighed by length": ("reinforce_plus_plus_response", {"advantage": part(lambda r, n: whiten(r, n))}),
        "batch mean first": ("reinforce_plus_plus_baseline", {"advantage": batch.token_whitened}),
        "std of the group": ("lite_ppo", {"advantage": partial(advantages.z_score, eps=1e-4)}),
        "mean of the batch": (
            "lite_ppo",
            {
                "advantage": part(
                    lambda r, n: (r - r.mean((-2, -1), keepdims=True)) / (r.std((-2, -1), ddof=1, keepdims=True) + 1e-4)
                )
            },
        ),
        "rewards counted": ("gpg", {"advantage": part(lambda r, n: gpg(r, r != 0)), "numbers": "float64"}),
        "no alpha": ("gpg", {"advantage": advantages.group_mean}),
        "own tokens": ("dapo_batch", {"aggregation": aggregation.token_mean}),
        "sum over prompts": (
            "dapo_batch",
            {"aggregation": batch_peers("length")(lambda length: length.sum((-2, -1), keepdims=True) + 0 * length)},
        ),
    }


@pytest.mark.parametrize("fault", mutant_parts())
def test_planted_faults_are_found(fault: str) -> None:
    name, change = mutant_parts()[fault]
    problem = make(
        grow(2, 2, 2, end_token=1),
        [["1/3", "2/3"], ["1/4", "3/4"], ["2/5", "3/5"], ["1/2", "1/2"]],
        [[0, 1], [0, 0], [3, 0], [2, 5]],
        end_token=1,
    )
    assert not faults(problem, ESTIMATORS[name], name, 2)
    assert faults(problem, replace(ESTIMATORS[name], **change), name, 2)


def test_group_level_brute_force_refuses_rows_that_read_the_batch() -> None:
    with pytest.raises(EstimatorError, match=r"^lite_ppo reads the whole batch: use brute_force_batch$"):
        brute_force(zoo.hard_easy(), ESTIMATORS["lite_ppo"], 2)
