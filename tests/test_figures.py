"""Figures: every file computes and draws, what is committed is whole and says what its caption says, refusals."""

from __future__ import annotations

import json
import re
import shutil
import sys
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tpg.claims import registry
from tpg.cli.main import main
from tpg.errors import TpgError
from tpg.figures import run, style
from tpg.figures.shown import LABEL, Shown, said, shown, told

FOLDER = Path(__file__).resolve().parents[1] / "figures"
SOURCES = list(run.sources(FOLDER))
MODEL = FOLDER / "gamma_weights.py"
SMALL_PICTURE, SMALL_DATA = 300_000, 100_000  # bytes
Call = Callable[..., tuple[int, str, str]]


@pytest.fixture
def tpg_figures(capsys: pytest.CaptureFixture[str]) -> Call:
    """``tpg_figures("--check")`` → exit code, standard output, standard error."""

    def call(*args: str) -> tuple[int, str, str]:
        code = main(["figures", *args])
        return code, *capsys.readouterr()

    return call


@pytest.fixture
def copied(tmp_path: Path) -> Path:
    """A folder of one figure file."""
    shutil.copy(MODEL, tmp_path)
    return tmp_path


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir() if path.suffix in (*run.ENDINGS, ".py")}


# Every figure file


@pytest.mark.parametrize("source", SOURCES, ids=lambda path: path.stem)
def test_every_figure_computes_and_draws(source: Path, tmp_path: Path) -> None:
    # Wrong: numbers that are no JSON, a draw that needs more than the file holds, letters that the font lacks.
    module = run.load(source)
    data = json.loads(json.dumps(run.rounded(module.compute(True)), allow_nan=False))
    style.save(module.draw(data), tmp_path / "drawn.png")
    assert all(LABEL.fullmatch(label) for label in module.CLAIMS)
    assert len(set(module.CLAIMS)) == len(module.CLAIMS) > 0
    assert said(source) == (module.CLAIMS, module.CAPTION)  # read as it runs
    assert module.CAPTION.endswith(".")
    assert (tmp_path / "drawn.png").stat().st_size < SMALL_PICTURE


@pytest.mark.parametrize("source", SOURCES, ids=lambda path: path.stem)
def test_data_and_pictures_of_every_figure_are_committed(source: Path) -> None:
    data, png, pdf = (source.with_suffix(ending) for ending in run.ENDINGS)
    assert json.loads(data.read_text(encoding="utf-8"))
    assert data.stat().st_size < SMALL_DATA
    assert png.read_bytes().startswith(b"\x89PNG")
    assert png.stat().st_size < SMALL_PICTURE
    assert pdf.read_bytes().startswith(b"%PDF")


def committed(name: str) -> Any:
    return json.loads((FOLDER / f"{name}.json").read_text(encoding="utf-8"))


# What shows a claim


KNOWN = [*registry.load(), *registry.load(registry.NEURAL)]
OF_THE_PAPER = [label for label in KNOWN if label.partition(":")[0] in ("lem", "thm", "prop", "alg")]
SHOWN_NOWHERE = {"prop:count-rules": "a dozen rules with a formula each; that of σ alone is drawn, at prop:sigma"}


def false_labels(found: Mapping[str, Shown], known: Iterable[str] = KNOWN) -> set[str]:
    return set(found) - set(known)


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """Two figures and a notebook beside each other."""
    (tmp_path / "figures").mkdir()
    (tmp_path / "notebooks").mkdir()
    for name, claims in {"a": "('prop:length', 'lem:baseline')", "b": "('lem:baseline',)"}.items():
        (tmp_path / f"figures/{name}.py").write_text(f"CLAIMS, OTHER = {claims}, 1\nCLAIMS = {claims}\nCAPTION = 'x.'")
        (tmp_path / f"figures/{name}.png").touch()
    text = "# A title\n\nClaims: `prop:length`,\n`neural:cost`.\n\nSee `lem:baseline`."
    tell(tmp_path / "notebooks/05_gamma.ipynb", text)
    return tmp_path


def tell(notebook: Path, text: str, kind: str = "markdown") -> None:
    cells = [{"cell_type": kind, "source": text.splitlines(keepends=True)}]
    notebook.write_text(json.dumps({"cells": cells}), encoding="utf-8")


def test_every_label_that_a_figure_or_a_notebook_names_is_claimed() -> None:
    assert false_labels(shown(FOLDER.parent)) == set()


def test_every_statement_of_the_paper_is_shown_somewhere() -> None:
    found = shown(FOLDER.parent)
    assert {label for label in OF_THE_PAPER if label not in found} == set(SHOWN_NOWHERE)


@pytest.mark.parametrize("notebook", sorted(FOLDER.parent.glob("notebooks/*.ipynb")), ids=lambda path: path.stem)
def test_every_notebook_says_what_it_shows(notebook: Path) -> None:
    labels = told(notebook)
    assert labels is not None
    assert len(set(labels)) == len(labels)


def test_figures_chiefly_about_a_claim_come_first_and_file_names_say_nothing(checkout: Path) -> None:
    assert shown(checkout) == {
        "lem:baseline": Shown(("b", "a")),
        "prop:length": Shown(("a",), ("05_gamma",)),
        "neural:cost": Shown((), ("05_gamma",)),
    }
    (checkout / "figures/b.png").unlink()
    assert shown(checkout)["lem:baseline"] == Shown(("a",))  # what is not drawn is not shown


@pytest.mark.parametrize("label", ["prop:nowhere", "prop:Length", "length"])
def test_a_false_label_is_found(label: str, checkout: Path) -> None:
    assert false_labels(shown(checkout)) == set()
    tell(checkout / "notebooks/06_more.ipynb", f"Claims: `prop:length`, `{label}`.")
    assert false_labels(shown(checkout)) == {label}
    (checkout / "notebooks/06_more.ipynb").unlink()
    (checkout / "figures/b.py").write_text(f"CLAIMS = ('prop:length', '{label}')", encoding="utf-8")
    assert false_labels(shown(checkout)) == {label}


def test_a_notebook_that_says_nothing_is_not_one_that_shows_nothing(tmp_path: Path) -> None:
    notebook = tmp_path / "x.ipynb"
    for text, labels in {"Claims: none.": (), "About `prop:length`.": None, "More claims: `prop:length`": None}.items():
        tell(notebook, text)
        assert told(notebook) == labels
    tell(notebook, "Claims: `prop:length`", kind="code")
    assert told(notebook) is None


def test_what_is_not_plain_is_not_read(tmp_path: Path) -> None:
    figure = tmp_path / "x.py"
    for text in ("CLAIMS = 'prop:length'", "CLAIMS = (name,)", "CLAIMS = ('prop:length', 1)", "CLAIMS = tuple('a')"):
        figure.write_text(text + "\nCAPTION = str(1)", encoding="utf-8")
        assert said(figure) == ((), "")


# What the captions say, in the committed data


def test_group_mean_falls_short_by_one_in_g_and_turns_nothing() -> None:
    data = committed("bias_variance_by_group")
    curves, sizes = data["curves"], np.array(data["curves"]["rloo"]["size"])
    assert sizes.tolist() == [2, 4, 8, 16, 32, 64, 128, 256, 512]
    for name in ("reinforce", "reinforce_baseline", "remax", "rloo"):
        assert not any(curves[name]["relative_bias"])
    np.testing.assert_allclose(curves["group_mean"]["relative_bias"], 1 / sizes, rtol=1e-9)
    np.testing.assert_allclose(curves["dr_grpo"]["relative_bias"], 1 - (1 - 1 / sizes) / 3, rtol=1e-9)
    for name in set(curves) - {"grpo", "dapo"}:
        assert not any(curves[name]["direction_bias"])
    for name in ("group_mean", "dr_grpo"):
        assert curves[name]["noise"] == curves["rloo"]["noise"]
    for name in ("grpo", "dapo"):
        counted = len(curves[name]["size"])
        assert min(curves[name]["direction_bias"]) > 0.05
        assert data["limits"][name]["direction_bias"] > 0.05
        assert (np.array(curves[name]["noise"]) < curves["rloo"]["noise"][:counted]).all()
    assert curves["dapo"]["size"][-1] == 32
    assert curves["grpo"]["direction_bias"][-1] == pytest.approx(data["limits"]["grpo"]["direction_bias"], rel=0.01)


def test_sigma_is_a_constant_rate_up_to_three_responses_and_no_longer() -> None:
    data = committed("sigma_learning_rate")
    assert [curve["size"] for curve in data["curves"]] == [2, 3, 4, 8, 16, 64]
    for curve in data["curves"]:
        rates = np.array(curve["lines"]["rate"])
        assert rates.min() >= 1
        if curve["size"] <= 3:
            np.testing.assert_allclose(rates, np.sqrt(curve["size"] - 1), rtol=1e-9)
            assert not any(curve["lines"]["turn"] + curve["marks"]["turn"])
        else:
            middle = len(rates) // 2
            assert (np.diff(rates[: middle + 1]) < 0).all()
            assert (np.diff(rates[middle:]) > 0).all()
            assert min(curve["marks"]["turn"]) > 0


def test_a_third_reward_value_turns_and_bends_the_field() -> None:
    data = committed("sigma_turns")
    for curve in data["curves"]:
        assert not any(curve["ends"]["turn"] + curve["ends"]["curl"])
        if curve["row"] == "rloo":
            assert not any(curve["turn"] + curve["curl"])
            continue
        turned = np.array(curve["turn"])
        assert min(curve["curl"]) > 0.05
        assert turned[0] > 0.2
        lowest = int(turned.argmin())  # once down, once up
        assert (np.diff(turned[: lowest + 1]) < 0).all()
        assert (np.diff(turned[lowest:]) > 0).all()


def test_lengths_turn_and_constants_do_not() -> None:
    data = committed("length_bias")
    for panel in data.values():
        assert not any(panel["1/(G·T)"])
        np.testing.assert_allclose(panel["closed"], panel["1/|o|"], rtol=0, atol=1e-9)
    fixed = data["ending"]["x"].index(0)
    assert data["ending"]["1/|o|"][fixed] == 0
    assert min(data["ending"]["1/|o|"][fixed + 1 :]) > 0
    assert min(map(abs, data["correlation"]["x"])) < 0.05
    assert min(data["correlation"]["1/|o|"]) > 0.1
    assert np.ptp(data["size"]["1/|o|"]) < 1e-9
    tokens = np.array(data["size"]["1/Σ|o|"]) * data["size"]["x"]
    assert tokens.max() / tokens.min() < 1.2  # O(1/G)


def test_an_exact_critic_is_unbiased_and_others_have_a_best_lambda() -> None:
    data = committed("critic_lambda")
    curves = data["curves"]
    exact = curves["exact critic"]
    assert exact == curves["exact critic, paid by token"]
    assert not any(exact["relative_bias"])
    assert (np.diff(exact["variance"]) > 0).all()
    assert curves["position critic"] != curves["position critic, paid by token"]
    for name in set(curves) - {"exact critic", "exact critic, paid by token"}:
        bias, error = curves[name]["relative_bias"], curves[name]["mse"]
        assert min(bias[:-1]) > 0
        assert bias[-1] == 0
        assert 0 < int(np.argmin(error)) < len(error) - 1


def test_failing_groups_teach_where_many_tokens_must_be_right() -> None:
    shares = {curve["task"]: curve["engine"] for curve in committed("silent_groups")["shares"]}
    p = np.array(committed("silent_groups")["hard_marked"])
    np.testing.assert_allclose(shares["one token decides"], p / (1 - p), rtol=1e-9)
    np.testing.assert_allclose(shares["any of 4 tokens suffices"], p / (1 - p) / 4, rtol=1e-9)
    np.testing.assert_allclose(shares["all 4 tokens must be right"], 3 / 4 + p / (1 - p), rtol=1e-9)


def test_learning_curves_show_who_is_slower_and_who_gets_stuck() -> None:
    data = committed("learning_curves")
    curves = {(c["problem"], c["estimator"], c["pace"]): c for c in data["curves"]}
    for late in ("grpo", "dapo"):
        for problem, slower in (("three-valued", True), ("delayed-credit", False)):
            mine, other = (curves[problem, name, "gentle"] for name in (late, "rloo"))
            assert (mine["flow"][-1] > other["flow"][-1]) == slower
            assert (mine["quartiles"][1][-1] > other["quartiles"][1][-1]) == slower
        assert curves["three-valued", late, "bold"]["stuck"] > 0
    for problem in ("three-valued", "delayed-credit"):
        assert curves[problem, "reinforce", "bold"]["stuck"] > 0
        for name in ("exact_advantage", "gae_position_critic"):
            assert curves[problem, name, "bold"]["stuck"] == curves[problem, name, "gentle"]["stuck"] == 0
    assert curves["delayed-credit", "reinforce", "gentle"]["stuck"] > 0


def test_neural_learning_curves_are_as_the_caption_says() -> None:
    data, caption = committed("neural_learning_curves"), said(FOLDER / "neural_learning_curves.py")[1]
    shown = {(task["task"], task["gain"]): task["curves"] for task in data["tasks"]}
    assert f"{data['tasks'][0]['parameters']:,} parameters" in caption
    assert f"all of {data['runs']} runs" in caption
    gentle, bold, key = (shown[which] for which in (("arithmetic", 0.1), ("arithmetic", 0.3), ("key token", 0.3)))
    # "at the gentle rate hardly a run is lost": at most one in fifty
    assert 50 * sum(curve["lost"] for curve in gentle) <= data["runs"] * len(gentle)
    assert sum(curve["lost"] for curve in key) == 0
    by_name: dict[str, dict[int, int]] = {}
    for curve in bold:
        by_name.setdefault(curve["estimator"], {})[curve["size"]] = curve["lost"]
    pairs = [(lost[min(lost)], lost[max(lost)]) for lost in by_name.values() if len(lost) == 2]
    assert all(large <= small for small, large in pairs)  # "that the larger groups keep"
    assert sum(large for _, large in pairs) < sum(small for small, _ in pairs)


def test_sampled_means_and_variances_stay_inside_the_exact_bands() -> None:
    for panel in committed("monte_carlo_bands")["panels"]:
        unbiased = panel["estimator"] in ("reinforce", "rloo", "exact_advantage")
        assert (abs(panel["mean"]["exact"] - 1) < 1e-9) == unbiased
        for band in (panel["mean"], panel["variance"]):
            runs = np.array(band["runs"])
            assert band["inside"] > 0.95
            assert (np.abs(runs[:, -1] - band["exact"]) <= band["high"][-1] - band["exact"]).all()


# The command


def test_what_is_committed_is_what_is_made(tpg_figures: Call) -> None:
    code, out, _ = tpg_figures("--check", MODEL.stem, "--folder", str(FOLDER))
    assert code == 0
    assert "as committed" in " ".join(out.split())


def test_changed_data_are_found_and_named(tpg_figures: Call, copied: Path) -> None:
    place = ("--folder", str(copied))
    assert tpg_figures(MODEL.stem, *place)[0] == 0
    assert tpg_figures("--check", *place)[0] == 0
    data = copied / f"{MODEL.stem}.json"
    text = data.read_text(encoding="utf-8")
    data.write_text(text.replace("0.95", "0.96"), encoding="utf-8")
    before = {path: path.read_bytes() for path in copied.glob("*.*")}
    code, out, _ = tpg_figures("--check", *place)
    assert code == 1
    assert f"differs: {data.name}" in " ".join(out.split())
    assert {path: path.read_bytes() for path in copied.glob("*.*")} == before
    code, out, _ = tpg_figures("--check", *place, "--json", "-")
    assert code == 1
    assert [made["differs"] for made in json.loads(out)] == [[data.name]]
    assert [made["claims"] for made in json.loads(out)] == [["prop:gamma-weight"]]


def test_missing_files_differ(tpg_figures: Call, copied: Path) -> None:
    code, out, _ = tpg_figures("--check", "--folder", str(copied), "--json", "-")
    (made,) = json.loads(out)
    assert code == 1
    assert made["differs"] == [f"{MODEL.stem}{ending}" for ending in run.ENDINGS]


def test_smoke_writes_nothing_beside_the_sources(tpg_figures: Call, copied: Path, tmp_path: Path) -> None:
    assert tpg_figures("--smoke", "--folder", str(copied))[0] == 0
    assert names(copied) == {MODEL.name}
    aside = tmp_path / "aside"
    assert tpg_figures("--smoke", "--folder", str(copied), "--out", str(aside))[0] == 0
    assert names(aside) == {f"{MODEL.stem}{ending}" for ending in run.ENDINGS}
    assert names(copied) == {MODEL.name}


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (("gamma_weight", "--folder", str(FOLDER)), "unknown figure 'gamma_weight': did you mean gamma_weights"),
        (("--smoke", "--check"), "give one of --smoke and --check"),
        (("--folder", "no/such/folder"), "no figure files in no/such/folder: run it in a checkout, or give --folder"),
    ],
)
def test_bad_input_is_one_line(args: tuple[str, ...], message: str, tpg_figures: Call) -> None:
    code, out, err = tpg_figures(*args)
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert message in err


# The room


def test_a_library_that_is_missing_is_one_line(
    tpg_figures: Call, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setitem(sys.modules, "torch", None)  # what an import then meets is that of a machine without it
    for name in ("neural_cost", "neural_learning_curves"):  # one imports it when it computes, one at once
        code, _, err = tpg_figures(name, "--smoke", "--out", str(tmp_path))
        assert code == 2
        assert err.splitlines() == [
            f"error: figure {name} needs torch, which is missing: pip install 'tpg[neural]', or name other figures"
        ]
    assert list(tmp_path.iterdir()) == []


def test_a_figure_without_a_caption_is_refused(copied: Path) -> None:
    source = copied / MODEL.name
    source.write_text(source.read_text(encoding="utf-8").replace("CAPTION =", "WORDS ="), encoding="utf-8")
    with pytest.raises(TpgError, match=r"gamma_weights\.py lacks CAPTION: a figure has CLAIMS, CAPTION, compute"):
        run.make(source, copied)
    assert names(copied) == {MODEL.name}


@pytest.mark.parametrize("claims", ["'prop:length'", "()"])
def test_claims_are_a_tuple_of_labels(claims: str, copied: Path) -> None:
    source = copied / MODEL.name
    text = re.sub(r"^CLAIMS = .*$", f"CLAIMS = {claims}", source.read_text(encoding="utf-8"), flags=re.MULTILINE)
    source.write_text(text, encoding="utf-8")
    with pytest.raises(TpgError, match=r"gamma_weights\.py has CLAIMS = .*: needed a tuple of one label or more"):
        run.load(source)


def test_files_that_begin_with_an_underscore_are_no_figures(copied: Path) -> None:
    (copied / "_common.py").write_text("", encoding="utf-8")
    assert [path.name for path in run.sources(copied)] == [MODEL.name]


def test_numbers_keep_ten_digits() -> None:
    third = run.rounded({"a": np.array([1 / 3, 2e300 / 3]), 2: (True, None, "x", 7, np.float32(0.5))})
    assert third == {"a": [0.3333333333, 6.666666667e299], "2": [True, None, "x", 7, 0.5]}
    assert run.rounded(0.1 + 0.2) == 0.3
    assert run.rounded(123456789.012345) == 123456789.0
    assert run.rounded(np.zeros((2, 1))) == [[0.0], [0.0]]


def test_not_a_number_is_never_written(tmp_path: Path) -> None:
    # Wrong: NaN in a .json file, which no other program reads, or half a file in its place.
    source = tmp_path / "bad.py"
    lines = ("CLAIMS, CAPTION = ('lem:x',), 'x.'", "def compute(smoke): return {'x': float('nan')}", "draw = compute")
    source.write_text("\n".join(lines), encoding="utf-8")
    with pytest.raises(ValueError, match="not JSON compliant"):
        run.make(source, tmp_path)
    assert names(tmp_path) == {source.name}
