"""A decoder-only transformer on one screen: pre-norm blocks, explicit attention, learned positions.

Parameters are a plain dictionary and every function of them is pure, so that ``torch.func`` differentiates it forwards,
backwards and per sample.  Two ways through the same layers: whole responses at once (``forward``), and one more token
after keys and values that are already there (``extend``), which generates responses and walks token trees.

Shapes: n sequences, L positions, t of them in the past, B tokens tried after one past, D width, H heads, d = D/H.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from tpg.errors import TpgError

Params = dict[str, Tensor]
DTYPES = {"float64": torch.float64, "float32": torch.float32}


class Past(NamedTuple):
    """Keys and values [n, H, t, d] of one layer."""

    key: Tensor
    value: Tensor


@dataclass(frozen=True, eq=False)
class GPT:
    """A policy over ``vocab`` tokens for responses of up to ``horizon``; prompt x is embedding V + x, position 0."""

    vocab: int
    horizon: int
    prompts: int
    layers: int
    heads: int
    params: Params

    def forward(self, prompt: Tensor, tokens: Tensor) -> Tensor:
        """Logits [n, L+1, V] after the prompt [n] and after each of the ``tokens`` [n, L]."""
        x = self._embed(torch.cat([self.vocab + prompt[:, None], tokens], 1), 0)  # [n, L+1, D]
        future = torch.ones(x.shape[1], x.shape[1], dtype=torch.bool, device=x.device).triu(1)
        for layer in range(self.layers):
            q, k, v = self._qkv(x, layer)  # [n, H, L+1, d]
            score = (q @ k.mT).masked_fill(future, -torch.inf)  # [n, H, L+1, L+1]
            x = self._rest(x, score.softmax(-1) @ v, layer)
        return self._logits(x)

    def extend(self, past: list[Past], tokens: Tensor) -> tuple[Tensor, list[Past]]:
        """Logits [n, B, V] after each of the ``tokens`` [n, B] that may follow the past, and their own keys and values.

        The B tokens share the past and do not see each other; :func:`branch` makes pasts of them.  ``tokens`` [1, B]
        are the same for all n pasts: what the first layer makes of them before it looks back is computed once.
        """
        position = past[0].key.shape[2]
        x, new = self._embed(tokens, position), []  # [n, B, D]
        for layer, (keys, values) in enumerate(past):
            q, k, v = self._qkv(x, layer)  # [n, H, B, d]
            own = (q * k).sum(-1, keepdim=True).expand(len(keys), -1, -1, 1)
            score = torch.cat([q @ keys.mT, own], -1).softmax(-1)  # [n, H, B, t+1]
            x = self._rest(x, score[..., :position] @ values + score[..., position:] * v, layer)
            new.append(Past(k, v))
        return self._logits(x), new

    def start(self, prompt: Tensor) -> tuple[Tensor, list[Past]]:
        """Logits [n, V] after the prompt [n], and the past that holds it."""
        d = self.width // self.heads
        nothing = self.params["embed"].new_zeros(len(prompt), self.heads, 0, d)
        empty = [Past(nothing, nothing)] * self.layers
        logits, new = self.extend(empty, self.vocab + prompt[:, None])
        return logits[:, 0], branch(empty, new)

    def _embed(self, tokens: Tensor, position: int) -> Tensor:
        """[n, L, D]; L tokens in a row from position 0, or alternatives at one position."""
        last = tokens.shape[1] if position == 0 else 1
        if position + last > self.horizon:
            raise TpgError(
                f"{position + last} positions given, the network has {self.horizon}: the last token is not fed"
            )
        return self.params["embed"][tokens] + self.params["position"][position : position + last]

    def _qkv(self, x: Tensor, layer: int) -> tuple[Tensor, Tensor, Tensor]:
        """Queries (scaled by 1/√d), keys and values [n, H, L, d]."""
        n, length, width = x.shape
        qkv = F.linear(self._norm(x, f"{layer}.norm1"), self.params[f"{layer}.qkv"])
        q, k, v = qkv.view(n, length, 3, self.heads, width // self.heads).permute(2, 0, 3, 1, 4)
        return q * (width // self.heads) ** -0.5, k, v

    def _rest(self, x: Tensor, mixed: Tensor, layer: int) -> Tensor:
        """What follows attention: output projection and MLP, both added to the stream; ``mixed`` [n, H, L, d]."""
        x = x + F.linear(mixed.transpose(1, 2).flatten(2), self.params[f"{layer}.out"])
        hidden = F.linear(self._norm(x, f"{layer}.norm2"), self.params[f"{layer}.up"], self.params[f"{layer}.up_bias"])
        hidden = F.gelu(hidden, approximate="tanh")
        return x + F.linear(hidden, self.params[f"{layer}.down"], self.params[f"{layer}.down_bias"])

    def _logits(self, x: Tensor) -> Tensor:
        return F.linear(self._norm(x, "norm"), self.params["head"])

    def _norm(self, x: Tensor, name: str) -> Tensor:
        return F.layer_norm(x, x.shape[-1:], self.params[name])

    @property
    def width(self) -> int:
        """D."""
        return self.params["embed"].shape[1]

    @property
    def size(self) -> int:
        """The number of parameters."""
        return sum(p.numel() for p in self.params.values())

    @property
    def dtype(self) -> torch.dtype:
        """Number type of parameters and activations."""
        return self.params["embed"].dtype

    @property
    def device(self) -> torch.device:
        """Where the parameters are."""
        return self.params["embed"].device

    def at(self, params: Params) -> GPT:
        """The same network with other parameters."""
        return replace(self, params=params)


def log_prob(gpt: GPT, prompt: Tensor, tokens: Tensor) -> Tensor:
    """log π [n, T] in nats of every token of the responses, by one full forward pass; 0 after the end."""
    logits = gpt.forward(prompt, tokens[:, :-1].clamp(min=0))
    chosen = logits.log_softmax(-1).gather(2, tokens.clamp(min=0)[..., None])[..., 0]
    return torch.where(tokens >= 0, chosen, 0)


def branch(past: list[Past], new: list[Past]) -> list[Past]:
    """The pasts of the B tokens just tried, each a sequence of its own: [n·B, H, t+1, d]."""
    return [Past(_longer(p.key, n.key), _longer(p.value, n.value)) for p, n in zip(past, new, strict=True)]


def _longer(old: Tensor, new: Tensor) -> Tensor:
    """[n, H, t, d] and [n, H, B, d] → [n·B, H, t+1, d]."""
    n, heads, t, d = old.shape
    shared = old[:, None].expand(n, new.shape[2], heads, t, d)
    own = new.transpose(1, 2)[:, :, :, None].expand(n, -1, -1, -1, -1)
    return torch.cat([shared, own], 3).reshape(-1, heads, t + 1, d)


def make(
    vocab: int,
    horizon: int,
    prompts: int = 1,
    *,
    layers: int = 2,
    width: int = 64,
    heads: int = 4,
    seed: int = 0,
    dtype: str = "float64",
    device: str = "cpu",
) -> GPT:
    """A transformer with random weights of variance 1/fan-in, so that its logits differ by about 1 nat.

    Raises TpgError on sizes below 1, a width that the heads do not divide, an unknown dtype or a missing device.
    """
    sizes = {"vocab": vocab, "horizon": horizon, "prompts": prompts, "layers": layers, "width": width, "heads": heads}
    for name, size in sizes.items():
        if size < 1:
            raise TpgError(f"{name}={size} given: it must be at least 1")
    if width % heads:
        raise TpgError(f"width={width} and heads={heads} given: the width must be a multiple of the heads")
    kind, where = number_type(dtype), place(device)
    random = torch.Generator().manual_seed(seed)  # drawn on the CPU in float64: the same policy on every device

    def normal(*shape: int, scale: float = 1.0) -> Tensor:
        return (scale * torch.randn(*shape, generator=random, dtype=torch.float64)).to(where, kind)

    params = {"embed": normal(vocab + prompts, width), "position": normal(horizon, width)}
    for i in range(layers):
        params |= {
            f"{i}.norm1": normal(width, scale=0) + 1,
            f"{i}.qkv": normal(3 * width, width, scale=width**-0.5),
            f"{i}.out": normal(width, width, scale=width**-0.5),
            f"{i}.norm2": normal(width, scale=0) + 1,
            f"{i}.up": normal(4 * width, width, scale=width**-0.5),
            f"{i}.up_bias": normal(4 * width, scale=0),
            f"{i}.down": normal(width, 4 * width, scale=(4 * width) ** -0.5),
            f"{i}.down_bias": normal(width, scale=0),
        }
    params |= {"norm": normal(width, scale=0) + 1, "head": normal(vocab, width, scale=width**-0.5)}
    return GPT(vocab, horizon, prompts, layers, heads, params)


def nearby(gpt: GPT, distance: float, seed: int = 0) -> GPT:
    """A policy whose every parameter is off by ``distance`` times a standard normal number: stale, or a reference."""
    random = torch.Generator().manual_seed(seed)
    off = {n: torch.randn(p.shape, generator=random, dtype=torch.float64).to(p) for n, p in gpt.params.items()}
    return gpt.at({name: p.detach() + distance * off[name] for name, p in gpt.params.items()})


def number_type(dtype: str) -> torch.dtype:
    """The torch dtype of that name."""
    if dtype not in DTYPES:
        raise TpgError(f"dtype {dtype!r} given, needed {' or '.join(DTYPES)}")
    return DTYPES[dtype]


def place(device: str) -> torch.device:
    """The device of that name, if this machine has it."""
    found = ["cpu", *(f"cuda:{i}" for i in range(torch.cuda.device_count()))]
    if device not in (*found, *(name.removesuffix(":0") for name in found)):
        raise TpgError(f"device {device!r} given, this machine has {', '.join(found)}: choose one of them")
    return torch.device(device)


def flat(tensors: Params) -> Tensor:
    """All parameters, or their gradients, as one vector [D]."""
    return torch.cat([tensors[name].reshape(-1) for name in tensors])


def unflat(vector: Tensor, like: Params) -> Params:
    """A vector [D] as parameters shaped ``like`` those given."""
    pieces = torch.split(vector, [p.numel() for p in like.values()])
    return {name: piece.view(p.shape) for (name, p), piece in zip(like.items(), pieces, strict=True)}
