"""What one update of each method costs on a transformer, measured: memory by its parts, and generated tokens.

Nothing is typed: a row of the table says by what it reads which networks an update needs (``value``: a critic to train;
``ref_…``: a frozen reference; ``greedy_reward``: a greedy response; continuation fields: K fresh responses from every
prefix whose value moves the credits).  Then one real update is made, and what it holds is weighed.

What is counted is what autograd, Adam and the cache of keys and values hold, each storage once; no working memory of
single operations.  Whole groups go through at once, without recomputing activations: both would shrink the same part.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.autograd.graph import saved_tensors_hooks

from tpg.errors import EstimatorError, TpgError
from tpg.estimators import anchors
from tpg.estimators.estimator import Estimator
from tpg.estimators.table import ESTIMATORS
from tpg.moments.noise import fields_of, slopes
from tpg.montecarlo.streams import stream
from tpg.neural.critic import make_critic, regression
from tpg.neural.generate import generate
from tpg.neural.gpt import GPT, branch, log_prob
from tpg.neural.task import Task
from tpg.numbers import Array, to_float
from tpg.problem.tree import inverse_cdf
from tpg.rollouts import FIELDS, Rollouts

REFERENCE = frozenset({"ref_prob", "ref_logp", "sequence_ref_logp"})
COMPARED = ("trained", "networks", "parameters", "gradients", "optimiser", "activations", "training", "peak", "tokens")


@dataclass(frozen=True)
class Cost:
    """One update of ``row``: memory in bytes, generated tokens.

    ``trained``: networks that learn; ``networks``: those and the frozen ones.  ``parameters`` of all; ``gradients`` and
    ``optimiser`` (Adam) of those that learn.  ``activations``: what autograd keeps of one joint forward pass;
    ``one_network``: of the larger network alone, if they are updated in turn.  ``cache``: keys and values of the
    responses at the end of generation; ``continuation_cache`` of the continuations generated at once, ``at_once`` of
    them.  ``device_peak``: what the device had allocated at most, beyond what was there before; None on a CPU.
    """

    row: str
    responses: int
    horizon: int
    trained: int
    networks: int
    parameters: int
    gradients: int
    optimiser: int
    activations: int
    one_network: int
    cache: int
    continuation_cache: int
    at_once: int
    response_tokens: int
    greedy_tokens: int
    continuations: int
    continuation_tokens: int
    device: str
    dtype: str
    device_peak: int | None

    @property
    def tokens(self) -> int:
        """Generated tokens of the update."""
        return self.response_tokens + self.greedy_tokens + self.continuation_tokens

    @property
    def resident(self) -> int:
        """Bytes that stay from one update to the next: parameters and optimiser state."""
        return self.parameters + self.optimiser

    @property
    def training(self) -> int:
        """Bytes at the end of the forward pass, gradients included."""
        return self.resident + self.gradients + self.activations

    @property
    def generating(self) -> int:
        """Bytes while responses or continuations are generated, whichever are more."""
        return self.resident + max(self.cache, self.continuation_cache)

    @property
    def peak(self) -> int:
        """The larger of the two phases."""
        return max(self.training, self.generating)

    def to_json(self) -> dict[str, Any]:
        """Every field and every sum of them."""
        sums = ("tokens", "resident", "training", "generating", "peak")
        return {**asdict(self), **{name: getattr(self, name) for name in sums}}


@dataclass(frozen=True)
class Verdict:
    """A published wording on measured costs: ``ratios`` of a method over another, and whether the wording ``holds``."""

    ratios: dict[str, float]
    holds: bool


def matches_memory(method: Cost, other: Cost) -> Verdict:
    """The same memory: no more at the peak, and exactly as much of every part that training holds."""
    found = _ratios(method, other)
    parts = ("parameters", "gradients", "optimiser", "activations")
    return Verdict(found, found["peak"] <= 1 and all(found[part] == 1 for part in parts))


def simpler(method: Cost, other: Cost) -> Verdict:
    """Simpler: fewer networks learn, with fewer parameters, gradients and less optimiser state; tokens do not enter."""
    found = _ratios(method, other)
    return Verdict(found, all(found[part] < 1 for part in ("trained", "parameters", "gradients", "optimiser")))


def room(cost: Cost) -> float:
    """Sequences per response whose keys and values fit where gradients and activations of the update will be."""
    return (cost.gradients + cost.activations) / cost.cache


def _ratios(method: Cost, other: Cost) -> dict[str, float]:
    found = {name: getattr(method, name) / getattr(other, name) for name in COMPARED}
    if method.device_peak is not None and other.device_peak is not None:
        found["device_peak"] = method.device_peak / other.device_peak
    return found


@dataclass(frozen=True)
class Drawn:
    """Responses of one update: ``prompt`` [n], ``tokens`` [n, T] (−1 after the end), the Rollouts ``fields`` made with
    them; generated tokens by response; ``sequences`` continuations, ``at_once`` of them; bytes of the two caches."""

    prompt: Tensor
    tokens: Tensor
    fields: dict[str, Array]
    response_tokens: Array  # [n]
    continuation_tokens: Array  # [n]
    greedy_tokens: int
    sequences: int
    cache: int
    continuation_cache: int = 0
    at_once: int = 0


def methods(continuations: int, places: int) -> dict[str, Estimator]:
    """The methods that the paper compares, ``continuations`` K per value, TRePO with ``places`` random anchors."""
    law = partial(anchors.subset, size=places)
    names = {
        "REINFORCE": "reinforce",
        "RLOO": "rloo",
        "ReMax": "remax",
        "GRPO": "grpo",
        "GRPO, reference": "grpo_kl",
        "PPO": "ppo",
        "PPO, reference": "ppo_kl",
        "TRePO, blocks": "trepo_block",
        "TRePO, advantages": "trepo_adv_interp",
        "VinePPO, steps": "vineppo",
        "VinePPO, every token": "exact_advantage",
    }
    out = {label: ESTIMATORS[name] for label, name in names.items()}
    drawn = {label: replace(row, continuations=continuations) for label, row in out.items() if fields_of(row)}
    return {**out, **{n: replace(row, anchors=law if row.anchors else None) for n, row in drawn.items()}}


def measure(
    row: Estimator, policy: GPT, task: Task, group_size: int, *, batch: int | None = None, seed: int = 0
) -> Cost:
    """One update with ``group_size`` responses to every prompt; a critic is as large as the policy.

    Continuations are generated ``batch`` sequences at once (None: all).  The policy given stays as it is.
    Raises EstimatorError for a row that reads exact values or draws groups again, TpgError on a batch below 1.
    """
    before = _begin(policy.device)
    learner = _copy(policy, True)
    trained = {"policy": learner}
    if "value" in row.needs:
        sizes = {"layers": policy.layers, "width": policy.width, "heads": policy.heads}
        trained["critic"] = _copy(make_critic(policy, **sizes, seed=seed), True)
    frozen = {"reference": _copy(policy, False)} if row.needs & REFERENCE else {}
    owned = [p for network in trained.values() for p in network.params.values()]
    adam = _adam(owned)
    drawn = draw(row, learner, task, group_size, batch=batch, seed=seed)
    credits = _credits(row, task, group_size, drawn, {**trained, **frozen})
    held = {name: _held(partial(_loss, name, net, task, drawn, credits), net) for name, net in trained.items()}
    sum(loss for loss, _ in held.values()).backward()  # type: ignore[union-attr]
    gradients = sum(p.grad.nbytes for p in owned if p.grad is not None)
    adam.step()
    peak = torch.cuda.max_memory_allocated(policy.device) - before if policy.device.type == "cuda" else None
    return Cost(
        row=row.name,
        responses=len(drawn.prompt),
        horizon=task.horizon,
        trained=len(trained),
        networks=len(trained) + len(frozen),
        parameters=sum(p.nbytes for network in [*trained.values(), *frozen.values()] for p in network.params.values()),
        gradients=gradients,
        optimiser=sum(x.nbytes for state in adam.state.values() for x in state.values()),
        activations=sum(saved for _, saved in held.values()),
        one_network=max(saved for _, saved in held.values()),
        cache=drawn.cache,
        continuation_cache=drawn.continuation_cache,
        at_once=drawn.at_once,
        response_tokens=int(drawn.response_tokens.sum()),
        greedy_tokens=drawn.greedy_tokens,
        continuations=drawn.sequences,
        continuation_tokens=int(drawn.continuation_tokens.sum()),
        device=policy.device.type,
        dtype=str(policy.dtype).removeprefix("torch."),
        device_peak=peak,
    )


def draw(row: Estimator, policy: GPT, task: Task, group_size: int, *, batch: int | None = None, seed: int = 0) -> Drawn:
    """Generate what ``row`` reads: responses, greedy ones, continuations; token by token, and counted."""
    if batch is not None and batch < 1:
        raise TpgError(f"batch={batch} given: it must be at least 1 continuation at once")
    if row.keep is not None:
        raise EstimatorError(
            f"{row.name} draws groups again until it keeps one: an update has no one cost, take another"
        )
    prompt = torch.arange(task.prompts, device=policy.device).repeat_interleave(group_size)
    tokens, cache = respond(policy, task, prompt, _uniform(policy, len(prompt), task, seed, "responses"))
    length = (tokens >= 0).sum(1).cpu().numpy()
    fields = {"reward": _numpy(task.total(prompt, tokens, policy.dtype))}
    if row.anchors is not None:
        patterns, chance = row.anchors(task.horizon)
        rng = stream(seed, "neural cost", "anchors")
        fields["anchor"] = patterns[inverse_cdf(rng.random)(to_float(chance).T[length])[1]]
    greedy_tokens = 0
    if "greedy_reward" in row.needs:
        each = torch.arange(task.prompts, device=policy.device)
        best = generate(policy, task, each, greedy=True).tokens
        fields["greedy_reward"] = _numpy(task.total(each, best, policy.dtype))[:, None]
        greedy_tokens = int((best >= 0).sum())
    found = Drawn(prompt, tokens, fields, length, 0 * length, greedy_tokens, 0, cache)
    for field in fields_of(row):
        found = _continue(row, policy, task, found, field, batch, seed)
    return found


@torch.no_grad()
def respond(
    policy: GPT, task: Task, prompt: Tensor, uniform: Tensor, given: Tensor | None = None
) -> tuple[Tensor, int]:
    """Responses [n, T] (−1 after the end) to prompts [n], and the bytes of keys and values held at last.

    ``uniform`` [n, T] in [0, 1) chooses by cumulative probability; ``given`` [n, T]: tokens to start with, −1 where the
    policy goes on.  Unlike in ``generate`` nothing is shared, as among the responses of a large vocabulary, and a
    sequence keeps its place until all have ended.
    """
    logits, past = policy.start(prompt)
    out, ended = torch.full_like(uniform, -1, dtype=torch.long), torch.zeros_like(prompt, dtype=torch.bool)
    for t in range(task.horizon):
        total = logits.double().softmax(-1).cumsum(-1)
        token = (total <= (uniform[:, t] * total[:, -1])[:, None]).sum(-1).clamp(max=task.vocab - 1)
        token = token if given is None else torch.where(given[:, t] >= 0, given[:, t], token)
        out[:, t] = torch.where(ended, -1, token)
        ended = ended if task.end_token is None else ended | (token == task.end_token)
        if t == task.horizon - 1 or bool(ended.all()):
            break
        after, new = policy.extend(past, token[:, None])
        logits, past = after[:, 0], branch(past, new)
    return out, sum(x.untyped_storage().nbytes() for layer in past for x in layer)


def values_read(row: Estimator, field: str, tokens: Array, anchor: Array | None = None) -> Array:
    """[n, T] bool: after how many tokens t < L of each response the value M_t moves the credits of ``row``."""
    mask = tokens >= 0
    zero = np.zeros((len(tokens), 1, tokens.shape[1] + 1))
    given: dict[str, Any] = dict.fromkeys(fields_of(row), zero)
    given |= {} if anchor is None else {"anchor": anchor[:, None]}
    alone = Rollouts(
        1, tokens.shape[1], 1.0, tokens=tokens[:, None], mask=mask[:, None], length=mask.sum(1)[:, None], **given
    )
    out = np.zeros(zero.shape, dtype=bool)
    for found in slopes(row.name, row, alone, fields_of(row)):
        if found.field == field:
            out[(slice(None), *found.place)] = (found.slope != 0).any((1, 2))
    return np.asarray(out[:, 0, :-1] & mask)


def _continue(row: Estimator, policy: GPT, task: Task, drawn: Drawn, field: str, batch: int | None, seed: int) -> Drawn:
    """With the means of K fresh responses from every prefix whose value the row reads."""
    if row.continuations is None:
        raise EstimatorError(f"{row.name} reads exact values, which no update has: give it continuations=K")
    tokens, count = drawn.tokens.cpu().numpy(), row.continuations
    response, t = np.nonzero(values_read(row, field, tokens, drawn.fields.get("anchor")))
    who, start = response.repeat(count), t.repeat(count)
    uniform = _uniform(policy, len(who), task, seed, field)
    rewards, generated, cache = [np.zeros(0)], [np.zeros(0, dtype=int)], 0
    size = batch or max(1, len(who))
    for first in range(0, len(who), size):
        mine, begin = (torch.as_tensor(x[first : first + size], device=policy.device) for x in (who, start))
        place = torch.arange(task.horizon, device=policy.device)
        prefix = torch.where(place < begin[:, None], drawn.tokens[mine], -1)
        found, held = respond(policy, task, drawn.prompt[mine], uniform[first : first + size], prefix)
        rewards.append(_numpy(task.total(drawn.prompt[mine], found, policy.dtype)))
        generated.append(((found >= 0) & (prefix < 0)).sum(1).cpu().numpy())
        cache = max(cache, held)
    value = np.repeat(drawn.fields["reward"][:, None], task.horizon + 1, 1)
    value[response, t] = np.concatenate(rewards).reshape(-1, count).mean(1)
    extra = drawn.continuation_tokens + np.bincount(who, np.concatenate(generated), len(tokens)).astype(int)
    return replace(
        drawn,
        fields={**drawn.fields, field: value},
        continuation_tokens=extra,
        sequences=drawn.sequences + len(who),
        continuation_cache=max(drawn.continuation_cache, cache),
        at_once=max(drawn.at_once, min(size, len(who))),
    )


def _credits(row: Estimator, task: Task, group_size: int, drawn: Drawn, networks: dict[str, GPT]) -> Tensor:
    """[n, T] the row's own credits of these responses, on the first step (μ = π)."""
    with torch.no_grad():
        logp = _numpy(log_prob(networks["policy"], drawn.prompt, drawn.tokens))
        mask = drawn.tokens.cpu().numpy() >= 0
        one = np.ones(mask.shape)
        fields = {**drawn.fields, "mask": mask, "length": mask.sum(1), "tokens": drawn.tokens.cpu().numpy()}
        fields |= {"logp": logp, "old_logp": logp, "prob": np.exp(logp), "old_prob": np.exp(logp), "ratio": one}
        if "reference" in networks:
            other = _numpy(log_prob(networks["reference"], drawn.prompt, drawn.tokens))
            fields |= {"ref_logp": other, "ref_prob": np.exp(other)}
        if "critic" in networks:
            guess = _numpy(networks["critic"].forward(drawn.prompt, drawn.tokens[:, :-1].clamp(min=0))[..., 0])
            fields["value"] = np.pad(np.where(mask, guess, 0), ((0, 0), (0, 1)))
    groups = {
        name: fields[name] if name == "greedy_reward" else fields[name].reshape(-1, group_size, *fields[name].shape[1:])
        for name in row.needs & fields.keys() & set(FIELDS)
    }
    found = row(Rollouts(group_size, task.horizon, task.discount, **groups))
    weighted = to_float(found) * np.array(task.weights)[:, None, None]
    return torch.as_tensor(weighted.reshape(len(mask), -1)).to(drawn.tokens.device, networks["policy"].dtype)


def _loss(name: str, network: GPT, task: Task, drawn: Drawn, credits: Tensor) -> Tensor:
    """−Σ credits · log π, or the critic's regression."""
    if name == "critic":
        return regression(network, task, drawn.prompt, drawn.tokens)
    return -(credits * log_prob(network, drawn.prompt, drawn.tokens)).sum()


def _held(loss: Callable[[], Tensor], network: GPT) -> tuple[Tensor, int]:
    """The loss, and the bytes that autograd keeps for its backward pass: storages once, without the parameters."""
    owned = {p.untyped_storage().data_ptr() for p in network.params.values()}
    kept: dict[int, int] = {}

    def pack(x: Tensor) -> Tensor:
        kept[x.untyped_storage().data_ptr()] = x.untyped_storage().nbytes()
        return x

    with saved_tensors_hooks(pack, lambda x: x):
        found = loss()
    return found, sum(size for where, size in kept.items() if where not in owned)


def _copy(network: GPT, learns: bool) -> GPT:
    return network.at({name: p.detach().clone().requires_grad_(learns) for name, p in network.params.items()})


def _adam(parameters: list[Tensor]) -> torch.optim.Adam:
    """Adam as it is before any update but the first: its state is there.  A step along 0 moves nothing."""
    adam = torch.optim.Adam(parameters)
    for p in parameters:
        p.grad = torch.zeros_like(p)
    adam.step()
    adam.zero_grad()
    return adam


def _begin(device: torch.device) -> int:
    """Start counting the peak of a GPU; the bytes it holds already."""
    if device.type != "cuda":
        return 0
    torch.cuda.reset_peak_memory_stats(device)
    return int(torch.cuda.memory_allocated(device))


def _uniform(policy: GPT, count: int, task: Task, seed: int, what: str) -> Tensor:
    return torch.as_tensor(stream(seed, "neural cost", what).random((count, task.horizon)), device=policy.device)


def _numpy(values: Tensor) -> Array:
    return values.detach().double().cpu().numpy()
