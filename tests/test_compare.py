"""Comparisons: numbers against their definitions, the table, the picture, and what is refused."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from tpg import truth
from tpg.cli.main import main
from tpg.compare import Compared, compare, efficiency, rows
from tpg.errors import EstimatorError, TpgError
from tpg.estimators.table import ESTIMATORS, get
from tpg.figures import compare as picture
from tpg.figures import style
from tpg.moments import brute_force
from tpg.numbers import FLOAT64, to_float
from tpg.problem import zoo

NAMES = "reinforce,rloo,group_mean,grpo,exact_advantage"
THREE = ["three-valued", "shared", "key-first"]
Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Run:
    def call(*args: str) -> tuple[int, str, str]:
        code = main(list(args))
        out, err = capsys.readouterr()
        return code, out, err

    return call


@pytest.mark.parametrize("problem", THREE)
def test_every_number_is_what_it_is_called(problem: str) -> None:
    # From the moments by brute force: noise and the best step size by their definitions.
    made = zoo.get(problem)
    for each in compare(made, rows(NAMES), 2):
        assert each.error is None
        row = ESTIMATORS[each.estimator]
        chosen = made if row.algebraic else made.to(FLOAT64)
        result, g = brute_force(chosen, row, 2), truth.gradient(chosen)
        mean, g = to_float(chosen.combine(result.mean)), to_float(chosen.combine(g))
        variance = float(result.total_variance)
        scale = mean @ g / (g @ g)
        assert each.noise == pytest.approx(variance / (scale**2 * (g @ g)), rel=1e-12)
        steps = np.linspace(0, 2 / scale, 20001)
        errors = steps**2 * (mean @ mean + variance) - 2 * steps * (mean @ g) + g @ g
        assert each.best_mse == pytest.approx(errors.min() / (g @ g), rel=1e-5)
        assert each.best_mse <= errors.min() / (g @ g) + 1e-12
        assert each.split is not None
        assert sum(vars(each.split).values()) == pytest.approx(variance, rel=1e-12)
        wanted = 2 * made.prompts  # responses, of 1 … T tokens
        assert each.tokens is not None
        assert wanted <= each.tokens <= wanted * made.horizon * (1 + 1e-12)
        assert efficiency(each) == each.noise * each.tokens


def test_a_constant_factor_changes_neither_noise_nor_the_best_error() -> None:
    # group_mean = (G−1)/G · rloo, dr_grpo = that over T.  Wrong: a learning rate that counts as quality.
    one, two, three = compare(zoo.three_valued(), rows("rloo,group_mean,dr_grpo"), 3)
    assert one.report is not None
    assert two.report is not None
    assert two.report.scale == pytest.approx(2 / 3, rel=1e-15)
    for other in (two, three):
        assert other.noise == pytest.approx(one.noise, rel=1e-14)
        assert other.best_mse == pytest.approx(one.best_mse, rel=1e-13)


def test_nothing_is_divided_by_nothing() -> None:
    # g = 0: noise is undefined, not infinite.
    for each in compare(zoo.cancelling(), rows("reinforce,reward_to_go"), 1):
        assert (each.noise, each.best_mse, efficiency(each)) == (None, None, None)


def test_names_are_found_once_in_their_order() -> None:
    assert [row.name for row in rows(" grpo, rloo_vectorized ,grpo,,rloo")] == ["grpo", "rloo"]
    assert rows("all") == list(ESTIMATORS.values())
    assert rows(" , ") == []
    with pytest.raises(EstimatorError, match=r"^unknown estimator 'rlo'"):
        rows("rlo")


def test_one_that_cannot_run_says_why_and_stops_nobody() -> None:
    alone, other = compare(zoo.two_valued(), [get("rloo"), get("reinforce")], 1)
    assert alone.report is None
    assert alone.error == "rloo compares the responses of a group: group_size=1 given, at least 2 needed"
    assert other.report is not None


@pytest.mark.parametrize("problem", THREE)
def test_the_command_prints_table_picture_and_parts(run: Run, problem: str, tmp_path: Path) -> None:
    file, drawn = tmp_path / "c.json", tmp_path / "c.png"
    code, out, err = run("compare", NAMES, "--problem", problem, "--json", str(file), "--figure", str(drawn))
    assert (code, err) == (0, "")
    assert out.startswith(f"{problem}, group size 8: exact moments, no sampling\n")
    assert all(out.count(f"\n{name} ") == 3 for name in NAMES.split(","))  # numbers, bars, parts
    assert "█" in out
    assert max(map(len, out.splitlines())) <= 100
    data = json.loads(file.read_text())
    assert [each["estimator"] for each in data["estimators"]] == NAMES.split(",")
    keys = {"relative_bias", "total_variance", "mse_over_g2", "noise", "best_mse", "tokens", "split", "error"}
    assert all(set(each) >= keys for each in data["estimators"])
    assert drawn.read_bytes()[:4] == b"\x89PNG"
    assert 5_000 < drawn.stat().st_size < 300_000


def test_columns_sort(run: Run) -> None:
    _, out, _ = run("compare", NAMES, "--sort", "noise", "--json", "-")
    noises = [each["noise"] for each in json.loads(out)["estimators"]]
    assert noises == sorted(noises)


@pytest.mark.parametrize("ending", style.FORMATS)
def test_pictures_are_the_same_bytes_each_time(ending: str, tmp_path: Path) -> None:
    found = compare(zoo.three_valued(), rows(NAMES), 2)
    written = []
    for name in ("a", "b"):
        target = style.check(str(tmp_path / f"{name}{ending}"))
        style.save(picture.draw(found, "three-valued"), target)
        written.append(target.read_bytes())
    assert written[0] == written[1]
    assert sorted(path.name for path in tmp_path.iterdir()) == [f"a{ending}", f"b{ending}"]


def test_what_is_undefined_is_drawn_as_such() -> None:
    found = [*compare(zoo.cancelling(), rows("reinforce"), 1), Compared("absent", 1, None, error="why")]
    drawn = picture.draw(found, "cancelling")
    texts = [text.get_text() for axes in drawn.axes for text in axes.texts]
    assert texts.count("undefined") == 2
    assert [label.get_text() for label in drawn.axes[0].get_yticklabels()] == ["reinforce"]


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (("rlo",), "error: unknown estimator 'rlo': did you mean"),
        ((",",), "error: ',' given: name estimators with commas between, or `all` (`tpg list estimators`)"),
        (("rloo", "--group-size", "1"), "error: none of them runs on three-valued: rloo: rloo compares the responses"),
        (("rloo", "--figure", "a.gif"), "error: --figure 'a.gif' given: needed a file that ends in .png, .pdf, .svg"),
        (("rloo", "--figure", "no/a.png"), "error: --figure 'no/a.png' given: there is no folder 'no': make it first"),
        (("rloo", "--sort", "size"), "error: invalid value for '--sort': 'size' given, needed one of noise, best_mse"),
    ],
)
def test_bad_input_is_one_line(run: Run, args: tuple[str, ...], message: str) -> None:
    code, out, err = run("compare", *args)
    assert (code, out) == (2, "")
    assert err.startswith(message)
    assert err.count("\n") == 1


def test_a_picture_that_cannot_be_written_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*args: object, **more: object) -> None:
        raise OSError(28, "No space left on device")

    drawn = picture.draw(compare(zoo.two_valued(), rows("rloo"), 2), "two-valued")
    monkeypatch.setattr(type(drawn), "savefig", full)
    with pytest.raises(TpgError, match=r"cannot be written: No space left on device$"):
        style.save(drawn, tmp_path / "a.png")
    assert not list(tmp_path.iterdir())


def test_numbers_stay_numbers() -> None:
    for each in compare(zoo.shared(), rows("all"), 2):
        assert each.noise is None or math.isfinite(each.noise)
        json.dumps(each.to_json(), allow_nan=False)
