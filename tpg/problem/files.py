"""Problem files: ``load`` and ``dump`` JSON or TOML.  ``docs/problems/`` holds examples, ``schema`` the fields."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np

from tpg.errors import ProblemError, TooLarge
from tpg.numbers import FLOAT64, RATIONAL, Array
from tpg.problem.problem import TOLERANCE, Problem
from tpg.problem.schema import ProblemFile, Where, check, from_json, from_toml, number, printable, quote, shown
from tpg.problem.tree import Tree

MAX_HORIZON = 10**4  # a single response of this length already spells 10⁸ tokens in its prefixes
ROUNDING = 1e-14
PREFIX = re.compile(r"(?:0|[1-9][0-9]{0,17})(?: (?:0|[1-9][0-9]{0,17}))*")
POLICIES = ("probs", "behaviour", "reference")


def load(path: str | Path) -> Problem:
    """The problem in a .json or .toml file; every mistake in it is a one-line ProblemError."""
    path = Path(path)
    return _problem(_read(path, Where(str(path))), str(path), path.stem)


def from_dict(data: dict[str, Any], name: str = "problem") -> Problem:
    """The problem that ``data`` spells as a file would; ``name`` stands for the file in messages."""
    return _problem(data, name, name)


def dump(problem: Problem, path: str | Path) -> None:
    """Write ``problem`` to a .json or .toml file that ``load`` reads as the same problem."""
    path = Path(path)
    where = Where(str(path))
    write = _FORMATS[_suffix(path, where)][1]
    text = write(to_dict(problem))
    try:
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise where.error(f"cannot be written: {error.strerror}") from None


def to_dict(problem: Problem) -> dict[str, Any]:
    """``problem`` as a file spells it, without the prefixes that neither π nor μ can generate."""
    if not problem.field.ordered:
        raise ProblemError(f"{problem.name}: {problem.field.name} has no written numbers: dump the rational problem")
    prompts: list[dict[str, Any]] = [{"weight": _plain(w, problem), "nodes": {}} for w in problem.weights]
    tables = {"probs": problem.probs, "rewards": problem.rewards, "behaviour": problem.behaviour}
    tables |= {"reference": problem.reference, "features": problem.features}
    given = {label: table.tolist() for label, table in tables.items() if table is not None}
    for node, (prompt, key) in _keys(problem):
        prompts[prompt]["nodes"][key] = {label: _plain(table[node], problem) for label, table in given.items()}
    head = {"name": printable(problem.name), "horizon": problem.horizon, "end_token": problem.end_token}
    return {k: v for k, v in head.items() if v is not None} | {
        "discount": _plain(problem.discount, problem),
        "prompts": prompts,
    }


def _keys(problem: Problem) -> Iterable[tuple[int, tuple[int, str]]]:
    """(node, (prompt, prefix)) of the nodes that can be generated, breadth-first."""
    possible = (problem.probs != 0) | (problem.sampling != 0)
    keys: dict[int, tuple[int, str]] = {i: (i, "") for i in range(problem.prompts)}
    parents, tokens = (column.tolist() for column in problem.tree.parent)
    for node in range(problem.prompts, problem.tree.nodes):
        parent, token = parents[node], tokens[node]
        if parent in keys and possible[parent, token]:
            prompt, prefix = keys[parent]
            keys[node] = (prompt, f"{prefix} {token}".lstrip())
    return keys.items()


def _plain(value: Any, problem: Problem) -> Any:
    """A number (or nested list of them) as JSON and TOML write it: floats and small integers bare, else "p/q"."""
    if isinstance(value, list):
        return [_plain(v, problem) for v in value]
    text = float(value) if problem.field is FLOAT64 else str(value)
    try:
        exact = number(text)
    except ValueError as error:
        raise ProblemError(f"{problem.name}: a number to write {error}") from None
    return int(exact) if isinstance(text, str) and exact.q == 1 and abs(exact) < 2**53 else text


def _suffix(path: Path, where: Where) -> str:
    if path.suffix.lower() in _FORMATS:
        return path.suffix.lower()
    raise where.error(f"unknown suffix {quote(path.suffix)}: name the file .json or .toml")


def _read(path: Path, where: Where) -> Any:
    try:
        if not path.is_file():
            raise where.error("is a directory: name a file in it" if path.is_dir() else "no such file: check the path")
        parse = _FORMATS[_suffix(path, where)][0]
        text = path.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise where.error(f"byte {error.start} is not UTF-8: save the file as UTF-8") from None
    except OSError as error:
        raise where.error(f"cannot be read: {error.strerror}") from None
    if not text.strip():
        raise where.error("is empty: see docs/problems for examples")
    return parse(text, where)


def _to_json(data: dict[str, Any]) -> str:
    """Indented, with one node a line."""
    head = [f"  {_string(k)}: {_string(v)}," for k, v in data.items() if k != "prompts"]
    prompts = []
    for prompt in data["prompts"]:
        nodes = ",\n".join(f"        {_string(key)}: {_string(node)}" for key, node in prompt["nodes"].items())
        prompts.append(
            f'    {{\n      "weight": {_string(prompt["weight"])},\n      "nodes": {{\n{nodes}\n      }}\n    }}'
        )
    return "\n".join(["{", *head, '  "prompts": [', ",\n".join(prompts), "  ]", "}", ""])


def _to_toml(data: dict[str, Any]) -> str:
    lines = [f"{k} = {_string(v)}" for k, v in data.items() if k != "prompts"]
    for prompt in data["prompts"]:
        lines += ["", "[[prompts]]", f"weight = {_string(prompt['weight'])}", "", "[prompts.nodes]"]
        for key, node in prompt["nodes"].items():
            fields = ", ".join(f"{label} = {_string(row)}" for label, row in node.items())
            lines.append(f"{_string(key)} = {{ {fields} }}")
    return "\n".join([*lines, ""])


def _string(value: Any) -> str:
    """``value`` as JSON; but for objects, TOML reads the same."""
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")


_FORMATS: dict[str, tuple[Callable[[str, Where], Any], Callable[[dict[str, Any]], str]]] = {
    ".json": (from_json, _to_json),
    ".toml": (from_toml, _to_toml),
}


def _problem(data: Any, file: str, name: str) -> Problem:
    parsed, where = check(data, file)
    horizon = float(min(parsed.horizon, 10**18))
    TooLarge.check(
        f"{printable(file)}: horizon", horizon, MAX_HORIZON, "give the number of tokens of the longest response"
    )
    return _Assembly(parsed, where).problem(parsed.name or name)


def _normalised(table: Array) -> Array:
    """Rows divided by their sum; float rows that are only a rounding away from 1 stay, so that they survive dump."""
    total = table.sum(-1, keepdims=True)
    close = total == 1 if table.dtype == object else np.abs(total - 1) < ROUNDING
    return table if close.all() else table / np.where(close, 1, total)


class _Assembly:
    """The nodes of a file in tree order (depth, prompt, tokens), and the tables [N, V] they make, exact."""

    def __init__(self, parsed: ProblemFile, where: Where) -> None:
        self.parsed, self.where = parsed, where
        self.end, self.horizon = parsed.end_token, parsed.horizon
        self.vocab = self._vocab()
        words = [
            (len(w), i, w, key) for i, p in enumerate(parsed.prompts) for key in p.nodes for w in [self.word(key, i)]
        ]
        words.sort()
        self.depth = np.array([row[0] for row in words])
        self.rows = [(i, key) for _, i, _, key in words]
        self.index = {row: node for node, row in enumerate(self.rows)}
        self.nodes = [parsed.prompts[i].nodes[key] for i, key in self.rows]

    def _vocab(self) -> int:
        for i, prompt in enumerate(self.parsed.prompts):
            if "" not in prompt.nodes:
                raise self.where.error('is missing: add it under the key ""', i, "")
        vocab = len(self.parsed.prompts[0].nodes[""].probs)
        if self.end is not None and not 0 <= self.end < vocab:
            raise self.where.error(f"end_token {shown(self.end)} is outside the vocabulary 0 … {vocab - 1}: change it")
        return vocab

    def error(self, text: str, node: int) -> ProblemError:
        """The mistake ``text`` in a node."""
        return self.where.error(text, *self.rows[node])

    def word(self, key: str, prompt: int, response: bool = False) -> tuple[int, ...]:
        """The tokens that a prefix or a response spells, of this vocabulary and no more than fit."""
        if not PREFIX.fullmatch(key) and (key or response):
            raise self._wrong(
                'is no list of tokens: write integers and one blank between, as in "0 1"', key, prompt, response
            )
        word = tuple(map(int, key.split()))
        limit = self.horizon - (not response)
        if word and max(word) >= self.vocab:
            text = f"holds token {max(word)}, outside the vocabulary 0 … {self.vocab - 1}: change it"
        elif self.end in word[: len(word) - response]:
            text = f"goes on after the end token {self.end}: remove it"
        elif len(word) > limit:
            text = f"holds {len(word)} tokens, horizon {self.horizon} leaves {limit}: remove it or raise the horizon"
        else:
            return word
        raise self._wrong(text, key, prompt, response)

    def _wrong(self, text: str, key: str, prompt: int, response: bool) -> ProblemError:
        return self.where.error(
            f"response {quote(key)} {text}" if response else text, prompt, None if response else key
        )

    def problem(self, name: str) -> Problem:
        """Everything checked and put together."""
        policies = {label: table for label in POLICIES if (table := self.policy(label)) is not None}
        off = [label for label, table in policies.items() if not self.sums_to_one(label, table)]
        possible = (policies["probs"] != 0) | (policies.get("behaviour", policies["probs"]) != 0)
        inner = self.inner(possible)
        tables = policies | {"rewards": self.rewards(possible, inner), "weights": self.weights()} | self.features()
        if off:  # decimals that cannot sum to 1, such as floats of 17 digits
            tables = {label: FLOAT64.array(table) for label, table in tables.items()}
        tables |= {label: _normalised(tables[label]) for label in (*policies, "weights")}
        more: dict[str, Any] = {"discount": self.parsed.discount, "end_token": self.end, "name": name}
        more |= {"field": FLOAT64 if off else RATIONAL, **tables}
        try:
            return Problem(Tree(inner, len(self.parsed.prompts)), **more)
        except ProblemError as error:
            raise self.where.error(str(error)) from None

    def weights(self) -> Array:
        """[P]; one per prompt was given, or none at all."""
        given = [prompt.weight for prompt in self.parsed.prompts]
        if None in given and any(w is not None for w in given):
            raise self.where.error("weight is missing: give every prompt one, or none", given.index(None))
        return RATIONAL.array([1 if w is None else w for w in given])

    def table(self, rows: list[list[Any]], label: str) -> Array:
        """``rows`` as [N, V]."""
        self.check_lengths(rows, label)
        return np.array(rows, dtype=object)

    def check_lengths(self, rows: list[list[Any]], label: str) -> None:
        """Every row holds an entry per token."""
        for node, row in enumerate(rows):
            if len(row) != self.vocab:
                raise self.error(f"{label} holds {len(row)} entries, needed {self.vocab}, one per token", node)

    def policy(self, label: str) -> Array | None:
        """[N, V], with ``probs`` where a node leaves the policy out; None if all do."""
        rows = [getattr(node, label) for node in self.nodes]
        if all(row is None for row in rows):
            return None
        return self.table([n.probs if row is None else row for row, n in zip(rows, self.nodes, strict=True)], label)

    def sums_to_one(self, label: str, table: Array) -> bool:
        """Whether every row sums to exactly 1; one that is off by more than rounding is an error."""
        for node, token in np.argwhere(table < 0).tolist()[:1]:
            raise self.error(f"{label}[{token}] is {table[node, token]}: probabilities lie in [0, 1]", node)
        totals = table.sum(-1)
        off = np.flatnonzero(totals != 1).tolist()
        for node in off:
            if abs(totals[node] - 1) > RATIONAL.scalar(TOLERANCE):
                total = f"{float(totals[node]):.12g}"
                raise self.error(f'{label} sums to {total}, needed 1: change it, and write thirds as "1/3"', node)
        return not off

    def inner(self, possible: Array) -> Array:
        """[N, V] bool: the token leads to another node; every node is reached and none is missing."""
        inner = np.zeros_like(possible)
        for node in range(len(self.parsed.prompts), len(self.rows)):
            inner[self.parent(node, possible)] = True
        missing = possible & ~inner & (self.depth < self.horizon - 1)[:, None]
        missing[:, [] if self.end is None else self.end] = False
        for node, token in np.argwhere(missing).tolist()[:1]:
            prompt, key = self.rows[node]
            text = f"is missing: add it, or give token {token} of node {quote(key)} probability 0"
            raise self.where.error(text, prompt, f"{key} {token}".lstrip())
        return inner

    def parent(self, node: int, possible: Array) -> tuple[int, int]:
        """The node and the token that lead to a node."""
        prompt, key = self.rows[node]
        head, _, token = key.rpartition(" ")
        parent = self.index.get((prompt, head))
        if parent is None:
            raise self.error(f"cannot be reached: add its parent, node {quote(head)}, or remove it", node)
        if not possible[parent, int(token)]:
            raise self.error(
                f"cannot be reached: token {token} of node {quote(head)} has probability 0: remove it", node
            )
        return parent, int(token)

    def rewards(self, possible: Array, inner: Array) -> Array:
        """[N, V] token rewards, those of responses added to the last token's."""
        zeros = [number(0)] * self.vocab
        for node, (prompt, _) in enumerate(self.rows):
            if self.nodes[node].rewards is None and not self.parsed.prompts[prompt].responses:
                raise self.error("rewards is missing: add it, or give the prompt responses", node)
        table = self.table([zeros if node.rewards is None else node.rewards for node in self.nodes], "rewards")
        for i, prompt_file in enumerate(self.parsed.prompts):
            for key, reward in (prompt_file.responses or {}).items():
                table[self.last(key, i, possible, inner)] += reward
        return table

    def last(self, key: str, prompt: int, possible: Array, inner: Array) -> tuple[int, int]:
        """The node and the token that end a response."""
        token = self.word(key, prompt, response=True)[-1]
        node = self.index.get((prompt, key.rpartition(" ")[0]))
        if node is None or not possible[node, token]:
            raise self._wrong("has probability 0: remove it", key, prompt, response=True)
        if inner[node, token]:
            raise self._wrong("goes on: list whole responses only", key, prompt, response=True)
        return node, token

    def features(self) -> dict[str, Array]:
        """[N, V, d] under its name, if given."""
        rows = [node.features or [] for node in self.nodes]
        if not any(rows):
            return {}
        if [] in rows:
            raise self.error("features is missing: give every node of every prompt some, or none", rows.index([]))
        self.check_lengths(rows, "features")
        width = len(rows[0][0])
        for node, row in enumerate(rows):
            for token, entries in enumerate(row):
                if len(entries) != width:
                    text = (
                        f"features[{token}] holds {len(entries)} numbers, needed {width} as the first: give all as many"
                    )
                    raise self.error(text, node)
        return {"features": np.array(rows, dtype=object)}
