"""Planted faults that the checks of the network and of its gradient must catch, as in ``test_the_tests``.

The checks are those that the right ones pass: ``forward`` against the literal transformer, kept keys and values against
``forward``, J and ∇J against the differentiated sum over all responses in pieces of every size.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import cache
from typing import Any

import pytest
import torch
import torch.nn.functional as F

from tests import neural_references as ref
from tpg.neural import exact, subtrees
from tpg.neural.gpt import GPT, Past, branch, make
from tpg.neural.subtrees import Piece
from tpg.neural.task import Task

DEEP = {"vocab": 4, "horizon": 4, "prompts": 3, "layers": 2, "width": 6, "heads": 2}
GRADIENT, BOTH = {"gradient"}, {"objective", "gradient"}


# Faults in the network


def wrong_scale(right: Callable[..., Any]) -> Callable[..., Any]:
    """1/√d left out."""

    def qkv(self: GPT, x: torch.Tensor, layer: int) -> tuple[torch.Tensor, ...]:
        q, k, v = right(self, x, layer)
        return q * (self.width // self.heads) ** 0.5, k, v

    return qkv


def keys_for_values(right: Callable[..., Any]) -> Callable[..., Any]:
    def qkv(self: GPT, x: torch.Tensor, layer: int) -> tuple[torch.Tensor, ...]:
        q, k, v = right(self, x, layer)
        return q, v, k

    return qkv


def no_position(right: Callable[..., Any]) -> Callable[..., Any]:
    return lambda self, tokens, position: self.params["embed"][tokens]


def another_epsilon(right: Callable[..., Any]) -> Callable[..., Any]:
    return lambda self, x, name: F.layer_norm(x, x.shape[-1:], self.params[name], eps=1e-6)


def no_stream(right: Callable[..., Any]) -> Callable[..., Any]:
    """The attention output replaces the stream instead of being added to it."""
    return lambda self, x, mixed, layer: right(self, x, mixed, layer) - x


def biases_off(right: Callable[..., Any]) -> Callable[..., Any]:
    def rest(self: GPT, x: torch.Tensor, mixed: torch.Tensor, layer: int) -> torch.Tensor:
        params = {n: torch.zeros_like(p) if n.endswith("bias") else p for n, p in self.params.items()}
        return right(self.at(params), x, mixed, layer)

    return rest


FORWARD_FAULTS: dict[str, tuple[str, Callable[..., Any]]] = {
    "scale": ("_qkv", wrong_scale),
    "keys for values": ("_qkv", keys_for_values),
    "no positions": ("_embed", no_position),
    "another epsilon": ("_norm", another_epsilon),
    "no residual stream": ("_rest", no_stream),
    "no biases": ("_rest", biases_off),
}


@pytest.mark.parametrize("fault", FORWARD_FAULTS)
def test_a_fault_in_a_layer_is_caught(fault: str, monkeypatch: pytest.MonkeyPatch) -> None:
    name, wrong = FORWARD_FAULTS[fault]
    monkeypatch.setattr(GPT, name, wrong(getattr(GPT, name)))
    assert ref.forward_error(ref.crooked(3, **DEEP)) > 1e-6


def test_a_missing_mask_and_another_gelu_are_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(torch.Tensor, "masked_fill", lambda score, mask, value: score)
        assert ref.forward_error(ref.crooked(3, **DEEP)) > 1e-2
    right = F.gelu
    monkeypatch.setattr(F, "gelu", lambda x, approximate: right(x))
    assert ref.forward_error(ref.crooked(3, **DEEP)) > 1e-6  # erf and tanh differ by up to 5e-4


def test_parameters_at_their_start_would_hide_faults(monkeypatch: pytest.MonkeyPatch) -> None:
    # Why the network is crooked: new biases are 0, so that leaving them out shows nowhere.
    monkeypatch.setattr(GPT, "_rest", biases_off(GPT._rest))
    assert ref.forward_error(make(**DEEP)) < ref.EXACT


def late(right: Callable[..., Any]) -> Callable[..., Any]:
    """The position of every token but the prompt is one too low."""
    return lambda self, tokens, position: right(self, tokens, max(position - 1, 0))


def blind(self: GPT, past: list[Past], tokens: torch.Tensor) -> tuple[torch.Tensor, list[Past]]:
    """``extend`` whose token does not attend to itself."""
    x, new = self._embed(tokens, past[0].key.shape[2]), []
    for layer, (keys, values) in enumerate(past):
        q, k, v = self._qkv(x, layer)
        x = self._rest(x, (q @ keys.mT).softmax(-1) @ values if keys.shape[2] else v, layer)
        new.append(Past(k, v))
    return self._logits(x), new


def another_parent(past: list[Past], new: list[Past]) -> list[Past]:
    """``branch`` that deals parents out in turn, 0 1 0 1, where each has its own run of children, 0 0 1 1."""
    count = new[0].key.shape[2]
    turned = [Past(p.key.repeat(count, 1, 1, 1), p.value.repeat(count, 1, 1, 1)) for p in past]
    own = branch([Past(p.key[..., :0, :], p.value[..., :0, :]) for p in past], new)
    return [Past(*(torch.cat(pair, 2) for pair in zip(p, o, strict=True))) for p, o in zip(turned, own, strict=True)]


def test_faults_in_what_is_kept_are_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    net = ref.crooked(4, **DEEP)
    for name, wrong in {"_embed": late(GPT._embed), "extend": blind}.items():
        with monkeypatch.context() as patch:
            patch.setattr(GPT, name, wrong)
            assert ref.forward_error(net) < ref.EXACT  # only what is kept goes wrong
            assert ref.cache_error(net) > 1e-3
    assert ref.cache_error(net, branching=another_parent) > 1e-3


# Faults in the gradient.  What is caught: J, g, or both.


@cache
def arena() -> tuple[GPT, Task, tuple[float, torch.Tensor]]:
    """Two prompts of unequal weight, an end token amid the others, γ = 1/2, dense rewards, and trees of three cuts."""
    task, twin = ref.pair("hash", 3, 4, (0.25, 0.75), 1, 0.5)
    net = ref.crooked(11, vocab=3, horizon=4, prompts=2)
    return net, task, ref.gradient(net, twin)


def sweep(fault: str) -> Callable[[Piece, torch.Tensor | None], torch.Tensor]:
    """``exact._backward`` written out, with one fault in it; with none it is right."""

    def backward(piece: Piece, below: torch.Tensor | None) -> torch.Tensor:
        task, probs, gain = piece.task, [x.detach().softmax(-1) for x in piece.logits], []
        on, ends = list(task.on), [a for a in range(task.vocab) if a not in task.on]
        for k in reversed(range(len(probs))):
            q = task.next_rewards(*piece.prefixes(k), probs[k].dtype)
            if below is not None:
                after = below.view(len(q), -1) * (1 if fault == "discount dropped from values" else task.discount)
                q[:, on[::-1] if fault == "tokens turned between levels" else on] += after
                if fault == "end token goes on":
                    q[:, ends] += after[:, :1]
                if fault == "end token's children":  # dealt out as though the last token ended
                    q[:, on] -= after
                    q[:, : len(on)] += after
            below = (probs[k] * q).sum(1)
            gain.append({"V not subtracted": q, "V not subtracted, log π": q}.get(fault, q - below[:, None]))
        depth = 0 if fault == "depth of the piece forgotten" else piece.path.shape[1]
        weight = torch.tensor(task.weights, dtype=probs[0].dtype)[piece.prompt]
        reach = task.discount**depth * piece.reach() * (1 if fault == "prompt weights dropped" else weight)
        coefficients = []
        for p, difference in zip(probs, reversed(gain), strict=True):
            joint = p if fault == "reach dropped" else reach[:, None] * p
            coefficients.append(joint * difference)
            reach = (1 if fault == "discount dropped from reach" else task.discount) * joint[:, on].reshape(-1)
        logs = [x.log_softmax(-1) for x in piece.logits]
        torch.autograd.backward(logs if fault.endswith("log π") else piece.logits, coefficients)
        assert below is not None
        return below

    return backward


SWEEPS: dict[str, set[str]] = {
    "nothing": set(),
    "discount dropped from values": BOTH,
    "discount dropped from reach": GRADIENT,
    "depth of the piece forgotten": GRADIENT,
    "prompt weights dropped": GRADIENT,
    "reach dropped": GRADIENT,
    "end token goes on": BOTH,
    "end token's children": BOTH,
    "tokens turned between levels": BOTH,
    # Σ_a π(a) ∇logit(a) is not 0: in logits the baseline V is needed.  In log π it is, and V is only a baseline.
    "V not subtracted": GRADIENT,
    "V not subtracted, log π": set(),
}


@pytest.mark.parametrize("fault", SWEEPS)
def test_a_fault_in_the_sweep_is_caught(fault: str, monkeypatch: pytest.MonkeyPatch) -> None:
    given = arena()
    monkeypatch.setattr(exact, "_backward", sweep(fault))
    assert ref.disagreements(*given) == SWEEPS[fault]


def without_gradient(piece: Piece) -> Piece:
    return replace(piece, logits=[x.detach().requires_grad_() for x in piece.logits])


def one_piece_left_out(right: Callable[..., Piece]) -> Callable[..., Piece]:
    """The last piece below the cut (or the whole tree) pays no gradient."""

    def compute(net: GPT, task: Task, first: int, last: int, split: int, height: int) -> Piece:
        piece = right(net, task, first, last, split, height)
        below = split + height == task.horizon
        return without_gradient(piece) if below and last == task.prompts * len(task.on) ** split else piece

    return compute


def nothing_above_the_cut(right: Callable[..., Piece]) -> Callable[..., Piece]:
    def compute(net: GPT, task: Task, first: int, last: int, split: int, height: int) -> Piece:
        piece = right(net, task, first, last, split, height)
        return piece if split + height == task.horizon else without_gradient(piece)

    return compute


def one_root_further(right: Callable[..., Piece]) -> Callable[..., Piece]:
    """Pieces below a cut start one subtree too late (the last starts over)."""

    def compute(net: GPT, task: Task, first: int, last: int, split: int, height: int) -> Piece:
        roots, off = task.prompts * len(task.on) ** split, int(split > 0)
        parts = [right(net, task, (r + off) % roots, (r + off) % roots + 1, split, height) for r in range(first, last)]
        if len(parts) > 1:
            return right(net, task, first, last, split, height)
        return parts[0]

    return compute


def certain_paths(right: Callable[..., Any]) -> Callable[..., Any]:
    return lambda piece: torch.ones(len(piece.path), dtype=torch.float64)


def turned(right: Callable[..., Any]) -> Callable[..., Any]:
    """The last token of a piece's prefixes in the opposite order to its logits: others are paid."""

    def prefixes(piece: Piece, k: int) -> tuple[torch.Tensor, torch.Tensor]:
        prompt, tokens = right(piece, k)
        if k == 0:
            return prompt, tokens
        last = tokens[:, -1].view(-1, len(piece.task.on)).flip(1).reshape(-1, 1)
        return prompt, torch.cat([tokens[:, :-1], last], 1)

    return prefixes


def constant_past(right: Callable[..., list[Past]]) -> Callable[..., list[Past]]:
    """Keys and values are kept as numbers: no gradient flows to where they were made."""
    return lambda past, new: [Past(*(x.detach() for x in p)) for p in right(past, new)]


OTHERS: dict[str, tuple[Any, str, Callable[[Any], Any], set[str]]] = {
    "one piece left out": (exact, "compute", one_piece_left_out, GRADIENT),
    "nothing above the cut": (exact, "compute", nothing_above_the_cut, GRADIENT),
    "pieces off by one": (exact, "compute", one_root_further, BOTH),
    "reach of the path omitted": (Piece, "reach", certain_paths, GRADIENT),
    "rewards of other tokens": (Piece, "prefixes", turned, BOTH),
    "keys and values without their own token": (GPT, "extend", lambda right: blind, BOTH),
    "position off by one": (GPT, "_embed", late, BOTH),
    "another parent's past": (subtrees, "branch", lambda right: another_parent, BOTH),
    "no gradient through the past": (subtrees, "branch", constant_past, GRADIENT),
}


@pytest.mark.parametrize("fault", OTHERS)
def test_a_fault_around_the_sweep_is_caught(fault: str, monkeypatch: pytest.MonkeyPatch) -> None:
    where, name, wrong, caught = OTHERS[fault]
    given = arena()
    monkeypatch.setattr(where, name, wrong(getattr(where, name)))
    assert ref.disagreements(*given) == caught


def test_a_plain_task_would_hide_faults(monkeypatch: pytest.MonkeyPatch) -> None:
    # Why the arena is crooked: one prompt, no end token, γ = 1 and one piece leave no trace of half of the faults.
    task, twin = ref.pair("hash", 3, 2)
    net = ref.crooked(11, vocab=3, horizon=2)
    right = ref.gradient(net, twin)[1]
    hidden = set()
    for fault in SWEEPS:
        monkeypatch.setattr(exact, "_backward", sweep(fault))
        hidden |= {fault} if ref.apart(exact.gradient(net, task).flat, right) < ref.EXACT else set()
    assert len(hidden - {"nothing", "V not subtracted, log π"}) == 6
