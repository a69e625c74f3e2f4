"""Claims on a transformer: each holds, each refutes its mutants, and the runner says what kind of evidence it has."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from paper_checks import neural
from paper_checks.neural import every_row, sampling
from paper_checks.neural.common import biased, near, off, unbiased
from tpg.claims import Claim, Finding, registry
from tpg.claims.run import run_on
from tpg.cli.main import main
from tpg.errors import TooLarge, TpgError
from tpg.estimators.table import ESTIMATORS
from tpg.neural import case as room
from tpg.neural.case import Case, Size, cases
from tpg.neural.task import Task

SMALL = Size(vocab=3, horizon=3, width=8, heads=2)
CASES = cases(SMALL)
CLAIMS = {claim.label: claim for claim in neural.CLAIMS}
LONG = ("neural:every-row", "neural:sampling")  # seconds on one case


@pytest.mark.parametrize("label", [label for label in CLAIMS if label not in LONG])
def test_claims_hold_and_their_mutants_do_not(label: str) -> None:
    found = run_on(CLAIMS[label], CASES)
    assert (found.status, found.evidence, found.error_probability) == ("holds", "MEASURED", None), found.why
    assert found.findings >= len(CASES)
    assert found.mutants
    assert "survived" not in found.mutants.values()


def test_what_is_published_on_noise_and_memory_fails_somewhere() -> None:
    for label in ("neural:variance", "neural:cost"):
        assert str(run_on(CLAIMS[label], CASES[:1]).as_worded).startswith("refuted on ")


def test_rows_are_what_they_declare_on_a_network_and_most_are_looked_at() -> None:
    case = CASES[0]
    found = [every_row.measured(case, row, False) for row in ESTIMATORS.values()]
    assert [f.what for f in found if not f.ok] == []
    assert sum(f.numbers > 0 for f in found) > len(found) / 2
    for name, mutant in every_row.CLAIM.mutants.items():
        assert not all(f.ok for f in mutant(case)), name


def test_samples_from_the_network_are_a_test_with_its_error_rate(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sampling, "ROWS", ("rloo", "exact_advantage"))
    found = run_on(sampling.CLAIM, CASES[:1])
    assert (found.status, found.evidence) == ("holds", "TESTED"), found.why
    # two rows, each half for the mean and half for the variance
    assert found.error_probability == pytest.approx(2 * sampling.ALPHA)
    assert "survived" not in found.mutants.values()


def test_silence_of_samples_decides_nothing() -> None:
    held = type("Held", (), {"minimum_discrepancy": np.array([2.0]), "log_evalue": 0.0, "rejected": False})
    assert sampling._finding("mean", held, 1.0).numbers == 0  # a deviation of twice g would have gone unnoticed
    assert sampling._finding("mean", held, 4.0).numbers == 1


def test_near_and_off_leave_a_gap_between_them() -> None:
    case = CASES[0]
    bound = 2.0**12 * 2.0**-52  # ROUNDINGS · eps of float64
    assert near(case, "", bound, 1).ok
    assert not near(case, "", 1.01 * bound, 1).ok
    assert not off(case, "", bound, 1).ok
    assert off(case, "", 10 * bound, 1).numbers == 0  # neither rounding nor clearly more
    assert off(case, "", 10.1 * bound, 1).ok
    assert off(case, "", 10.1 * bound, 1).numbers == 1
    assert near(
        replace(case, network=CASES[0].network.at({n: p.float() for n, p in case.network.params.items()})), "", 1e-4, 1
    ).ok
    assert near(case, "", torch.zeros(3), 1).numbers == 3
    assert not near(case, "", np.nan, 1).ok


def test_unbiased_and_biased_are_told_apart() -> None:
    case = CASES[0]
    assert all(f.ok for f in unbiased(ESTIMATORS["rloo"])(case))
    assert not all(f.ok for f in biased(ESTIMATORS["rloo"])(case))
    assert all(f.ok for f in biased(ESTIMATORS["grpo"])(case))


def test_a_claim_about_nothing_is_undecided() -> None:
    empty = Claim("none", "", "", (), check=lambda case: [], mutants={"m": lambda case: [Finding("", False, "")]})
    assert run_on(empty, CASES[:1]).status == "undecided"


# cases


def test_cases_cover_unequal_lengths_few_and_many_rewards_and_two_prompts() -> None:
    assert [case.task.end_token for case in CASES] == [1, 1, None]
    assert [case.task.discount for case in CASES] == [1, 0.9, 1]
    assert {case.task.prompts for case in CASES} == {2}
    assert len({case.task.weights for case in CASES}) == 1
    assert CASES[0].task.weights[0] != CASES[0].task.weights[1]


def test_a_case_whose_gradient_is_zero_is_refused() -> None:
    def nothing(prompt: torch.Tensor, tokens: torch.Tensor) -> torch.Tensor:
        return torch.zeros(tokens.shape, dtype=torch.float64)

    case = Case("dull", CASES[0].network, Task(3, 3, nothing, (0.5, 0.5)))
    with pytest.raises(TpgError, match="dull: the gradient is zero"):
        _ = case.along


def test_trees_that_claims_cannot_list_are_refused_before_work() -> None:
    with pytest.raises(TooLarge, match="every response of a claim"):
        cases(Size(vocab=32, horizon=6))
    with pytest.raises(TooLarge, match="operations, the limit on cpu"):
        cases(Size(vocab=50, horizon=20))


def test_total_variance_of_large_networks_is_taken_along_random_directions(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = Case("fresh", CASES[0].network, CASES[0].task)
    assert (whole.small, whole.counted) == (True, "all parameters")
    monkeypatch.setattr(room.problem, "MAX_TABLE", 1000 * room.MANY)
    large = Case("large", CASES[0].network, CASES[0].task)
    assert large.counted == "16 random directions"
    assert large.whole.parameters == room.MANY


def test_small_networks_run_on_one_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []
    monkeypatch.setattr(torch, "set_num_threads", asked.append)
    room.spare_threads(CASES[0])
    assert asked == [1]
    monkeypatch.setattr(room, "THREADED", 1.0)
    room.spare_threads(CASES[0])
    assert asked == [1]


# tpg verify --neural


def test_verify_neural_writes_outcomes_and_says_on_what(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    file = tmp_path / "out.json"
    args = ["verify", "neural:advantage", "--neural", "--quick", "--width", "4", "--json", str(file)]
    assert main(args) == 0
    labels = [result["label"] for result in json.loads(file.read_text(encoding="utf-8"))]
    assert labels == ["neural:exact-gradient", "neural:trajectory-pg", "neural:advantage"]  # what it needs comes first
    words = " ".join(capsys.readouterr().out.split())
    assert "a transformer of 2 layers, width 4," in words
    assert "3 tokens, horizon 3, 2 prompts" in words


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["--vocab", "3"], "--vocab given without --neural"),
        (["--neural", "--device", "cuda:77"], "device 'cuda:77' given, this machine has cpu"),
        (["--neural", "--dtype", "float16"], "dtype 'float16' given, needed float64 or float32"),
        (["--neural", "--width", "30"], "width=30 and heads=4 given"),
        (["--neural", "--vocab", "32", "--horizon", "6"], "every response of a claim"),
        (["neural:advantag", "--neural"], "unknown claim 'neural:advantag': did you mean neural:advantage"),
    ],
)
def test_bad_sizes_are_one_line(args: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["verify", *args]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert message in err
    assert len(err.splitlines()) == 1


def test_a_claim_on_networks_asked_of_tables_says_what_to_add(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["verify", "neural:cost"]) == 2
    assert capsys.readouterr().err.splitlines() == [
        "error: claim 'neural:cost' is about networks: add --neural (`tpg list claims` shows all)"
    ]


def test_without_torch_the_remedy_is_said(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def missing(labels: Sequence[str], group: str = "") -> Any:
        raise ModuleNotFoundError("No module named 'torch'", name="torch")

    monkeypatch.setattr(registry, "choose", missing)
    assert main(["verify", "--neural"]) == 2
    assert "torch is missing: pip install 'tpg[neural]'" in capsys.readouterr().err


def test_the_claims_on_networks_are_offered_apart_from_the_others() -> None:
    assert list(registry.load(registry.NEURAL)) == list(CLAIMS)
    assert not set(CLAIMS) & set(registry.load())
    assert "torch" in sys.modules  # here; `tpg verify` alone does not import it


@pytest.mark.gpu
def test_claims_hold_on_a_gpu() -> None:
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device: run `pytest -m gpu` on a machine that has one")
    subjects = cases(replace(SMALL, device="cuda"))
    assert {run_on(claim, subjects).status for claim in neural.CLAIMS} == {"holds"}


def test_what_an_engine_refuses_is_undecided_and_the_others_go_on() -> None:
    def refuse(case: Case) -> Sequence[Finding]:
        raise TooLarge("storing every score would need 1e+09 entries, the limit is 1e+08: use class collapse")

    found = run_on(replace(CLAIMS["neural:trepo"], check=refuse), CASES[:1])
    assert (found.status, found.evidence, found.group_sizes) == ("undecided", "OPEN", (1,))
    assert found.why.startswith("storing every score would need")
