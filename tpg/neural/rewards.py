"""Token rewards that need no table: hash-seeded, an arithmetic task, a key-token task; and those of a table."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from tpg.errors import TpgError
from tpg.neural.task import nodes
from tpg.numbers import Array

_GOLDEN, _MIX1, _MIX2 = -7046029254386353131, -4658895280553007687, -7723592293110705685  # SplitMix64, as int64


@dataclass(frozen=True)
class HashReward:
    """Every token of every prefix has its own reward u² ∈ [0, 1), u uniform: dense, asymmetric, without structure.

    u is made from SplitMix64 (Steele, Lea, Flood, OOPSLA 2014) folded over seed, prompt and tokens.
    """

    seed: int = 0

    def __call__(self, prompt: Tensor, tokens: Tensor) -> Tensor:
        """[n, L] rewards."""
        state, out = _mix(prompt + 1_000_003 * (self.seed + 1) % (1 << 62)), []
        for t in range(tokens.shape[1]):
            state = _mix(state + tokens[:, t] + 1)
            out.append(((state >> 11) & ((1 << 53) - 1)).double() / (1 << 53))
        return torch.stack(out, 1) ** 2


def _mix(state: Tensor) -> Tensor:
    """SplitMix64 on int64, whose products wrap around."""
    z = state + _GOLDEN
    z = (z ^ _logical(z, 30)) * _MIX1
    z = (z ^ _logical(z, 27)) * _MIX2
    return z ^ _logical(z, 31)


def _logical(z: Tensor, bits: int) -> Tensor:
    """Shift right without the sign."""
    return (z >> bits) & ((1 << (64 - bits)) - 1)


@dataclass(frozen=True)
class ArithmeticReward:
    """1 at the end of a response whose tokens add up to 1 + prompt (mod V), the end token not counted; else 0."""

    vocab: int
    horizon: int
    end_token: int | None = None

    def __call__(self, prompt: Tensor, tokens: Tensor) -> Tensor:
        """[n, L] rewards."""
        ended = torch.zeros_like(tokens, dtype=torch.bool) if self.end_token is None else tokens == self.end_token
        right = (torch.where(ended, 0, tokens).cumsum(1) - (1 + prompt)[:, None]) % self.vocab == 0
        position = torch.arange(1, tokens.shape[1] + 1, device=tokens.device)
        return (right & (ended | (position == self.horizon))).double()


@dataclass(frozen=True)
class KeyTokenReward:
    """1 for the token ``prompt`` mod V at one position, the only token that is paid: credit belongs there."""

    vocab: int
    position: int = 1  # 1 … T

    def __call__(self, prompt: Tensor, tokens: Tensor) -> Tensor:
        """[n, L] rewards."""
        here = torch.arange(1, tokens.shape[1] + 1, device=tokens.device) == self.position
        return (here & (tokens == (prompt % self.vocab)[:, None])).double()


@dataclass(frozen=True, eq=False)
class TableReward:
    """The rewards [N, V] of a Problem on the complete tree of the same tokens, horizon, prompts and end token."""

    table: Array
    prompts: int
    end_token: int | None = None

    def __call__(self, prompt: Tensor, tokens: Tensor) -> Tensor:
        """[n, L] rewards; 0 behind an end token."""
        if self.end_token is not None:
            ended = tokens == self.end_token
            tokens = torch.where(ended.long().cumsum(1) > ended.long(), -1, tokens)
        node = nodes(prompt, tokens, self.table.shape[1], self.prompts, self.end_token)
        if int(node.max()) >= len(self.table):
            raise TpgError(
                f"a table of {len(self.table)} prefixes given, prefix {int(node.max())} needs its reward too"
            )
        paid = torch.as_tensor(self.table.astype(float), device=tokens.device)[node.clamp(min=0), tokens.clamp(min=0)]
        return torch.where(node >= 0, paid, 0)
