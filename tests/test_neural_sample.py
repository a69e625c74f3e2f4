"""Sampling from a transformer: held against its exact Problem with declared error rates, and shown to find mutants."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

import tpg.neural.check as judge
from tpg.errors import EstimatorError, TooLarge, TpgError
from tpg.estimators.estimator import Estimator
from tpg.estimators.table import ESTIMATORS
from tpg.moments import moments
from tpg.moments.bound import credit_bound
from tpg.montecarlo import eprocess
from tpg.neural import exact, montecarlo, sample
from tpg.neural import generate as source_of
from tpg.neural import gpt as network
from tpg.neural import problem as tables
from tpg.neural.check import Check, check
from tpg.neural.generate import generate, source
from tpg.neural.gpt import GPT, flat, log_prob
from tpg.neural.montecarlo import estimates, gradient, shadows, slopes, surrogate, total_variance
from tpg.neural.rewards import ArithmeticReward, HashReward
from tpg.neural.sample import Draws, credits, draw, rollouts
from tpg.neural.task import Task
from tpg.problem import zoo
from tpg.rollouts import greedy, responses

torch.set_num_threads(1)
END, WEIGHTS = 1, (0.3, 0.7)
NET = network.make(3, 3, 2, layers=1, width=8, heads=2)
TASK = Task(3, 3, ArithmeticReward(3, 3, END), WEIGHTS, END)  # 0/1 rewards
DENSE = Task(3, 3, HashReward(), WEIGHTS, END, 0.9)
EXACT = exact.gradient(NET, TASK)
ALONG = torch.cat([EXACT.flat[None] / EXACT.flat.norm(), tables.random_directions(NET, 2)])
G = tables.project(EXACT.gradient, ALONG)
PROBLEM = tables.problem(NET, TASK, ALONG)
DENSE_PROBLEM = tables.problem(NET, DENSE, ALONG)
HOT = NET.at({**NET.params, "head": NET.params["head"] / 1.2})  # logits over 1.2
BOTH = torch.tensor([0, 1])


# Generation


def frequencies(gpt: GPT, count: int = 20_000) -> eprocess.EProcess:
    """An e-process of how often each response of each prompt comes, against its exact probability."""
    listed = responses(PROBLEM)
    words = torch.as_tensor(np.concatenate([listed.prompt[:, None], listed.token], 1))
    found = generate(gpt, TASK, BOTH, 7, count=count)
    drawn = torch.cat([BOTH.repeat_interleave(count)[:, None], found.tokens], 1)
    hits = (drawn[:, None] == words).all(2).view(2, count, -1).sum(0)  # of the responses of either prompt
    assert hits.sum() == 2 * count
    return eprocess.update(eprocess.begin(listed.probability, 0, 1), hits.double().numpy())


def test_responses_come_as_often_as_they_should() -> None:
    # alpha = 1e-9 over all 30 responses; a frequency off by 0.04 would have been found.
    process = frequencies(NET)
    assert not eprocess.rejected(process)
    assert eprocess.minimum_discrepancy(20_000, 0.25, 1, directions=30) < 0.04


def test_a_temperature_shows_in_the_frequencies() -> None:
    assert eprocess.rejected(frequencies(HOT))


@pytest.mark.parametrize("task", [TASK, DENSE, replace(TASK, end_token=None)], ids=["0/1", "dense", "fixed length"])
def test_greedy_is_the_most_probable_path_of_the_tree(task: Task) -> None:
    found = generate(NET, task, BOTH, greedy=True)
    assert found.tokens.tolist() == greedy(tables.problem(NET, task, ALONG)).token.tolist()


def test_what_sampling_says_of_its_tokens_is_what_a_full_pass_says() -> None:
    # Keys and values kept along the way against whole responses at once; ‖score‖² against the table of the Problem.
    drawn = draw(NET, TASK, 50, 2, seed=1)
    full = log_prob(NET, drawn.prompt, drawn.tokens)
    assert (drawn.logp - full).abs().max() < 1e-12
    node = TASK.node(drawn.prompt, drawn.tokens).numpy()
    norm2 = 1 - 2 * PROBLEM.probs + (PROBLEM.probs**2).sum(1, keepdims=True)
    expected = np.where(node >= 0, norm2[node, drawn.tokens.numpy()], 0)
    assert np.abs(drawn.score_norm2.numpy() - expected).max() < 1e-12


def test_nothing_follows_the_end_and_prompts_stand_in_order() -> None:
    drawn = draw(NET, TASK, 3, 40, seed=2)
    assert drawn.prompt.tolist() == [0, 0, 0, 1, 1, 1] * 40
    lengths = set()
    for row, logp in zip(drawn.tokens.tolist(), drawn.logp.tolist(), strict=True):
        stop = row.index(END) + 1 if END in row else 3
        assert row[stop:] == [-1] * (3 - stop)
        assert logp[stop:] == [0] * (3 - stop)
        assert all(0 <= token < 3 for token in row[:stop])
        assert all(x < 0 for x in logp[:stop])
        lengths.add(stop)
    assert lengths == {1, 2, 3}  # every case was seen


def test_a_prefix_stays_and_its_continuations_have_the_value_of_the_tree() -> None:
    prefix, prompt, count = torch.tensor([[0], [2], [END], [0]]), torch.tensor([0, 1, 1, 1]), 5_000
    found = generate(NET, TASK, prompt, 3, prefix, count=count)
    assert (found.tokens.view(4, count, 3)[:, :, :1] == prefix[:, None]).all()
    assert (found.tokens.view(4, count, 3)[2, :, 1:] == -1).all()  # what has ended stays so
    assert (found.logp - log_prob(NET, prompt.repeat_interleave(count), found.tokens)).abs().max() < 1e-12
    node = TASK.node(prompt, torch.cat([prefix, prefix], 1))[:, 1].numpy()  # the prefix of one token
    reward = (TASK.rewards(prompt.repeat_interleave(count), found.tokens, torch.float64)).sum(1).view(4, count)
    alive = [0, 1, 3]
    process = eprocess.begin(PROBLEM.values[1][node[alive]], 0, 1)
    assert not eprocess.rejected(eprocess.update(process, reward[alive].T.numpy()))
    shifted = eprocess.begin(PROBLEM.values[1][node[[1, 3, 0]]], 0, 1)  # the values of other prefixes
    assert eprocess.rejected(eprocess.update(shifted, reward[alive].T.numpy()))
    whole = found.tokens[:7]
    assert torch.equal(generate(NET, TASK, prompt.repeat_interleave(count)[:7], 9, whole).tokens, whole)


def test_same_seed_same_tokens_whatever_is_run_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    first = draw(NET, TASK, 4, 30, seed=5)
    assert not torch.equal(draw(NET, TASK, 4, 30, seed=6).tokens, first.tokens)
    monkeypatch.setitem(source_of.ROWS, "cpu", 7)
    assert torch.equal(draw(NET, TASK, 4, 30, seed=5).tokens, first.tokens)
    random = source(5, "again")
    one, two = (generate(NET, TASK, BOTH, random, count=30).tokens for _ in range(2))
    assert not torch.equal(one, two)  # a generator that is given goes on


# Credits

TOLD = {"reward", "length", "mask", "tokens", "token_reward", "prob", "old_prob", "ratio", "sequence_ratio", "logp"}
TOLD |= {"old_logp", "sequence_logp", "score_norm2", "prefix", "greedy_reward", "anchor"}
DRAWN = {"continuation_value", "second_continuation_value"}
REFERENCE = {"ref_prob", "ref_logp", "sequence_ref_logp"}


@pytest.mark.parametrize("task", [TASK, DENSE], ids=["0/1", "dense"])
def test_both_roads_give_every_row_the_same_credits_or_a_clear_refusal(task: Task) -> None:
    # Without a Problem: exactly the rows that read nothing of the whole tree.  With one: all but those that need a
    # reference policy, which this one lacks.
    listed, agreed = PROBLEM if task is TASK else DENSE_PROBLEM, 0
    plain = draw(NET, task, 4, 3, seed=8)
    for row in ESTIMATORS.values():
        drawn = draw(NET, task, 4, 3, 8, keep=row) if row.keep is not None and task is TASK else plain
        known = TOLD | (DRAWN if row.continuations is not None else set())
        if not row.needs <= known:
            with pytest.raises(EstimatorError, match="which drawn responses do not tell: give the Problem"):
                credits(drawn, row)
        if row.needs & REFERENCE or "reference" in row.formula:
            with pytest.raises(EstimatorError, match="reference"):
                credits(drawn, row, listed)
            continue
        found = credits(drawn, row, listed)
        assert found.shape == drawn.tokens.shape
        assert torch.isfinite(found).all()
        assert (found[~drawn.mask] == 0).all()
        if row.needs <= known:
            gap = (credits(drawn, row) - found).abs().max()
            assert gap <= 1e-9 * (1 + found.abs().max()), row.name
            agreed += 1
    assert agreed > 60


def test_groups_that_are_not_kept_are_drawn_again() -> None:
    row = ESTIMATORS["dapo_same_prompt"]
    drawn = draw(NET, TASK, 2, 50, seed=4, keep=row)
    reward = drawn.reward.view(drawn.layout)
    assert (reward[..., 0] != reward[..., 1]).all()  # 0/1 rewards, both there
    plain = draw(NET, TASK, 2, 50, seed=4)
    good = plain.reward.view(plain.layout)[..., 0] != plain.reward.view(plain.layout)[..., 1]
    assert torch.equal(drawn.tokens.view(50, 2, 2, 3)[good], plain.tokens.view(50, 2, 2, 3)[good])  # those stay
    with pytest.raises(EstimatorError, match=r"of 100 groups are not to be kept: draw them with keep=this estimator"):
        credits(plain, row)


def test_a_row_of_the_batch_sees_the_whole_batch() -> None:
    drawn = draw(NET, TASK, 2, 2, seed=1)
    found = rollouts(drawn, ESTIMATORS["lite_ppo"])
    assert found.reward is not None
    assert found.reward.shape == (2, 2, 2)
    alone = [draw_rows(drawn, rows) for rows in (slice(0, 4), slice(4, 8))]
    expected = torch.cat([credits(one, ESTIMATORS["lite_ppo"]) for one in alone])
    assert torch.equal(credits(drawn, ESTIMATORS["lite_ppo"]), expected)


def draw_rows(drawn: Draws, rows: slice) -> Draws:
    """One batch of ``drawn``."""
    columns = {name: getattr(drawn, name)[rows] for name in ("prompt", "tokens", "logp", "score_norm2")}
    return replace(drawn, batches=1, **columns)


# Gradients


@pytest.mark.parametrize("name", ["rloo", "exact_advantage", "grpo"])
def test_one_surrogate_has_the_gradient_that_credits_and_scores_say(name: str) -> None:
    # Three roads to ⟨ĝ_b, v⟩: forward mode, one gradient per sample, and the Problem's table of scores; their mean is
    # the backward pass.  Mutant: credits of the next batch.
    drawn = draw(NET, TASK, 3, 8, seed=3)
    found = credits(drawn, ESTIMATORS[name], PROBLEM)
    whole, shade, each = gradient(NET, drawn, found), shadows(NET, drawn, found, ALONG), estimates(NET, drawn, found)
    node = TASK.node(drawn.prompt, drawn.tokens).numpy()
    scores = np.where((node >= 0)[..., None], PROBLEM.scores[node, drawn.tokens.numpy()], 0)
    weighed = np.array(WEIGHTS)[drawn.prompt.numpy()][:, None] * found.numpy()
    table = torch.as_tensor((weighed[..., None] * scores).sum(1).reshape(8, -1, len(ALONG)).sum(1))
    size = table.abs().max()
    assert (shade - table).abs().max() < 1e-12 * size
    assert (each @ ALONG.T - table).abs().max() < 1e-12 * size
    assert (ALONG @ flat(whole) - table.mean(0)).abs().max() < 1e-12 * size
    wrong = shadows(NET, drawn, found.roll(6, 0), ALONG)
    assert (wrong - table).abs().max() > 1e-3 * size
    leaf = NET.at({n: p.clone().requires_grad_() for n, p in NET.params.items()})
    torch.autograd.backward(surrogate(leaf, drawn, found))
    assert all(torch.allclose(p.grad, whole[n], atol=1e-14) for n, p in leaf.params.items() if p.grad is not None)


def test_pieces_add_up(monkeypatch: pytest.MonkeyPatch) -> None:
    drawn = draw(NET, TASK, 3, 8, seed=3)
    found = credits(drawn, ESTIMATORS["rloo"])
    before = flat(gradient(NET, drawn, found)), shadows(NET, drawn, found, ALONG)
    monkeypatch.setitem(montecarlo.ROWS, "cpu", 5)
    after = flat(gradient(NET, drawn, found)), shadows(NET, drawn, found, ALONG)
    assert all((a - b).abs().max() < 1e-13 for a, b in zip(before, after, strict=True))


SMALL = network.make(2, 2, 1, layers=1, width=2, heads=1)
SMALL_TASK = Task(2, 2, HashReward(3))


@pytest.mark.parametrize(("copies", "wrong"), [(False, False), (True, True)], ids=["right", "mutant"])
def test_total_variance_from_gradients_per_sample_is_the_exact_one(copies: bool, wrong: bool) -> None:
    # X = |ĝ_b − E ĝ|² has the exact total variance as its mean and lies in [0, Σ_i (2B_i)²], B_i the bound along
    # parameter i: an e-process at alpha = 1e-9.  Mutant: both responses of a group are the same one.
    whole, row, batches = tables.full_problem(SMALL, SMALL_TASK), ESTIMATORS["reinforce"], 8_000
    engine = moments(whole, row, 2)
    drawn = draw(SMALL, SMALL_TASK, 2, batches, seed=11)
    if copies:
        drawn = replace(drawn, tokens=drawn.tokens.view(batches, 2, 2)[:, :1].repeat(1, 2, 1).view(-1, 2))
    found = credits(replace(drawn, logp=log_prob(SMALL, drawn.prompt, drawn.tokens)), row, whole)
    each, mean = estimates(SMALL, drawn, found).numpy(), whole.combine(engine.mean)
    bounds = np.array([credit_bound(whole, row, 2, whole.scores[:, :, i]) for i in range(whole.parameters)])
    top, exactly = float(((bounds + np.abs(mean)) ** 2).sum()), float(engine.total_variance)
    process = eprocess.update(eprocess.begin(exactly, 0, top), ((each - mean) ** 2).sum(1))
    assert eprocess.rejected(process) == wrong
    if not wrong:
        least = eprocess.minimum_discrepancy(batches, float(((each - mean) ** 2).sum(1).var()), top)
        assert least < 0.25 * exactly  # the test can hear
    stated = total_variance(SMALL, drawn, found)
    assert (abs(stated.estimate - exactly) < 6 * stated.standard_error) != wrong
    assert stated.estimate == pytest.approx(((each - each.mean(0)) ** 2).sum() / (batches - 1), rel=1e-12)


# Held against what is exact

BATCHES = 10_000
HELD = ["reinforce", "rloo", "remax", "exact_advantage", "trajectory_pg", "vineppo", "trepo_block", "trepo_anchors"]
HELD += ["trepo_block_k1", "grpo", "dr_grpo", "dapo", "dapo_stream", "lite_ppo", "gae_wrong_critic"]


def held(name: str, batches: int = BATCHES, **options: Any) -> Check:
    return check(NET, TASK, PROBLEM, ESTIMATORS[name], 4, batches, ALONG, g=G, **options)


@pytest.mark.parametrize("name", HELD)
def test_means_and_variances_drawn_are_the_exact_ones(name: str) -> None:
    # alpha = 1e-9 for both e-processes together; half of the mean along g would have been missed by no more than 1 %.
    found = held(name)
    assert found.declared
    assert not found.rejected
    assert found.mean.minimum_discrepancy[0] < 0.5 * abs(found.mean.exact[0])
    low, high = found.mean.band
    assert (low < high).all()


@pytest.mark.parametrize("name", ["rloo", "exact_advantage", "grpo"])
def test_variances_off_by_half_would_have_been_found(name: str) -> None:
    # The range of a square is wide, so that it takes more batches to hear of a variance than of a mean.
    found = held(name, 40_000, seed=1)
    assert not found.rejected
    assert found.variance.minimum_discrepancy[0] < 0.5 * found.variance.exact[0]


def test_a_seed_decides_and_progress_ends_at_the_total() -> None:
    seen: list[tuple[int, int]] = []
    one, two = held("rloo", 50), held("rloo", 50, progress=lambda done, total: seen.append((done, total)))
    assert (one.mean.found == two.mean.found).all()
    assert seen[-1] == (50, 50)
    assert (held("rloo", 50, seed=1).mean.found != one.mean.found).all()
    assert not held("rloo", 50).rejected
    assert np.isinf(one.mean.minimum_discrepancy).all()


def scaled(patch: pytest.MonkeyPatch) -> None:
    """Credits × 1.3."""
    patch.setattr(judge, "credits", lambda *given: 1.3 * credits(*given))


def shifted(patch: pytest.MonkeyPatch) -> None:
    """Every token has the credit of the one before."""

    def wrong(drawn: Draws, *given: Any) -> Any:
        return torch.where(drawn.mask, credits(drawn, *given).roll(1, 1), 0)

    patch.setattr(judge, "credits", wrong)


def unweighted(patch: pytest.MonkeyPatch) -> None:
    """Prompts count alike."""
    patch.setattr(Draws, "weight", property(lambda drawn: torch.full(drawn.prompt.shape, 0.5, dtype=torch.float64)))


def hot(patch: pytest.MonkeyPatch) -> None:
    """Sampled at temperature 1.2, differentiated at 1."""

    def wrong(gpt: GPT, *given: Any, **more: Any) -> Draws:
        drawn = draw(HOT, *given, **more)
        return replace(drawn, gpt=gpt, logp=log_prob(gpt, drawn.prompt, drawn.tokens))

    patch.setattr(judge, "draw", wrong)


def unmasked(patch: pytest.MonkeyPatch) -> None:
    """What stands after the end is token 0, with the credit of the response."""

    def wrong(gpt: GPT, drawn: Draws, found: Any, along: Any) -> Any:
        filled = torch.where(drawn.mask, found, found[:, :1])
        return shadows(gpt, replace(drawn, tokens=drawn.tokens.clamp(min=0)), filled, along)

    patch.setattr(judge, "shadows", wrong)


def copied(patch: pytest.MonkeyPatch) -> None:
    """The responses of a group are one and the same: right on average."""

    def wrong(*given: Any, **more: Any) -> Draws:
        drawn = draw(*given, **more)
        first = torch.arange(len(drawn.prompt)) // 4 * 4
        return replace(drawn, tokens=drawn.tokens[first], logp=drawn.logp[first])

    patch.setattr(judge, "draw", wrong)


@pytest.mark.parametrize(
    ("plant", "name", "where", "batches"),
    [
        (scaled, "reinforce", "mean", BATCHES),
        (scaled, "grpo", "mean", BATCHES),
        (shifted, "exact_advantage", "mean", BATCHES),
        (unweighted, "reinforce", "mean", BATCHES),
        (hot, "reinforce", "mean", BATCHES),
        (unmasked, "reinforce", "mean", 4 * BATCHES),  # off by half of what BATCHES are sure to find
        (copied, "reinforce", "variance", BATCHES),
    ],
)
def test_mutants_are_rejected(
    plant: Callable[[pytest.MonkeyPatch], None],
    name: str,
    where: str,
    batches: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    plant(monkeypatch)
    found = held(name, batches)
    assert getattr(found, where).rejected
    assert found.rejected
    if plant is copied:
        assert not found.mean.rejected


def test_a_wrong_declaration_is_rejected_and_a_missing_one_replaced_by_the_moments() -> None:
    wrong = replace(ESTIMATORS["grpo"], expectation=ESTIMATORS["rloo"].expectation)
    assert check(NET, TASK, PROBLEM, wrong, 4, BATCHES, ALONG, g=G).mean.rejected
    silent = replace(wrong, expectation=replace(wrong.expectation, known=False))
    found = check(NET, TASK, PROBLEM, silent, 4, BATCHES, ALONG)
    assert not found.declared
    assert not found.rejected


# Refusals

STALE = replace(PROBLEM, behaviour=tables.tabular(HOT, TASK).probs)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: generate(NET, replace(TASK, horizon=2), BOTH), r"\(3, 3, 2\) given, the task has \(3, 2, 2\)"),
        (lambda: generate(NET, TASK, torch.tensor([2])), r"prompts \(1,\) given: needed \[n\] numbers 0 … 1"),
        (lambda: generate(NET, TASK, BOTH, tokens=torch.zeros(1, 1).long()), r"needed \[2, t ≤ 3\]"),
        (lambda: generate(NET, TASK, BOTH, tokens=torch.tensor([[3], [0]])), "prefixes hold other than tokens 0 … 2"),
        (lambda: generate(NET, TASK, BOTH, tokens=torch.tensor([[1, 0], [0, 0]])), "prefixes hold other than tokens"),
        (lambda: generate(NET, TASK, BOTH, count=0), "count=0 given: needed at least 1"),
        (lambda: draw(NET, TASK, 0), "group_size=0, batches=1 given"),
        (lambda: shadows(NET, draw(NET, TASK, 2), torch.zeros(2, 3), ALONG), r"credits \(2, 3\) given, the responses"),
        (lambda: slopes(NET, BOTH, torch.zeros(2, 3).long(), ALONG[:, 1:]), r"directions \(3, 919\) given"),
        (lambda: total_variance(NET, draw(NET, TASK, 2), torch.zeros(4, 3)), "batches=1 given: a variance needs"),
        (lambda: check(NET, TASK, PROBLEM, ESTIMATORS["rloo"], 2, 5, ALONG[:2]), "2 directions given, the Problem has"),
    ],
)
def test_bad_input_is_one_clear_line(make: Callable[[], Any], message: str) -> None:
    with pytest.raises(TpgError, match=message) as caught:
        make()
    assert "\n" not in str(caught.value)


def on(listed: Any, task: Task = TASK, row: Estimator = ESTIMATORS["exact_advantage"]) -> Callable[[], Any]:
    return lambda: credits(draw(NET, task, 4), row, listed)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (on(zoo.random(5)), "a Problem of prompts, vocab, horizon, end token, prefixes"),
        (on(STALE), "has another behaviour policy"),
        (on(tables.problem(HOT, TASK, ALONG)), "has another policy than the responses"),
        (on(DENSE_PROBLEM), "has another reward than the responses"),
        (on(replace(DENSE_PROBLEM, discount=0.8), DENSE), "has another discount than the responses"),
        (on(replace(PROBLEM, weights=np.array([0.4, 0.6]))), "has another weight than the responses"),
        (on(None), "continuation_value.*give the Problem of this network, or continuations=K to the estimator"),
        (on(None, row=ESTIMATORS["reinforce_kl"]), "give the Problem of this network with a reference policy"),
        (on(None, row=ESTIMATORS["reinforce_baseline"]), "reads 'expected_reward'"),
        (on(PROBLEM, row=ESTIMATORS["reinforce_kl"]), "give the problem a reference policy"),
    ],
)
def test_credits_refuse_what_is_not_theirs(make: Callable[[], Any], message: str) -> None:
    with pytest.raises(EstimatorError, match=message):
        make()


def test_groups_that_can_not_be_drawn_again_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    row = ESTIMATORS["dapo_same_prompt"]
    with pytest.raises(EstimatorError, match="groups of a batch cannot be drawn again one by one"):
        draw(NET, TASK, 2, keep=replace(ESTIMATORS["gpg"], keep=row.keep))
    monkeypatch.setattr(sample, "REDRAWS", 3)
    nothing = replace(TASK, reward=lambda prompt, tokens: 0.0 * tokens)
    with pytest.raises(EstimatorError, match="still not kept after 3 draws"):
        draw(NET, nothing, 2, keep=row)


def test_too_much_is_refused_before_work_starts(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(TooLarge, match="responses would need"):
        generate(NET, TASK, BOTH, count=10**9)
    with pytest.raises(TooLarge, match="drawn tokens would need"):
        draw(NET, TASK, 10**5, 10**5)
    monkeypatch.setattr("tpg.neural.montecarlo.MAX_GRADIENTS", 100)
    with pytest.raises(TooLarge, match="gradients of every batch"):
        estimates(NET, draw(NET, TASK, 2), torch.zeros(4, 3))
    wide = Task(64, 12, ArithmeticReward(64, 12))
    with pytest.raises(TooLarge, match="numbering the prefixes"):
        rollouts(draw(network.make(64, 12, width=4, heads=1), wide, 2), ESTIMATORS["tempo"])


# On a GPU


@pytest.mark.gpu
def test_a_gpu_draws_the_same_and_is_held_to_the_same() -> None:
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    there = NET.at({name: p.cuda() for name, p in NET.params.items()})
    here, drawn = draw(NET, TASK, 4, 100, seed=5), draw(there, TASK, 4, 100, seed=5)
    assert torch.equal(drawn.tokens.cpu(), here.tokens)
    one, two = (credits(d, ESTIMATORS["rloo"], PROBLEM) for d in (here, drawn))
    assert torch.allclose(flat(gradient(there, drawn, two)).cpu(), flat(gradient(NET, here, one)), atol=1e-12)
    row = ESTIMATORS["trepo_block_k1"]
    assert not check(there, TASK, PROBLEM, row, 4, BATCHES, ALONG.cuda(), g=G).rejected
