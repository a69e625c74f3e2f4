"""Every row of the table on one problem: how far E ĝ is turned away from g, and how noisy one update is."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from tpg.compare import compare
from tpg.estimators.table import FAMILIES
from tpg.figures.style import DARK, LIGHT, MIDDLE, figure
from tpg.problem import zoo
from tpg.problem.problem import Problem

CLAIMS = ("prop:reinforce-family", "thm:trajectory-pg", "thm:advantage", "claim:on-policy-they-are-one")
CAPTION = (
    "Every row of the table on two prompts with rewards 0, 1 and 3, unequal lengths and a reference policy, G = 4, γ "
    "= 1.  Left: every row that declares a multiple of g, REINFORCE, RLOO and ReMax among them, has exactly the "
    "direction of g; their noise differs by an order of magnitude, least for the exact advantage, most for "
    "interpolated advantages with one continuation.  Right: all others are turned; GRPO and DAPO coincide with their "
    "variants that differ in the ratio alone, since on-policy it is 1.  To be turned buys little: the exact advantage "
    "is quieter than all but a handful of them.  A KL term alone, without a reward, is not meant to point along g."
)
SIZE = 4
SMOKE = 9  # rows of each family at most
ROUNDING = 1e-12  # a direction bias below is that of float64
LEAST, TOP = 0.02, 13.0  # bias and noise where the axes end; what lies beyond is written


def compute(smoke: bool) -> dict[str, Any]:
    """Direction bias, scale and noise to signal of every row; a row that declares scale · g must not be turned."""
    problem, size, found = task(), 2 if smoke else SIZE, []
    for family in FAMILIES:
        rows = family.ROWS[: SMOKE if family.__name__.endswith("core") else 1] if smoke else family.ROWS
        for row, seen in zip(rows, compare(problem, rows, size), strict=True):
            assert seen.report is not None, seen.error
            turned = seen.report.direction_bias
            straight = turned is not None and turned < ROUNDING
            declared = row.expectation.known and row.expectation.extra is None and turned is not None
            assert straight or not declared, row.name
            kind = family.__name__.rpartition(".")[2]
            found.append({"name": row.name, "family": kind, "turned": 0.0 if straight else turned, "noise": seen.noise})
    return {"problem": problem.name, "size": size, "rows": found}


def task() -> Problem:
    """``three-valued`` with the reference policy of ``referenced``: the two have the same tree."""
    return replace(zoo.three_valued(), reference=zoo.referenced().reference, name="three-valued, with a reference")


MARKS: dict[str, dict[str, Any]] = {  # in the order of the columns
    "core": {"marker": "o", "color": "black"},
    "baselines": {"marker": "s", "color": DARK, "mfc": "white", "ms": 4.5},
    "counts": {"marker": "v", "color": DARK, "mfc": "white"},
    "offpolicy": {"marker": "x", "color": "black"},
    "ranks": {"marker": "D", "color": "black", "mfc": "white"},
    "pairs": {"marker": "*", "color": DARK, "mfc": "white", "ms": 7},
    "redistribution": {"marker": "o", "color": MIDDLE, "mfc": "white"},
    "continuations": {"marker": "^", "color": MIDDLE},
    "batch": {"marker": "D", "color": DARK, "mfc": LIGHT, "ms": 4},
    "kl": {"marker": "+", "color": DARK, "ms": 7},
}
WORDS = {
    "counts": "counting rules",
    "offpolicy": "off-policy ratios",
    "ranks": "ratios of list items",
    "kl": "KL terms",
    "pairs": "pairs, targets",
}
BESIDE = {  # names in the left panel, and how far above their point [points]
    "exact_advantage": -2,
    "gae": -2,
    "reinforce_baseline": -2,
    "trajectory_pg": -5,
    "rloo": -2,
    "remax": 1,
    "reinforce": 2,
    "trepo_block": -2,
    "vineppo": -2,
    "trepo_ipw": -2,
    "tempo_unbiased": -4,
    "exact_advantage_k1": 2,
    "trepo_adv_interp_k1": -2,
}
NAMED: dict[str, tuple[str, float, float, str]] = {  # text, where it stands [bias, noise], its side there
    "corpo": ("corpo", 0.0215, 2.3, "left"),
    "abc_to_go": ("abc_to_go", 0.035, 3.85, "center"),
    "gae_position_critic": ("gae_position_critic", 0.05, 2.15, "left"),
    "abc_gae": ("abc_gae", 0.033, 1.7, "center"),
    "delta_gae": ("delta_gae", 0.052, 1.5, "right"),
    "rloo_kl": ("rloo_kl = copg", 0.067, 3.2, "right"),
    "ppo_kl": ("ppo_kl", 0.072, 1.69, "center"),
    "a_star_po": ("a_star_po", 0.074, 8.1, "right"),
    "grpo_passk": ("grpo_passk", 0.12, 6.5, "right"),
    "gpg": ("gpg", 0.1, 4.7, "right"),
    "opo": ("opo", 0.075, 5.2, "center"),
    "tempo": ("tempo", 0.068, 2.5, "center"),
    "trepo_value_interp": ("trepo_value_interp", 0.125, 1.27, "right"),
    "slate": ("slate", 0.195, 0.93, "left"),
    "oprl": ("oprl", 0.3, 1.22, "center"),
    "spa_gae": ("spa_gae", 0.63, 0.7, "left"),
    "dpo": ("dpo", 0.27, 1.02, "center"),
    "maxrl": ("maxrl", 0.22, 5.6, "center"),
    "dapo": ("dapo, cispo,\nvespo, ctpo", 0.42, 6.0, "center"),
    "tpo": ("tpo", 0.4, 2.62, "center"),
    "grpo": ("grpo, gspo,\ngmpo, sapo,\ndhpo, …", 1.25, 1.75, "left"),
    "kl_k2_loss": ("kl_k2_loss", 1.05, 1.07, "left"),
    "kl_k3_loss": ("kl_k3_loss", 0.92, 2.75, "left"),
    "kl_k1_reward": ("kl_k1_reward", 1.2, 4.35, "left"),
    "kl_k3_sequence_loss": ("kl_k3_sequence_loss", 1.0, 9.3, "center"),
    "pure_repaired_to_go": ("pure_repaired_to_go", 0.77, 3.3, "left"),
}


def draw(data: dict[str, Any]) -> Figure:
    """Left: those along g, by family; right: the turned ones."""
    out = figure(7.2, 4.8)
    left, right = out.subplots(1, 2, sharey=True, width_ratios=(5, 6))
    nowhere = sum(row["turned"] is None for row in data["rows"])
    _straight(left, [row for row in data["rows"] if row["turned"] == 0], nowhere)
    _turned(right, [row for row in data["rows"] if row["turned"]])
    left.set_ylabel("noise to signal of one update\nVar ĝ / |scale·g|²")
    left.set_yscale("log")
    left.set_ylim(0.65, TOP)
    left.set_yticks([0.7, 1, 1.5, 2, 3, 4, 5, 7, 10], minor=False)
    left.minorticks_off()
    left.yaxis.set_major_formatter("{x:g}")
    handles, labels = right.get_legend_handles_labels()
    out.legend(handles, labels, ncols=5, frameon=False, loc="outside lower center")
    return out


def _straight(axes: Axes, rows: list[dict[str, Any]], nowhere: int) -> None:
    """One column per family."""
    families = [name for name in MARKS if any(row["family"] == name for row in rows)]
    for row in rows:
        place, last = families.index(row["family"]), row["family"] == families[-1]
        axes.plot(place, row["noise"], ls="none", **{"ms": 5, **MARKS[row["family"]]})
        if row["name"] in BESIDE:
            shift, side = (5 if last else -5, BESIDE[row["name"]]), "left" if last else "right"
            _name(axes, row["name"], (place, row["noise"]), shift, side)
    axes.set_xticks(range(len(families)), [])
    axes.set_xlim(-6, len(families) + 5.2)
    axes.grid(axis="x", visible=False)
    axes.tick_params(axis="x", length=0)
    axes.set_xlabel(f"direction bias exactly 0\n({len(rows)} rows; {nowhere} more have E ĝ = 0)")


def _turned(axes: Axes, rows: list[dict[str, Any]]) -> None:
    """Direction bias on a logarithmic axis; what lies beyond is written."""
    inside = [row for row in rows if row["turned"] >= LEAST and row["noise"] <= TOP]
    for name, look in MARKS.items():
        mine = [row for row in inside if row["family"] == name]
        where = [row["turned"] for row in mine], [row["noise"] for row in mine]
        axes.plot(*where, ls="none", label=WORDS.get(name, name), **{"ms": 5, **look})
    line = {"arrowstyle": "-", "lw": 0.5, "color": DARK, "shrinkA": 0, "shrinkB": 3}
    for row in inside:
        if row["name"] in NAMED:
            label, *place, side = NAMED[row["name"]]
            look = {"xytext": place, "ha": side, "va": "center", "fontsize": 6, "arrowprops": line}
            axes.annotate(label, (row["turned"], row["noise"]), **look)
    beyond = sorted((row for row in rows if row not in inside), key=lambda row: row["noise"])
    lines = [f"{row['name']}: {row['turned']:.2g}, {row['noise']:.3g}" for row in beyond]
    text = "\n".join(["beyond the axes (bias, noise):", *lines])
    axes.text(0.02, 0.02, text, fontsize=6, transform=axes.transAxes)
    axes.set_xscale("log")
    axes.set_xlim(LEAST, 3)
    axes.xaxis.set_major_formatter("{x:g}")
    axes.set_xlabel(f"direction bias |E ĝ − scale·g| / |scale·g|\n({len(rows)} rows)")


def _name(axes: Axes, label: str, place: tuple[float, float], shift: tuple[float, float], side: str) -> None:
    axes.annotate(label, place, shift, textcoords="offset points", fontsize=6, ha=side)
