"""Pairs and targets: published losses, reductions, fixed points, limits, and what each test would catch."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch

from tests import references as ref
from tpg import truth
from tpg.audit import audit
from tpg.errors import EstimatorError, TooLarge
from tpg.estimators import advantages, aggregation, margins, pairs
from tpg.estimators import pairs_expected as expected
from tpg.estimators.estimator import Estimator
from tpg.estimators.pairs import ALPHA, BETA, ETA, LAMBDA, TAU
from tpg.estimators.parts import peers
from tpg.moments import moments
from tpg.numbers import FLOAT64, Array
from tpg.problem import zoo
from tpg.problem.problem import Problem, make
from tpg.problem.tree import grow
from tpg.rollouts import Responses, Rollouts, responses

ROWS = {row.name: row for row in pairs.ROWS}
Tensor = torch.Tensor
Loss = Callable[[dict[str, Tensor]], Tensor]
SIZES = pytest.mark.parametrize("size", [2, 3, 4])


def crooked(seed: int = 0, values: int = 3, off_policy: bool = True) -> Problem:
    """Two prompts, unequal lengths, rewards with ties, a reference and (if asked) another policy that generates."""
    problem = zoo.random(seed, values=values, off_policy=off_policy)
    other = zoo.simplex(np.random.Generator(np.random.Philox(seed + 100)), problem.probs.shape, problem.field)
    return replace(problem, reference=other).to(FLOAT64)


def drawn(problem: Problem, row: Estimator, size: int, groups: int = 40) -> tuple[Responses, Array]:
    """Some groups [n, G] of the first prompt."""
    found = responses(problem, row.given)
    many = int((found.prompt == 0).sum())
    return found, np.random.Generator(np.random.Philox(1)).integers(0, many, size=(groups, size))


def credits_of(problem: Problem, row: Estimator, size: int) -> Array:
    found, index = drawn(problem, row, size)
    return row(found.group(index, row.needs))


def near(given: Any, wanted: Any, size: float = 1.0) -> bool:
    return bool(np.abs(np.asarray(given) - np.asarray(wanted)).max() <= 1e-12 * max(1.0, size))


# The published losses, one group at a time, on [G, T] tensors; log π requires a gradient


def labelled(f: dict[str, Tensor]) -> list[tuple[int, int]]:
    """(chosen, rejected) of every pair with unequal rewards."""
    reward = f["reward"].tolist()
    return [(i, j) for i, j in itertools.permutations(range(len(reward)), 2) if reward[i] > reward[j]]


def pairs_in(f: dict[str, Tensor]) -> int:
    return math.comb(len(f["reward"]), 2)


def margin(f: dict[str, Tensor], i: int, j: int) -> Tensor:
    away = (f["logp"] - f["ref_logp"]).sum(-1)
    return away[i] - away[j]


def logsigmoid(x: Tensor) -> Tensor:
    return torch.nn.functional.logsigmoid(x)


def total(terms: list[Tensor], f: dict[str, Tensor]) -> Tensor:
    """The mean over pairs; a group without a pair has no loss."""
    return sum(terms, 0 * f["logp"].sum()) / pairs_in(f)


def sft_loss(f: dict[str, Tensor]) -> Tensor:
    return -f["logp"].sum(-1).mean()


def dpo_loss(f: dict[str, Tensor]) -> Tensor:
    return total([-logsigmoid(BETA * margin(f, w, x)) for w, x in labelled(f)], f)


def online_dpo_loss(f: dict[str, Tensor]) -> Tensor:
    """−Σ over both labels of P(label) log σ(β d)."""
    reward, every = f["reward"], itertools.permutations(range(len(f["reward"])), 2)
    return total([-torch.sigmoid(reward[i] - reward[j]) * logsigmoid(BETA * margin(f, i, j)) for i, j in every], f)


def ipo_loss(f: dict[str, Tensor]) -> Tensor:
    return total([(margin(f, w, x) - 1 / (2 * BETA)) ** 2 for w, x in labelled(f)], f)


def rebel_loss(f: dict[str, Tensor]) -> Tensor:
    away, reward = (f["logp"] - f["old_logp"]).sum(-1), f["reward"]
    every = itertools.combinations(range(len(reward)), 2)
    return total([((away[i] - away[j]) / ETA - (reward[i] - reward[j])) ** 2 for i, j in every], f)


def copg_loss(f: dict[str, Tensor]) -> Tensor:
    score = f["reward"] - BETA * (f["logp"] - f["ref_logp"]).sum(-1)
    every = itertools.combinations(range(len(score)), 2)
    return total([(score[i] - score[j]) ** 2 / (2 * BETA) for i, j in every], f)


def copg_objective(f: dict[str, Tensor]) -> Tensor:
    """The other form of CoPG: minus (ΔR − β/2 Δ log π/ref) Δ log π."""
    reward, every = f["reward"], itertools.combinations(range(len(f["reward"])), 2)
    return total(
        [-(reward[i] - reward[j] - BETA / 2 * margin(f, i, j)) * margin(f, i, j) for i, j in every],
        f,
    )


def a_star_loss(f: dict[str, Tensor]) -> Tensor:
    away = (f["logp"] - f["ref_logp"]).sum(-1)
    return ((BETA * away - (f["reward"] - f["prompt_constant"])) ** 2).mean()


def tpo_loss(f: dict[str, Tensor]) -> Tensor:
    """As the author's sketch: q of the policy that generated, detached; std over G, 0 for equal scores."""
    reward = f["reward"]
    score = reward - reward.mean()
    if (reward != reward[0]).any():
        score = score / reward.std(correction=0)
    q = torch.softmax(torch.log_softmax(f["old_logp"].sum(-1), -1) + score / ETA, -1).detach()
    return -(q * torch.log_softmax(f["logp"].sum(-1), -1)).sum()


def t_reg_loss(f: dict[str, Tensor]) -> Tensor:
    terms = []
    for w, x in labelled(f):
        weight = torch.sigmoid(-BETA * margin(f, w, x)).detach()
        regulariser = sum(-(BETA * f["process_reward"][i] * f["logp"][i]).sum() for i in (w, x))
        terms.append(-logsigmoid(BETA * margin(f, w, x)) + ALPHA * weight * regulariser)
    return total(terms, f)


def tgdpo_loss(f: dict[str, Tensor]) -> Tensor:
    away, paid = f["logp"] - f["ref_logp"], f["process_reward"]
    up = (BETA * (1 + ALPHA * BETA * paid) * away).sum(-1)
    down = (BETA * (1 - ALPHA * BETA * paid) * away).sum(-1)
    return total([-logsigmoid(up[w] - down[x]) for w, x in labelled(f)], f)


def tab_po_loss(f: dict[str, Tensor]) -> Tensor:
    terms = []
    for w, x in labelled(f):
        gated = f["logp"][w][(f["prob"][w] < TAU) & f["mask"][w]]
        extra = -gated.mean() if len(gated) else 0 * f["logp"].sum()
        terms.append(-logsigmoid(BETA * margin(f, w, x)) + LAMBDA * extra)
    return total(terms, f)


LOSSES: dict[str, Loss] = {
    "sft": sft_loss,
    "dpo": dpo_loss,
    "online_dpo": online_dpo_loss,
    "ipo": ipo_loss,
    "rebel": rebel_loss,
    "copg": copg_loss,
    "a_star_po": a_star_loss,
    "tpo": tpo_loss,
    "t_reg": t_reg_loss,
    "tgdpo": tgdpo_loss,
    "tab_po": tab_po_loss,
}
SEEN = ("reward", "logp", "old_logp", "ref_logp", "prob", "mask", "process_reward", "prompt_constant")


def is_minus_the_slope(row: Estimator, loss: Loss, problem: Problem, size: int) -> bool:
    """−∂loss/∂log π_t = c_t on every token of every drawn group, to 1e-12 of the largest."""
    found, index = drawn(problem, row, size)
    roll = found.group(index, {*row.needs, *SEEN})
    given = {name: getattr(roll, name) for name in SEEN}
    for n, got in enumerate(row(roll)):
        fields = {name: torch.tensor(table[n]) for name, table in given.items() if table is not None}
        fields["logp"].requires_grad_()
        (slope,) = torch.autograd.grad(loss(fields), fields["logp"])
        wanted = -slope.numpy() * roll.mask[n]
        if not near(got, wanted, float(np.abs(wanted).max())):
            return False
    return True


@SIZES
@pytest.mark.parametrize("name", LOSSES)
def test_credits_are_minus_the_slope_of_the_published_loss(name: str, size: int) -> None:
    for problem in (crooked(0), crooked(1, values=2), crooked(2, off_policy=False)):
        assert is_minus_the_slope(ROWS[name], LOSSES[name], problem, size)


@SIZES
def test_both_forms_of_copg_have_one_slope(size: int) -> None:
    assert is_minus_the_slope(ROWS["copg"], copg_objective, crooked(0), size)


def scaled(part: Callable[..., Array], by: float) -> Callable[..., Array]:
    """``part`` with its credits multiplied."""

    def changed(*given: Any, **options: Any) -> Array:
        return by * part(*given, **options)

    return changed


@peers("reward", "sequence_logp", "sequence_ref_logp")
def backwards(reward: Array, sequence_logp: Array, sequence_ref_logp: Array) -> Array:
    return pairs.dpo(-reward, sequence_logp, sequence_ref_logp)


@peers("reward", "sequence_logp", "sequence_ref_logp")
def beta_outside_only(reward: Array, sequence_logp: Array, sequence_ref_logp: Array) -> Array:
    return BETA * pairs.dpo(reward, sequence_logp, sequence_ref_logp, beta=1.0)


@peers("reward", "sequence_logp", "sequence_ref_logp")
def certain(reward: Array, sequence_logp: Array, sequence_ref_logp: Array) -> Array:
    return pairs.online_dpo(1e6 * reward, sequence_logp, sequence_ref_logp)


@peers("reward", "sequence_logp", "sequence_ref_logp")
def own_included(reward: Array, sequence_logp: Array, sequence_ref_logp: Array) -> Array:
    size = reward.shape[-1]
    return pairs.copg(reward, sequence_logp, sequence_ref_logp) * (size - 1) / size


@peers("reward", "sequence_ratio")
def first_step_only(reward: Array, sequence_ratio: Array) -> Array:
    return 4 * advantages.rloo(reward)


def no_value(reward: Array, sequence_logp: Array, sequence_ref_logp: Array, prompt_constant: Array) -> Array:
    return pairs.a_star(reward, sequence_logp, sequence_ref_logp, 0 * prompt_constant)


@peers("reward", "sequence_logp", "sequence_ratio")
def anchored_to_pi(reward: Array, sequence_logp: Array, sequence_ratio: Array) -> Array:
    return pairs.tpo(reward, sequence_logp, np.ones_like(sequence_ratio))


@peers("reward", "sequence_logp", "sequence_ratio")
def sample_std(reward: Array, sequence_logp: Array, sequence_ratio: Array) -> Array:
    shrink = math.sqrt(1 - 1 / reward.shape[-1])
    return pairs.tpo(reward, sequence_logp, sequence_ratio, eta=1 / shrink)


@peers("reward", "sequence_logp", "sequence_ref_logp")
def signed_rewards(reward: Array, sequence_logp: Array, sequence_ref_logp: Array, process_reward: Array) -> Array:
    signed = pairs.dpo(reward, sequence_logp, sequence_ref_logp)[..., None]
    return signed * (1 + ALPHA * process_reward)


@peers("reward", "logp", "ref_logp", "process_reward")
def same_side(reward: Array, logp: Array, ref_logp: Array, process_reward: Array) -> Array:
    tilt = 1 + ALPHA * BETA * process_reward
    return pairs.tgdpo(reward, logp * tilt, ref_logp * tilt, 0 * process_reward) * tilt


@peers("reward", "sequence_logp", "sequence_ref_logp")
def gate_closed(reward: Array, sequence_logp: Array, sequence_ref_logp: Array, prob: Array) -> Array:
    return pairs.tab_po(reward, sequence_logp, sequence_ref_logp, 1 - prob)


MUTANTS: list[tuple[str, dict[str, Any]]] = [
    ("sft", {"aggregation": aggregation.seq_mean_token_mean}),
    ("dpo", {"advantage": backwards}),
    ("dpo", {"advantage": beta_outside_only}),
    ("dpo", {"advantage": partial(pairs.dpo, beta=2 * BETA)}),
    ("online_dpo", {"advantage": pairs.dpo}),
    ("online_dpo", {"advantage": certain}),
    ("ipo", {"advantage": partial(pairs.ipo, tau=2 * BETA)}),
    ("rebel", {"advantage": first_step_only}),
    ("rebel", {"advantage": partial(pairs.rebel, eta=2.0)}),
    ("copg", {"advantage": own_included}),
    ("copg", {"advantage": partial(pairs.copg, beta=2 * BETA)}),
    ("a_star_po", {"advantage": no_value}),
    ("tpo", {"advantage": anchored_to_pi}),
    ("tpo", {"advantage": sample_std}),
    ("tpo", {"advantage": partial(pairs.tpo, eta=2.0)}),
    ("t_reg", {"advantage": signed_rewards}),
    ("t_reg", {"advantage": partial(pairs.t_reg, alpha=-ALPHA)}),
    ("tgdpo", {"advantage": same_side}),
    ("tgdpo", {"advantage": partial(pairs.tgdpo, alpha=-ALPHA)}),
    ("tab_po", {"advantage": gate_closed}),
    ("tab_po", {"advantage": partial(pairs.tab_po, lam=2 * LAMBDA)}),
]


@pytest.mark.parametrize(("name", "change"), MUTANTS)
def test_a_planted_fault_is_not_the_slope_of_the_loss(name: str, change: dict[str, Any]) -> None:
    assert not is_minus_the_slope(replace(ROWS[name], **change), LOSSES[name], crooked(0), 3)


DECLARED: list[tuple[str, expected.Expectation]] = [
    ("sft", expected.Expectation("g")),
    ("dpo", expected.dpo(2 * BETA)),
    ("dpo", expected.online_dpo(BETA)),
    ("online_dpo", expected.dpo(BETA)),
    ("ipo", expected.ipo(2 * BETA)),
    ("rebel", expected.rebel(2.0)),
    ("copg", expected.regularised(2, 2 * BETA)),
    ("copg", expected.regularised(1, BETA)),
    ("a_star_po", expected.regularised(2, BETA)),
    ("tpo", expected.tpo(2.0)),
    ("tpo", expected.towards(1.0)),
    ("tpo_all_actions", expected.towards(2.0)),
    ("t_reg", expected.dpo(BETA)),
    ("tgdpo", expected.dpo(BETA)),
    ("tab_po", expected.tab_po(BETA, LAMBDA, 0.25)),
]


@pytest.mark.parametrize(("name", "form"), DECLARED)
def test_a_wrong_closed_form_is_refuted(name: str, form: expected.Expectation) -> None:
    problem = crooked(0, off_policy=False)
    assert audit(problem, ROWS[name], 2).verdict == "holds"
    assert audit(problem, replace(ROWS[name], expectation=form), 2).verdict == "refuted"


OFF_POLICY: list[tuple[str, expected.Expectation]] = [
    ("sft", expected.NOTHING),
    ("rebel", expected.rebel(ETA)),
    ("rebel", expected.rebel_off_policy(2.0)),
    ("copg", expected.regularised(2, BETA)),
    ("a_star_po", expected.regularised(2 * BETA, BETA)),
    ("a_star_po", expected.copg_off_policy(BETA)),
]


@pytest.mark.parametrize(("name", "form"), OFF_POLICY)
def test_a_wrong_off_policy_form_is_refuted(name: str, form: expected.Expectation) -> None:
    assert audit(crooked(0), ROWS[name], 2).verdict == "holds"
    assert audit(crooked(0), replace(ROWS[name], off_policy=form), 2).verdict == "refuted"


# Reductions


@SIZES
@pytest.mark.parametrize(
    ("name", "part"),
    [
        ("t_reg", partial(pairs.t_reg, alpha=0.0)),
        ("tgdpo", partial(pairs.tgdpo, alpha=0.0)),
        ("tab_po", partial(pairs.tab_po, lam=0.0)),
        ("tab_po", partial(pairs.tab_po, tau=0.0)),
    ],
)
def test_without_token_weights_it_is_dpo(name: str, part: Any, size: int) -> None:
    plain = credits_of(crooked(0), ROWS["dpo"], size)
    assert near(credits_of(crooked(0), replace(ROWS[name], advantage=part), size), plain)
    assert not near(credits_of(crooked(0), ROWS[name], size), plain)


@SIZES
def test_the_first_step_of_rebel_is_rloo(size: int) -> None:
    problem = crooked(0, off_policy=False)
    for eta in (0.5, 1.0, 4.0):
        row = replace(ROWS["rebel"], advantage=partial(pairs.rebel, eta=eta))
        wanted = 4 / eta * advantages.rloo(drawn(problem, row, size)[0].reward[drawn(problem, row, size)[1]])
        assert near(row(group_of(problem, row, size)), np.where(mask_of(problem, size), wanted[..., None], 0) / size)


def group_of(problem: Problem, row: Estimator, size: int) -> Rollouts:
    found, index = drawn(problem, row, size)
    return found.group(index, row.needs)


def mask_of(problem: Problem, size: int) -> Array:
    found, index = drawn(problem, ROWS["dpo"], size)
    return found.mask[index]


def test_the_repository_of_rebel_is_scaled_by_eta_squared() -> None:
    # (Δ log − η ΔR)² = η² (Δ log/η − ΔR)².
    eta = 0.25

    def loss(f: dict[str, Tensor]) -> Tensor:
        away, reward = (f["logp"] - f["old_logp"]).sum(-1), f["reward"]
        return (away[0] - away[1] - eta * (reward[0] - reward[1])) ** 2

    part = peers("reward", "sequence_ratio")(
        lambda reward, sequence_ratio: eta**2 * pairs.rebel(reward, sequence_ratio, eta=eta)
    )
    assert is_minus_the_slope(replace(ROWS["rebel"], advantage=part), loss, crooked(0), 2)


def test_ipo_is_copg_with_quarters_for_rewards() -> None:
    # Chosen +1/4, rejected −1/4: S_w − S_l = 1/2 − τ d = (τ/2) · 2 (1/(2τ) − d).
    rng = np.random.Generator(np.random.Philox(3))
    logp, other = -rng.random((50, 2)), -rng.random((50, 2))
    reward = rng.choice([[0.25, -0.25], [-0.25, 0.25]], size=50)
    for tau in (0.1, 1.0):
        assert near(
            pairs.ipo(reward, logp, other, tau=tau), 2 / tau * pairs.copg(reward, logp, other, beta=tau), 1 / tau
        )
    # A tie is no pair for IPO, CoPG still pulls it together.
    tie = np.full((50, 2), 0.25)
    assert (pairs.ipo(tie, logp, other) == 0).all()
    assert (pairs.copg(tie, logp, other) != 0).all()


@SIZES
def test_k_samples_of_copg_are_half_k_of_the_mean_over_pairs(size: int) -> None:
    # Σ_{i>j} (S_i − S_j)²/(k−1) over the mean over k(k−1)/2 pairs: k/2.
    rng = np.random.Generator(np.random.Philox(4))
    reward, logp, other = rng.random(size), -rng.random(size), -rng.random(size)
    score = reward - BETA * (logp - other)
    published = np.array([sum(score[i] - s for s in score) for i in range(size)]) / (size - 1)
    assert near(published, size / 2 * pairs.copg(reward, logp, other) / size)
    assert near(pairs.copg(reward, logp, logp), 2 * advantages.rloo(reward))  # at π = ref


def test_online_dpo_is_the_mean_over_drawn_labels() -> None:
    # P(1 beats 2) · (pair labelled so) + P(2 beats 1) · (pair labelled so).
    rng = np.random.Generator(np.random.Philox(5))
    reward, logp, other = 3 * rng.random((50, 2)), -rng.random((50, 2)), -rng.random((50, 2))
    first = 1 / (1 + np.exp(reward[:, 1:] - reward[:, :1]))
    one, two = (pairs.dpo(np.array([label] * 50, dtype=float), logp, other) for label in ((1, 0), (0, 1)))
    assert near(pairs.online_dpo(reward, logp, other), first * one + (1 - first) * two)
    assert near(pairs.online_dpo(reward * 1e6, logp, other), pairs.dpo(reward, logp, other))  # certain labels
    pull = pairs.online_dpo(np.zeros((50, 2)), logp, other)  # a draw pulls the margin to 0
    assert (np.sign(pull[:, 0]) == -np.sign((logp - other)[:, 0] - (logp - other)[:, 1])).all()


# Fixed points


def tilted(problem: Problem, beta: float = BETA) -> Problem:
    """π ∝ ref e^{R/β}, whole responses: π(a|s) = ref(a|s) e^{(V*(s,a) − V*(s))/β}, normalised by enumeration."""
    words = expected.words(problem, problem.reference)
    mass = np.zeros(problem.probs.shape)
    for start, weight in ((x, words.chance * np.exp(words.reward / beta)) for x in range(problem.prompts)):
        mine = words.prompt == start
        for t in range(problem.horizon):
            on = mine & words.mask[:, t]
            np.add.at(mass, (words.node[on, t], words.token[on, t]), weight[on])
    return replace(problem, probs=mass / mass.sum(1, keepdims=True))


AT_REST = ["copg", "a_star_po", "online_dpo"]


@SIZES
@pytest.mark.parametrize("name", AT_REST)
def test_at_the_regularised_optimum_no_group_gives_credit(name: str, size: int) -> None:
    # Whatever policy generates: the labels of Bradley–Terry, V* and S are matched response by response.
    beta = 0.5
    problem = tilted(crooked(0), beta)
    parts = {"copg": pairs.copg, "a_star_po": pairs.a_star, "online_dpo": pairs.online_dpo}
    row = replace(
        ROWS[name],
        advantage=partial(parts[name], beta=beta),
        constant=partial(expected.optimal_value, beta=beta) if name == "a_star_po" else None,
    )
    for generates in (problem, replace(problem, behaviour=None)):
        assert np.abs(credits_of(generates, row, size)).max() <= 1e-14
        assert np.abs(moments(generates, row, 2).variance).max() <= 1e-25
    # And only there: one prefix moved, and groups that pass it give credit.
    probs = problem.probs.copy()
    probs[0] = np.roll(probs[0], 1)
    assert np.abs(credits_of(replace(problem, probs=probs), row, size)).max() > 1e-3


def test_a_star_po_needs_the_value_to_rest() -> None:
    problem = tilted(crooked(0))
    off = replace(ROWS["a_star_po"], constant=lambda p, size: expected.optimal_value(p, size, beta=BETA) + 0.1)
    assert near(np.abs(credits_of(problem, off, 2)).max(), 2 * BETA * 0.1 / 2)


def test_the_optimum_is_worth_the_soft_value() -> None:
    # J − β KL(π*‖ref) = V*, and no response does better: R − β log π*/ref = V* for each.
    problem = tilted(replace(crooked(3), behaviour=None))
    words = expected.words(problem)
    worth = words.reward - BETA * words.log_ratio.sum(1)
    assert near(worth, expected.optimal_value(problem, 2, beta=BETA)[words.prompt])
    assert problem.reference is not None
    per_token = np.exp(expected.soft_advantage(problem, beta=BETA))
    assert near((problem.reference * per_token).sum(1), 1)  # π_rm is a policy
    assert near(problem.reference * per_token, problem.probs)


def test_hard_labels_rest_where_ipo_puts_them_and_nowhere_for_dpo() -> None:
    # IPO: d = 1/(2τ).  DPO: σ(−β d) > 0 for every finite d, the chosen one is pushed for ever.
    reward, ref_logp = np.array([1.0, 0.0]), np.log([0.5, 0.5])
    for tau in (0.5, 1.0):
        logp = np.array([-0.1, -0.1 - 1 / (2 * tau)])
        assert (pairs.ipo(reward, logp, ref_logp, tau=tau) == 0).all()
    for gap in (0.0, 10.0, 100.0):
        credit = pairs.dpo(reward, np.array([-0.1, -0.1 - gap]), ref_logp)
        assert credit[0] == -credit[1] > 0


def population(problem: Problem, alpha: float) -> Array:
    """E ĝ of TGDPO over pairs labelled by Bradley–Terry: both labels, each as likely as σ(R − R')."""
    paid = expected.soft_advantage(problem, beta=BETA)
    out = np.zeros(problem.probs.shape)
    words = expected.words(problem)
    logs = words.log(problem.probs), words.log(problem.reference), words.along(paid)
    for i, j in itertools.product(range(len(words.node)), repeat=2):
        wins = 1 / (1 + math.exp(words.reward[j] - words.reward[i]))
        chance = words.chance[i] * words.chance[j] * (words.prompt[i] == words.prompt[j])
        for label, likely in (((1.0, 0.0), wins), ((0.0, 1.0), 1 - wins)):
            columns = [log[[i, j]] for log in logs]
            credit = pairs.tgdpo(np.array(label), *columns, alpha=alpha)
            for t in np.flatnonzero(words.mask[i]):
                out[words.node[i, t], words.token[i, t]] += chance * likely * credit[0, t]
    return problem.pull(out)


def test_tgdpo_does_not_rest_at_the_optimum_of_dpo() -> None:
    # On Bradley–Terry data DPO rests at π ∝ ref e^{R/β} (d = ΔR/β); token weights on the margin move that point.
    problem = tilted(replace(zoo.referenced().to(FLOAT64), rewards=zoo.referenced().to(FLOAT64).rewards / 8))
    assert np.abs(population(problem, 0.0)).max() <= 1e-14
    assert np.abs(population(problem, ALPHA)).max() > 1e-4


# Expectations by another road


def objective_slope(problem: Problem, worth: Callable[[Tensor, Tensor, Tensor], Tensor]) -> Array:
    """∇ of Σ_W worth(P(W), R(W), log ref(W)) in the logits of a tabular policy, by autograd, per prompt's own rows."""
    logits = torch.tensor(np.log(problem.probs), requires_grad=True)
    words = expected.words(problem)
    logs = torch.log_softmax(logits, -1)[torch.tensor(words.node), torch.tensor(words.token)]
    whole = torch.where(torch.tensor(words.mask), logs, torch.zeros_like(logs)).sum(1)
    given = torch.tensor(words.log(problem.reference).sum(1))
    (slope,) = torch.autograd.grad(worth(whole, torch.tensor(words.reward), given).sum(), logits)
    return np.asarray(slope.numpy())


def test_copg_and_a_star_po_climb_the_regularised_objective() -> None:
    problem = crooked(0, off_policy=False)
    slope = objective_slope(problem, lambda logp, r, other: logp.exp() * (r - BETA * (logp - other)))
    for size in (2, 3):
        assert near(moments(problem, ROWS["copg"], size).mean, 2 * slope)
    for size in (1, 2, 5):
        assert near(moments(problem, ROWS["a_star_po"], size).mean, 2 * BETA * slope)


@pytest.mark.parametrize("size", [2, 5])
def test_online_dpo_at_the_reference_climbs_the_win_rate(size: int) -> None:
    # 2β ∇_θ P(W ~ π_θ beats W' ~ frozen π), the probability differentiated by the literal product rule.
    exact = zoo.three_valued()
    problem = replace(exact, reference=exact.probs)
    twin, found = ref.read(problem), moments(problem.to(FLOAT64), ROWS["online_dpo"], size)
    for x in range(twin.prompts):
        others = ref.responses(twin, x, twin.policy)

        def win_rate(word: ref.Prefix, others: dict[ref.Prefix, Any] = others) -> Any:
            gaps = ((p, float(ref.total(twin, word) - ref.total(twin, w))) for w, p in others.items())
            return sum(float(p) / (1 + math.exp(-gap)) for p, gap in gaps)

        slope = ref.derivative(twin, x, win_rate)
        rows = [prefix for prefix in twin.policy if prefix[0] == x]
        wanted = [[2 * BETA * float(slope[prefix, b]) for b in range(3)] for prefix in rows]
        assert near(found.mean[problem.tree.prompt == x], wanted)
    # A win rate is not the reward: the direction is another one.
    g, mean = (m.ravel() for m in (truth.gradient(problem.to(FLOAT64)), found.mean))
    assert 0.9 < g @ mean / math.sqrt((g @ g) * (mean @ mean)) < 1 - 1e-6


def test_on_policy_rebel_is_a_multiple_of_g_for_every_eta() -> None:
    problem = crooked(0, off_policy=False)
    for eta, size in itertools.product((0.5, 3.0), (2, 4)):
        row = replace(ROWS["rebel"], advantage=partial(pairs.rebel, eta=eta), expectation=expected.rebel(eta))
        assert near(moments(problem, row, size).mean, 4 / eta * truth.gradient(problem), 1 / eta)
        assert audit(problem, row, size).verdict == "holds"


# TPO


def test_tpo_rests_where_the_policy_is_the_target() -> None:
    # π ∝ μ e^{u/η} on the candidates: p = q.
    rng = np.random.Generator(np.random.Philox(6))
    for eta, size in itertools.product((0.5, 1.0, 2.0), (2, 3, 6)):
        reward, old = rng.random((20, size)), -rng.random((20, size))
        away = advantages.z_score(reward, ddof=0, eps=0.0) / eta
        assert near(pairs.tpo(reward, old + away, np.exp(away), eta=eta), 0)
        assert pairs.tpo(reward, old + 2 * away, np.exp(2 * away), eta=eta).any(-1).all()  # and not beyond it


def test_hot_tpo_is_a_policy_gradient_on_the_candidates() -> None:
    # q_i − p_i = p_i (u_i − Σ p u)/η + O(1/η²): the error falls a hundredfold when η grows tenfold.
    rng = np.random.Generator(np.random.Philox(7))
    reward, logp = rng.random((20, 4)), -rng.random((20, 4))
    u = advantages.z_score(reward, ddof=0, eps=0.0)
    p = np.exp(logp) / np.exp(logp).sum(-1, keepdims=True)
    first = p * (u - (p * u).sum(-1, keepdims=True))
    off = [
        np.abs(eta * pairs.tpo(reward, logp, np.ones_like(logp), eta=eta) / 4 - first).max() for eta in (10, 100, 1000)
    ]
    assert 8 < off[0] / off[1] < 12
    assert 8 < off[1] / off[2] < 12


def bandit() -> Problem:
    return make(grow(3, 1), [["1/2", "3/10", "1/5"]], [[0, 1, 3]]).to(FLOAT64)


def direction(problem: Problem, power: int) -> Array:
    """Σ_y w_y (e^u/E_w e^u − 1) (e_y − π) with w ∝ π^power and u standardised under π."""
    pi, reward = problem.probs[0], problem.rewards[0]
    u = (reward - pi @ reward) / math.sqrt(pi @ (reward - pi @ reward) ** 2)
    w = pi**power / (pi**power).sum()
    weight = w * (np.exp(u) / (w @ np.exp(u)) - 1)
    return weight - pi * weight.sum()


def test_sampled_candidates_of_tpo_are_weighed_twice() -> None:
    # Candidate y comes n ≈ Gπ_y times and each copy weighs π_y: w ∝ π².  The error is O(1/G), so G·error settles.
    problem = bandit()
    means = [moments(problem, ROWS["tpo"], size).mean[0] for size in (80, 320)]
    off = [np.abs(mean - direction(problem, 2)).max() for mean in means]
    assert 3.5 < off[0] / off[1] < 4.5
    assert np.abs(means[1] - direction(problem, 1)).max() > 10 * off[1]  # far from the direction with π for weights


def test_with_all_actions_tpo_weighs_hard_prompts_as_published() -> None:
    # One right answer of K = 10: E ĝ = p (λ − 1)/(1 − p + λ p) (e_y − π), λ = e^{1/std} = e^{10/3} ≈ 28 (§3.2).
    rng = np.random.Generator(np.random.Philox(8))
    pi = rng.random((5, 10)) + 0.05
    pi /= pi.sum(1, keepdims=True)
    problem = make(grow(10, 1, prompts=5), pi, np.eye(10)[:5], field=FLOAT64)
    found, lam = moments(problem, ROWS["tpo_all_actions"], 3).mean, math.exp(10 / 3)
    for x, row in enumerate(pi):
        share = row[x] * (lam - 1) / (1 - row[x] + lam * row[x])
        assert near(found[x], share * (np.eye(10)[x] - row))


@pytest.mark.parametrize("size", [1, 2])
def test_all_candidates_descend_the_cross_entropy_to_the_target(size: int) -> None:
    # E ĝ = −∇(−Σ_W q(W) log π(W)), q ∝ π e^u frozen, by autograd.
    problem = replace(crooked(4, off_policy=False))
    words, q = expected.words(problem), np.zeros(0)
    for x in range(problem.prompts):
        mine = words.prompt == x
        reward = words.reward[mine]
        tilt = words.chance[mine] * np.exp((reward - reward.mean()) / reward.std())
        q = np.append(q, tilt / tilt.sum())
    slope = objective_slope(problem, lambda logp, r, other: torch.tensor(q) * logp)
    assert near(moments(problem, ROWS["tpo_all_actions"], size).mean, slope)
    uniform = replace(ROWS["tpo_all_actions"], model=lambda p: 0 * p.probs + p.ends * 0.5)
    assert not near(moments(problem, uniform, size).mean, slope)


# Labels, gates and models


@pytest.mark.parametrize("name", ["dpo", "ipo", "t_reg", "tgdpo", "tab_po", "rebel", "tpo", "tpo_all_actions"])
@SIZES
def test_equal_rewards_give_exactly_no_credit(name: str, size: int) -> None:
    problem = crooked(0, off_policy=False)
    for level in (0.0, 0.1, 1 / 3):
        flat = replace(problem, rewards=np.where(problem.tree.inner, 0.0, level))
        assert (credits_of(flat, ROWS[name], size) == 0).all()


def test_the_gate_of_tab_po_is_strict_and_may_stay_shut() -> None:
    reward, logs = np.array([1.0, 0.0]), np.zeros(2)
    plain = pairs.dpo(reward, logs, logs)[:, None]
    at, below = np.full((2, 3), TAU), np.array([[TAU - 1e-9, TAU, 0.9]] * 2)
    assert near(pairs.tab_po(reward, logs, logs, at), plain)
    assert near(pairs.tab_po(reward, logs, logs, below), plain + np.array([[2 * LAMBDA, 0, 0], [0, 0, 0]]))


def test_contrast_is_a_half_of_what_prompts_tell_apart() -> None:
    # ref = (1/2, 1/2), gains ±a: Z₊ = Z₋, r̂ = σ(±2a) − 1/2.
    problem = make(grow(2, 1), [["1/2", "1/2"]], [[0, 3]], reference=[["1/2", "1/2"]])
    assert near(expected.contrast(problem), [[1 / (1 + math.exp(3)) - 0.5, 1 / (1 + math.exp(-3)) - 0.5]])


def test_soft_values_survive_rewards_far_apart() -> None:
    # e^{R/β} underflows at R/β = −10⁴; V* of the poor branch is R there, and log-ratios stay finite.
    problem = make(grow(2, 2), [["1/2", "1/2"]] * 3, [[0, 0], [0, 0], [-1000, -1000]], reference=[["1/2", "1/2"]] * 3)
    after, here = expected.soft_values(problem.to(FLOAT64), BETA)
    assert near(here[1:], [0, -1000])
    assert near(here[0], -BETA * math.log(2))
    assert np.isfinite(expected.soft_advantage(problem.to(FLOAT64), beta=BETA)).all()
    assert near(after[0], [0, -1000])


# Refusals


LOGS_ONLY = {"dpo": pairs.dpo, "online_dpo": pairs.online_dpo, "ipo": pairs.ipo, "copg": pairs.copg}


@pytest.mark.parametrize("name", LOGS_ONLY)
@pytest.mark.parametrize("which", [0, 1])
def test_a_response_of_probability_zero_has_no_logarithm(name: str, which: int) -> None:
    logs = [np.zeros(2), np.zeros(2)]
    logs[which] = np.array([0.0, -np.inf])
    with pytest.raises(EstimatorError, match=rf"^{name} takes log-probabilities, a response of probability 0 has none"):
        LOGS_ONLY[name](np.array([1.0, 0.0]), *logs)


@pytest.mark.parametrize(
    ("name", "call"),
    [
        ("a_star", lambda r, bad, ok: pairs.a_star(r, bad, ok, ok[:1])),
        ("t_reg", lambda r, bad, ok: pairs.t_reg(r, bad, ok, ok[:, None])),
        ("tgdpo", lambda r, bad, ok: pairs.tgdpo(r, bad[:, None], ok[:, None], ok[:, None])),
        ("tab_po", lambda r, bad, ok: pairs.tab_po(r, bad, ok, ok[:, None])),
        ("supported", lambda r, bad, ok: pairs.supported(bad)),
    ],
)
def test_so_it_is_for_the_others(name: str, call: Any) -> None:
    with pytest.raises(EstimatorError, match=rf"^{name} takes log-probabilities, a response of probability 0 has none"):
        call(np.array([1.0, 0.0]), np.array([0.0, -np.inf]), np.zeros(2))


def test_a_ratio_of_zero_has_no_logarithm() -> None:
    reward, ratio = np.array([1.0, 0.0]), np.array([1.0, 0.0])
    for name, call in (("rebel", pairs.rebel), ("tpo", partial(pairs.tpo, reward))):
        with pytest.raises(
            EstimatorError, match=rf"^{name} takes the log of π/μ, a response of probability 0 has none"
        ):
            call(reward, ratio)


def test_models_ask_for_a_reference_policy() -> None:
    problem = zoo.two_valued().to(FLOAT64)
    for model in (expected.contrast, partial(expected.soft_advantage, beta=BETA)):
        with pytest.raises(EstimatorError, match=r"^two-valued has no reference policy: give the problem one$"):
            model(problem)


def test_closed_forms_refuse_what_has_no_logarithm() -> None:
    problem = make(grow(2, 1), [["1/2", "1/2"]], [[0, 1]], reference=[["1", "0"]]).to(FLOAT64)
    with pytest.raises(EstimatorError, match=r"^problem: a response has probability 0, its logarithm has no value$"):
        ROWS["dpo"].expectation(problem, 2, truth.gradient(problem))


def test_too_many_pairs_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    problem = crooked(0, off_policy=False)
    g = truth.gradient(problem)
    monkeypatch.setattr(margins, "MAX_PAIRS", 8)
    with pytest.raises(TooLarge, match=r"^dpo: every pair of every group would need 9 .*: lower the group size$"):
        pairs.dpo(np.arange(3.0), np.zeros(3), np.zeros(3))
    monkeypatch.setattr(expected, "MAX_PEERS", 10**4)
    with pytest.raises(TooLarge, match=r"^the closed form by peers would need .*: lower the group size$"):
        ROWS["tpo"].expectation(problem, 6, g)
    wide = make(grow(30, 1), [["1/30"] * 30], [range(30)], reference=[["1/30"] * 30]).to(FLOAT64)  # 30² pairs
    monkeypatch.setattr(expected, "MAX_PEERS", 899)
    with pytest.raises(TooLarge, match=r"^the closed form by pairs would need 900 .*: use fewer responses$"):
        ROWS["dpo"].expectation(wide, 2, truth.gradient(wide))
    monkeypatch.setattr(expected, "MAX_PEERS", 299)
    with pytest.raises(TooLarge, match=r"^the closed form by responses would need 30 .*: shorten the horizon$"):
        ROWS["dpo"].expectation(wide, 2, truth.gradient(wide))
