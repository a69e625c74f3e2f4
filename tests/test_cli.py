"""The command line: exit codes, what is printed where, whole JSON files, one-line errors, a light ``--help``."""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from rich.cells import cell_len

import tpg
from tpg.claims import Claim, Finding, registry
from tpg.claims.cases import cases
from tpg.claims.run import POINTS, Outcome
from tpg.cli import output
from tpg.cli.main import main
from tpg.errors import TpgError
from tpg.estimators import expectations, table
from tpg.problem import zoo
from tpg.problem.problem import Problem

COMMANDS = ["verify", "audit", "compare", "figures", "report", "list", "doctor"]
HEAVY = {"numpy", "scipy", "flint", "torch", "matplotlib", "rich", "tpg.audit", "tpg.claims"}


def right(problem: Problem) -> Sequence[Finding]:
    return [Finding("1 = 1", True, "0 in 1 numbers")]


def wrong(problem: Problem) -> Sequence[Finding]:
    return [Finding("1 = 2", False, "1 of 1 not 0: 5/7")]


def claim(label: str, **changes: Any) -> Claim:
    """A claim that holds, unless ``changes`` say otherwise."""
    given: dict[str, Any] = {"check": right, "mutants": {"1 = 2": wrong}, "source": "test", "hypotheses": ()}
    return Claim(label=label, statement=f"what {label} states", **{**given, **changes})


TRUE, FALSE, OPEN = claim("true"), claim("false", check=wrong), claim("open", mutants={"1 = 1": right})
NEEDY = claim("needy", needs=("false",))
WHOLE = claim("measured", algebraic=False)


@pytest.fixture
def claims(monkeypatch: pytest.MonkeyPatch) -> None:
    """A registry of five small claims."""
    known = {each.label: each for each in (TRUE, FALSE, OPEN, NEEDY, WHOLE)}
    monkeypatch.setattr(registry, "load", lambda *_: known)


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Any:
    """``run("audit", "rloo")`` → exit code, standard output, standard error."""

    def call(*args: str) -> tuple[int, str, str]:
        code = main(args)
        return code, *capsys.readouterr()

    return call


def shell(*args: str, **env: str) -> subprocess.CompletedProcess[bytes]:
    code = "import sys; from tpg.cli.main import main; sys.exit(main())"
    return subprocess.run(
        [sys.executable, "-c", code, *args], capture_output=True, check=False, env={**os.environ, **env}
    )


def refused(result: tuple[int, str, str]) -> str:
    """The message of a refusal: exit code 2, one line on the standard error, nothing else."""
    code, out, err = result
    assert (code, out) == (2, "")
    assert err.startswith("error: ")
    assert err.endswith("\n")
    assert err.count("\n") == 1
    return err.removeprefix("error: ").rstrip("\n")


# Help and version


def test_version(run: Any) -> None:
    assert run("--version") == (0, f"tpg {tpg.__version__}\n", "")


def test_help_names_every_verb_and_no_arguments_mean_help(run: Any) -> None:
    code, out, _ = run("--help")
    assert code == 0
    assert all(f"\n  {command} " in out for command in COMMANDS)
    assert out.isascii()
    assert run() == (0, out, "")


@pytest.mark.parametrize("command", COMMANDS)
def test_every_verb_has_help_and_json(command: str, run: Any) -> None:
    code, out, _ = run(command, "-h")
    assert code == 0
    assert "--json FILE" in out
    assert out.isascii()


@pytest.mark.parametrize("args", [["--help"], ["--version"], [], *([command, "--help"] for command in COMMANDS)])
def test_help_and_version_import_nothing_heavy(args: list[str]) -> None:
    code = f"import sys; from tpg.cli.main import main; assert main({args}) == 0; print('\\n', *sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    heavy = HEAVY if set(args) & set(COMMANDS) else HEAVY | {"pydantic"}  # which typer needs for a verb's options
    assert not heavy & set(done.stdout.splitlines()[-1].split())


# verify


@pytest.mark.usefixtures("claims")
@pytest.mark.parametrize(
    ("labels", "code", "status", "evidence"),
    [
        (["true"], 0, ["holds"], ["PROVED"]),
        (["measured"], 0, ["holds"], ["MEASURED"]),
        (["true", "false"], 1, ["holds", "refuted"], ["PROVED", "REFUTED"]),
        (["open", "true"], 3, ["holds", "undecided"], ["PROVED", "OPEN"]),
        (["open", "false"], 1, ["refuted", "undecided"], ["REFUTED", "OPEN"]),
        (["needy"], 1, ["refuted", "undecided"], ["REFUTED", "OPEN"]),
    ],
)
def test_verify_exit_codes(
    labels: list[str], code: int, status: list[str], evidence: list[str], run: Any, tmp_path: Path
) -> None:
    file = tmp_path / "out.json"
    found, out, _ = run("verify", *labels, "--quick", "--json", str(file))
    results = json.loads(file.read_text(encoding="utf-8"))
    assert found == code
    assert [result["status"] for result in results] == status
    assert [result["evidence"] for result in results] == evidence
    assert all(word in out for word in [*labels, *status, *evidence])


@pytest.mark.usefixtures("claims")
def test_verify_writes_everything_an_outcome_holds(run: Any, tmp_path: Path) -> None:
    file = tmp_path / "out.json"
    run("verify", "true", "--quick", "--json", str(file))
    (result,) = json.loads(file.read_text(encoding="utf-8"))
    assert set(result) == {field.name for field in dataclasses.fields(Outcome)}
    assert result["mutants"]["1 = 2"] != "survived"
    assert 0 < result["error_probability"] < 1e-20
    shapes = len(list(cases(TRUE.discounts, quick=True)))
    assert (result["shapes"], result["findings"]) == (shapes, shapes * (1 + POINTS))


@pytest.mark.usefixtures("claims")
def test_verify_prints_the_counterexample_and_what_a_verdict_does_not_say(run: Any) -> None:
    _, out, err = run("verify", "true", "false", "open", "--quick")
    words = " ".join(out.split())
    assert "1 = 2: 1 of 1 not 0: 5/7" in words
    assert "the check lets mutants pass: 1 = 1" in words
    assert "3 claims" in words
    assert "1 PROVED, 1 REFUTED, 1 OPEN" in words
    assert "a biased gradient may well train better" in words
    assert all(part in words for case in cases(("1",), quick=True) for part in case.name.split(", "))
    progress = err.splitlines()
    assert [line.split(",")[0] for line in progress if line] == [
        "[1/3] true: PROVED",
        "[2/3] false: REFUTED",
        "[3/3] open: OPEN",
    ]


@pytest.mark.usefixtures("claims")
def test_verify_json_alone_on_the_standard_output(run: Any) -> None:
    code, out, err = run("verify", "--quick", "--json", "-")
    assert code == 1
    assert [result["label"] for result in json.loads(out)] == ["true", "false", "open", "needy", "measured"]
    assert "a biased gradient" in err


@pytest.mark.usefixtures("claims")
def test_verify_refuses_unknown_labels_before_it_starts(run: Any) -> None:
    assert "unknown claim 'tru': did you mean true" in refused(run("verify", "true", "tru"))


@pytest.mark.usefixtures("claims")
def test_ctrl_c_is_one_line(run: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def interrupt(problem: Problem) -> Sequence[Finding]:
        raise KeyboardInterrupt

    known = {"slow": claim("slow", check=interrupt)}
    monkeypatch.setattr(registry, "load", lambda *_: known)
    assert run("verify", "--json", str(tmp_path / "out.json")) == (130, "", "interrupted\n")
    assert list(tmp_path.iterdir()) == []


def test_a_crash_shows_its_traceback_and_is_no_refutation(run: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def crash(problem: Problem) -> Sequence[Finding]:
        raise ZeroDivisionError("planted")

    monkeypatch.setattr(registry, "load", lambda *_: {"bad": claim("bad", check=crash)})
    code, _, err = run("verify")
    assert code == 70
    assert "Traceback" in err
    assert "ZeroDivisionError: planted" in err


def test_too_little_memory_is_one_line(run: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def exhaust(problem: Problem) -> Sequence[Finding]:
        raise MemoryError

    monkeypatch.setattr(registry, "load", lambda *_: {"huge": claim("huge", check=exhaust)})
    assert "not enough memory" in refused(run("verify"))


def test_verify_on_a_terminal_draws_a_bar(monkeypatch: pytest.MonkeyPatch) -> None:
    pty = pytest.importorskip("pty")
    code = "import sys; from tpg.cli.main import main; sys.exit(main(['verify', 'lem:baseline', '--quick']))"
    monkeypatch.setenv("TERM", "xterm")
    leader, follower = pty.openpty()
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=follower) as process:
        os.close(follower)
        seen = b""
        while True:
            try:
                block = os.read(leader, 4096)
            except OSError:  # the other side has closed
                break
            if not block:
                break
            seen += block
        assert process.stdout is not None
        table_text = process.stdout.read().decode()
    os.close(leader)
    assert process.returncode == 0
    assert "claims" in seen.decode()
    assert "elapsed" in seen.decode()
    assert "left" in seen.decode()
    assert table_text.startswith("label")


# audit


def test_audit_holds(run: Any) -> None:
    code, out, err = run("audit", "rloo_vectorized")
    assert (code, err) == (0, "")
    assert out.startswith("rloo on three-valued, group size 8: holds\n")
    assert "relative bias     0 (exact)" in out
    assert "MSE/|g|²          1.543" in out
    assert "rational" in out
    assert "prompt" in out
    assert "a biased gradient may well train better" in out


def test_audit_in_float64_names_the_rounding(run: Any) -> None:
    _, out, _ = run("audit", "grpo", "--group-size", "3")
    assert "(rounding)" in out
    assert "|E ĝ| is off by" in out
    assert "does not lie along g" in out


def test_audit_tells_bias_in_length_from_bias_in_direction(run: Any) -> None:
    _, out, _ = run("audit", "group_mean", "--problem", "two-valued", "--group-size", "4")
    assert "in length alone: E ĝ = 0.75·g" in out
    assert "prompt " not in out


def test_audit_refutes(run: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    row = dataclasses.replace(table.ESTIMATORS["group_mean"], expectation=expectations.UNBIASED)
    monkeypatch.setitem(table.ESTIMATORS, "group_mean", row)
    code, out, _ = run("audit", "group_mean")
    assert code == 1
    assert "group size 8: refuted" in out
    assert "away from the declared one" in out


def test_audit_against_the_gradient_is_told(run: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def descent(reward: Any) -> Any:
        """Minus the reward."""
        return -reward

    def nothing(reward: Any) -> Any:
        """Nothing."""
        return 0 * reward

    for name, part in (("descent", descent), ("nothing", nothing)):
        monkeypatch.setitem(table.ESTIMATORS, name, table.Estimator(name, part))
    code, out, _ = run("audit", "descent")
    assert code == 1
    assert "in sign: E ĝ = -1·g" in out
    code, out, _ = run("audit", "nothing")
    assert code == 1
    assert "all of g is missing" in out
    assert "undefined (scale = 0)" in out


def test_audit_leaves_open(run: Any) -> None:
    code, out, _ = run("audit", "rloo", "--problem", "random:off_policy=1,values=2", "--group-size", "2")
    assert code == 3
    assert "group size 2: undecided" in out


def test_audit_without_a_gradient(run: Any) -> None:
    args = ("audit", "rloo", "--problem", "random:values=1", "--group-size", "2")
    code, out, _ = run(*args)
    assert code == 0
    assert "E ĝ = g = 0" in out
    assert "relative bias     undefined (g = 0)" in out
    _, out, _ = run(*args, "--json", "-")
    found = json.loads(out)
    assert found["relative_bias"] is found["scale"] is found["mse_over_g2"] is None


def test_audit_json(run: Any, tmp_path: Path) -> None:
    file = tmp_path / "out.json"
    code, _, _ = run("audit", "rloo", "--group-size", "2", "--json", str(file))
    found = json.loads(file.read_text(encoding="utf-8"))
    assert code == 0
    assert (found["estimator"], found["group_size"], found["verdict"]) == ("rloo", 2, "holds")
    assert (found["relative_bias"], found["scale"], found["error_bound"]) == (0, 1, 0)
    assert len(found["prompts"]) == 2


FILE = {"horizon": 1, "prompts": [{"nodes": {"": {"probs": ["1/2", "1/2"], "rewards": [0, 1]}}}]}


@pytest.mark.parametrize("name", ["coin.json", "coin"])
def test_audit_reads_files(name: str, run: Any, tmp_path: Path) -> None:
    file = tmp_path / name
    file.write_text(json.dumps(FILE), encoding="utf-8")
    result = run("audit", "reinforce", "--problem", str(file))
    if file.suffix:
        assert result[0] == 0
        assert result[1].startswith("reinforce on coin, ")
    else:  # the loader, not the zoo, says what is wrong with an existing file
        assert "suffix" in refused(result)


def test_audit_never_shows_what_is_not_a_number(run: Any, tmp_path: Path) -> None:
    file = tmp_path / "huge.json"
    file.write_text(json.dumps(FILE).replace("[0, 1]", "[0, 1e200]"), encoding="utf-8")
    with pytest.warns(RuntimeWarning):
        result = run("audit", "grpo", "--problem", str(file))
    assert "rescale the rewards" in refused(result)


# Bad input


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["audit", "rlo"], "unknown estimator 'rlo': did you mean rloo"),
        (["audit", "rloo", "--problem", "shard"], "unknown problem 'shard': did you mean shared"),
        (["audit", "rloo", "--problem", "random:seeds=1"], "has no option 'seeds'"),
        (["audit", "rloo", "--problem", "no.json"], "no.json"),
        (["audit", "rloo", "--group-size", "0"], "'0' given, needed a whole number of at least 1"),
        (["audit", "rloo", "--group-size", "-3"], "'-3' given"),
        (["audit", "rloo", "--group-size", "2.5"], "'2.5' given"),
        (["audit", "rloo", "--group-size", "many"], "'many' given"),
        (["audit", "rloo", "--group-size", "1"], "group_size=1 given, at least 2 needed"),
        (["audit", "rloo", "--group-sise", "1"], "--group-size"),
        (["audit"], "missing argument 'NAME' (see `tpg audit --help`)"),
        (["audit", "rloo", "grpo"], "unexpected extra argument"),
        (["audit", "two\nlines"], "unknown estimator 'two\\nlines'"),
        (["audi"], "no such command 'audi'. Did you mean 'audit'? (see `tpg --help`)"),
        (["--verbose"], "no such option: --verbose"),
        (["list", "paper"], "'paper' given, needed estimators, problems or claims"),
        (["verify", "--json"], "'--json' requires an argument"),
    ],
)
def test_bad_input_is_one_line(args: list[str], message: str, run: Any) -> None:
    assert message in refused(run(*args))


def test_one_line_shows_control_characters() -> None:
    assert output.one_line("a\n\tb \x1b[1m\x7f") == "a b \\x1b[1m\\x7f"


# list


def test_list_names_everything(run: Any) -> None:
    code, out, err = run("list")
    assert (code, err) == (0, "")
    words = out.split()
    assert set(words) >= {*table.ESTIMATORS, *zoo.ZOO, *registry.load()}
    assert max(map(cell_len, out.splitlines())) <= 100  # a letter with its accent takes one column


def test_list_json_holds_every_column(run: Any) -> None:
    code, out, _ = run("list", "--json", "-")
    data = json.loads(out)
    assert code == 0
    assert list(data) == ["estimators", "problems", "claims"]
    rloo = next(row for row in data["estimators"] if row["name"] == "rloo")
    assert (rloo["aliases"], rloo["min_group"], rloo["expectation"]) == (["rloo_vectorized"], 2, "E ĝ = g")
    assert "Leave-one-out" in rloo["formula"]
    shared = next(row for row in data["problems"] if row["name"] == "shared")
    assert (shared["prompts"], shared["vocab"], shared["horizon"]) == (2, 3, 3)
    assert (shared["policy"], shared["discount"]) == ("3 shared", "9/10")
    assert data["claims"][0].keys() == {"label", "statement", "source", "option"}
    assert not any(row["option"] for row in data["claims"])


@pytest.mark.parametrize("kind", ["estimators", "problems", "claims"])
def test_list_in_full(kind: str, run: Any) -> None:
    code, out, _ = run("list", kind)
    data = json.loads(run("list", kind, "--json", "-")[1])
    assert code == 0
    assert list(data) == [kind]
    words = " ".join(out.split())
    assert all(str(next(iter(row.values()))) in words for row in data[kind])
    assert max(map(cell_len, out.splitlines())) <= 100  # a letter with its accent takes one column


def test_list_claims_has_those_on_networks_and_marks_them(run: Any) -> None:
    code, out, err = run("list", "claims")
    assert (code, err) == (0, "")
    rows = {row["label"]: row for row in json.loads(run("list", "claims", "--json", "-")[1])["claims"]}
    networks = registry.load(registry.NEURAL)
    assert list(rows) == [*registry.load(), *networks]
    assert {label for label, row in rows.items() if row["option"] == "--neural"} == set(networks)
    lines = out.splitlines()
    for label, claim in networks.items():
        (place,) = [k for k, line in enumerate(lines) if line.startswith(f"{label} ")]
        assert lines[place + 1].startswith("--neural ")
        assert claim.statement in " ".join(out.replace("--neural ", "").split())
    assert "left out" not in out


def test_list_claims_without_torch_says_what_is_left_out(run: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    tables = registry.load()

    def load(group: str = registry.GROUP) -> dict[str, Claim]:
        if group == registry.NEURAL:
            raise ModuleNotFoundError("No module named 'torch'", name="torch")
        return tables

    monkeypatch.setattr(registry, "load", load)
    code, out, _ = run("list", "claims")
    assert code == 0
    assert out.endswith("\nClaims on a transformer are left out: torch is missing: pip install 'tpg[neural]'\n")
    code, out, err = run("list", "claims", "--json", "-")
    assert [row["label"] for row in json.loads(out)["claims"]] == list(tables)
    assert "torch is missing" in err


@pytest.mark.parametrize("args", [["list"], ["list", "estimators"], ["list", "problems"]])
def test_list_imports_torch_for_claims_alone(args: list[str]) -> None:
    code = f"import sys; from tpg.cli.main import main; assert main({args}) == 0; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], capture_output=True, check=True)


def test_list_does_not_build_the_large_problem(run: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def never(seed: int = 0) -> Problem:
        """Large."""
        raise AssertionError("built")

    monkeypatch.setitem(zoo.ZOO, "large", never)
    code, out, _ = run("list", "problems")
    assert code == 0
    assert "options: seed=0" in out


# doctor


def test_doctor_is_well(run: Any) -> None:
    code, out, err = run("doctor")
    assert (code, err) == (0, "")
    for what in ("python", "tpg", "numpy", "scipy", "python-flint", "torch", "cores", "memory", "GPU", "self-check"):
        assert f"ok  {what} " in out
    assert "Nothing is broken." in out


def test_doctor_does_not_import_torch() -> None:
    code = "import sys; from tpg.cli.main import main; code = main(['doctor']); assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], capture_output=True, check=True)


def test_doctor_finds_no_claims(run: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry, "entry_points", lambda group: [])
    code, out, _ = run("doctor", "--json", "-")
    broken = {each["what"]: each for each in json.loads(out)["checks"] if not each["ok"]}
    assert code == 1
    assert set(broken) == {"claims", "self-check"}
    assert "pip install" in broken["claims"]["remedy"]


@pytest.mark.parametrize("check", [right, wrong])
def test_doctor_tries_a_claim(check: Any, run: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry, "load", lambda *_: {"lem:baseline": claim("lem:baseline", check=check)})
    code, out, _ = run("doctor")
    assert code == (check is wrong)
    assert ("lem:baseline must hold, but is refuted" in " ".join(out.split())) == (check is wrong)


def test_doctor_tries_the_folder(run: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def closed(**_: Any) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("tpg.cli.doctor.tempfile.TemporaryFile", closed)
    code, out, _ = run("doctor")
    assert code == 1
    assert "folder: go to a folder that you may write to" in out


# JSON files


@pytest.mark.parametrize("command", [["verify", "true"], ["audit", "rloo"], ["list"], ["doctor"]])
@pytest.mark.parametrize("where", ["missing/out.json", ".", "", "file/out.json", "x" * 300])
@pytest.mark.usefixtures("claims")
def test_an_unwritable_path_is_refused_before_the_work(
    command: list[str], where: str, run: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(registry, "choose", lambda labels: pytest.fail("worked"))
    assert "cannot be written" in refused(run(*command, "--json", where))
    assert [each.name for each in tmp_path.iterdir()] == ["file"]


@pytest.mark.skipif(
    os.name == "nt" or not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may write anywhere"
)
def test_a_read_only_file_is_refused(run: Any, tmp_path: Path) -> None:
    file = tmp_path / "out.json"
    file.touch(mode=0o400)
    assert "read-only" in refused(run("list", "--json", str(file)))


@pytest.mark.parametrize("step", ["fsync", "replace"])
def test_a_failure_while_writing_leaves_the_old_file(
    step: str, run: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "out.json"
    file.write_text("old", encoding="utf-8")

    def fail(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(output.os, step, fail)
    assert "No space left" in refused(run("list", "--json", str(file)))
    assert file.read_text(encoding="utf-8") == "old"
    assert list(tmp_path.iterdir()) == [file]


def test_an_interrupt_while_writing_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "out.json"
    file.write_text("old", encoding="utf-8")

    def interrupt(*_: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(output.os, "fsync", interrupt)
    with pytest.raises(KeyboardInterrupt):
        output.Destination(str(file)).write([1])
    assert file.read_text(encoding="utf-8") == "old"
    assert list(tmp_path.iterdir()) == [file]


def test_a_file_is_replaced_whole_and_keeps_its_mode(tmp_path: Path) -> None:
    file, link = tmp_path / "out.json", tmp_path / "link.json"
    file.write_text("old and longer than the new one", encoding="utf-8")
    file.chmod(0o640)
    link.symlink_to(file)
    output.destination(str(link)).write({"γ": [1, None]})
    assert link.is_symlink()
    assert file.stat().st_mode & 0o777 == 0o640
    assert json.loads(file.read_text(encoding="utf-8")) == {"γ": [1, None]}


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no named pipes")
def test_a_pipe_is_written_to_not_replaced(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    try:
        output.destination(str(pipe)).write([1])
        assert json.loads(os.read(reader, 100)) == [1]
    finally:
        os.close(reader)
    assert pipe.is_fifo()


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("given", [None, "-"])
def test_json_holds_no_nan(value: float, given: str | None) -> None:
    with pytest.raises(TpgError, match="NaN or infinity"):
        output.Destination(given).write([value])


# Streams


@pytest.mark.parametrize("args", [["list"], ["audit", "grpo"], ["verify", "lem:baseline", "--quick"], ["audit", "ĝ"]])
def test_ascii_streams_get_ascii(args: list[str]) -> None:
    done = shell(*args, PYTHONIOENCODING="ascii", PYTHONUTF8="0")
    assert done.returncode == (2 if "ĝ" in args else 0), done.stderr
    assert (done.stdout + done.stderr).isascii()
    assert b"Traceback" not in done.stderr


def test_ascii_spells_out() -> None:
    done = shell("audit", "rloo", PYTHONIOENCODING="ascii", PYTHONUTF8="0")
    assert b"|E g^ - scale*g| / |scale*g|" in done.stdout
    assert "".join(map(output.spelled, "γΣ²ĝ…→\U0001f600")) == "gammasum2g^...->?"


def test_json_on_an_ascii_stream_is_escaped_not_spelled() -> None:
    done = shell("audit", "rloo", "--json", "-", PYTHONIOENCODING="ascii", PYTHONUTF8="0")
    assert json.loads(done.stdout)["declared"] == "E ĝ = g"


def test_pipes_get_no_colour_and_no_boxes() -> None:
    done = shell("audit", "rloo", PYTHONIOENCODING="utf-8", FORCE_COLOR="")
    text = done.stdout.decode()
    assert "\x1b" not in text
    assert not any("\u2500" <= character <= "\u257f" for character in text)
    assert not any(line.endswith(" ") for line in text.splitlines())


def test_a_reader_that_leaves_ends_it_quietly() -> None:
    code = "import sys; from tpg.cli.main import main; sys.exit(main(['list']))"
    reader, writer = os.pipe()
    os.close(reader)
    with subprocess.Popen([sys.executable, "-c", code], stdout=writer, stderr=subprocess.PIPE) as process:
        os.close(writer)
        _, err = process.communicate()
    assert (process.returncode, err) == (141, b"")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full")
@pytest.mark.parametrize("args", [["list"], ["audit", "rloo", "--json", "-"]])
def test_a_full_disk_is_one_line(args: list[str]) -> None:
    code = "import sys; from tpg.cli.main import main; sys.exit(main(sys.argv[1:]))"
    with open("/dev/full", "w") as full:
        done = subprocess.run([sys.executable, "-c", code, *args], stdout=full, stderr=subprocess.PIPE, check=False)
    assert done.returncode == 2
    assert done.stderr == b"error: the output cannot be written: No space left on device\n"
