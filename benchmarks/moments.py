"""Exact moments against a copy of the tables, brute force and sampling: ``python -m benchmarks.moments``.

Writes ``benchmarks/moments.md``.  Times are medians of one run on one machine; only their ratios mean anything.
"""

from __future__ import annotations

import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from scipy.stats import binom

from tpg import truth
from tpg.estimators.table import ESTIMATORS
from tpg.moments import Moments, brute_force, collapse
from tpg.montecarlo.streams import stream
from tpg.problem import zoo
from tpg.problem.problem import Problem
from tpg.rollouts import draw

GRPO = ESTIMATORS["grpo"]
TARGET = 1e-3  # relative error the sampler is asked for
REPEATS = 5


def timed(work: Callable[[], Any], repeats: int = REPEATS) -> float:
    """Median seconds of ``work``, after one call to warm up."""
    work()
    spent = []
    for _ in range(repeats):
        start = time.perf_counter()
        work()
        spent.append(time.perf_counter() - start)
    return statistics.median(spent)


def sketch(probs: np.ndarray, rewards: np.ndarray, level: np.ndarray, size: int) -> float:
    """tr Cov ĝ alone, as one would write it down: whole levels, two classes, no blocks.  An independent second opinion.

    q = P(R=1 | s), square = E[‖Z‖² 1_{R=1} | s], whole = E[‖Z‖² | s], norm = ‖m_1‖² from s on.
    """
    vocab, (q, square, whole, norm) = probs.shape[1], (np.zeros((0, 1)),) * 4
    for t in reversed(range(len(level) - 1)):
        p, last = probs[level[t] : level[t + 1]], t == len(level) - 2
        below = [np.zeros(1)] * 4 if last else [x.reshape(-1, vocab) for x in (q, square, whole, norm)]
        after = (rewards[level[t] : level[t + 1]] == 1).astype(float) if last else below[0]
        score = 1 - 2 * p + (p * p).sum(1, keepdims=True)
        q = (p * after).sum(1)
        square, whole = (p * (after * score + below[1])).sum(1), (p * (score + below[2])).sum(1)
        norm = (p * p * ((after - q[:, None]) ** 2 + below[3])).sum(1)
    return _two_valued(float(q[0]), float(square[0]), float(whole[0]), float(norm[0]), size) / (len(level) - 1) ** 2


def _two_valued(q: float, square: float, whole: float, norm: float, size: int) -> float:
    """Binomial sums over the number of successes; m_0 = −m_1."""
    k = np.arange(size + 1)
    chance, spread = binom.pmf(k, size, q), np.sqrt(k * (size - k) / size / (size - 1)) + 1e-6
    won, lost = (1 - k / size) / spread, -k / size / spread
    first = (chance * k * won).sum() / q - (chance * (size - k) * lost).sum() / (1 - q)
    own = (chance * k * won**2).sum() / q * square + (chance * (size - k) * lost**2).sum() / (1 - q) * (whole - square)
    pairs = (chance * k * (k - 1) * won**2).sum() / q**2
    pairs += (chance * (size - k) * (size - k - 1) * lost**2).sum() / (1 - q) ** 2
    pairs -= 2 * (chance * k * (size - k) * won * lost).sum() / q / (1 - q)
    return float(own + (pairs - first**2) * norm) / size**2


def first_run() -> list[float]:
    """In a process of its own: seconds of one copy and of one run of the engine, and the peak memory in GB."""
    problem = zoo.large(horizon=12)
    collapse(zoo.large(horizon=3), GRPO, 4)  # imports
    start = time.perf_counter()
    copied = problem.probs.copy(order="K")
    copy = time.perf_counter() - start
    start = time.perf_counter()
    collapse(problem, GRPO, 64)
    spent = time.perf_counter() - start
    del copied
    return [copy, spent, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20]


def against_copy() -> list[str]:
    """A copy into memory never used before can cost twenty times more, so a plain sketch is the steadier unit."""
    printed = subprocess.run([sys.executable, "-m", "benchmarks.moments", "--first"], capture_output=True, check=True)
    first, once, peak = map(float, printed.stdout.split())
    problem = zoo.large(horizon=12)
    probs, rewards = np.ascontiguousarray(problem.probs), np.ascontiguousarray(problem.rewards)
    exact, opinion = float(collapse(problem, GRPO, 64).total_variance), sketch(probs, rewards, problem.tree.level, 64)
    copy = timed(lambda: probs.copy())
    plain = timed(lambda: sketch(probs, rewards, problem.tree.level, 64), 3)
    engine = timed(lambda: collapse(problem, GRPO, 64), 3)
    return [
        f"| first estimator on a problem: copy {first:.3f} s, engine {once:.2f} s | {once / first:.1f} × the copy |",
        f"| next estimators on it: copy {copy:.3f} s, engine {engine:.2f} s | {engine / copy:.1f} × the copy |",
        f"| plain NumPy sketch, variance alone, {plain:.2f} s | {plain / copy:.1f} × the copy |",
        f"| engine, mean and variance, against that sketch | {plain / engine:.1f} × faster |",
        f"| relative difference of their total variances | {abs(opinion / exact - 1):.0e} |",
        f"| peak memory of the engine, tables included | {peak:.2f} GB |",
    ]


def in_group_size() -> list[str]:
    """G = 512 against G = 8 on the same tree."""
    problem = zoo.large(horizon=10)
    small, big = (timed(partial(collapse, problem, GRPO, size)) for size in (8, 512))
    return [f"| G = 512 against G = 8, 4¹⁰ responses | {big / small:.2f} × |"]


def in_responses() -> list[str]:
    """Time per response on three trees."""
    trees = {T: zoo.large(horizon=T) for T in (8, 10, 12)}
    spent = {T: timed(partial(collapse, tree, GRPO, 64), 3) / 4**T for T, tree in trees.items()}
    per = ", ".join(f"4^{T}: {1e9 * seconds:.0f} ns" for T, seconds in spent.items())
    return [f"| time per response, {per} | {spent[12] / spent[8]:.2f} × from 4⁸ to 4¹² |"]


def against_brute_force() -> list[str]:
    """All 16⁴ groups, one by one."""
    problem = zoo.large(vocab=2, horizon=4)
    slow = timed(lambda: brute_force(problem, GRPO, 4), 3)
    fast = timed(lambda: collapse(problem, GRPO, 4))
    return [f"| brute force, 16⁴ groups: {slow:.2f} s against {1e3 * fast:.1f} ms | {slow / fast:.0f} × faster |"]


def against_sampling() -> list[str]:
    """The sampler's time to know tr Cov ĝ to a relative error of 10⁻³, from its measured spread."""
    problem, batches = zoo.large(horizon=8), 64
    exact = collapse(problem, GRPO, 64)
    fast = timed(lambda: collapse(problem, GRPO, 64))
    singles = iter(range(10**6))
    deviations = [x for _ in range(8) for x in squared_deviations(problem, exact, batches, next(singles))]
    slow = timed(lambda: squared_deviations(problem, exact, batches, next(singles))) / batches
    needed = statistics.variance(deviations) / (TARGET * float(exact.total_variance)) ** 2
    return [
        f"| own sampler to 10⁻³: {needed:.2g} groups at {1e3 * slow:.2f} ms against {1e3 * fast:.0f} ms | "
        f"{needed * slow / fast:.0f} × faster |"
    ]


def squared_deviations(problem: Problem, exact: Moments, batches: int, index: int) -> list[float]:
    """‖ĝ − E ĝ‖² of sampled groups; its mean is tr Cov ĝ."""
    singles, members = draw(problem, 64, stream(0, "benchmark", index), batches)
    credits = GRPO(singles.group(members, GRPO.needs))
    node, token = singles.node[members][:, 0], singles.token[members][:, 0]
    out = []
    for c, n, a in zip(credits[:, 0], node, token, strict=True):
        table = np.zeros(problem.probs.shape)
        np.add.at(table, (n, a), c)
        out.append(float(((problem.pull(table) - exact.mean) ** 2).sum()))
    return out


def against_routes() -> list[str]:
    """The exact gradient alone: one backward recursion against enumerating every response."""
    problem = zoo.large(horizon=8)
    fast, slow = timed(lambda: truth.by_recursion(problem)), timed(lambda: truth.by_enumeration(problem), 3)
    return [f"| g by recursion against g by enumeration, 4⁸ responses | {slow / fast:.1f} × faster |"]


def main() -> None:
    """Measure everything and write the table."""
    if "--first" in sys.argv:
        sys.stdout.write(" ".join(map(str, first_run())))
        return
    rows = [*against_copy(), *in_group_size(), *in_responses(), *against_brute_force(), *against_sampling()]
    head = "# Exact moments of σ-normalised GRPO, two-valued reward\n\n"
    note = "Tree of 4¹² = 16.8 million responses, G = 64, float64, unless a row says otherwise.\n"
    note += "Made by `python -m benchmarks.moments`.\n\n"
    text = head + note + "| what | ratio |\n|---|---|\n" + "\n".join([*rows, *against_routes()]) + "\n"
    Path(__file__).with_suffix(".md").write_text(text, encoding="utf-8")
    sys.stdout.write(text)


if __name__ == "__main__":
    main()
