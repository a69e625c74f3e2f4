"""What an update costs: every number against a derivation, the graph of the loss, or the exact count of tokens."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from tpg.errors import EstimatorError, TpgError
from tpg.estimators import advantages
from tpg.estimators.estimator import Estimator
from tpg.estimators.table import ESTIMATORS
from tpg.moments.cost import generated_tokens, tokens_by_prompt
from tpg.moments.paths import Paths
from tpg.montecarlo import eprocess
from tpg.montecarlo.streams import stream
from tpg.neural import cost, critic, gpt, problem
from tpg.neural.cost import Cost
from tpg.neural.gpt import GPT
from tpg.neural.rewards import HashReward
from tpg.neural.task import Task
from tpg.problem.problem import Problem
from tpg.rollouts import Responses, responses

# torch.func builds its forward-mode rules with it; nothing here does.
torch.set_num_threads(1)  # tiny products

V, T, P, G, L, D, H, K = 5, 4, 2, 3, 2, 8, 2, 3
BYTES = 8  # of a float64
FIXED = Task(V, T, HashReward(1), (0.25, 0.75))
ENDING = Task(3, 3, HashReward(2), (0.25, 0.75), end_token=0)
METHODS = cost.methods(K, 1)
SIZE = (V + P + T) * D + L * (12 * D**2 + 7 * D) + D + V * D  # embeddings, blocks with 2 norms and 2 biases, norm, head
TENSORS = 2 + 8 * L + 2
ROUNDING = 1e-12


@pytest.fixture(scope="module")
def policy() -> GPT:
    return gpt.make(V, T, P, layers=L, width=D, heads=H, seed=3)


@pytest.fixture(scope="module")
def ending() -> GPT:
    return gpt.make(3, 3, 2, layers=1, width=4, heads=1, seed=3)


@pytest.fixture(scope="module")
def tables(ending: GPT) -> Problem:
    return problem.problem(ending, ENDING, problem.random_directions(ending, 1))


@pytest.fixture(scope="module")
def costs(policy: GPT) -> dict[str, Cost]:
    return {label: cost.measure(row, policy, FIXED, G) for label, row in METHODS.items()}


# Memory


def test_what_stays_is_derived(costs: dict[str, Cost]) -> None:
    # Adam holds two numbers per parameter and counts the steps of each tensor in a float32.
    adam = 2 * BYTES * SIZE + 4 * TENSORS
    critics = SIZE - (V - 1) * D  # a head of 1 number instead of V
    for label, found in costs.items():
        learns = [SIZE, critics] if label.startswith("PPO") else [SIZE]
        frozen = [SIZE] if "reference" in label else []
        assert found.parameters == BYTES * sum(learns + frozen)
        assert found.gradients == BYTES * sum(learns)
        assert found.optimiser == (adam if len(learns) == 1 else 2 * adam - 2 * BYTES * (V - 1) * D)
        assert (found.trained, found.networks) == (len(learns), len(learns + frozen))
        # Keys and values of D numbers, per layer, sequence and position: the prompt and all tokens but the last.
        assert found.cache == BYTES * 2 * L * P * G * D * T
        assert found.continuation_cache == found.cache * found.continuations // (P * G)
        assert (found.responses, found.horizon, found.device_peak) == (P * G, T, None)
    assert costs["PPO"].parameters != 2 * costs["GRPO"].parameters  # mutant: a head as large as the policy's


def test_the_optimiser_is_there_before_the_update_and_moved_nothing(policy: GPT) -> None:
    # As in every update but the first; what the device holds at its peak includes it.
    owned = [p.clone().requires_grad_() for p in policy.params.values()]
    adam = cost._adam(owned)
    assert sum(x.nbytes for state in adam.state.values() for x in state.values()) == 2 * BYTES * SIZE + 4 * TENSORS
    assert all(p.grad is None and torch.equal(p, was) for p, was in zip(owned, policy.params.values(), strict=True))


def graph(loss: torch.Tensor) -> Iterator[torch.Tensor]:
    """Every tensor that a node of the backward graph keeps; the number 1/√d shows as a tensor of no dimension."""
    todo, seen = [loss.grad_fn], set()
    while todo:
        node = todo.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        for name in dir(node):
            if name.startswith("_saved_"):
                kept = getattr(node, name)
                yield from (
                    x for x in (kept if isinstance(kept, (tuple, list)) else [kept]) if torch.is_tensor(x) and x.dim()
                )
        todo += [following for following, _ in node.next_functions]


@pytest.mark.parametrize("label", ["GRPO", "PPO"])
def test_activations_are_those_of_the_graph(policy: GPT, costs: dict[str, Cost], label: str) -> None:
    # Another road than hooks: the tensors that the nodes of the loss's graph show.
    drawn = cost.draw(METHODS[label], policy, FIXED, G)
    networks = {"policy": policy}
    if label == "PPO":
        networks["critic"] = critic.make_critic(policy, layers=L, width=D, heads=H)
    found = each_tensor = with_parameters = 0
    for name, network in networks.items():
        leaf = network.at({n: p.clone().requires_grad_() for n, p in network.params.items()})
        kept = list(graph(cost._loss(name, leaf, FIXED, drawn, torch.ones(P * G, T, dtype=torch.float64))))
        storages = {x.untyped_storage().data_ptr(): x.untyped_storage().nbytes() for x in kept}
        own = {p.untyped_storage().data_ptr() for p in leaf.params.values()}
        found += sum(size for where, size in storages.items() if where not in own)
        each_tensor += sum(x.nbytes for x in kept)
        with_parameters += sum(storages.values())
    assert costs[label].activations == found
    assert found not in (each_tensor, with_parameters)  # mutants: views counted again, weights counted as activations


def test_activations_grow_with_responses_and_layers_by_the_same_amount(policy: GPT, costs: dict[str, Cost]) -> None:
    row, mask = METHODS["GRPO"], T * T  # the causal mask is shared by all responses, one byte per pair
    twice = cost.measure(row, policy, FIXED, 2 * G).activations
    assert twice - mask == 2 * (costs["GRPO"].activations - mask)
    deep = [cost.measure(row, gpt.make(V, T, P, layers=n, width=D, heads=H), FIXED, G).activations for n in (1, 2, 3)]
    assert deep[2] - deep[1] == deep[1] - deep[0]


def test_activations_of_a_policy_by_hand(costs: dict[str, Cost]) -> None:
    # Per layer and token: the stream before both norms 2 D, mean and deviation of each 4, their outputs 2 D, queries,
    # keys and values 3 D, attention H T, mixed values D, the MLP before and after its bend 8 D.  At the end: stream 2 D
    # with its norm 2, log π V; the token's number twice (8 bytes), its mask (1), its credit (8); once the causal mask.
    tokens = P * G * T
    per_token = BYTES * (L * (16 * D + 4 + H * T) + 2 * D + 2 + V) + 8 + 8 + 1 + 8
    for label in ("REINFORCE", "RLOO", "ReMax", "GRPO", "TRePO, blocks", "VinePPO, every token"):
        assert costs[label].activations == costs[label].one_network == tokens * per_token + T * T


def test_generating_in_turns_holds_a_batch_at_most(policy: GPT) -> None:
    row = METHODS["VinePPO, every token"]
    once, turns = (cost.measure(row, policy, FIXED, G, batch=batch) for batch in (None, P * G))
    assert (once.at_once, turns.at_once) == (P * G * K * T, P * G)
    assert turns.continuation_cache == turns.cache
    assert once.continuation_cache == K * T * once.cache
    assert once.tokens == turns.tokens  # the same continuations
    uneven = cost.draw(row, policy, FIXED, G, batch=7)
    whole = cost.draw(row, policy, FIXED, G)
    np.testing.assert_allclose(
        uneven.fields["continuation_value"], whole.fields["continuation_value"], rtol=0, atol=ROUNDING
    )


# Tokens


def test_tokens_are_derived_where_lengths_are_fixed(policy: GPT, costs: dict[str, Cost]) -> None:
    whole = P * G * T
    for label in ("REINFORCE", "RLOO", "GRPO", "GRPO, reference", "PPO", "PPO, reference"):
        assert costs[label].tokens == whole
    assert costs["ReMax"].tokens == whole + P * T  # a greedy response per prompt
    # K continuations of T − t tokens after t = 0 … T − 1.
    assert costs["VinePPO, every token"].tokens == whole + P * G * K * T * (T + 1) // 2
    assert costs["VinePPO, every token"].continuations == P * G * K * T
    # Mutants: the prefix counted as generated; one continuation instead of K.
    assert costs["VinePPO, every token"].tokens not in (whole + P * G * K * T * T, whole + P * G * T * (T + 1) // 2)
    found = problem.problem(policy, FIXED, problem.random_directions(policy, 1))
    for label in ("GRPO", "ReMax", "VinePPO, every token"):
        assert math.isclose(costs[label].tokens, generated_tokens(found, METHODS[label], G), rel_tol=ROUNDING)


READERS = ["trepo_anchors", "trepo_adv_interp", "trepo_value_interp", "trepo_block", "trepo_block_subset"]
READERS += ["trepo_block_subset_len", "vineppo", "exact_advantage", "trajectory_pg", "exact_advantage_k1_independent"]


@pytest.mark.parametrize("name", READERS)
def test_values_read_are_those_of_the_exact_count(tables: Problem, name: str) -> None:
    # On every response with every pattern of anchors, one by one.
    row = replace(ESTIMATORS[name], continuations=1)
    paths = Paths(tables, row, 1)
    singles = paths.singles
    found = sum(
        cost.values_read(row, field, singles.token, singles.anchor).astype(int)
        for field in ("continuation_value", "second_continuation_value")
        if field in row.needs
    )
    assert (found == paths.uses()[:, :-1] * singles.mask).all()
    assert found.any()


def bet(tables: Problem, policy: GPT, row: Estimator, size: int = 300) -> eprocess.EProcess:
    """A test of E tokens per response of each prompt against ``moments.cost``, α = 1e-9."""
    drawn = cost.draw(row, policy, ENDING, size)
    each = (drawn.response_tokens + drawn.continuation_tokens).reshape(ENDING.prompts, size).T.astype(float)
    mean = tokens_by_prompt(tables, row, 1)
    most = 3 + (row.continuations or 0) * (3 + 2 + 1)
    return eprocess.update(eprocess.begin(mean, 0.0, float(most)), each)


@pytest.mark.parametrize("label", ["GRPO", "TRePO, blocks", "TRePO, advantages", "VinePPO, steps"])
def test_tokens_have_the_exact_expectation(tables: Problem, ending: GPT, label: str) -> None:
    assert not eprocess.rejected(bet(tables, ending, METHODS[label]))


def test_wrong_counts_are_noticed(tables: Problem, ending: GPT, monkeypatch: pytest.MonkeyPatch) -> None:
    row, read, respond = METHODS["TRePO, blocks"], cost.values_read, cost.respond
    with monkeypatch.context() as change:  # continuations from every prefix, not from anchors alone
        change.setattr(cost, "values_read", lambda row, field, tokens, anchor: tokens >= 0)
        assert eprocess.rejected(bet(tables, ending, row))
    with monkeypatch.context() as change:  # none from the prompt
        change.setattr(cost, "values_read", lambda *args: read(*args) & (np.arange(3) > 0))
        assert eprocess.rejected(bet(tables, ending, row))
    with monkeypatch.context() as change:  # the end token is not counted

        def without_end(*args: Any) -> Any:
            tokens, held = respond(*args)
            return torch.where(tokens == 0, -1, tokens), held

        change.setattr(cost, "respond", without_end)
        assert eprocess.rejected(bet(tables, ending, METHODS["GRPO"]))


def test_the_values_are_means_of_continuations(ending: GPT, tables: Problem) -> None:
    # Many continuations: within ten standard errors √(1/4 · range² / K), range 3 of rewards in [0, 1); RM from the end.
    row = replace(METHODS["VinePPO, every token"], continuations=2000)
    drawn = cost.draw(row, ending, ENDING, 1)
    node = ENDING.node(drawn.prompt, drawn.tokens).numpy()
    paths = Responses(tables, node, drawn.tokens.numpy(), drawn.prompt.numpy())
    gap = drawn.fields["continuation_value"] - paths.continuation_value
    assert np.abs(gap[:, :-1][paths.mask]).max() < 10 * math.sqrt(3**2 / 4 / 2000)
    for gaps, length in zip(gap, paths.length, strict=True):
        assert np.abs(gaps[length:]).max() < ROUNDING


# Generation


SHORT = Task(3, 2, HashReward(2), (0.25, 0.75), end_token=0)


@pytest.fixture(scope="module")
def small() -> GPT:
    return gpt.make(3, 2, 2, layers=1, width=4, heads=1, seed=8)


def betting(policy: GPT, small: GPT) -> eprocess.EProcess:
    """A test of the frequency of every response of each prompt, α = 1e-9, against the probabilities of ``small``."""
    paths = responses(problem.problem(small, SHORT, problem.random_directions(small, 1)))
    prompt = torch.arange(2).repeat_interleave(2000)
    tokens, _ = cost.respond(policy, SHORT, prompt, torch.as_tensor(stream(0, "responses").random((4000, 2))))
    same = (paths.token[None] == tokens.numpy()[:, None]).all(-1) & (paths.prompt[None] == prompt.numpy()[:, None])
    assert (same.sum(1) == 1).all()
    both = same.reshape(2, 2000, -1).sum(0).astype(float)  # one response of each prompt is one observation
    return eprocess.update(eprocess.begin(paths.probability, np.zeros(both.shape[1]), np.ones(both.shape[1])), both)


def test_responses_follow_the_policy(small: GPT) -> None:
    assert not eprocess.rejected(betting(small, small))
    other = gpt.make(3, 2, 2, layers=1, width=4, heads=1, seed=9)  # mutant: another policy
    assert eprocess.rejected(betting(other, small))


def test_what_is_given_is_kept_and_what_follows_the_end_is_not(small: GPT) -> None:
    given = torch.tensor([[2, -1], [1, 2], [-1, -1]])
    tokens, _ = cost.respond(small, SHORT, torch.tensor([0, 1, 1]), torch.zeros(3, 2), given)
    # u = 0 takes token 0, the end.
    assert tokens.tolist() == [[2, 0], [1, 2], [0, -1]]
    # All ended after one token: only the prompt was ever held, K and V of 4 numbers.
    _, held = cost.respond(small, SHORT, torch.tensor([0, 1]), torch.zeros(2, 2))
    assert held == 2 * 2 * 4 * BYTES


# The update is the row's own


@pytest.mark.parametrize("name", ["reinforce", "rloo", "remax", "grpo", "dr_grpo", "ppo", "grpo_kl", "trepo_block"])
def test_credits_are_those_of_the_table(ending: GPT, tables: Problem, name: str) -> None:
    row = ESTIMATORS[name]
    given = replace(row, continuations=2) if cost.fields_of(row) else row
    drawn = cost.draw(given, ending, ENDING, 4)
    made = critic.make_critic(ending, layers=1, width=4)
    networks = {"policy": ending} | ({"critic": made} if "value" in row.needs else {})
    networks |= {"reference": gpt.make(3, 3, 2, layers=1, width=4, heads=1, seed=4)} if name == "grpo_kl" else {}
    found = cost._credits(given, ENDING, 4, drawn, networks).numpy()
    known = tables
    if name == "grpo_kl":
        other = networks["reference"]
        known = replace(tables, reference=problem.problem(other, ENDING, problem.random_directions(other, 1)).probs)
    node, token = ENDING.node(drawn.prompt, drawn.tokens).numpy(), drawn.tokens.numpy()
    learned = replace(row, critic=critic.as_critic(made, ENDING)).given
    anchor, estimates = drawn.fields.get("anchor"), {k: v for k, v in drawn.fields.items() if k == "continuation_value"}
    paths = Responses(known, node, token, drawn.prompt.numpy(), learned, anchor, 1, estimates)
    groups = paths.group(np.arange(8).reshape(2, 4), row.needs)
    wanted = row(groups) * np.array(ENDING.weights)[:, None, None]
    np.testing.assert_allclose(found, wanted.reshape(8, 3), rtol=0, atol=ROUNDING)
    assert not np.allclose(found, wanted[::-1].reshape(8, 3))  # mutant: prompts in another order


def test_the_policy_given_stays_and_the_same_seed_is_the_same_cost(policy: GPT, costs: dict[str, Cost]) -> None:
    kept = {name: p.clone() for name, p in policy.params.items()}
    again = cost.measure(METHODS["TRePO, blocks"], policy, FIXED, G)
    assert again == costs["TRePO, blocks"]
    assert all(torch.equal(p, kept[name]) and p.grad is None for name, p in policy.params.items())
    half = cost.measure(METHODS["GRPO"], gpt.make(V, T, P, layers=L, width=D, heads=H, dtype="float32"), FIXED, G)
    assert (half.parameters, half.cache) == (4 * SIZE, costs["GRPO"].cache // 2)
    assert half.dtype == "float32"


# The two wordings


def test_the_memory_of_grpo_depends_on_how_continuations_are_generated(policy: GPT, costs: dict[str, Cost]) -> None:
    grpo, trepo = costs["GRPO"], METHODS["TRePO, blocks"]
    turns = cost.matches_memory(cost.measure(trepo, policy, FIXED, G, batch=P * G), grpo)
    assert turns.holds
    assert {turns.ratios[name] for name in ("parameters", "gradients", "optimiser", "activations", "peak")} == {1}
    assert turns.ratios["tokens"] > 1
    # Many enough at once outgrow the update: more sequences than there is room for.
    many = replace(trepo, continuations=math.ceil(cost.room(grpo)))
    found = cost.measure(many, policy, FIXED, G)
    assert found.at_once >= cost.room(grpo) * P * G
    assert not cost.matches_memory(found, grpo).holds
    assert cost.matches_memory(found, grpo).ratios["training"] == 1
    assert not cost.matches_memory(costs["PPO"], grpo).holds
    moved = replace(grpo, gradients=grpo.gradients + 8, activations=grpo.activations - 8)  # mutant: the sum alone
    assert not cost.matches_memory(moved, grpo).holds
    assert not cost.matches_memory(costs["GRPO, reference"], grpo).holds


def test_simpler_than_ppo_is_a_matter_of_networks(costs: dict[str, Cost]) -> None:
    ppo = costs["PPO"]
    assert not cost.simpler(ppo, ppo).holds
    for label in ("GRPO", "TRePO, blocks", "VinePPO, every token"):
        found = cost.simpler(costs[label], ppo)
        assert found.holds
        assert found.ratios["trained"] == 0.5
        assert found.ratios["parameters"] == SIZE / (2 * SIZE - (V - 1) * D)
    assert cost.simpler(costs["TRePO, blocks"], ppo).ratios["tokens"] > 1  # and yet it generates more
    assert not cost.simpler(replace(ppo, trained=1), ppo).holds  # mutant: one network by name, two by weight


def test_costs_are_written_with_their_sums(costs: dict[str, Cost]) -> None:
    found, written = costs["ReMax"], costs["ReMax"].to_json()
    assert written["tokens"] == found.response_tokens + found.greedy_tokens + found.continuation_tokens
    held = found.parameters + found.optimiser
    assert (written["resident"], written["training"]) == (held, held + found.gradients + found.activations)
    assert written["generating"] == held + max(found.cache, found.continuation_cache)
    assert written["peak"] == max(written["training"], written["generating"])
    with_peak = cost.matches_memory(replace(found, device_peak=30), replace(found, device_peak=20))
    assert with_peak.ratios["device_peak"] == 1.5


# Bad input and devices


def test_refusals(ending: GPT) -> None:
    with pytest.raises(TpgError, match="batch=0 given: it must be at least 1 continuation at once"):
        cost.measure(METHODS["TRePO, blocks"], ending, ENDING, 2, batch=0)
    with pytest.raises(EstimatorError, match="trepo_block reads exact values, which no update has: give it contin"):
        cost.measure(ESTIMATORS["trepo_block"], ending, ENDING, 2)
    filtered = Estimator("filtered", advantages.group_mean, keep=advantages.tied)
    with pytest.raises(EstimatorError, match="filtered draws groups again until it keeps one"):
        cost.measure(filtered, ending, ENDING, 2)


@pytest.mark.gpu
def test_the_device_peak_holds_what_is_counted() -> None:
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device: its peak memory cannot be measured")
    task = Task(16, 32, HashReward(1))
    policy = gpt.make(16, 32, 1, layers=4, width=128, heads=4, dtype="float32", device="cuda")
    rows = {label: cost.methods(4, 2)[label] for label in ("GRPO", "PPO", "TRePO, blocks")}
    found = {label: cost.measure(row, policy, task, 64, batch=64) for label, row in rows.items()}
    for each in found.values():
        assert each.device_peak is not None
        assert each.device_peak >= each.resident + max(each.activations, each.continuation_cache)
    assert cost.simpler(found["TRePO, blocks"], found["PPO"]).ratios["device_peak"] < 1
