"""What a transformer is asked to generate and what it is paid: a :class:`Task`, with rewards evaluated on the fly.

A reward is a function (prompt [n], tokens [n, L]) → [n, L], the reward of every token of responses of L tokens so far.
It must be causal (what a token is paid does not depend on later tokens) and deterministic; ``Task.check`` tries both.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from tpg.errors import TpgError
from tpg.numbers import powers
from tpg.problem.tree import Tree, grow

Reward = Callable[[Tensor, Tensor], Tensor]
PROBES = 64  # random responses on which a reward is tried


@dataclass(frozen=True)
class Task:
    """Responses of up to ``horizon`` of ``vocab`` tokens to prompts of the given ``weights``, and their token rewards.

    J = Σ_x weight(x) E Σ_t γ^{t−1} r_t, γ = ``discount``.  ``end_token`` ends a response early.
    """

    vocab: int
    horizon: int
    reward: Reward
    weights: tuple[float, ...] = (1.0,)
    end_token: int | None = None
    discount: float = 1.0

    def __post_init__(self) -> None:
        if self.vocab < 2 or self.horizon < 1:
            raise TpgError(f"vocab={self.vocab}, horizon={self.horizon} given: needed 2 tokens and 1 position, or more")
        if self.end_token is not None and not 0 <= self.end_token < self.vocab:
            raise TpgError(f"end token {self.end_token} given: it must be one of the tokens 0 … {self.vocab - 1}")
        if not self.weights or min(self.weights) <= 0 or not abs(sum(self.weights) - 1) <= 1e-9:  # NaN too
            raise TpgError(f"weights {self.weights} given: needed positive numbers that sum to 1")
        if not 0 < self.discount <= 1:
            raise TpgError(f"discount {self.discount} given, needed 0 < γ ≤ 1")

    @property
    def prompts(self) -> int:
        """P."""
        return len(self.weights)

    @property
    def on(self) -> tuple[int, ...]:
        """The tokens after which a response goes on."""
        return tuple(token for token in range(self.vocab) if token != self.end_token)

    @property
    def prefixes(self) -> int:
        """Σ_t P·B^t, t < T: the prefixes that a next-token distribution belongs to."""
        return self.prompts * sum(len(self.on) ** t for t in range(self.horizon))

    @property
    def responses(self) -> int:
        """The number of different responses."""
        before = sum(len(self.on) ** t for t in range(self.horizon - 1)) if self.end_token is not None else 0
        return self.prompts * (before + len(self.on) ** (self.horizon - 1) * self.vocab)

    def tree(self) -> Tree:
        """The same prefixes as a :class:`Tree`."""
        return grow(self.vocab, self.horizon, self.prompts, self.end_token)

    def prefix(self, first: int, last: int, length: int, device: torch.device | str = "cpu") -> tuple[Tensor, Tensor]:
        """Prompt [n] and tokens [n, length] of the prefixes ``first`` … ``last`` − 1 of that length, breadth-first."""
        index = torch.arange(first, last, device=device)
        base = len(self.on)
        digits = [(index // base**k) % base for k in reversed(range(length))]
        number = torch.stack(digits, 1) if digits else index.new_zeros(len(index), 0)
        return index // base**length, torch.tensor(self.on, device=device)[number]

    def node(self, prompt: Tensor, tokens: Tensor) -> Tensor:
        """[n, L] the number of the prefix before each of the ``tokens`` [n, L], breadth-first; −1 after the end."""
        return nodes(prompt, tokens, self.vocab, self.prompts, self.end_token)

    def next_rewards(self, prompt: Tensor, tokens: Tensor, dtype: torch.dtype) -> Tensor:
        """[n, V] what each next token is paid after the prefixes ``tokens`` [n, t]."""
        n, t = tokens.shape
        every = torch.arange(self.vocab, device=tokens.device).expand(n, self.vocab)
        longer = torch.cat([tokens[:, None].expand(n, self.vocab, t), every[..., None]], 2)
        paid = self.reward(prompt.repeat_interleave(self.vocab), longer.reshape(-1, t + 1))
        return paid[:, -1].reshape(n, self.vocab).to(dtype)

    def rewards(self, prompt: Tensor, tokens: Tensor, dtype: torch.dtype) -> Tensor:
        """[n, T] what each token of whole responses is paid, 0 after the end (tokens −1 there)."""
        return torch.where(tokens >= 0, self.reward(prompt, tokens.clamp(min=0)).to(dtype), 0)

    def total(self, prompt: Tensor, tokens: Tensor, dtype: torch.dtype = torch.float64) -> Tensor:
        """RM [n] = Σ_t γ^{t−1} r_t of whole responses, added up as ``Problem.totals`` does it."""
        paid = self.rewards(prompt, tokens, dtype)
        out = torch.zeros_like(paid[:, 0])
        for t, power in enumerate(powers(float(self.discount), self.horizon).tolist()):
            out = out + power * paid[:, t]
        return out

    def check(self, device: torch.device | str = "cpu", seed: int = 0) -> None:
        """Try the reward on random responses.  TpgError if it is not causal, deterministic, finite and [n, L]."""
        random = torch.Generator().manual_seed(seed)
        tokens = torch.randint(self.vocab, (PROBES, self.horizon), generator=random).to(device)
        prompt = (torch.arange(PROBES) % self.prompts).to(device)
        paid = self.reward(prompt, tokens)
        if tuple(paid.shape) != (PROBES, self.horizon) or not bool(torch.isfinite(paid).all()):
            raise TpgError(f"the reward gives {tuple(paid.shape)} numbers, needed finite ones {tuple(tokens.shape)}")
        if not torch.equal(self.reward(prompt, tokens), paid):
            raise TpgError(
                "the reward is not deterministic: two calls on the same responses differ; seed it by its input"
            )
        order = torch.arange(PROBES - 1, -1, -2, device=device)  # others around it, and fewer
        if not torch.equal(self.reward(prompt[order], tokens[order]), paid[order]):
            raise TpgError("the reward of a response depends on the others of its batch: pay each on its own")
        for length in range(1, self.horizon):
            early = self.reward(prompt, tokens[:, :length])
            if tuple(early.shape) != (PROBES, length) or not torch.equal(early, paid[:, :length]):
                where = f"the first {length} tokens are paid differently once {self.horizon - length} more follow"
                raise TpgError(f"the reward is not causal: {where}; pay a token by what stands up to it")


def nodes(prompt: Tensor, tokens: Tensor, vocab: int, prompts: int, end_token: int | None) -> Tensor:
    """[n, L] breadth-first number of the prefix before each token in the complete tree; −1 after the end."""
    base = vocab - (end_token is not None)
    rank = tokens if end_token is None else tokens - (tokens > end_token).long()
    here, before, out = prompt, 0, []
    for t in range(tokens.shape[1]):
        out.append(before + here)
        before += prompts * base**t
        here = here * base + rank[:, t]
    return torch.where(tokens >= 0, torch.stack(out, 1), -1)
