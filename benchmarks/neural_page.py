"""``neural.md`` from the record ``neural.json``: tables and nothing measured."""

from __future__ import annotations

from typing import Any

Json = dict[str, Any]
NOTE = """# The exact gradient of a transformer

Two layers of width 64, hash-seeded rewards on every token; float64 unless a row says otherwise.  Seconds are medians
(lowest to highest) of warm repetitions, recorded on the machine that each part names; only ratios within a part mean
anything.  Memory is the peak beyond what the interpreter and the network hold: of the process (VmHWM, every case in a
process of its own) or of the device (`torch.cuda.max_memory_allocated`).  "Held": prefixes at once, paths to their
roots included; "planned": what the check before work starts reckons with.  GFLOP/s count 6 operations per parameter
and prefix, and attention.
"""
COMMAND = "python -m benchmarks.neural"


def page(known: Json) -> str:
    """All parts; a device that was not measured is named with the command that would."""
    parts = [NOTE]
    for device in ("cpu", "cuda"):
        if device in known:
            parts.append(_part(known[device]))
        else:
            command = f"`{COMMAND} --device {device}`"
            parts.append(f"## {device}\n\nNot run: no such device was at hand.  {command} would measure it.\n")
    return "\n".join(parts)


def _part(found: Json) -> str:
    machine = found["machine"]
    command = f"`{COMMAND} --device {machine['device']} --threads {machine['threads']}`"
    tables = [_speed(found), _growth(found["growth"]), _chunks(found), _throughput(found)]
    return "\n".join([f"## {describe(machine)}\n\nMade by {command}.\n", *tables])


def describe(machine: Json) -> str:
    """The machine in words."""
    cores = f"{machine['threads']} threads on {machine['cores']} cores, torch {machine['torch']}"
    if machine["device"] == "cpu":
        return f"CPU: {cores}"
    return f"GPU: {machine['name']}, {machine['bytes'] / 2**30:.0f} GiB, {cores}"


def _speed(found: Json) -> str:
    speed = found["speed"]
    spent, off, own = speed["seconds"], speed["relative_difference"], speed["seconds"]["exact"]["median"]
    names = {
        "exact": "`exact.gradient`",
        "sketch": "every prefix run again from its start",
        "enumeration": f"enumeration differentiated, {speed['enumeration_chunk']} responses at once",
    }
    rows = [[names[n], _time(s), f"{s['median'] / own:.1f} ×", f"{off[n]:.0e}"] for n, s in spent.items()]
    head = f"{_task(speed)}, {speed['parameters']:,} parameters, {speed['responses']:,} responses, in turns:\n\n"
    return head + table(["g", "seconds", "against exact", "relative difference of g"], rows)


def _growth(rows: list[Json]) -> str:
    columns = ["V, T", "responses", "prefixes", "seconds", "µs per prefix", "held", "MiB", "enumeration"]
    return "Growth:\n\n" + table(columns, [_grown(row) for row in rows])


def _grown(row: Json) -> list[str]:
    other = f"{_time(row['enumeration'])}, {_ratio(row):.1f} ×" if "enumeration" in row else ""
    each = 1e6 * row["seconds"]["median"] / row["prefixes"]
    sizes = [f"{row['responses']:,}", f"{row['prefixes']:,}", _time(row["seconds"]), f"{each:.3g}"]
    return [f"{row['vocab']}, {row['horizon']}", *sizes, f"{row['largest']:,}", f"{row['peak'] / 2**20:.0f}", other]


def _ratio(row: Json) -> float:
    return float(row["enumeration"]["median"] / row["seconds"]["median"])


def _chunks(found: Json) -> str:
    rows = [*found["chunks"], *found.get("largest", [])]
    columns = ["V, T", "dtype", "held", "seconds", "GFLOP/s", "MiB", "planned, MiB"]
    return "Chunks and number types:\n\n" + table(columns, [_chunk(row) for row in rows])


def _chunk(row: Json) -> list[str]:
    memory = [f"{row[name] / 2**20:.0f}" for name in ("peak", "planned")]
    task = f"{row['vocab']}, {row['horizon']}"
    return [task, row["dtype"], f"{row['largest']:,}", _time(row["seconds"]), f"{gflops(row):.3g}", *memory]


def gflops(row: Json) -> float:
    """Achieved, by the operations that the row states."""
    return float(1e-9 * row["operations"] / row["seconds"]["median"])


def _throughput(found: Json) -> str:
    row = found["largest"][0] if "largest" in found else _like(found["growth"], found["speed"])
    own, rows = gflops(row), []
    for each in found["throughput"].values():
        shape = " × ".join(f"{n:,}" for n in each["shape"])
        rows.append([f"torch.mm, {shape}", f"{each['gflops']:.3g}", f"{own / each['gflops']:.0%}"])
    head = f"Share of the matrix throughput in float64; exact gradient, {_task(row)}: {own:.3g} GFLOP/s\n\n"
    return head + table(["product", "GFLOP/s", "reached"], rows)


def _like(rows: list[Json], wanted: Json) -> Json:
    return next(row for row in rows if all(row[key] == wanted[key] for key in ("vocab", "horizon")))


def _task(row: Json) -> str:
    return f"V = {row['vocab']}, T = {row['horizon']}"


def _time(spent: Json) -> str:
    return " ".join([f"{spent['median']:.3g}", f"({spent['low']:.3g} to {spent['high']:.3g})"])


def table(columns: list[str], rows: list[list[str]]) -> str:
    """As Markdown."""
    lines = [columns, ["---"] * len(columns), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines) + "\n"
