"""The curl of an expected gradient: exact where it can be, and able to say both yes and no."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest

from tpg import truth
from tpg.cli.main import main
from tpg.errors import EstimatorError, TooLarge
from tpg.estimators import advantages, expectations
from tpg.estimators.estimator import Estimator
from tpg.estimators.parts import batch_peers
from tpg.estimators.table import ESTIMATORS
from tpg.moments import curl as room
from tpg.moments.curl import curl
from tpg.numbers import FLOAT64, Array, to_float
from tpg.problem import zoo

Z_SUM = Estimator("z, token sum", advantages.z_score, numbers="float64", expectation=expectations.UNBIASED)


@pytest.mark.parametrize("name", ["reinforce", "rloo", "dr_grpo", "exact_advantage", "zra_discounted_start"])
def test_gradients_have_no_curl(name: str) -> None:
    # E ĝ is a multiple of ∇J, or ∇E[γ^{L−1} RM].
    row = ESTIMATORS[name]
    found = curl(zoo.shared(), row, row.min_group)
    assert (found.relative, found.error) == (0.0, 0.0)
    rounded = curl(zoo.shared().to(FLOAT64), row, row.min_group)
    assert rounded.conservative
    assert rounded.error < 1e-5


def test_both_routes_find_the_same_curl() -> None:
    # The declared expectation of prop:gamma-weight, differentiated with dual numbers by the judge.
    row = ESTIMATORS["zra_discounted"]

    def declared(problem: zoo.Problem) -> Array:
        return row.expectation(problem, 1, truth.gradient(problem))

    slope = to_float(truth.jacobian(zoo.shared(), declared))
    wanted = float(np.linalg.norm(slope - slope.T) / np.linalg.norm(slope))
    exact, rounded = curl(zoo.shared(), row, 1), curl(zoo.shared().to(FLOAT64), row, 1)
    assert wanted > 0.01
    assert exact.relative == pytest.approx(wanted, rel=1e-12)
    assert rounded.relative is not None
    assert abs(rounded.relative - wanted) <= rounded.error
    assert not exact.conservative
    assert not rounded.conservative


def test_sigma_is_a_learning_rate_for_two_rewards_and_no_gradient_for_three() -> None:
    # prop:sigma, prop:sigma-turns: with two values E ĝ = h'(p) ∇p = ∇h(p); with three it has curl.
    assert curl(zoo.two_valued(), Z_SUM, 4).conservative
    found = curl(zoo.three_valued(), Z_SUM, 4)
    assert not found.conservative
    assert found.relative is not None
    assert found.relative > 1000 * found.error


def test_a_field_that_does_not_move_has_none() -> None:
    found = curl(zoo.cancelling(), ESTIMATORS["reinforce"], 1)
    assert (found.relative, found.conservative) == (None, True)


@batch_peers("reward")
def batch_mean(reward: Array) -> Array:
    return reward - reward.mean((-1, -2), keepdims=True)


def test_what_cannot_be_differentiated_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(EstimatorError, match=r"^over the batch reads the whole batch: the curl of such rows is not"):
        curl(zoo.shared(), Estimator("over the batch", batch_mean), 2)
    monkeypatch.setattr(room, "MAX_PARAMETERS", 2)
    with pytest.raises(TooLarge, match=r"^the Jacobian of E ĝ would need .*: choose a smaller problem$"):
        curl(zoo.shared(), ESTIMATORS["rloo"], 2)


def test_audits_show_it_when_asked(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["audit", "zra_discounted", "--problem", "shared", "--group-size", "1", "--curl"]) == 0
    out = capsys.readouterr().out
    assert "curl" in out
    assert "no objective" in out
    assert main(["audit", "rloo", "--problem", "shared", "--group-size", "2", "--curl", "--json", "-"]) == 0
    assert json.loads(capsys.readouterr().out)["curl"] == {"relative": 0.0, "error": 0.0, "conservative": True}
    assert main(["audit", "rloo", "--problem", "shared", "--group-size", "2", "--json", "-"]) == 0
    assert "curl" not in json.loads(capsys.readouterr().out)


def test_a_planted_curl_is_seen() -> None:
    # REINFORCE whose credits are cut to the first token: biased wherever later tokens matter, and no gradient.
    def first_only(reward: Array, mask: Array) -> Array:
        return reward[..., None] * (np.arange(mask.shape[-1]) == 0)

    assert not curl(replace(zoo.shared(), discount=1), Estimator("first", first_only), 1).conservative
