"""The betting test: exactly fair under H0, calibrated where the z-test is not, as powerful as it declares."""

from __future__ import annotations

import math
import tracemalloc
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from fractions import Fraction as F
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binom, norm

from tpg.errors import EstimatorError
from tpg.montecarlo import eprocess
from tpg.montecarlo.streams import stream

SURE = 1e-9 / 4  # four assertions below rest on random numbers: together they fail by chance with probability ≤ 1e-9

# ---------------------------------------------------------------------------------------------- exactly fair under H0

Point = tuple[F, ...]
Past = tuple[Point, ...]


@dataclass(frozen=True)
class Game:
    """H0 made concrete: the next observation's law {point: probability} given the past, with mean ``mean`` always."""

    law: Callable[[Past], dict[Point, F]]
    mean: Point
    lo: Point
    hi: Point


def numbers(*values: str) -> Point:
    return tuple(F(v) for v in values)


def swings(past: Past) -> dict[Point, F]:
    """Mean 1/2 whatever happened, spread decided by the last observation: H0 needs no independence."""
    if past and past[-1][0] > F(1, 2):
        return {numbers("0"): F(1, 2), numbers("1"): F(1, 2)}
    return {numbers("1/4"): F(1, 2), numbers("1/2"): F(1, 4), numbers("1"): F(1, 4)}


RARE = {numbers("0"): F(499, 500), numbers("1"): F(1, 500)}
SKEW = {numbers("-1"): F(1, 2), numbers("1/3"): F(3, 10), numbers("2"): F(1, 5)}
PAIR = {numbers("0", "-2"): F(1, 2), numbers("1", "3"): F(1, 4), numbers("3/4", "1"): F(1, 4)}  # dependent directions
GAMES = {
    "rare token": Game(lambda _: RARE, numbers("1/500"), numbers("0"), numbers("1")),
    "skewed, range wider than needed": Game(lambda _: SKEW, numbers("0"), numbers("-3"), numbers("2")),
    "law depends on the past": Game(swings, numbers("1/2"), numbers("0"), numbers("1")),
    "two dependent directions": Game(lambda _: PAIR, numbers("7/16", "0"), numbers("0", "-2"), numbers("1", "3")),
}


def histories(game: Game, length: int) -> Iterator[Past]:
    """Every past shorter than ``length``."""
    layer: list[Past] = [()]
    for _ in range(length):
        yield from layer
        layer = [(*past, x) for past in layer for x in game.law(past)]


def assert_fair(wealth: Callable[[Game, Past], Any], game: Game, tolerance: float, length: int = 6) -> None:
    """Wealth 1 at the start, never negative, and from every past on exactly fair: a martingale, so E[wealth] = 1."""
    assert abs(wealth(game, ()) - 1) <= tolerance
    for past in histories(game, length):
        now = wealth(game, past)
        assert now >= 0
        after = sum(p * wealth(game, (*past, x)) for x, p in game.law(past).items())
        assert abs(after - now) <= tolerance


def scaled(game: Game, x: Point) -> list[F]:
    bounds = (max(hi - m, m - lo) for m, lo, hi in zip(game.mean, game.lo, game.hi, strict=True))
    return [(v - m) / b for v, m, b in zip(x, game.mean, bounds, strict=True)]


LITERAL_BETS = [sign * F(1, 2**j) for j in range(1, 13) for sign in (1, -1)]


def literal(game: Game, past: Past, bets: list[F] = LITERAL_BETS) -> F:
    """The definition, in exact rationals: the average over bets and directions of Π (1 + b y_i)."""
    steps = [scaled(game, x) for x in past]
    wealths = [math.prod((1 + b * y[k] for y in steps), start=F(1)) for k in range(len(game.mean)) for b in bets]
    return sum(wealths, start=F(0)) / len(wealths)


def begun(game: Game) -> eprocess.EProcess:
    mean, lo, hi = (np.array(v, dtype=float) for v in (game.mean, game.lo, game.hi))
    return eprocess.begin(mean, lo, hi)


def in_one_chunk(game: Game, past: Past) -> float:
    return eprocess.evalue(eprocess.update(begun(game), np.array(past, dtype=float).reshape(-1, len(game.mean))))


def one_by_one(game: Game, past: Past) -> float:
    process = begun(game)
    for x in past:
        process = eprocess.update(process, np.array([x], dtype=float))
    return eprocess.evalue(process)


@pytest.mark.parametrize("game", GAMES.values(), ids=GAMES)
def test_definition_is_exactly_fair(game: Game) -> None:
    assert_fair(literal, game, tolerance=0, length=4)


@pytest.mark.parametrize("wealth", [in_one_chunk, one_by_one])
@pytest.mark.parametrize("game", GAMES.values(), ids=GAMES)
def test_evalue_is_fair_to_rounding(game: Game, wealth: Callable[[Game, Past], float]) -> None:
    assert_fair(wealth, game, tolerance=1e-12)


@pytest.mark.parametrize("game", GAMES.values(), ids=GAMES)
def test_evalue_is_the_definition(game: Game) -> None:
    for past in histories(game, 4):
        assert in_one_chunk(game, past) == pytest.approx(float(literal(game, past)), rel=1e-13)


def peeks(game: Game, past: Past) -> F:
    """The sign of each bet is that of the very observation it is placed on."""
    return math.prod((1 + abs(scaled(game, x)[0]) / 4 for x in past), start=F(1))


def fitted(game: Game, past: Past) -> F:
    """The best bet in hindsight instead of the average."""
    return max(literal(game, past, [b]) for b in LITERAL_BETS)


def unclipped(game: Game, past: Past) -> F:
    """A bet beyond 1/B: fair still, but the wealth can turn negative, and Ville's inequality is gone."""
    return literal(game, past, [F(4)])


def bankrupt(game: Game, past: Past) -> F:
    """The same, with debts forgiven."""
    return max(F(0), unclipped(game, past))


def winsorised(game: Game, past: Past) -> F:
    """Observations pulled into a range that was declared too small, instead of refused."""
    return literal(game, tuple(tuple(min(v, F(1, 2)) for v in x) for x in past))


@pytest.mark.parametrize("mutant", [peeks, fitted, unclipped, bankrupt, winsorised])
def test_fairness_check_catches(mutant: Callable[[Game, Past], F]) -> None:
    with pytest.raises(AssertionError):
        assert_fair(mutant, GAMES["skewed, range wider than needed"], tolerance=1e-12, length=4)


@pytest.mark.parametrize("factor", [4, 16])
def test_fairness_check_catches_larger_bets_in_the_package(monkeypatch: pytest.MonkeyPatch, factor: int) -> None:
    monkeypatch.setattr(eprocess, "BETS", factor * eprocess.BETS)
    with np.errstate(invalid="ignore", divide="ignore"), pytest.raises(AssertionError):
        assert_fair(in_one_chunk, GAMES["law depends on the past"], tolerance=1e-12)


# ------------------------------------------------------------------------------------------- chunks, merging, stopping


@settings(deadline=None, max_examples=40)
@given(st.integers(0, 2000), st.lists(st.integers(0, 2000), max_size=4), st.integers(1, 3), st.integers(0, 2**32))
def test_chunks_and_order_leave_the_evalue_alone(n: int, cuts: list[int], directions: int, seed: int) -> None:
    x = stream(seed, "chunks").random((n, directions))
    whole = eprocess.update(eprocess.begin(np.full(directions, 0.4), 0, 1), x)
    pieces, merged = (eprocess.begin(np.full(directions, 0.4), 0, 1) for _ in range(2))
    for start, stop in pairwise([0, *sorted(min(c, n) for c in cuts), n]):
        pieces = eprocess.update(pieces, x[start:stop])
        worker = eprocess.update(eprocess.begin(np.full(directions, 0.4), 0, 1), x[start:stop][::-1])
        merged = eprocess.merge(merged, worker)
    for other in (pieces, merged):
        assert other.count == whole.count == n
        np.testing.assert_allclose(other.log_wealth, whole.log_wealth, rtol=0, atol=1e-15 * (n + 1))


def test_merged_tests_are_looked_at_in_the_order_of_merging() -> None:
    start = eprocess.begin(0.5, 0, 1)
    high, low = eprocess.update(start, np.ones(60)), eprocess.update(start, np.zeros(50))
    one, other = eprocess.merge(high, low), eprocess.merge(low, high)
    assert eprocess.log_evalue(one) == eprocess.log_evalue(other)
    assert (eprocess.rejected(one), eprocess.rejected(other)) == (True, False)


def test_rejects_from_one_over_alpha_on() -> None:
    e = sum((1 + b) ** 20 for b in eprocess.BETS) / 24
    for alpha, expected in (((1 + 1e-9) / e, True), ((1 - 1e-9) / e, False)):
        assert eprocess.rejected(eprocess.update(eprocess.begin(0.5, 0, 1, alpha), np.ones(20))) is expected


def test_a_rejection_stands() -> None:
    process = eprocess.update(eprocess.begin(0.5, 0, 1), np.ones(100))
    assert eprocess.rejected(process)
    process = eprocess.update(process, np.zeros(100))
    assert eprocess.rejected(process)
    assert eprocess.evalue(process) < 1


def test_evidence_may_exceed_float64() -> None:
    process = eprocess.update(eprocess.begin(0.5, 0, 1), np.ones(5000))
    assert eprocess.evalue(process) == math.inf
    assert eprocess.log_evalue(process) == pytest.approx(5000 * math.log(1.5) - math.log(24), abs=1e-6)


def test_memory_does_not_grow_with_the_chunk() -> None:
    x = np.full(400_000, 0.5)
    tracemalloc.start()
    eprocess.update(eprocess.begin(0.5, 0, 1), x)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < x.nbytes / 4


# ------------------------------------------------------------------------------------------------------------ refusals


@pytest.mark.parametrize("value", [1.0000001, -1e-6, math.nan, math.inf, -math.inf])
def test_refuses_what_lies_outside(value: float) -> None:
    x = np.full((1000, 2), 0.5)
    x[700, 1] = value
    said = rf"^observation {value} is outside \[0.0, 1.0\] of direction 1, so alpha is void: give bounds [\w ]+$"
    with pytest.raises(EstimatorError, match=said):
        eprocess.update(eprocess.begin([0.5, 0.5], 0, 1), x)


def test_forgives_rounding_at_the_bounds() -> None:
    process = eprocess.update(eprocess.begin(0.2, 0.1, 0.3), [0.1 + 0.2, np.nextafter(0.1, 0)])
    assert process.count == 2


@pytest.mark.parametrize("shape", [(5,), (5, 3), (5, 2, 1)])
def test_refuses_another_shape(shape: tuple[int, ...]) -> None:
    with pytest.raises(EstimatorError, match=r"observations have shape .*needed \[n, 2\]"):
        eprocess.update(eprocess.begin([0.5, 0.5], 0, 1), np.full(shape, 0.5))


@pytest.mark.parametrize(
    ("mean", "lo", "hi"), [(2, 0, 1), (0, 0, 0), (0, 0, math.inf), (math.nan, 0, 1), ([[0]], 0, 1)]
)
def test_refuses_an_impossible_range(mean: object, lo: float, hi: float) -> None:
    with pytest.raises(EstimatorError, match="give finite lo < hi around the mean"):
        eprocess.begin(mean, lo, hi)


@pytest.mark.parametrize("alpha", [0, 1, -0.1, math.nan])
def test_refuses_an_impossible_alpha(alpha: float) -> None:
    with pytest.raises(EstimatorError, match="is no error rate"):
        eprocess.begin(0.5, 0, 1, alpha)


@pytest.mark.parametrize("other", [(0.4, 0, 1), (0.5, -1, 1), (0.5, 0, 2), (0.5, 0, 1, 0.1), ([0.5, 0.5], 0, 1)])
def test_refuses_to_merge_different_tests(other: tuple[float, ...]) -> None:
    with pytest.raises(EstimatorError, match="cannot merge tests with different mean, lo, hi or alpha"):
        eprocess.merge(eprocess.begin(0.5, 0, 1), eprocess.begin(*other))


@pytest.mark.parametrize("bad", [{"bound": 0.0}, {"variance": -1.0}, {"alpha": 0.0}, {"power": 1.0}, {"directions": 0}])
def test_refuses_impossible_power_questions(bad: dict[str, float]) -> None:
    with pytest.raises(EstimatorError, match="give bound > 0, 0 < rates < 1"):
        eprocess.minimum_discrepancy(**{"n": 100, "variance": 0.1, "bound": 1.0, **bad})  # type: ignore[arg-type]


# --------------------------------------------------------------------------------------- false alarms when H0 is true

P, ALPHA, LOOK, LOOKS = 0.002, 0.01, 136, 6  # a rare token; looks after 136, 272, … 816 observations


def alarm_rate(p: float, rejects: Callable[[eprocess.EProcess], bool]) -> float:
    """P(alarm at some look) for Bernoulli(p), exactly: wealth depends on the number of ones, so recurse over looks."""
    alive, alarm = np.array([1.0]), 0.0
    for look in range(1, LOOKS + 1):
        alive = np.convolve(alive, binom.pmf(np.arange(LOOK + 1), LOOK, p))
        ones = np.arange(look * LOOK) < np.arange(len(alive))[:, None]
        stop = np.array([rejects(eprocess.update(eprocess.begin(p, 0, 1, ALPHA), row)) for row in ones])
        alarm, alive = alarm + alive[stop].sum(), np.where(stop, 0, alive)
    assert alive.sum() + alarm == pytest.approx(1, abs=1e-9)
    return float(alarm)


def summed_bets_reject(process: eprocess.EProcess) -> bool:
    """The mutant: the wealth of all bets together, not their average, is held against 1/α."""
    return eprocess.log_evalue(process) + math.log(process.log_wealth.size) >= -math.log(process.alpha)


@pytest.mark.parametrize(("p", "at_least"), [(P, 0.0), (0.1, 1e-4), (0.5, 1e-4), (0.9, 1e-4)])
def test_false_alarm_rate_is_exactly_below_alpha(p: float, at_least: float) -> None:
    assert at_least <= alarm_rate(p, eprocess.rejected) <= ALPHA


def test_false_alarm_check_catches_summed_bets() -> None:
    assert alarm_rate(0.5, summed_bets_reject) > ALPHA


def test_calibrated_where_the_z_test_is_not() -> None:
    # H0 is true in all 2000 repetitions.  e-process, six looks: at most α·2000 = 20 alarms are expected, and more than
    # 53 happen with probability ≤ SURE.  z-test, one look, α = 1e-9: a sample of zeros only, of probability 0.998^816 =
    # 19.5 %, has standard deviation 0 and is infinitely significant: 390 alarms expected, fewer than 284 happen with
    # probability ≤ SURE.  No α mends that.
    repetitions, n = 2000, LOOK * LOOKS
    x = (stream(20_250_603, "rare token").random((repetitions, n)) < P).astype(float)
    alarms = 0
    for row in x:
        process = eprocess.begin(P, 0, 1, ALPHA)
        for look in row.reshape(LOOKS, LOOK):
            process = eprocess.update(process, look)
        alarms += eprocess.rejected(process)
    assert alarms <= binom.isf(SURE, repetitions, ALPHA) == 53
    z_test_alarms = (np.abs(x.mean(1) - P) > norm.isf(1e-9 / 2) * x.std(1) / math.sqrt(n)).sum()
    assert z_test_alarms >= binom.ppf(SURE, repetitions, (1 - P) ** n) == 284


# -------------------------------------------------------------------------------------- detection at the declared power


def two_points(delta: float, variance: float, low: float) -> tuple[float, float]:
    """(probability of ``low``, the other value) of the law on two points with mean ``delta`` and this variance."""
    return variance / (variance + (delta - low) ** 2), delta + variance / (delta - low)


def exact_power(n: int, delta: float, variance: float, alpha: float, low: float, directions: int = 1) -> float:
    """P(rejected after n draws) for the two-point law, every other direction having lost all its money."""
    weight, high = two_points(delta, variance, low)
    lows = np.arange(n + 1)
    log_wealth = np.log1p(eprocess.BETS * low)[:, None] * lows + np.log1p(eprocess.BETS * high)[:, None] * lows[::-1]
    log_e = np.logaddexp.reduce(log_wealth, axis=0) - math.log(len(eprocess.BETS) * directions)
    return float(binom.pmf(lows, n, weight)[log_e >= -math.log(alpha)].sum())


CASES = [
    (n, variance, alpha, power, directions)
    for n in (60, 300, 3000, 20_000)
    for variance in (0.001, 0.1, 1.0)
    for alpha, power, directions in ((1e-9, 0.99, 1), (0.01, 0.5, 1), (1e-9, 0.999_999, 16))
]


@pytest.mark.parametrize("low", [-1.0, -0.3], ids=["hardest law", "milder law"])
def test_minimum_discrepancy_is_detected_exactly(low: float) -> None:
    tried, bound = 0, 7.0
    for n, variance, alpha, power, directions in CASES:
        least = eprocess.minimum_discrepancy(n, variance * bound**2, bound, alpha, power, directions) / bound
        for delta in np.geomspace(least, 1, 5) if least < 1 else []:  # this and everything larger
            v = min(variance, (1 - delta) * (delta - low))  # as much as fits between low and 1
            assert exact_power(n, delta, v, alpha, low, directions) >= power
            tried += 1
    assert tried > 130


def test_minimum_discrepancy_is_not_wasteful() -> None:
    # The hardest law at 1/1.4 of the declared discrepancy is missed more often than declared: at most 40 % are lost.
    for n, variance, alpha, power, directions in CASES:
        least = eprocess.minimum_discrepancy(n, variance, 1, alpha, power, directions) / 1.4
        if math.isfinite(least) and power >= 0.99:
            assert exact_power(n, least, min(variance, 1 - least**2), alpha, -1, directions) < power


@pytest.mark.parametrize("careless", [{"variance": 0.05}, {"alpha": 1e-5}, {"power": 0.5}])
def test_power_check_catches_an_optimist(careless: dict[str, float]) -> None:
    honest = {"n": 3000, "variance": 0.1, "bound": 1.0, "alpha": 1e-9, "power": 0.99}
    least = eprocess.minimum_discrepancy(**{**honest, **careless})  # type: ignore[arg-type]
    assert exact_power(3000, least, 0.1, 1e-9, -1) < 0.99


@pytest.mark.parametrize("sign", [1, -1])
def test_detects_in_one_direction_of_four(sign: int) -> None:
    # Declared power 0.99 in 150 repetitions: at most 1.5 misses expected, more than 14 with probability ≤ SURE.
    n, repetitions, spread, mean = 1500, 150, 2.0, np.array([0.0, 1.0, -3.0, 10.0])
    least = eprocess.minimum_discrepancy(n, 0.05 * spread**2, spread, directions=4)
    weight, high = two_points(least / spread, 0.05, -1)
    misses = 0
    for repetition in range(repetitions):
        u = stream(20_250_603, "power", sign, repetition).random((n, 4))
        y = np.where(u < 0.5, -1.0, 1.0)  # three honest directions
        y[:, 2] = sign * np.where(u[:, 2] < weight, -1, high)  # the biased one
        process = eprocess.update(eprocess.begin(mean, mean - spread, mean + spread), mean + spread * y)
        misses += not eprocess.rejected(process)
    assert misses <= binom.isf(SURE, repetitions, 0.01) == 14


def test_minimum_discrepancy_falls_with_n_and_rises_with_everything_else() -> None:
    least = eprocess.minimum_discrepancy
    assert least(59, 0.0, 1) == least(0, 0.0, 1) == math.inf  # 59·log(1.5) < log(24e9), even when every bet is won
    assert least(60, 0.0, 1) <= least(60, 1.0, 1) <= 1  # a mean at the bound leaves no room for a variance
    by_n = [least(n, 0.1, 1) for n in np.geomspace(10, 1e11, 101).astype(int)]
    assert all(after <= before for before, after in pairwise(by_n))
    assert by_n[-1] < 1e-4
    base = least(5000, 0.1, 1)
    more = ({"variance": 0.2}, {"bound": 2}, {"alpha": 1e-12}, {"power": 0.999}, {"directions": 8})
    assert all(least(**{"n": 5000, "variance": 0.1, "bound": 1, **m}) > base for m in more)  # type: ignore[arg-type]
    assert least(5000, 0.1 * 9, 3) == pytest.approx(3 * base, rel=1e-12)
