"""Monte Carlo gradients of a transformer from credits: one surrogate for every estimator.

Σ_b Σ_x weight(x) Σ_i Σ_t credit · log π(w_t | …) / batches has the Monte Carlo gradient ĝ as its gradient.  ĝ_b of
single batches: along directions by forward mode, or in full by one gradient per sample.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor
from torch.func import grad, jvp, vmap

from tpg.errors import TooLarge, TpgError
from tpg.neural.gpt import GPT, Params, log_prob, unflat
from tpg.neural.problem import Trace
from tpg.neural.sample import Draws

ROWS = {"cpu": 1 << 12, "cuda": 1 << 17}  # responses per forward pass
HELD = 1 << 22  # numbers in the gradients that are computed at once
MAX_GRADIENTS = 1e8  # numbers in the gradients of single batches


def surrogate(gpt: GPT, draws: Draws, credits: Tensor) -> Tensor:
    """Σ_b Σ_x weight(x) Σ_i Σ_t credit · log π_θ(w_t | …) / batches, to be ascended; credits are constants."""
    return torch.stack(list(_parts(gpt, draws, credits))).sum()


def gradient(gpt: GPT, draws: Draws, credits: Tensor) -> Params:
    """ĝ, the mean over batches: the gradient of :func:`surrogate`, by backward passes over some responses each."""
    leaf = gpt.at({name: p.detach().requires_grad_() for name, p in gpt.params.items()})
    for part in _parts(leaf, draws, credits):
        part.backward()  # type: ignore[no-untyped-call]
    return {name: torch.zeros_like(p) if p.grad is None else p.grad for name, p in leaf.params.items()}


def _parts(gpt: GPT, draws: Draws, credits: Tensor) -> Iterator[Tensor]:
    """The surrogate in pieces of bounded size."""
    factor, size = _factor(draws, credits) / draws.batches, ROWS[gpt.device.type]
    for start in range(0, len(factor), size):
        here = slice(start, start + size)
        yield (factor[here] * log_prob(gpt, draws.prompt[here], draws.tokens[here])).sum()


def _factor(draws: Draws, credits: Tensor) -> Tensor:
    """[n, T] weight(x) · credit."""
    if credits.shape != draws.tokens.shape:
        raise TpgError(f"credits {tuple(credits.shape)} given, the responses are {tuple(draws.tokens.shape)}: one each")
    return draws.weight[:, None] * credits.detach()


def slopes(gpt: GPT, prompt: Tensor, tokens: Tensor, along: Tensor) -> Tensor:
    """⟨∇log π(w_t | …), v_i⟩ [n, T, m] of the responses for the directions ``along`` [m, D], by forward mode."""
    if along.ndim != 2 or along.shape[1] != gpt.size:
        raise TpgError(f"directions {tuple(along.shape)} given, needed [m, {gpt.size}]: one number per parameter")
    tangents = {n: torch.stack([unflat(v, gpt.params)[n] for v in along]) for n in gpt.params}
    step, out = max(1, ROWS[gpt.device.type] // (1 + len(along) // 2)), []
    for start in range(0, len(prompt), step):
        some = prompt[start : start + step], tokens[start : start + step]

        def along_one(v: Params, some: tuple[Tensor, Tensor] = some) -> Tensor:
            found: Tensor = jvp(lambda p: log_prob(gpt.at(p), *some), (gpt.params,), (v,))[1]
            return found

        with torch.no_grad():
            out.append(vmap(along_one, out_dims=2)(tangents))
    return torch.cat(out)


def shadows(gpt: GPT, draws: Draws, credits: Tensor, along: Tensor) -> Tensor:
    """⟨ĝ_b, v_i⟩ [batches, m] of every batch.  A response that was drawn more than once is looked at once."""
    factor, words = _factor(draws, credits), torch.cat([draws.prompt[:, None], draws.tokens], 1)
    kinds, which = torch.unique(words, dim=0, return_inverse=True)
    found = slopes(gpt, kinds[:, 0], kinds[:, 1:], along)
    each = torch.einsum("nt,ntm->nm", factor, found[which])
    return each.view(draws.batches, -1, len(along)).sum(1)


def estimates(gpt: GPT, draws: Draws, credits: Tensor) -> Tensor:
    """ĝ_b [batches, D] of every batch in full: one gradient per sample.  TooLarge when they do not fit."""
    TooLarge.check("gradients of every batch", float(draws.batches) * gpt.size, MAX_GRADIENTS, "take shadows")
    factor, rows = _factor(draws, credits), (draws.batches, -1)

    def value(params: Params, prompt: Tensor, tokens: Tensor, factor: Tensor) -> Tensor:
        return (factor * log_prob(gpt.at(params), prompt, tokens)).sum()

    params = {name: p.detach() for name, p in gpt.params.items()}
    batched = (
        draws.prompt.view(*rows),
        draws.tokens.view(*rows, draws.task.horizon),
        factor.view(*rows, factor.shape[1]),
    )
    found: Params = vmap(grad(value), (None, 0, 0, 0), chunk_size=max(1, HELD // gpt.size))(params, *batched)
    return torch.cat([x.flatten(1) for x in found.values()], 1)


def total_variance(gpt: GPT, draws: Draws, credits: Tensor) -> Trace:
    """tr Cov ĝ of one batch, without bias, from :func:`estimates`; in rewards²."""
    if draws.batches < 2:
        raise TpgError(f"batches={draws.batches} given: a variance needs at least 2")
    each = estimates(gpt, draws, credits)
    square = ((each - each.mean(0)) ** 2).sum(1) * draws.batches / (draws.batches - 1)
    return Trace(float(square.mean()), float(square.std() / draws.batches**0.5))
