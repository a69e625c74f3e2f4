"""Every row of the table sampled: running mean and variance of ĝ along g, against their exact bands."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from itertools import combinations_with_replacement, groupby
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from scipy.special import factorial, ndtr, ndtri

from tpg import rollouts, truth
from tpg.errors import TpgError
from tpg.estimators.estimator import Estimator
from tpg.estimators.table import FAMILIES
from tpg.figures.style import DARK, LIGHT, MIDDLE, figure
from tpg.moments import moments, noise
from tpg.montecarlo.streams import stream
from tpg.numbers import FLOAT64, Array
from tpg.problem import zoo
from tpg.problem.problem import Problem
from tpg.problem.tree import expect
from tpg.rollouts import Responses

CLAIMS = ("thm:trajectory-pg",)
CAPTION = (
    "Every row of the table, one run each, on two prompts with rewards 0, 1 and 3 earned along the way, unequal "
    "lengths, γ = 9/10 and a reference policy; rows that read a ratio (italics): on responses of an older policy.  "
    "Lanes: running mean and variance of ⟨ĝ, g⟩/|g|², less the exact value, in exact standard errors (noise of drawn "
    "continuations included), ±3 shaded.  Left: final deviations in order; none lies beyond the dashed lines, which "
    "the largest of so many normal numbers crosses in at most 5 % of all runs.  Right: rows inside.  Credits × 1.2 "
    "would have left the band in every row."
)
FULL, SMOKE, FIRST = (3, 1 << 15, 21), (2, 128, 3), 32  # group size, batches, points; where paths begin
BAND, AGREEMENT, ALPHA, MUTANT = 3.0, 1e-9, 0.05, 1.2  # the last: a factor on the credits that must not pass
OF_RATIOS = frozenset({"ratio", "sequence_ratio", "old_prob", "old_logp"})
LOOKS = {"mean": {"marker": "o", "color": DARK}, "variance": {"marker": "x", "color": MIDDLE}}
KINDS, HALF, SHARP = tuple(LOOKS), 0.43, 220  # of a lane; dots per inch, as lines without grey edges need many


def compute(smoke: bool) -> dict[str, Any]:
    """Paths of all rows in exact standard errors, what was refused, and how far off the whole is."""
    size, samples, points = SMOKE if smoke else FULL
    after = np.geomspace(FIRST, samples, points).round().astype(int)
    made, refused = [], []
    for family, row in ((f.__name__.rpartition(".")[2], row) for f in FAMILIES for row in f.ROWS):
        try:
            made.append(({"name": row.name, "family": family}, *_one(row, size, after)))
        except TpgError as error:
            refused.append({"name": row.name, "reason": str(error)})
    rows, paths = [named | found for named, found, _ in made], np.stack([path for *_, path in made], axis=1)
    beyond = -ndtri(ALPHA / (2 * len(KINDS) * len(rows)))  # Bonferroni
    whole = {kind: _judge(z) for kind, z in zip(KINDS, paths, strict=True)}
    return {"size": size, "samples": after, "beyond": beyond, "whole": whole, "refused": refused, "rows": rows}


def _one(row: Estimator, size: int, after: Array) -> tuple[dict[str, Any], Array]:
    """What is written of a row, its paths as one line of text each, and the paths [2, points]."""
    problem = task(stale=bool(row.needs & OF_RATIOS))
    law, values = exact(problem, row, size), draws(problem, row, size, int(after[-1]))
    path, planted = deviations(law, values, after), deviations(law, MUTANT * values, after)
    numbers = zip(("exact_mean", "exact_variance", "exact_fourth"), law, strict=True)
    lines = {kind: " ".join(f"{z:.2f}" for z in path[k]) for k, kind in enumerate(KINDS)}
    caught = bool((np.abs(planted[:, -1]) > BAND).any())
    return {"stale": not problem.on_policy, "mutant_caught": caught, **dict(numbers), **lines}, path


def _judge(z: Array) -> dict[str, Any]:
    """Of the deviations [rows, points] of all rows: the share inside the band, and the final ones in order."""
    inside, final = np.abs(z) <= BAND, np.sort(z[:, -1])
    error = inside.mean(1).std(ddof=1) / np.sqrt(len(z))  # between rows: the points of a path depend on each other
    size = {"largest": np.abs(final).max(), "rms": np.sqrt((final**2).mean()), "rms_error": (2 * len(z)) ** -0.5}
    shares = {"points": inside.size, "inside": inside.mean(), "error": error, "by_samples": inside.mean(0)}
    return shares | size | {"normal": ndtri((np.arange(len(z)) + 0.5) / len(z)), "final": final}


def task(stale: bool) -> Problem:
    """``three-valued`` with rewards along the way, a reference policy and, if ``stale``, another that generates."""
    base, older = zoo.three_valued(FLOAT64), zoo.stale(FLOAT64)  # the same tree
    depth = base.tree.depth[:, None]
    paid = base.rewards + np.where(base.tree.inner, 1, -depth)  # what tokens earn is taken back at the end
    names = {"reference": older.reference, "behaviour": older.behaviour if stale else None}
    return replace(base, rewards=paid / 0.9**depth, discount=0.9, name="every-row", **names)


def exact(problem: Problem, row: Estimator, size: int) -> tuple[float, float, float]:
    """Mean, variance and fourth central moment of ⟨ĝ, g⟩/|g|², the first two equal to those of the engine."""
    g = problem.combine(truth.gradient(problem))
    engine = moments(problem, row, size, covariance=True)
    mean, variance, excess = np.sum([_cumulants(*law) for law in laws(problem, row, size)], axis=0)
    assert abs(problem.combine(engine.mean) @ g / (g @ g) - mean) < AGREEMENT * (1 + abs(mean)), row.name
    assert abs(g @ engine.covariance @ g / (g @ g) ** 2 / variance - 1) < AGREEMENT, row.name
    return float(mean), float(variance), float(excess + 3 * variance**2)


def laws(problem: Problem, row: Estimator, size: int) -> Iterator[tuple[Array, Array]]:
    """Independent parts of ⟨ĝ, g⟩/|g|²: chance [n] of each case, and cumulants κ₁ … κ₄ [4, n] given the case."""
    singles = rollouts.responses(problem, row.given)
    if not row.peers:  # the responses of a group are independent
        given = _with_noise(problem, row, singles, size)
        for mine in (singles.prompt == x for x in np.repeat(np.arange(problem.prompts), size)):
            yield singles.probability[mine], given[:, mine]
        return
    groups = [_groups(singles, x, size) for x in range(problem.prompts)]
    for members, chance in [_batches(groups)] if row.batch else groups:
        shadow, kept = _shadows(problem, row, singles, members, size), _kept(row, singles, members)
        mass = chance * kept.reshape(len(members), -1).all(1)
        yield mass / mass.sum(), np.pad(shadow.reshape(1, len(members), -1).sum(2), ((0, 3), (0, 0)))


def _cumulants(chance: Array, given: Array) -> Array:
    """κ₁, κ₂ and κ₄ of a mixture of laws with cumulants ``given`` [4, n]; those of independent parts add up."""
    mean = chance @ given[0]
    d, second, third, fourth = given[0] - mean, *given[1:]
    variance = chance @ (d**2 + second)
    moment = chance @ (d**4 + 6 * d**2 * second + 4 * d * third + fourth + 3 * second**2)
    return np.array([mean, variance, moment - 3 * variance**2])


def _shadows(problem: Problem, row: Estimator, singles: Responses, members: Array, size: int) -> Array:
    """[...] ⟨ĝ, g⟩/|g|² of the groups ``members`` [..., G]."""
    return (row(singles.group(members, row.needs, size)) * _scores(problem, singles)[members]).sum((-1, -2))


def _scores(problem: Problem, singles: Responses) -> Array:
    """[R, T] ⟨score, g⟩/|g|² along the responses, times the weight of the prompt."""
    g = problem.combine(truth.gradient(problem))
    table = (g / (g @ g)).reshape(problem.probs.shape)
    along = table - (problem.probs * table).sum(1, keepdims=True)
    return np.where(singles.mask, along[singles.node, singles.token], 0) * problem.weights[singles.prompt, None]


def _kept(row: Estimator, singles: Responses, members: Array) -> Array:
    """[...] bool: groups that the row uses; others are drawn again."""
    return np.broadcast_to(np.True_ if row.kept is None else row.kept(singles, members), members.shape[:-1])


def _groups(singles: Responses, prompt: int, size: int) -> tuple[Array, Array]:
    """Every group [n, G] up to its order, which is idle (or the engine would differ), and its chance."""
    own = np.flatnonzero(singles.prompt == prompt)
    members = np.array(list(combinations_with_replacement(own, size)))
    ways = factorial(size) / factorial((members[:, None] == own[:, None]).sum(2)).prod(1)
    return members, ways * singles.probability[members].prod(1)


def _batches(groups: list[tuple[Array, Array]]) -> tuple[Array, Array]:
    """Every batch [n, P, G] of such groups, and its chance."""
    picked = np.indices([len(chance) for _, chance in groups]).reshape(len(groups), -1)
    both = [(members[i], chance[i]) for (members, chance), i in zip(groups, picked, strict=True)]
    return np.stack([members for members, _ in both], axis=1), np.prod([chance for _, chance in both], axis=0)


def _with_noise(problem: Problem, row: Estimator, singles: Responses, size: int) -> Array:
    """[4, R] cumulants of what one response adds, given the response: its continuations are drawn."""
    alone, drawn = np.arange(len(singles.node))[:, None], noise.to_draw(row)
    out, spread = np.pad(_shadows(problem, row, singles, alone, size)[None], ((0, 3), (0, 0))), _spread(problem)
    for found in noise.slopes(row.name, row, singles.group(alone, row.needs, size), drawn):
        slope, node = (found.slope[:, 0] * _scores(problem, singles)).sum(1), singles.prefix[:, found.place[1]]
        for k, table in spread.items():  # a mean of K draws, times the slope; RM itself from the end on
            out[k - 1] += np.where(node >= 0, slope**k * table[node] / drawn[found.field] ** (k - 1), 0)
    return out


def _spread(problem: Problem) -> dict[int, Array]:
    """κ₂, κ₃, κ₄ [N] of RM given each prefix, under π."""
    m, b, c, d = (expect(problem.tree, problem.probs, problem.totals**k)[1] for k in (1, 2, 3, 4))
    return {2: b - m**2, 3: c - 3 * m * b + 2 * m**3, 4: d - 4 * m * c - 3 * b**2 + 12 * m**2 * b - 6 * m**4}


def draws(problem: Problem, row: Estimator, size: int, samples: int) -> Array:
    """[samples] ⟨ĝ, g⟩/|g|² of independent batches."""
    rng = stream(0, "every row", problem.digest, row.name, size)
    singles, members = rollouts.draw(problem, size, rng, samples, row.given, noise.to_draw(row), row.kept)
    return np.asarray(_shadows(problem, row, singles, members, size).sum(1))


def deviations(law: tuple[float, float, float], values: Array, after: Array) -> Array:
    """[2, points] running mean and variance of the first ``after`` values, less the exact, in exact standard errors."""
    mean, variance, fourth = law
    first, square = (np.cumsum((values - mean) ** k)[after - 1] / after for k in (1, 2))
    spread = (square - first**2) * after / (after - 1)
    of_variance = (fourth - variance**2 * (after - 3) / (after - 1)) / after
    return np.stack([first / np.sqrt(variance / after), (spread - variance) / np.sqrt(of_variance)])


def draw(data: dict[str, Any]) -> Figure:
    """Three columns of lanes; below them all rows together."""
    out, rows = type(figure(1, 1))(figsize=(7.2, 9.6), layout="constrained", dpi=SHARP), data["rows"]
    grid = out.add_gridspec(2, 1, height_ratios=(4.8, 1))
    lanes, below = grid[0].subgridspec(1, 6), grid[1].subgridspec(1, 2)
    blocks = [list(own) for _, own in groupby(rows, key=lambda row: row["family"])]
    items = [item for own in blocks for item in ({"name": f"{own[0]['family']} ({len(own)})"}, *own)]
    long = -(-len(items) // 3)
    for i in range(6):
        _lanes(out.add_subplot(lanes[i]), data["samples"], items[i // 2 * long :][:long], KINDS[i % 2], long)
    _together(out.add_subplot(below[0]), out.add_subplot(below[1]), data)
    return out


def _lanes(axes: Axes, x: list[float], items: list[dict[str, Any]], kind: str, long: int) -> None:
    """A lane per row, ±3 standard errors wide; names left of the means."""
    for place, item in ((place, item) for place, item in enumerate(items) if kind in item):
        z = np.array(item[kind].split(), dtype=float)
        y = place - HALF * z / BAND
        axes.axhspan(place - HALF, place + HALF, color=LIGHT, lw=0)
        axes.plot(x[:: len(x) - 1], (place, place), color=MIDDLE, lw=0.3, aa=False)
        axes.plot(x, y, color=DARK, lw=0.6, aa=False)
        axes.plot(x, np.where(np.abs(z) > BAND, y, np.nan), ".", color="black", ms=3)
    axes.set_yticks(range(len(items)), [item["name"] if kind == "mean" else "" for item in items], fontsize=6)
    for label, item in zip(axes.get_yticklabels(), items, strict=True):
        label.set(style="italic" if item.get("stale") else "normal", weight="normal" if kind in item else "bold")
        label.set_antialiased(False)
    axes.set(xscale="log", xlim=(x[0], x[-1]), ylim=(long - 0.5, -0.7), frame_on=False)
    axes.set_xticks([100, 10000], ["10²", "10⁴"], fontsize=6)
    axes.set_title(f"{kind}\nby batches", fontsize=6)
    axes.tick_params(axis="y", length=0, pad=2)
    axes.minorticks_off()
    axes.grid(visible=False)


def _together(left: Axes, right: Axes, data: dict[str, Any]) -> None:
    """Final deviations against normal quantiles; rows inside the band by number of batches."""
    for (kind, look), found in zip(LOOKS.items(), data["whole"].values(), strict=True):
        label = f"{kind}: rms {found['rms']:.2f} (1 ± {found['rms_error']:.2f}), largest {found['largest']:.2f}"
        left.plot(found["normal"], found["final"], ls="none", ms=2.5, mew=0.7, label=label, **look)
        label = f"{kind}: {100 * found['inside']:.2f} ± {100 * found['error']:.2f} % of {found['points']} points"
        right.plot(data["samples"], 100 * np.array(found["by_samples"]), ms=2.5, lw=0.6, label=label, **look)
    left.hlines([-data["beyond"], data["beyond"]], -3, 3, color="black", ls="--", lw=0.8)
    left.axline((0, 0), slope=1, color="black", lw=0.6)
    normal, caught = 100 * (2 * ndtr(BAND) - 1), sum(row["mutant_caught"] for row in data["rows"])
    right.axhline(normal, color="black", ls="--", lw=0.8, label=f"normal: {normal:.2f} %")
    left.set(xlabel="normal quantile", ylabel="final deviation\n[standard errors]", xlim=(-3, 3), ylim=(-4.5, 6.8))
    right.set(xscale="log", xlabel="batches", ylabel="rows inside [%]", ylim=(96, 100.2))
    left.legend(fontsize=6, loc="upper left", frameon=False)
    counts = f"{len(data['rows'])} rows, {len(data['refused'])} refused; credits × {MUTANT}: {caught} caught"
    right.legend(fontsize=6, loc="lower right", frameon=False, title=counts, title_fontsize=6)
