"""``tpg audit``: one estimator on one problem, every number with its meaning."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from rich.console import RenderableType
from rich.text import Text

from tpg.audit import Audit, audit_by_sampling
from tpg.audit import audit as measure
from tpg.cli import render
from tpg.cli.output import Destination
from tpg.cli.progress import bar
from tpg.estimators import table
from tpg.moments import Report
from tpg.moments.curl import Curl, curl
from tpg.problem import files, zoo
from tpg.problem.problem import Problem

PROMPT_HEADS = ("prompt", "|g|", "rel. bias", "scale", "dir. bias", "cosine", "variance", "MSE/|g|²")
NO_GRADIENT = "undefined (g = 0)"
NO_PART = "undefined (scale = 0)"
NO_ANGLE = "undefined (g = 0 or E ĝ = 0)"
CAVEAT = "All this is for this problem and group size; a biased gradient may well train better."


def audit(
    name: str, problem: str, group_size: int, samples: int, seed: int, with_curl: bool, target: Destination
) -> int:
    """Audit the row ``name``, by sampling if ``samples`` > 0; return the exit code."""
    estimator, chosen = table.get(name), problem_of(problem)
    with bar(f"{name} on {chosen.name}") as progress:
        if samples:
            found = audit_by_sampling(chosen, estimator, group_size, samples, seed, progress)
        else:
            found = measure(chosen, estimator, group_size, progress)
    turning = None
    if with_curl:
        with bar(f"Jacobian of {name} on {chosen.name}") as progress:
            turning = curl(chosen, estimator, group_size, progress)
    shape = {} if turning is None else {"curl": {**vars(turning), "conservative": turning.conservative}}
    target.write({**found.to_json(), **shape})
    render.show(target.prose, *report(found, turning))
    return render.exit_code([found.verdict])


def problem_of(spec: str) -> Problem:
    """A problem of the zoo, or else what a file holds."""
    named = spec.partition(":")[0] in zoo.ZOO
    return files.load(spec) if not named and (Path(spec).suffix or Path(spec).is_file()) else zoo.get(spec)


def report(found: Audit, turning: Curl | None = None) -> Iterator[RenderableType]:
    """The verdict in words, then the numbers."""
    where = f"{found.estimator} on {found.problem}, group size {found.group_size}: "
    yield Text.assemble(where, render.status(found.verdict))
    yield ""
    said = [("declared", found.declared), ("verdict", found.why), ("bias", in_words(found))]
    yield render.pairs([*said, *([] if turning is None else [("curl", shape_in_words(turning))])])
    yield ""
    yield render.pairs(_numbers(found))
    if len(found.prompts) > 1:
        yield ""
        rows = (_prompt(index, each) for index, each in enumerate(found.prompts))
        yield render.table(PROMPT_HEADS, rows, right=PROMPT_HEADS)
    yield ""
    yield Text(CAVEAT, "dim")


def in_words(found: Audit) -> str:
    """How E ĝ lies to g, as far as rounding lets one see."""
    overall = found.overall
    if found.sampled:
        return "estimated below; sampling alone never shows that there is none"
    if overall.relative_bias is None:
        return "none here: E ĝ = g = 0" if overall.bias_norm <= found.error_bound else "all of E ĝ, since g = 0 here"
    if overall.relative_bias <= _relative(found):
        return "none here: E ĝ = g"
    if overall.cosine is None:
        return "all of g is missing: E ĝ = 0 here"
    if overall.direction_bias is None or overall.direction_bias > _directional(found):
        return "in direction: E ĝ does not lie along g here"
    if overall.cosine < 0:
        return f"in sign: E ĝ = {render.number(overall.scale)}·g here, so that it descends"
    return f"in length alone: E ĝ = {render.number(overall.scale)}·g here, which a learning rate mends"


def shape_in_words(found: Curl) -> str:
    """Whether E ĝ can be a gradient here."""
    if found.relative is None:
        return "none: E ĝ does not change with the policy here"
    size = f"|J − Jᵀ|/|J| = {render.number(found.relative)} ± {render.bound(found.error)}"
    if found.conservative:
        return f"none seen at this policy, {size}: E ĝ can be the gradient of an objective"
    return f"{size}: E ĝ is the gradient of no objective"


def _relative(found: Audit) -> float:
    """The rounding error of a relative bias."""
    return found.error_bound / (found.overall.gradient_norm or 1.0)


def _directional(found: Audit) -> float:
    """The rounding error of a direction bias."""
    return _relative(found) / abs(found.overall.scale or 1.0)


def _numbers(found: Audit) -> Iterator[tuple[str, str, Text]]:
    overall, exact = found.overall, found.arithmetic == "rational"
    bound, relative, direction = found.error_bound, _relative(found), _directional(found)
    if found.sampled:  # estimates as they are: noise is no rounding
        bound = relative = direction = 0.0
    turn = NO_PART if overall.scale == 0 else _size(overall.direction_bias, direction, exact)
    if found.sampled:
        rounding = f"float64; E ĝ is known to ± {render.bound(found.sampled.standard_error)}"
    else:
        rounding = "exact" if exact else f"|E ĝ| is off by {render.bound(bound)} at most"
    for name, value, note in (
        ("|E ĝ − declared|", _size(found.discrepancy, bound, exact), "reward per parameter"),
        ("relative bias", _size(overall.relative_bias, relative, exact), "|E ĝ − g| / |g|"),
        ("scale", render.number(overall.scale, NO_GRADIENT), "⟨E ĝ, g⟩ / ⟨g, g⟩: the multiple of g in E ĝ"),
        ("direction bias", turn, "|E ĝ − scale·g| / |scale·g|: no step size mends it"),
        ("cosine", render.number(overall.cosine, NO_ANGLE), "of the angle between E ĝ and g"),
        ("total variance", render.number(overall.total_variance), "trace of Cov ĝ, in reward²"),
        ("MSE/|g|²", render.number(overall.mse_over_g2, NO_GRADIENT), "mean squared error of ĝ over |g|²"),
        ("|g|", render.number(overall.gradient_norm), "exact gradient, in reward per parameter"),
        ("arithmetic", "sampled" if found.sampled else found.arithmetic, rounding),
    ):
        yield name, value, Text(note, "dim")


def _size(value: float | None, bound: float, exact: bool) -> str:
    """A norm, and whether it is 0 exactly or but for rounding."""
    if value is None or value > bound:
        return render.number(value, NO_GRADIENT)
    return "0 (exact)" if exact else f"{value:.0e} (rounding)" if value else "0"


def _prompt(index: int, each: Report) -> list[str]:
    ratios = (each.relative_bias, each.scale, each.direction_bias, each.cosine, each.total_variance, each.mse_over_g2)
    return [str(index + 1), render.number(each.gradient_norm), *map(render.number, ratios)]
