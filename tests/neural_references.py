"""Slow, literal references of the neural room: one position, one response, one prefix at a time.

No code is shared with tpg but ``GPT.forward``, and :func:`logits` says in plain numbers what that is.  A response is a
tuple of tokens; a prefix is (prompt, tokens); a reward is a rule (prompt, tokens) → one number per token.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch

from tpg.neural import exact
from tpg.neural.gpt import GPT, Past, branch, make
from tpg.neural.rewards import ArithmeticReward, HashReward, KeyTokenReward, TableReward
from tpg.neural.subtrees import plan
from tpg.neural.task import Task

Array = np.ndarray
Rule = Callable[[int, tuple[int, ...]], list[float]]
Prefix = tuple[int, tuple[int, ...]]
EPS, EXACT = 1e-5, 1e-12  # of the norm; relative tolerance of everything in float64
torch.set_num_threads(1)  # networks this small only wait for threads


# The network


def crooked(seed: int = 0, spread: float = 0.3, **sizes: Any) -> GPT:
    """A network whose every parameter counts: gains that are not 1, biases that are not 0."""
    net, random = (
        make(**{"layers": 2, "width": 4, "heads": 2, "seed": seed, **sizes}),
        torch.Generator().manual_seed(seed),
    )
    moved = {n: torch.randn(p.shape, generator=random, dtype=torch.float64).to(p) for n, p in net.params.items()}
    return net.at({name: p + spread * moved[name] for name, p in net.params.items()})


def norm(x: Array, gain: Array) -> Array:
    mean = sum(x) / len(x)
    spread = sum((value - mean) ** 2 for value in x) / len(x)
    return np.array([(value - mean) / math.sqrt(spread + EPS) * g for value, g in zip(x, gain, strict=True)])


def gelu(x: float) -> float:
    """Hendrycks and Gimpel (2016), with the hyperbolic tangent."""
    return 0.5 * x * (1 + math.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))


def softmax(scores: list[float]) -> list[float]:
    top = [math.exp(s - max(scores)) for s in scores]
    return [value / sum(top) for value in top]


def logits(net: GPT, prompt: int, tokens: tuple[int, ...]) -> Array:
    """[L+1, V] after the prompt and after each token: every position on its own looks at those up to itself."""
    p = {name: value.detach().cpu().double().numpy() for name, value in net.params.items()}
    read = [net.vocab + prompt, *tokens]
    x = [p["embed"][w] + p["position"][i] for i, w in enumerate(read)]
    width = len(x[0])
    for layer in range(net.layers):
        triples = [p[f"{layer}.qkv"] @ norm(column, p[f"{layer}.norm1"]) for column in x]
        q, k, v = ([t[i * width : (i + 1) * width] for t in triples] for i in range(3))
        mixed = [attend(q[i], k[: i + 1], v[: i + 1], net.heads) for i in range(len(x))]
        x = [column + p[f"{layer}.out"] @ m for column, m in zip(x, mixed, strict=True)]
        for i, column in enumerate(x):
            hidden = p[f"{layer}.up"] @ norm(column, p[f"{layer}.norm2"]) + p[f"{layer}.up_bias"]
            hidden = np.array([gelu(value) for value in hidden])
            x[i] = column + p[f"{layer}.down"] @ hidden + p[f"{layer}.down_bias"]
    return np.array([p["head"] @ norm(column, p["norm"]) for column in x])


def attend(query: Array, keys: list[Array], values: list[Array], heads: int) -> Array:
    d, out = len(query) // heads, []
    for h in range(heads):
        part = slice(h * d, (h + 1) * d)
        weight = softmax([float(query[part] @ key[part]) / math.sqrt(d) for key in keys])
        out.append(sum(w * value[part] for w, value in zip(weight, values, strict=True)))
    return np.concatenate(out)


# The task


@dataclass(frozen=True)
class Twin:
    """A task in plain Python."""

    vocab: int
    horizon: int
    rule: Rule
    weights: tuple[float, ...] = (1.0,)
    end_token: int | None = None
    discount: float = 1.0

    def words(self, before: tuple[int, ...] = ()) -> Iterator[tuple[int, ...]]:
        """Every response that starts so."""
        for token in range(self.vocab):
            word = (*before, token)
            if token == self.end_token or len(word) == self.horizon:
                yield word
            else:
                yield from self.words(word)

    def prefixes(self) -> list[Prefix]:
        """Every prefix that a token may follow, breadth-first: by length, prompt and tokens."""
        out: list[Prefix] = [(x, ()) for x in range(len(self.weights))]
        for prompt, tokens in out:  # grows as it is read
            if len(tokens) < self.horizon - 1:
                out += [(prompt, (*tokens, a)) for a in range(self.vocab) if a != self.end_token]
        return out

    def total(self, prompt: int, word: tuple[int, ...]) -> float:
        """RM(W) = Σ_t γ^{t−1} r_t."""
        return sum(self.discount**t * r for t, r in enumerate(self.rule(prompt, word)))


def splitmix(state: int) -> int:
    """SplitMix64 of Steele, Lea and Flood (2014): the next number of a generator in that state."""
    whole = 1 << 64
    z = (state + 0x9E3779B97F4A7C15) % whole
    z = (z ^ z >> 30) * 0xBF58476D1CE4E5B9 % whole
    z = (z ^ z >> 27) * 0x94D049BB133111EB % whole
    return z ^ z >> 31


def hashed(seed: int, prompt: int, word: tuple[int, ...]) -> list[float]:
    state, out = splitmix(prompt + 1_000_003 * (seed + 1)), []
    for token in word:
        state = splitmix(state + token + 1)
        out.append(((state >> 11) / 2**53) ** 2)
    return out


def arithmetic(vocab: int, horizon: int, end: int | None, prompt: int, word: tuple[int, ...]) -> list[float]:
    out, added = [], 0
    for position, token in enumerate(word, 1):
        added += 0 if token == end else token
        last = token == end or position == horizon
        out.append(1.0 if last and added % vocab == (1 + prompt) % vocab else 0.0)
    return out


def key_token(vocab: int, position: int, prompt: int, word: tuple[int, ...]) -> list[float]:
    return [float(t == position and token == prompt % vocab) for t, token in enumerate(word, 1)]


def looked_up(table: dict[Prefix, list[float]], prompt: int, word: tuple[int, ...]) -> list[float]:
    return [table[prompt, word[:t]][token] for t, token in enumerate(word)]


def pair(
    kind: str,
    vocab: int = 3,
    horizon: int = 3,
    weights: tuple[float, ...] = (1.0,),
    end_token: int | None = None,
    discount: float = 1.0,
) -> tuple[Task, Twin]:
    """The same task for tpg and for the references."""
    rest = weights, end_token, discount
    if kind == "hash":
        return Task(vocab, horizon, HashReward(7), *rest), Twin(vocab, horizon, partial(hashed, 7), *rest)
    if kind == "arithmetic":
        rule = partial(arithmetic, vocab, horizon, end_token)
        return Task(vocab, horizon, ArithmeticReward(vocab, horizon, end_token), *rest), Twin(
            vocab, horizon, rule, *rest
        )
    if kind == "key token":
        last = Twin(vocab, horizon, partial(key_token, vocab, horizon), *rest)
        return Task(vocab, horizon, KeyTokenReward(vocab, horizon), *rest), last
    prefixes = Twin(vocab, horizon, partial(hashed, 0), *rest).prefixes()
    table = np.random.Generator(np.random.Philox(vocab)).standard_normal((len(prefixes), vocab))
    rule = partial(looked_up, dict(zip(prefixes, table.tolist(), strict=True)))
    return Task(vocab, horizon, TableReward(table, len(weights), end_token), *rest), Twin(vocab, horizon, rule, *rest)


# The truth


def leaf(net: GPT) -> GPT:
    return net.at({name: p.detach().clone().requires_grad_() for name, p in net.params.items()})


def expected(net: GPT, twin: Twin) -> torch.Tensor:
    """J = Σ_x weight(x) Σ_W P(W) RM(W); every response is run through ``forward`` from its start."""
    out = torch.zeros((), dtype=net.params["embed"].dtype)
    for prompt, weight in enumerate(twin.weights):
        for word in twin.words():
            rows = net.forward(torch.tensor([prompt]), torch.tensor([word[:-1]], dtype=torch.long))[0]
            chance = torch.ones((), dtype=out.dtype)
            for row, token in zip(rows, word, strict=True):
                chance = chance * torch.softmax(row, 0)[token]
            out = out + weight * chance * twin.total(prompt, word)
    return out


def gradient(net: GPT, twin: Twin) -> tuple[float, torch.Tensor]:
    """J and ∇J [D]: the sum over all responses, differentiated as it stands."""
    moved = leaf(net)
    total = expected(moved, twin)
    found = torch.autograd.grad(total, list(moved.params.values()), allow_unused=True)
    filled = [torch.zeros_like(p) if g is None else g for p, g in zip(moved.params.values(), found, strict=True)]
    return float(total.detach()), torch.cat([g.reshape(-1) for g in filled])


def shifted(net: GPT, direction: torch.Tensor, step: float) -> GPT:
    """The network at θ + step · direction."""
    out, start = {}, 0
    for name, p in net.params.items():
        out[name] = p.detach() + step * direction[start : start + p.numel()].reshape(p.shape)
        start += p.numel()
    return net.at(out)


def apart(found: torch.Tensor | Array, right: torch.Tensor | Array) -> float:
    """|found − right| / |right| of vectors or tables, in the Euclidean norm."""
    a, b = np.asarray(found, dtype=np.float64), np.asarray(right, dtype=np.float64)
    assert a.shape == b.shape
    return float(np.linalg.norm(a - b) / np.linalg.norm(b))


# Checks, which wrong networks must fail


def sample(net: GPT, length: int, count: int = 3) -> tuple[torch.Tensor, torch.Tensor]:
    random = torch.Generator().manual_seed(length)
    tokens = torch.randint(net.vocab, (count, length), generator=random)
    return torch.arange(count) % net.prompts, tokens


def forward_error(net: GPT) -> float:
    """Largest relative error of ``forward`` against the literal transformer over lengths 0 … T−1."""
    worst = 0.0
    for length in range(net.horizon):
        prompt, tokens = sample(net, length)
        right = [logits(net, int(x), tuple(w)) for x, w in zip(prompt, tokens.tolist(), strict=True)]
        worst = max(worst, apart(net.forward(prompt, tokens).numpy(), np.array(right)))
    return worst


def cache_error(net: GPT, width: int = 3, branching: Callable[..., list[Past]] = branch) -> float:
    """Largest relative error of ``start``, ``extend`` and ``branch`` against ``forward``, over a full tree.

    Every path tries ``width`` tokens of its own, in any order, some of them twice.
    """
    prompt, worst = torch.arange(2 * net.prompts) % net.prompts, 0.0
    here, past = net.start(prompt)
    path = torch.zeros(len(prompt), 0, dtype=torch.long)
    for step in range(net.horizon):
        worst = max(worst, apart(here, net.forward(prompt, path)[:, -1]))
        if step < net.horizon - 1:
            random = torch.Generator().manual_seed(step)
            tried = torch.randint(net.vocab, (len(path), width), generator=random)
            after, new = net.extend(past, tried)
            here, past = after.flatten(0, 1), branching(past, new)
            path = torch.cat([path.repeat_interleave(width, 0), tried.reshape(-1, 1)], 1)
            prompt = prompt.repeat_interleave(width)
    return worst


def chunks(task: Task) -> list[int]:
    """Every size of piece at which the plan changes, from the smallest that is possible."""
    found: dict[tuple[int, tuple[tuple[int, int], ...]], int] = {}
    for chunk in range(1, task.prefixes + 1):
        cut = plan(task, chunk)
        if cut.largest <= chunk:
            found.setdefault((cut.split, cut.pieces), chunk)
    return list(found.values())


def disagreements(net: GPT, task: Task, right: tuple[float, torch.Tensor]) -> set[str]:
    """What the streamed gradient gets wrong, in pieces of any size: J, ∇J or both."""
    out = set()
    for chunk in chunks(task):
        found = exact.gradient(net, task, chunk)
        out |= {"objective"} if abs(found.objective - right[0]) > EXACT * abs(right[0]) else set()
        out |= {"gradient"} if apart(found.flat, right[1]) > EXACT else set()
    return out
