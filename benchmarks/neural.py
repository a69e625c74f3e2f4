"""The exact gradient of a transformer: against enumeration, with V and T, in chunks: ``python -m benchmarks.neural``.

``--device cuda`` measures a GPU instead, ``--threads N`` uses so many CPU threads, ``--out DIR`` writes elsewhere.
Either run replaces its own part of ``neural.json`` (the record) and writes ``neural.md`` anew from all of it.  Times
are medians of one run on one machine, beside their lowest and highest; a warm-up comes first, a device is waited for.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks.neural_page import page
from tpg.neural import exact, gpt
from tpg.neural.gpt import GPT
from tpg.neural.rewards import HashReward
from tpg.neural.subtrees import CHUNK
from tpg.neural.task import Task

SPEED = (8, 6)  # vocabulary and horizon of the target: 262,144 responses, 100,736 parameters
# responses at once, for the enumeration
TRIED = {"cpu": [1 << k for k in (6, 8, 10, 12)], "cuda": [1 << k for k in (12, 14, 16)]}
GROWTH = {
    "cpu": [(8, T) for T in range(2, 8)] + [(V, 4) for V in (2, 4, 16, 32)] + [(2, 12), (2, 16), (16, 5)],
    "cuda": [(8, T) for T in range(3, 9)] + [(32, T) for T in (3, 4, 5)] + [(64, 4), (2, 20)],
}
ENUMERATED = {"cpu": 1 << 15, "cuda": 1 << 21}  # responses, beyond SPEED's, that growth enumerates as well
CHUNKS = {"cpu": [1 << k for k in range(9, 16)], "cuda": [1 << k for k in (14, 16, 18, 20)]}
CHUNKED = {"cpu": SPEED, "cuda": (32, 5)}
LARGEST = (32, 6)  # 10⁹ responses, on a GPU
SQUARE = {"cpu": 2048, "cuda": 8192}
Json = dict[str, Any]


def sized(vocab: int, horizon: int, device: str, dtype: str = "float64") -> tuple[GPT, Task]:
    """Always two layers of width 64; the vocabulary enters embedding and head alone."""
    return gpt.make(vocab, horizon, device=device, dtype=dtype), Task(vocab, horizon, HashReward())


def seconds(work: Callable[[], Any], device: str) -> float:
    """Of one call, until the device is done."""
    _wait(device)
    start = time.perf_counter()
    work()
    _wait(device)
    return time.perf_counter() - start


def _wait(device: str) -> None:
    if device == "cuda":
        torch.cuda.synchronize()


def spread(found: list[float]) -> Json:
    return {"median": statistics.median(found), "low": min(found), "high": max(found), "repeats": len(found)}


def timed(work: Callable[[], Any], device: str) -> Json:
    """Five times after one to warm up, three times where that takes over a second."""
    return spread([seconds(work, device) for _ in range(3 if seconds(work, device) > 1 else 5)])


def by_tree(net: GPT, task: Task) -> tuple[float, Tensor]:
    found = exact.gradient(net, task)
    return found.objective, found.flat


def by_enumeration(net: GPT, task: Task, chunk: int, stop: int | None = None) -> tuple[float, Tensor]:
    """J = Σ P(w) RM(w) over every response through the whole network, differentiated: [D].  No end token."""
    leaf = net.at({name: p.detach().requires_grad_() for name, p in net.params.items()})
    total = 0.0
    for first in range(0, stop or task.responses, chunk):
        prompt, tokens = task.prefix(first, min(first + chunk, task.responses), task.horizon, net.device)
        logp = leaf.forward(prompt, tokens[:, :-1]).log_softmax(-1).gather(2, tokens[..., None])[..., 0].sum(1)
        part = logp.exp() @ task.rewards(prompt, tokens, net.dtype).sum(1)
        part.backward()
        total += float(part.detach())
    return total, gpt.flat({name: p.grad for name, p in leaf.params.items() if p.grad is not None})


def by_prefixes(net: GPT, task: Task, chunk: int) -> tuple[float, Tensor]:
    """The sketch: one weighted backward pass too, but every prefix is run again from its start.  Longest first."""
    leaf = net.at({name: p.detach().requires_grad_() for name, p in net.params.items()})
    below: Tensor | None = None
    for t in reversed(range(task.horizon)):
        size, values = task.vocab**t, []
        for first in range(0, size, chunk):
            prompt, tokens = task.prefix(first, min(first + chunk, size), t, net.device)
            logits = leaf.forward(prompt, tokens)
            probs = logits.detach().softmax(-1)
            q = task.next_rewards(prompt, tokens, net.dtype)
            q = q if below is None else q + below.view(size, -1)[first : first + chunk]
            values.append((probs[:, -1] * q).sum(1))
            reach = probs[:, :-1].gather(2, tokens[..., None])[..., 0].prod(1)
            torch.autograd.backward(logits[:, -1], reach[:, None] * probs[:, -1] * (q - values[-1][:, None]))
        below = torch.cat(values)
    assert below is not None
    return float(below), gpt.flat({name: p.grad for name, p in leaf.params.items() if p.grad is not None})


def fastest_chunk(net: GPT, task: Task, device: str) -> int:
    """For the enumeration, on a part of the responses."""
    part = min(task.responses, 4 * TRIED[device][-1])
    each = {c: timed(partial(by_enumeration, net, task, c, part), device)["median"] for c in TRIED[device]}
    return min(each, key=lambda c: each[c])


def side_by_side(device: str) -> Json:
    """Exact, sketch and enumeration in turns, so that all meet the same machine."""
    net, task = sized(*SPEED, device)
    best = fastest_chunk(net, task, device)
    works: dict[str, Callable[[], tuple[float, Tensor]]] = {
        "exact": partial(by_tree, net, task),
        "sketch": partial(by_prefixes, net, task, best),
        "enumeration": partial(by_enumeration, net, task, best),
    }
    answers = {name: work() for name, work in works.items()}  # warm
    turns = [{name: seconds(work, device) for name, work in works.items()} for _ in range(3)]
    told("side by side: " + ", ".join(f"{name} {turns[0][name]:.2f} s" for name in works))
    j, g = answers["exact"]
    off = {name: float((g - other).norm() / g.norm()) for name, (_, other) in answers.items()}
    return {
        **about(net, task),
        "enumeration_chunk": best,
        "seconds": {name: spread([turn[name] for turn in turns]) for name in works},
        "relative_difference": off,
        "objective_difference": max(abs(j - other) for other, _ in answers.values()),
    }


def about(net: GPT, task: Task) -> Json:
    sizes = {"vocab": task.vocab, "horizon": task.horizon, "parameters": net.size, "prefixes": task.prefixes}
    dtype = str(net.dtype).removeprefix("torch.")
    return {**sizes, "responses": task.responses, "operations": exact.operations(net, task), "dtype": dtype}


def case(vocab: int, horizon: int, device: str, dtype: str, chunk: int | None, threads: int) -> Json:
    """One exact gradient: seconds, prefixes held, peak bytes beyond what the network and the interpreter hold."""
    torch.set_num_threads(threads)
    exact.gradient(*sized(2, 2, device, dtype))  # libraries, buffers
    net, task = sized(vocab, horizon, device, dtype)
    before = _memory(device, "VmRSS")
    found: list[exact.Exact] = []
    spent = timed(lambda: found.append(exact.gradient(net, task, chunk)), device)
    peak = _memory(device, "VmHWM") - before
    planned = exact.footprint(net, found[0].largest, task)
    return {**about(net, task), "seconds": spent, "largest": found[0].largest, "peak": peak, "planned": planned}


def _memory(device: str, what: str) -> int:
    """Bytes; the kernel's own high-water mark of this process (``ru_maxrss`` would count its parent's as well)."""
    if device == "cuda":
        return torch.cuda.max_memory_allocated() if what == "VmHWM" else torch.cuda.memory_allocated()
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith(what))


def measured(vocab: int, horizon: int, device: str, dtype: str = "float64", chunk: int | None = None) -> Json:
    """A :func:`case` in a process of its own, so that no other case has touched its memory."""
    given = json.dumps([vocab, horizon, device, dtype, chunk, torch.get_num_threads()])
    command = [sys.executable, "-m", "benchmarks.neural", "--case", given]
    printed = subprocess.run(command, stdout=subprocess.PIPE, check=True, cwd=Path(__file__).parents[1])
    found: Json = json.loads(printed.stdout)
    median, held = found["seconds"]["median"], found["largest"]
    told(f"V={vocab} T={horizon} {dtype} {held} prefixes at once: {median:.3g} s, {found['peak'] / 2**20:.0f} MiB")
    return found


def growth(device: str) -> list[Json]:
    """With V and T; enumerated as well where few enough responses."""
    out = []
    for vocab, horizon in GROWTH[device]:
        row = measured(vocab, horizon, device)
        if row["responses"] <= ENUMERATED[device]:
            net, task = sized(vocab, horizon, device)
            best = fastest_chunk(net, task, device)
            row["enumeration"] = timed(partial(by_enumeration, net, task, best), device)
        out.append(row)
    return out


def throughput(device: str) -> Json:
    """GFLOP/s of matrix products in float64: a large square, and the widest that the network makes."""
    n, out = SQUARE[device], {}
    for name, (a, b, c) in {"square": (n, n, n), "layer": (CHUNK[device], 64, 256)}.items():
        left, right = (torch.randn(*shape, dtype=torch.float64, device=device) for shape in ((a, b), (b, c)))
        many = max(1, int(4e10 / (2 * a * b * c)))
        spent = timed(partial(_products, left, right, many), device)["median"]
        out[name] = {"shape": [a, b, c], "gflops": 2e-9 * a * b * c * many / spent}
    return out


def _products(left: Tensor, right: Tensor, many: int) -> None:
    for _ in range(many):
        torch.mm(left, right)


def machine(device: str) -> Json:
    out: Json = {"device": device, "torch": torch.__version__, "threads": torch.get_num_threads()}
    out["cores"] = len(os.sched_getaffinity(0))
    if device == "cuda":
        out["name"] = torch.cuda.get_device_name()
        out["bytes"] = torch.cuda.get_device_properties(0).total_memory
    return out


def record(device: str) -> Json:
    """Everything that a device is measured on."""
    chunks = [measured(*CHUNKED[device], device, d, c) for d, c in product(gpt.DTYPES, CHUNKS[device])]
    out = {"machine": machine(device), "growth": growth(device), "chunks": chunks}
    if device == "cuda":
        out["largest"] = [measured(*LARGEST, device, d) for d in gpt.DTYPES]
    return {**out, "throughput": throughput(device), "speed": side_by_side(device)}


def told(what: str) -> None:
    """Progress, on stderr."""
    sys.stderr.write(what + "\n")


def main() -> None:
    """Measure one device; keep what is recorded of the other."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--out", type=Path, default=Path(__file__).parent)
    parser.add_argument("--case", type=json.loads, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.case:
        sys.stdout.write(json.dumps(case(*given.case)))
        return
    gpt.place(given.device)
    torch.set_num_threads(given.threads)
    kept = Path(__file__).with_suffix(".json")
    known = json.loads(kept.read_text(encoding="utf-8")) if kept.exists() else {}
    known[given.device] = record(given.device)
    text = page(known)
    given.out.mkdir(parents=True, exist_ok=True)
    (given.out / "neural.json").write_text(json.dumps(known, indent=1) + "\n", encoding="utf-8")
    (given.out / "neural.md").write_text(text, encoding="utf-8")
    sys.stdout.write(text)


if __name__ == "__main__":
    main()
