"""Claims: a status is computed from findings, a check that cannot fail proves nothing, and the paper's claims hold."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import FrozenInstanceError, fields, replace
from importlib import import_module
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

import paper_checks
from paper_checks import CLAIMS, common
from tpg import moments, rollouts
from tpg.claims import Claim, Finding, apart, close, nonzero, positive, registry, zero
from tpg.claims.cases import POINT_FIELD, cases
from tpg.claims.record import Check
from tpg.claims.run import POINTS, Outcome, refuted_on, run, settle, verify
from tpg.errors import TpgError
from tpg.numbers import MERSENNE_61, RATIONAL, gf
from tpg.problem.problem import Problem

LABELS = [claim.label for claim in CLAIMS]
BY_LABEL = dict(zip(LABELS, CLAIMS, strict=True))


def sums_to_one(problem: Problem) -> Sequence[Finding]:
    return [zero("Σ π = 1", problem.probs.sum(-1) - 1)]


def sums_to_two(problem: Problem) -> Sequence[Finding]:
    return [zero("Σ π = 2", problem.probs.sum(-1) - 2)]


def toy(label: str = "toy", **changes: Any) -> Claim:
    given: dict[str, Any] = {"check": sums_to_one, "mutants": {"two": sums_to_two}, **changes}
    return Claim(label=label, statement="Σ π = 1", source="test", hypotheses=(), **given)


# Findings


def test_findings_are_exact_comparisons() -> None:
    assert zero("x", np.array([0, 0.0])).ok
    assert not zero("x", np.array([0, 1e-300])).ok
    assert not zero("x", np.array([0, np.nan])).ok
    assert zero("x", [0, 3, 5]).value == "2 of 3 not 0: 3"
    assert nonzero("x", np.array([0, 1])).ok
    assert not nonzero("x", np.zeros(3)).ok
    assert [positive("x", v).ok for v in (RATIONAL.scalar("1/9"), 0, -1)] == [True, False, False]
    assert not zero("x", gf().array([1])).ok
    assert zero("x", gf().array([MERSENNE_61])).ok


# Statuses


def test_a_true_claim_holds_with_the_evidence_of_its_check() -> None:
    proved, measured = (run(toy(algebraic=flag), quick=True) for flag in (True, False))
    assert (proved.status, proved.evidence) == ("holds", "PROVED")
    assert (measured.status, measured.evidence) == ("holds", "MEASURED")
    assert proved.shapes == measured.shapes == 8  # tabular or shared × fixed or variable × one or two prompts
    assert (proved.findings, measured.findings) == (8 * (1 + POINTS), 8)
    assert measured.error_probability is None
    linear = run(toy(degree=lambda horizon: 1), quick=True)
    assert linear.error_probability == pytest.approx(8 / MERSENNE_61**POINTS, rel=1e-12)


def only_when(wrong: Any) -> Check:
    """A check that fails where ``wrong(problem)`` says so."""
    return lambda problem: [zero("planted", int(wrong(problem)))]


@pytest.mark.parametrize(
    "wrong",
    [
        lambda p: p.prompts == 2 and p.features is not None and p.end_token is not None,  # one of eight contrasts
        lambda p: p.field is POINT_FIELD,  # true in the rationals, false at a random point
        lambda p: p.discount != RATIONAL.scalar("9/10"),  # true at γ = 9/10 alone
    ],
)
def test_a_false_claim_is_refuted_wherever_it_is_false(wrong: Any) -> None:
    outcome = run(toy(check=only_when(wrong)), quick=True)
    assert (outcome.status, outcome.evidence) == ("refuted", "REFUTED")
    assert "planted: 1 of 1 not 0: 1" in outcome.why
    assert outcome.error_probability is None


def test_a_false_example_refutes() -> None:
    outcome = run(toy(example=lambda: [nonzero("a counterexample", [0])]), quick=True)
    assert outcome.status == "refuted"
    assert outcome.why == "example: a counterexample: 0 in 1 numbers"


@pytest.mark.parametrize("mutants", [{}, {"same": sums_to_one}, {"two": sums_to_two, "same": sums_to_one}])
def test_a_check_that_lets_a_mutant_pass_decides_nothing(mutants: dict[str, Check]) -> None:
    outcome = run(toy(mutants=mutants), quick=True)
    assert (outcome.status, outcome.evidence) == ("undecided", "OPEN")
    assert outcome.why == f"the check lets mutants pass: {'same' if mutants else 'none given'}"
    assert outcome.mutants.get("same", "survived") == "survived"


@pytest.mark.parametrize("check", [lambda problem: [], lambda problem: [zero("of nothing", [])]])
def test_a_check_that_finds_nothing_decides_nothing(check: Check) -> None:
    assert run(toy(check=check), quick=True).status == "undecided"


def test_a_refuted_claim_stays_refuted_though_mutants_survive() -> None:
    assert run(toy(check=sums_to_two, mutants={"one": sums_to_one}), quick=True).status == "refuted"


def test_a_mutant_is_charged_to_the_problem_that_refutes_it() -> None:
    problems = [case.problem(RATIONAL, 0) for case in cases(("1",), quick=True)]
    assert refuted_on(only_when(lambda p: p.prompts == 2), problems) == next(p.name for p in problems if p.prompts == 2)
    assert refuted_on(sums_to_one, problems) == "survived"


def outcome(label: str, status: str = "holds", needs: tuple[str, ...] = ()) -> Outcome:
    return replace(run(toy(label), quick=True), status=status, evidence="PROVED", needs=needs, why="")


@pytest.mark.parametrize("order", [1, -1])
@pytest.mark.parametrize("status", ["refuted", "undecided"])
def test_what_needs_a_broken_claim_is_open_however_far_up(status: str, order: int) -> None:
    chain = [outcome("a", status), *(outcome(b, needs=(a,)) for a, b in ("ab", "bc", "cd")), outcome("e")]
    settled = {o.label: o for o in settle(chain[::order])}
    assert settled["a"].status == status
    for label, needed in ("ba", "cb", "dc"):
        assert (settled[label].status, settled[label].evidence) == ("undecided", "OPEN")
        assert settled[label].why == f"needs {needed}, which does not hold or was not run"
    assert settled["e"].status == "holds"


def test_what_needs_a_claim_that_was_not_run_is_open() -> None:
    (settled,) = settle([outcome("b", needs=("a",))])
    assert (settled.status, settled.why) == ("undecided", "needs a, which does not hold or was not run")
    assert settle([replace(settled, status="refuted")])[0].status == "refuted"


def test_verify_runs_in_order_and_settles() -> None:
    claims = [toy("a", check=sums_to_two), toy("b", needs=("a",)), toy("c")]
    assert [(o.label, o.status) for o in verify(claims, quick=True)] == [
        ("a", "refuted"),
        ("b", "undecided"),
        ("c", "holds"),
    ]


def test_progress_is_told_every_step() -> None:
    told: list[tuple[str, int, int]] = []
    run(toy(), quick=True, progress=lambda label, done, steps: told.append((label, done, steps)))
    assert told == [("toy", done, 9) for done in range(10)]  # eight shapes, one mutant, and the end


def test_nobody_can_type_a_status() -> None:
    assert not {"status", "evidence", "verdict", "holds"} & {f.name for f in fields(Claim)}
    with pytest.raises(FrozenInstanceError, match="cannot assign to field 'status'"):
        outcome("a").status = "holds"  # type: ignore[misc]


# Cases


def test_cases_cover_every_contrast() -> None:
    for quick in (True, False):
        shapes = list(cases(("1", "9/10"), quick))
        assert len({c.name + c.discount for c in shapes}) == len(shapes)
        for discount in ("1", "9/10"):
            kinds = {(c.shared > 0, c.variable, c.prompts) for c in shapes if c.discount == discount}
            assert len(kinds) == 8
    for case in shapes:
        problem, point = case.problem(RATIONAL, 0), case.problem(POINT_FIELD, 0)
        for made in (problem, point):
            assert (made.features is not None, made.end_token is not None) == (case.shared > 0, case.variable)
            assert (made.prompts, made.vocab, made.horizon) == (case.prompts, case.vocab, case.horizon)
        assert problem.discount == RATIONAL.scalar(case.discount)
        assert (point.discount == 1) == (case.discount == "1")


def test_points_are_spread_over_the_whole_field() -> None:
    # Schwartz–Zippel needs uniform residues.  Wrong: the small ratios of the rational problems, read modulo p.
    problem = next(iter(cases(("9/10",), quick=True))).problem(POINT_FIELD, 0)
    values = [int(v) for v in np.concatenate([problem.probs.ravel(), problem.rewards.ravel()])] + [
        int(problem.discount)
    ]
    assert sum(v > 2**40 for v in values) == len(values)
    assert all(1 - sum(row) == 0 for row in problem.probs)


# Evidence is not mixed


def in_floats(ok: bool = True) -> Finding:
    return replace(close("1 = 1", 1.0 - 1.0, 1), ok=ok)


def test_a_finding_knows_whether_it_is_exact() -> None:
    assert all(f.exact for f in (zero("x", RATIONAL.array([0])), nonzero("x", gf().array([1])), positive("x", 3)))
    floats = [zero("x", np.zeros(2)), zero("x", [0, 0.0]), nonzero("x", np.ones(1)), positive("x", 0.5)]
    assert not any(f.exact for f in [*floats, close("x", 0, 1), apart("x", 1, 1)])


@pytest.mark.parametrize("place", ["check", "example"])
def test_what_is_rounded_proves_nothing(place: str) -> None:
    given = {"check": lambda problem: [*sums_to_one(problem), in_floats()]} if place == "check" else {}
    outcome = run(toy(**given, example=lambda: [in_floats()]), quick=True)
    assert (outcome.status, outcome.evidence, outcome.error_probability) == ("holds", "MEASURED", None)
    assert outcome.why == "rounded, so that nothing is proved: 1 = 1"


def test_what_is_looked_at_beside_may_refute_and_is_no_evidence() -> None:
    plain, beside = (run(toy(beside=look), quick=True) for look in (None, lambda: [in_floats()]))
    assert (beside.evidence, beside.findings) == (plain.evidence, plain.findings) == ("PROVED", plain.findings)
    wrong = run(toy(beside=lambda: [in_floats(ok=False)]), quick=True)
    assert (wrong.status, wrong.why) == ("refuted", "beside: 1 = 1: at most 0.0e+00, terms of size 1.0e+00")


def test_group_sizes_are_reported() -> None:
    assert run(toy(group_sizes=(2, 3)), quick=True).group_sizes == (2, 3)
    assert run(toy(), quick=True).group_sizes == ()


# The paper's claims


@pytest.mark.parametrize("label", LABELS)
def test_a_claim_of_the_paper_holds_and_refutes_its_mutants(label: str) -> None:
    claim = BY_LABEL[label]
    found = run(claim, quick=True)
    assert (found.status, found.why) == ("holds", found.why)
    assert found.evidence == ("PROVED" if claim.algebraic else "MEASURED")
    assert found.mutants
    assert "survived" not in found.mutants.values()
    assert found.error_probability is None or 0 < found.error_probability < 1e-30


def test_claims_of_the_paper_are_linked() -> None:
    assert len(BY_LABEL) == len(CLAIMS) == len(paper_checks.ORDER)
    for place, claim in enumerate(CLAIMS):
        assert set(claim.needs) <= set(LABELS[:place]), f"{claim.label} needs what comes later, or nothing known"
        assert claim.statement
        assert claim.source
        assert claim.hypotheses


def test_what_is_proved_needs_nothing_that_is_measured() -> None:
    mixed = {(c.label, n) for c in CLAIMS for n in c.needs if c.algebraic and not BY_LABEL[n].algebraic}
    assert not mixed


@pytest.mark.parametrize("label", LABELS)
def test_group_sizes_are_those_that_the_check_forms(label: str, monkeypatch: pytest.MonkeyPatch) -> None:
    formed: set[int] = set()

    def heard(engine: Any, place: int) -> Any:
        def told(*given: Any, **named: Any) -> Any:
            formed.add(given[place] if len(given) > place else named["group_size"])
            return engine(*given, **named)

        return told

    engines = {"brute_force": (moments.brute_force, 2), "moments": (moments.moments, 2), "every": (rollouts.every, 1)}
    for module in (common, *(import_module(f"paper_checks.{name}") for name in paper_checks.ORDER)):
        for name, (engine, place) in engines.items():
            if getattr(module, name, None) is engine:
                monkeypatch.setattr(module, name, heard(engine, place))
    for engine, place in engines.values():
        assert engine.__code__.co_varnames[place] == "group_size"
    right = rollouts.Responses.group

    def grouped(self: Any, index: Any, *more: Any) -> Any:
        formed.add(index.shape[1])
        return right(self, index, *more)

    monkeypatch.setattr(rollouts.Responses, "group", grouped)
    shapes = list(cases(("9/10",), quick=True))
    for case in (shapes[0], shapes[-1]):
        BY_LABEL[label].check(case.problem(RATIONAL, 0))
    assert BY_LABEL[label].group_sizes == (tuple(sorted(formed)) if formed - {1} else ())


OF_THE_PAPER = [import_module(f"paper_checks.{name}").CLAIM.label for name in paper_checks.PAPER]


@pytest.mark.parametrize("label", [n for n in OF_THE_PAPER if n not in ("lem:baseline", "prop:silent-group")])
def test_a_wrong_gradient_refutes_what_the_paper_says_of_it(label: str, monkeypatch: pytest.MonkeyPatch) -> None:
    # The checks look at g: with another vector for g, all that speak of it must fail.
    right = common.gradient
    for module in (common, *(import_module(f"paper_checks.{name}") for name in paper_checks.ORDER)):
        if hasattr(module, "gradient"):
            monkeypatch.setattr(
                module, "gradient", lambda problem: right(problem) + problem.discount * problem.field.ones(1)
            )
    expected = (
        "holds" if label in ("prop:gae-pathwise", "prop:reward-class") else "refuted"
    )  # these compare other things
    assert run(BY_LABEL[label], quick=True).status == expected


# Finding claims


def offer(monkeypatch: pytest.MonkeyPatch, *packages: Sequence[Claim]) -> None:
    entries = [SimpleNamespace(load=lambda claims=claims: SimpleNamespace(CLAIMS=list(claims))) for claims in packages]
    monkeypatch.setattr(registry, "entry_points", lambda group: entries if group == "tpg.claims" else [])


def test_claims_are_chosen_with_all_they_need_in_their_order(monkeypatch: pytest.MonkeyPatch) -> None:
    offer(monkeypatch, [toy("a"), toy("b", needs=("a",))], [toy("c"), toy("d", needs=("b",))])
    assert [c.label for c in registry.choose([])] == ["a", "b", "c", "d"]
    assert [c.label for c in registry.choose(["d"])] == ["a", "b", "d"]
    assert [c.label for c in registry.choose(["c", "a"])] == ["a", "c"]


def test_an_unknown_label_lists_near_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    offer(monkeypatch, CLAIMS)
    message = r"^unknown claim 'thm:advantge': did you mean thm:advantage.*\? \(`tpg list claims` shows all\)$"
    with pytest.raises(TpgError, match=message):
        registry.choose(["thm:advantge"])
    with pytest.raises(TpgError, match=r"^unknown claim 'zzzzzz': did you mean lem:exact-gradient, lem:baseline, "):
        registry.choose(["zzzzzz"])


def test_labels_name_one_statement_each(monkeypatch: pytest.MonkeyPatch) -> None:
    offer(monkeypatch, [toy("a")], [toy("a")])
    with pytest.raises(TpgError, match=r"^claim 'a' is registered twice: labels name one statement each$"):
        registry.load()


def test_without_claims_the_remedy_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    offer(monkeypatch)
    with pytest.raises(
        TpgError, match=r"^no claims found under the entry point 'tpg.claims': install the package \(pip "
    ):
        registry.load()


def test_a_need_that_nobody_offers_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    offer(monkeypatch, [toy("a", needs=("z",))])
    with pytest.raises(TpgError, match=r"^a claim needs 'z', which no installed package offers: correct its label$"):
        registry.choose(["a"])


def test_the_installed_claims_are_those_of_the_paper() -> None:
    assert list(registry.load()) == LABELS
