"""``tpg``: the verbs and their options.  Each verb imports its work only when called, so that ``--help`` stays fast."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Annotated

import typer

import tpg
from tpg.cli.output import careful, complain, destination
from tpg.errors import TpgError

KINDS = ("estimators", "problems", "claims")
COLUMNS = ("noise", "best_mse", "tokens", "relative_bias", "direction_bias", "total_variance", "mse_over_g2")
BAD_INPUT, CRASHED, INTERRUPTED = 2, 70, 130  # never 1 for a crash: that would read as a refutation

app = typer.Typer(
    name="tpg",
    help="The referee of policy-gradient estimators: exact bias, exact variance, proof or counterexample.",
    epilog="Exit codes: 0 holds, 1 refuted, 2 bad input, 3 undecided.",
    context_settings={"help_option_names": ["-h", "--help"]},
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)


def _count(given: str | int) -> int:
    """A whole number of at least 1."""
    try:
        if int(given) >= 1:
            return int(given)
    except ValueError:
        pass
    raise typer.BadParameter(f"{given!r} given, needed a whole number of at least 1")


def _kind(given: str) -> str:
    """One of the things that can be listed."""
    if given in KINDS:
        return given
    raise typer.BadParameter(f"{given!r} given, needed {', '.join(KINDS[:-1])} or {KINDS[-1]}")


def _column(given: str) -> str:
    """A column of the comparison."""
    if given in COLUMNS:
        return given
    raise typer.BadParameter(f"{given!r} given, needed one of {', '.join(COLUMNS)}")


Json = Annotated[
    str | None,
    typer.Option("--json", metavar="FILE", help="Write the results as JSON; - is the standard output."),
]


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"tpg {tpg.__version__}")
        raise typer.Exit


@app.callback()
def _tpg(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version and exit.")
    ] = False,
) -> None:
    pass


@app.command()
def verify(
    labels: Annotated[
        list[str] | None, typer.Argument(metavar="LABEL", help="Claims, as `tpg list claims` names them; none: all.")
    ] = None,
    quick: Annotated[bool, typer.Option("--quick", help="Fewer and smaller shapes.")] = False,
    neural: Annotated[
        bool,
        typer.Option("--neural", help="On a transformer, against its exact gradient; the options below choose it."),
    ] = False,
    vocab: Annotated[int | None, typer.Option(metavar="V", help="Tokens.")] = None,
    horizon: Annotated[int | None, typer.Option(metavar="T", help="Tokens of the longest response.")] = None,
    layers: Annotated[int | None, typer.Option(metavar="L")] = None,
    width: Annotated[int | None, typer.Option(metavar="D")] = None,
    heads: Annotated[int | None, typer.Option(metavar="H")] = None,
    dtype: Annotated[str | None, typer.Option(metavar="TYPE", help="float64 or float32.")] = None,
    device: Annotated[str | None, typer.Option(metavar="DEVICE", help="cpu or cuda.")] = None,
    seed: Annotated[int | None, typer.Option(metavar="S", min=0, help="Of weights, rewards and samples.")] = None,
    json: Json = None,
) -> None:
    """Check the claims exactly, and that each check refutes its mutants."""
    sizes: dict[str, int | str | None] = {"vocab": vocab, "horizon": horizon, "layers": layers, "width": width}
    sizes |= {"heads": heads, "dtype": dtype, "device": device, "seed": seed}
    given = [f"--{name}" for name, value in sizes.items() if value is not None]
    if given and not neural:
        raise typer.BadParameter(f"{', '.join(given)} given without --neural: tables have shapes of their own")
    target = destination(json)
    if neural:
        from tpg.cli import neural as on_networks

        raise typer.Exit(on_networks.verify(labels or [], quick, sizes, target))
    from tpg.cli.verify import verify

    raise typer.Exit(verify(labels or [], quick, target))


@app.command()
def audit(
    name: Annotated[str, typer.Argument(metavar="NAME", help="An estimator, as `tpg list estimators` names it.")],
    problem: Annotated[
        str,
        typer.Option(
            metavar="NAME|FILE",
            help="As in `tpg list problems`, or random:seed=3,shared=2, or a .json or .toml file.",
        ),
    ] = "three-valued",
    group_size: Annotated[
        int, typer.Option(metavar="G", parser=_count, help="Responses per prompt in one gradient.")
    ] = 8,
    samples: Annotated[
        int, typer.Option(metavar="N", min=0, help="Sample N groups per prompt instead of counting all.")
    ] = 0,
    seed: Annotated[int, typer.Option(metavar="S", min=0, help="Of the samples.")] = 0,
    curl: Annotated[
        bool, typer.Option("--curl", help="Test whether the expected gradient is a gradient at all.")
    ] = False,
    json: Json = None,
) -> None:
    """Measure mean and variance of one estimator exactly, and test the expectation it declares."""
    target = destination(json)
    from tpg.cli.audit import audit

    raise typer.Exit(audit(name, problem, group_size, samples, seed, curl, target))


@app.command()
def compare(
    names: Annotated[
        str, typer.Argument(metavar="NAME,NAME,...", help="Estimators, as in `tpg list estimators`; all: every one.")
    ],
    problem: Annotated[str, typer.Option(metavar="NAME|FILE", help="As for `tpg audit`.")] = "three-valued",
    group_size: Annotated[
        int, typer.Option(metavar="G", parser=_count, help="Responses per prompt in one gradient.")
    ] = 8,
    sort: Annotated[
        str | None, typer.Option(metavar="COLUMN", parser=_column, help=f"One of {', '.join(COLUMNS)}.")
    ] = None,
    figure: Annotated[
        str | None, typer.Option(metavar="FILE", help="Draw the comparison: a .png, .pdf or .svg file.")
    ] = None,
    json: Json = None,
) -> None:
    """Exact bias, variance, error and cost of several estimators, side by side."""
    target = destination(json)
    from tpg.cli.compare import compare

    raise typer.Exit(compare(names, problem, group_size, sort, figure, target))


@app.command()
def figures(
    names: Annotated[list[str] | None, typer.Argument(metavar="NAME", help="Figures by file name; none: all.")] = None,
    smoke: Annotated[bool, typer.Option("--smoke", help="Small sizes, kept only with --out.")] = False,
    check: Annotated[bool, typer.Option("--check", help="Write nothing; exit 1 where a file would change.")] = False,
    folder: Annotated[str | None, typer.Option(metavar="DIR", help="Where the figure files are.")] = None,
    out: Annotated[str | None, typer.Option(metavar="DIR", help="Where data and pictures go; none: there too.")] = None,
    json: Json = None,
) -> None:
    """Regenerate the figures and their data, or check that they would not change."""
    target = destination(json)
    if smoke and check:
        raise typer.BadParameter("--smoke makes other data than the committed: give one of --smoke and --check")
    from tpg.cli.figures import figures

    raise typer.Exit(figures(names or [], smoke, check, folder, out, target))


@app.command()
def report(
    out: Annotated[str, typer.Option(metavar="DIR", help="Where index.html goes.")] = "report",
    quick: Annotated[bool, typer.Option("--quick", help="Fewer and smaller shapes.")] = False,
    json: Json = None,
) -> None:
    """Write the ledger of claims, figures and estimators as one HTML page."""
    target = destination(json)
    from tpg.cli.report import report

    raise typer.Exit(report(out, quick, target))


@app.command("list")
def list_(
    kind: Annotated[
        str | None,
        typer.Argument(metavar="KIND", parser=_kind, help=f"One of {', '.join(KINDS)}, in full; none: all, in short."),
    ] = None,
    json: Json = None,
) -> None:
    """List the estimators, problems and claims that there are."""
    target = destination(json)
    from tpg.cli.listing import show_list

    raise typer.Exit(show_list(kind, target))


@app.command()
def doctor(json: Json = None) -> None:
    """Say what this machine offers, and what is broken with the remedy."""
    target = destination(json)
    from tpg.cli.doctor import doctor

    raise typer.Exit(doctor(target))


def main(args: Sequence[str] | None = None) -> int:
    """Run ``tpg`` with ``args`` (default: the command line) and return the exit code."""
    given = list(sys.argv[1:] if args is None else args)
    careful("stdout")
    careful("stderr")
    try:
        code = app(given or ["--help"], prog_name="tpg", standalone_mode=False)
    except TpgError as error:
        return _refuse(str(error))
    except MemoryError as error:
        return _refuse(f"not enough memory: {str(error) or 'none left'}: choose a smaller problem or group")
    except typer.Abort:  # how some versions of typer report Ctrl-C
        code = INTERRUPTED
    except Exception as error:
        if hasattr(error, "format_message"):  # typer objects to the command line
            return _refuse(_usage(error))
        sys.excepthook(*sys.exc_info())
        return CRASHED
    if code == INTERRUPTED:
        complain("interrupted")
    return int(code or 0)


def _refuse(text: str) -> int:
    complain(f"error: {text}")
    return BAD_INPUT


def _usage(error: Exception) -> str:
    """What typer objects to, and where help is."""
    text = error.format_message()  # type: ignore[attr-defined]
    context = getattr(error, "ctx", None)
    command = context.command_path if context else "tpg"
    return f"{text[:1].lower()}{text[1:].rstrip('.')} (see `{command} --help`)"
