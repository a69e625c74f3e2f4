"""Problem files: what they mean, that they come back as written, and that every mistake is one helpful line."""

import copy
import json
import random
import subprocess
import sys
from decimal import Decimal
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tpg.errors import ProblemError, TooLarge
from tpg.numbers import FLOAT64, RATIONAL, gf
from tpg.problem import files
from tpg.problem.files import dump, from_dict, load, to_dict
from tpg.problem.problem import make
from tpg.problem.schema import json_schema, number
from tpg.problem.tree import grow

EXAMPLES = Path(__file__).parent.parent / "docs" / "problems"
TABLES = ("probs", "rewards", "behaviour", "reference", "features", "weights")
Q = RATIONAL.scalar


def base():
    """Two prompts, V = 3, token 2 ends; prompt 0 is "long", prompt 1 stops after one token or after two."""
    return {
        "horizon": 2,
        "end_token": 2,
        "prompts": [
            {
                "name": "long",
                "weight": 2,
                "nodes": {
                    "": {"probs": ["1/2", "1/4", "1/4"], "rewards": [1, 2, 3]},
                    "0": {"probs": ["1/3", "1/3", "1/3"], "rewards": [4, 5, 6]},
                    "1": {"probs": [0, 0, 1], "rewards": [0, 0, 7]},
                },
            },
            {
                "name": "short",
                "weight": 1,
                "nodes": {
                    "": {"probs": [0, 0.5, 0.5], "rewards": [0, -1, 1]},
                    "1": {"probs": [1, 0, 0], "rewards": [8, 0, 0]},
                },
            },
        ],
    }


DELETED = object()


def edited(*edits):
    """``base()`` after (path, value) edits; a value DELETED removes the key."""
    data = base()
    for path, value in edits:
        *parents, last = path
        place = data
        for key in parents:
            place = place[key]
        if value is DELETED:
            del place[last]
        else:
            place[last] = copy.deepcopy(value)
    return data


def prompt(i, *path):
    return ("prompts", i, *path)


def node(i, key, *path):
    return ("prompts", i, "nodes", key, *path)


def same(a, b):
    """Equality in every detail, numbers exactly."""
    assert (a.field.name, a.name, a.end_token, a.discount) == (b.field.name, b.name, b.end_token, b.discount)
    assert a.tree.prompts == b.tree.prompts
    assert (a.tree.inner == b.tree.inner).all()
    for label in TABLES:
        left, right = getattr(a, label), getattr(b, label)
        assert (left is None) == (right is None), label
        assert left is None or (left.shape == right.shape and (left == right).all()), label


# What a file means


def test_tree_order_is_depth_then_prompt_then_tokens():
    problem = from_dict(base())
    probs = [["1/2", "1/4", "1/4"], [0, "1/2", "1/2"], ["1/3"] * 3, [0, 0, 1], [1, 0, 0]]
    rewards = [[1, 2, 3], [0, -1, 1], [4, 5, 6], [0, 0, 7], [8, 0, 0]]
    assert problem.field is RATIONAL
    assert (problem.probs == RATIONAL.array(probs)).all()
    assert (problem.rewards == RATIONAL.array(rewards)).all()
    assert problem.tree.prompt.tolist() == [0, 1, 0, 0, 1]
    assert problem.weights.tolist() == [Q("2/3"), Q("1/3")]
    assert (problem.discount, problem.end_token, problem.horizon) == (1, 2, 2)


def test_nodes_may_be_written_in_any_order():
    data = base()
    for p in data["prompts"]:
        p["nodes"] = dict(reversed(p["nodes"].items()))
    same(from_dict(data), from_dict(base()))


def test_tokens_are_ordered_as_numbers():
    nodes = {"": {"probs": ["1/11"] * 11, "rewards": range(11)}}
    nodes |= {str(a): {"probs": [1] + [0] * 10, "rewards": [a] * 11} for a in reversed(range(11))}
    nodes[""]["rewards"] = [0] * 11
    problem = from_dict({"horizon": 2, "prompts": [{"nodes": nodes}]})
    assert problem.rewards[1:, 0].tolist() == list(range(11))  # "10" comes after "9", not after "1"


def test_equal_weights_by_default():
    data = edited((prompt(0, "weight"), DELETED), (prompt(1, "weight"), DELETED))
    assert from_dict(data).weights.tolist() == [Q("1/2"), Q("1/2")]


def test_horizon_may_exceed_the_longest_response_that_ends():
    data = edited(
        (("horizon",), 9), (node(0, "0", "probs"), [0, 0, 1]), (node(1, "1", "probs"), [0, 0, 1]), (("discount",), 0.5)
    )
    problem = from_dict(data)
    assert problem.horizon == 2
    assert problem.discount == Q("1/2")


def test_response_rewards_join_the_last_token_and_its_discount():
    """Token rewards 3, 1 at the root and 5, 7 after token 0; responses "1" worth 10 and "0 1" worth 100; γ = 1/2.

    RM(1) = 1 + 10 = 11; RM(0 0) = 3 + 5/2 = 11/2; RM(0 1) = 3 + (7 + 100)/2 = 113/2.
    All tokens have probability 1/2: E RM = 11/2 + 11/8 + 113/8 = 21.
    """
    nodes = {"": {"probs": [0.5, 0.5], "rewards": [3, 1]}, "0": {"probs": [0.5, 0.5], "rewards": [5, 7]}}
    responses = {"1": 10, "0 1": 100}
    data = {"horizon": 2, "end_token": 1, "discount": "1/2", "prompts": [{"nodes": nodes, "responses": responses}]}
    problem = from_dict(data)
    assert problem.totals[0, 1] == 11
    assert problem.totals[1].tolist() == [Q("11/2"), Q("113/2")]
    assert problem.values[1][0] == 21


def test_responses_replace_rewards_that_are_left_out():
    data = edited(
        *((node(1, key, "rewards"), DELETED) for key in ("", "1")), (prompt(1, "responses"), {"2": "1/3", "1 0": -2})
    )
    assert from_dict(data).rewards[[1, 4]].tolist() == [[0, 0, Q("1/3")], [-2, 0, 0]]


def test_policies_left_out_are_the_current_one():
    data = edited((node(0, "", "behaviour"), ["1/8", "3/8", "1/2"]), (node(1, "1", "reference"), ["1/5", "1/5", 0.6]))
    problem = from_dict(data)
    assert problem.behaviour[0].tolist() == [Q("1/8"), Q("3/8"), Q("1/2")]
    assert (problem.behaviour[1:] == problem.probs[1:]).all()
    assert problem.reference[4].tolist() == [Q("1/5"), Q("1/5"), Q("3/5")]
    assert (problem.reference[:4] == problem.probs[:4]).all()


def test_a_token_that_only_the_behaviour_generates_needs_its_node():
    mu = (node(1, "", "behaviour"), ["1/2", "1/2", 0])
    with pytest.raises(ProblemError, match=r'prompt 1 \(short\), node "0": is missing: add it, or give token 0'):
        from_dict(edited(mu))
    problem = from_dict(edited(mu, (node(1, "0"), {"probs": [0, 0, 1], "rewards": [0, 0, 9]})))
    assert problem.tree.inner[1].tolist() == [True, True, False]


def test_floats_mean_the_decimals_they_are_written_as(tmp_path):
    assert 0.7 + 0.2 + 0.1 != 1  # in float64
    for suffix, text in {
        "json": '{"horizon": 1, "prompts": [{"nodes": {"": {"probs": [0.7, 2e-1, 0.1], "rewards": [1e2, -0.05, 0]}}}]}',
        "toml": 'horizon = 1\n[[prompts]]\nnodes."" = {probs = [0.7, 2e-1, 0.1], rewards = [1_0e1, -0.05, 0]}',
    }.items():
        path = tmp_path / f"floats.{suffix}"
        path.write_text(text)
        problem = load(path)
        assert problem.field is RATIONAL
        assert problem.probs.tolist() == [[Q("7/10"), Q("1/5"), Q("1/10")]]
        assert problem.rewards.tolist() == [[100, Q("-1/20"), 0]]


def test_decimals_that_miss_one_by_rounding_make_a_float64_problem():
    third = 0.3333333333333333  # three of them fall 10⁻¹⁶ short
    problem = from_dict(edited((node(0, "0", "probs"), [third] * 3)))
    assert problem.field is FLOAT64
    assert problem.probs.dtype == problem.rewards.dtype == problem.weights.dtype == np.float64
    assert problem.probs[2].tolist() == [third] * 3
    rough = from_dict(edited((node(0, "0", "probs"), [0.3333333333] * 3)))  # ten digits: divided by their sum
    np.testing.assert_allclose(rough.probs[2], 1 / 3, rtol=1e-15)


def test_two_prompts_example():
    """Prompt "short": RM(2) = 2 with 2/5; RM(1 2) = −1 + (9/10)(5/2) = 5/4 with 3/5; E RM = 4/5 + 3/4 = 31/20."""
    problem = load(EXAMPLES / "two_prompts.json")
    assert (problem.name, problem.prompts, problem.vocab, problem.horizon) == ("two prompts", 2, 3, 3)
    assert problem.weights.tolist() == [Q("3/4"), Q("1/4")]
    assert problem.values[1][1] == Q("31/20")


def test_shared_example():
    """Prompt "sum": RM(1) = 1, RM(0 0) = −1/2, RM(0 1) = 7/3: E RM = 3/10 − (7/10)(1/6) + (7/10)(14/9) = 229/180."""
    problem = load(EXAMPLES / "shared.toml")
    assert (problem.field, problem.parameters) == (RATIONAL, 2)
    assert problem.features[2].tolist() == [[2, -1], [0, Q("1/2")]]
    assert problem.behaviour[2].tolist() == [Q("1/2"), Q("1/2")]
    assert problem.values[1].tolist()[:2] == [Q("229/180"), Q("27/20")]


@pytest.mark.parametrize("example", sorted(EXAMPLES.iterdir()), ids=lambda path: path.name)
def test_json_and_toml_spell_the_same_problem(example, tmp_path):
    problem = load(example)
    for suffix in ("json", "toml"):
        dump(problem, tmp_path / f"copy.{suffix}")
        same(load(tmp_path / f"copy.{suffix}"), problem)


def test_numbers():
    spelled = (
        "1/4",
        "2/8",
        "0.25",
        "25e-2",
        "+0.25",
        "2.5E-1",
        0.25,
        np.float64(0.25),
        Decimal("0.25"),
        Fraction(1, 4),
    )
    assert {number(value) for value in spelled} == {Q("1/4")}
    assert number(-3) == Q(-3)
    assert number("-0.05") == Q("-1/20")


def test_json_schema_names_every_field():
    text = json.dumps(json_schema())
    assert all(f'"{field}"' in text for field in ("horizon", "end_token", "prompts", "responses", "features", "weight"))


def test_pydantic_stays_in_the_files_room():
    code = "import sys, tpg, tpg.problem.problem; sys.exit('pydantic' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=EXAMPLES.parent.parent, check=False).returncode == 0


# Round trips


def simplex(rng, support, vocab):
    """A random rational distribution on ``support``."""
    parts = [rng.randint(1, 9) if a in support else 0 for a in range(vocab)]
    return [f"{part}/{sum(parts)}" for part in parts]


def random_file(rng):
    """A random problem as a file spells it: uneven trees, forbidden tokens, any subset of the optional fields."""
    vocab, horizon, width = rng.randint(2, 3), rng.randint(1, 3), rng.randint(0, 2)
    end = rng.choice([None, vocab - 1])
    off_policy, reference = rng.random() < 0.5, rng.random() < 0.5

    def support():
        return set(rng.sample(range(vocab), rng.randint(1, vocab)))

    def grow_node(nodes, word):
        on, off = support(), support() if off_policy else set()
        entry = {"probs": simplex(rng, on, vocab), "rewards": [f"{rng.randint(-9, 9)}/7" for _ in range(vocab)]}
        if off_policy:
            entry["behaviour"] = simplex(rng, off, vocab)
        if reference:
            entry["reference"] = simplex(rng, on, vocab)
        if width:
            entry["features"] = [[rng.randint(-3, 3) for _ in range(width)] for _ in range(vocab)]
        nodes[" ".join(map(str, word))] = entry
        for token in (on | off) - {end} if len(word) < horizon - 1 else ():
            grow_node(nodes, (*word, token))
        return nodes

    prompts = [{"weight": rng.randint(1, 5), "nodes": grow_node({}, ())} for _ in range(rng.randint(1, 3))]
    optional = {} if end is None else {"end_token": end}
    return {"horizon": horizon, "discount": f"{rng.randint(1, 4)}/4", "prompts": prompts, **optional}


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**32), st.sampled_from(["json", "toml"]))
def test_round_trip_is_exact(tmp_path_factory, seed, suffix):
    problem = from_dict(random_file(random.Random(seed)), "πroblem")
    path = tmp_path_factory.mktemp("round") / f"trip.{suffix}"
    dump(problem, path)
    same(load(path), problem)


def noisy(tree, seed=0):
    """A float64 problem, ended by token 0, whose rows sum to 1 only up to rounding."""
    rng = np.random.default_rng(seed)
    probs = rng.dirichlet(np.ones(tree.vocab), tree.nodes)
    more = {"weights": [0.3, 0.7], "discount": 0.9, "end_token": 0}
    return make(tree, probs, rng.normal(size=probs.shape), field=FLOAT64, **more)


@pytest.mark.parametrize("suffix", ["json", "toml"])
def test_float64_round_trip_keeps_every_bit(tmp_path, suffix):
    problem = noisy(grow(3, 4, prompts=2, end_token=0))
    dump(problem, tmp_path / f"noisy.{suffix}")
    same(load(tmp_path / f"noisy.{suffix}"), problem)


def test_dump_leaves_out_what_cannot_be_generated(tmp_path):
    tree = grow(2, 3)
    problem = make(tree, [["1/2", "1/2"], [1, 0], [0, 1]] + [["1/3", "2/3"]] * 4, np.arange(14).reshape(7, 2))
    dump(problem, tmp_path / "pruned.json")
    pruned = load(tmp_path / "pruned.json")
    assert list(to_dict(problem)["prompts"][0]["nodes"]) == ["", "0", "1", "0 0", "1 1"]
    assert pruned.values[1][0] == problem.values[1][0]


def test_names_are_written_on_one_line(tmp_path):
    problem = make(grow(2, 1), [["1/2", "1/2"]], [[1, 0]], name='π "quoted"\nnext\x7f\ud800')
    for suffix in ("json", "toml"):
        dump(problem, tmp_path / f"name.{suffix}")
        assert load(tmp_path / f"name.{suffix}").name == 'π "quoted"\\nnext\\x7f\\ud800'


def test_the_name_of_a_file_is_the_default(tmp_path):
    (tmp_path / "v1.2.json").write_text(json.dumps(base()))
    assert load(str(tmp_path / "v1.2.json")).name == "v1.2"
    assert from_dict(base(), "v1.2").name == "v1.2"


def test_from_dict_leaves_its_argument_alone():
    data = base()
    from_dict(data)
    assert data == base()


def test_what_cannot_be_dumped(tmp_path):
    problem = from_dict(base())
    with pytest.raises(ProblemError, match=r"^problem: GF\(.*\) has no written numbers"):
        dump(problem.to(gf()), tmp_path / "field.json")
    with pytest.raises(ProblemError, match=r'x\.yaml: unknown suffix "\.yaml": name the file \.json or \.toml'):
        dump(problem, tmp_path / "x.yaml")
    with pytest.raises(ProblemError, match=r"x\.json: cannot be written: No such file"):
        dump(problem, tmp_path / "nowhere" / "x.json")
    huge = make(problem.tree, problem.probs, problem.rewards + 10**301, end_token=2)
    with pytest.raises(ProblemError, match=r"problem: a number to write is beyond 1e300"):
        dump(huge, tmp_path / "huge.json")


# Mistakes

ROOT = r'prompt 0 \(long\), node "" \(the root\): '
ZERO = r'prompt 0 \(long\), node "0": '
NUMBER = r'needed a number: write 0\.25, "0\.25" or "1/4"'
MISTAKES = {
    # probabilities
    "sum": ([(node(0, "0", "probs"), [0.33, 0.33, 0.33])], ZERO + r'probs sums to 0\.99, needed 1: .*thirds as "1/3"'),
    "sum, barely": ([(node(0, "0", "probs"), [0.5, 0.5, 0.000000002])], ZERO + r"probs sums to 1\.000000002, needed 1"),
    "behaviour sum": ([(node(0, "0", "behaviour"), [1, 1, 0])], ZERO + r"behaviour sums to 2, needed 1"),
    "negative": ([(node(0, "", "probs"), [1.5, 0, -0.5])], ROOT + r"probs\[2\] is -1/2: probabilities lie in \[0, 1\]"),
    "too few": ([(node(0, "0", "probs"), [0.5, 0.5])], ZERO + r"probs holds 2 entries, needed 3, one per token"),
    "too many rewards": ([(node(0, "0", "rewards"), [1] * 4)], ZERO + r"rewards holds 4 entries, needed 3"),
    "no probs": ([(node(0, "0", "probs"), [])], ZERO + r"probs is empty, needed at least one entry"),
    # the tree
    "missing node": ([(node(0, "1"), DELETED)], r'\(long\), node "1": is missing: add it, or give token 1 of node ""'),
    "missing below": ([(("horizon",), 3)], r'\(long\), node "0 0": is missing: add it, or give token 0 of node "0"'),
    "missing root": ([(node(1, ""), DELETED)], r'prompt 1 \(short\), node "" \(the root\): is missing: add it'),
    "no nodes": ([(prompt(0, "nodes"), {})], ROOT + "is missing"),
    "no parent": (
        [(("horizon",), 3), (node(0, "0 0"), base()["prompts"][0]["nodes"]["1"]), (node(0, "0"), DELETED)],
        r'node "0 0": cannot be reached: add its parent, node "0", or remove it',
    ),
    "after the end": (
        [(("horizon",), 4), (node(0, "0 2 1"), {"probs": [0, 0, 1], "rewards": [0, 0, 0]})],
        r'node "0 2 1": goes on after the end token 2: remove it',
    ),
    "after probability 0": (
        [(node(1, "0"), {"probs": [0, 0, 1], "rewards": [0, 0, 0]})],
        r'\(short\), node "0": cannot be reached: token 0 of node "" has probability 0: remove it',
    ),
    "too deep": (
        [(node(0, "0 0"), {"probs": [0, 0, 1], "rewards": [0, 0, 0]})],
        r'node "0 0": holds 2 tokens, horizon 2 leaves 1: remove it or raise the horizon',
    ),
    "token of a prefix": (
        [(node(0, "3"), {"probs": [0, 0, 1], "rewards": [0] * 3})],
        r'node "3": holds token 3, outside the vocabulary 0 … 2: change it',
    ),
    **{
        f"prefix {key!r}": (
            [(node(0, key), {"probs": [0, 0, 1], "rewards": [0] * 3})],
            r'prompt 0 \(long\), node ".*": is no list of tokens: write integers and one blank between, as in "0 1"',
        )
        for key in ("0,1", "0  1", " 0", "0 ", "0\t1", "0\n", "a", "-1", "01", "0.0", "١", "9" * 5000)
    },
    # features
    "features of some": (
        [(node(0, "", "features"), [[1], [2], [3]])],
        r'prompt 1 \(short\), node "" .*features is missing: give every node of every prompt some, or none',
    ),
    "features per token": (
        [
            (node(i, k, "features"), [[1]] * (3 - (k == "0")))
            for i, k in ((0, ""), (0, "0"), (0, "1"), (1, ""), (1, "1"))
        ],
        ZERO + r"features holds 2 entries, needed 3, one per token",
    ),
    "features width": (
        [
            (node(i, k, "features"), [[1], [1] * (1 + i), [1]])
            for i, k in ((0, ""), (0, "0"), (0, "1"), (1, ""), (1, "1"))
        ],
        r"\(short\), .*features\[1\] holds 2 numbers, needed 1 as the first",
    ),
    "features empty": (
        [(node(0, "", "features"), [[], [], []])],
        ROOT + r"features\[0\] is empty, needed at least one",
    ),
    # responses
    "no rewards": ([(node(0, "0", "rewards"), DELETED)], ZERO + "rewards is missing: add it, or give the prompt resp"),
    "response of probability 0": (
        [(prompt(0, "responses"), {"1 0": 1})],
        r'prompt 0 \(long\): response "1 0" has probability 0: remove it',
    ),
    "response through probability 0": ([(prompt(1, "responses"), {"0 0": 1})], r'response "0 0" has probability 0'),
    "response that goes on": ([(prompt(0, "responses"), {"0": 1})], r'response "0" goes on: list whole responses only'),
    "response after the end": ([(prompt(0, "responses"), {"2 0": 1})], r'response "2 0" goes on after the end token 2'),
    "response too long": ([(prompt(0, "responses"), {"0 0 0": 1})], r'"0 0 0" holds 3 tokens, horizon 2 leaves 2: '),
    "response token": ([(prompt(0, "responses"), {"0 7": 1})], r'"0 7" holds token 7, outside the vocabulary 0 … 2'),
    "empty response": ([(prompt(0, "responses"), {"": 1})], r'\(long\): response "" is no list of tokens'),
    "response reward": ([(prompt(0, "responses"), {"2": "x"})], r'\(long\): responses\["2"\] is "x", ' + NUMBER),
    # numbers
    "word": ([(node(0, "", "rewards", 1), "one")], ROOT + r'rewards\[1\] is "one", ' + NUMBER),
    "blank": ([(node(0, "", "rewards", 1), " 1")], ROOT + r'rewards\[1\] is " 1", ' + NUMBER),
    "bool": ([(node(0, "", "probs", 0), True)], ROOT + r"probs\[0\] is true, needed a number"),
    "null": ([(node(0, "", "probs", 0), None)], ROOT + r"probs\[0\] is null, needed a number"),
    "nested": ([(node(0, "", "probs", 0), [1])], ROOT + r"probs\[0\] is a list \[…\], needed a number"),
    "nan": ([(node(0, "", "probs", 0), float("nan"))], ROOT + r"probs\[0\] is nan: give a finite number"),
    "infinity as text": (
        [(node(0, "", "rewards", 0), "-Infinity")],
        ROOT + r"rewards\[0\] is -Infinity: give a finite",
    ),
    "division by zero": ([(node(0, "", "rewards", 0), "1/0")], ROOT + r"rewards\[0\] is 1/0: divide by something else"),
    "huge exponent": (
        [(node(0, "", "rewards", 0), "1e999999999")],
        ROOT + r".* is 1e999999999, the limit of an exponent is",
    ),
    "tiny exponent": ([(node(0, "", "rewards", 0), "1e-999999999")], ROOT + r".*the limit of an exponent is 4000"),
    "huge": (
        [(node(0, "", "rewards", 0), "1e301")],
        ROOT + r"rewards\[0\] is beyond 1e300, the largest number of a file",
    ),
    "huge integer": ([(node(0, "", "rewards", 0), 10**5000)], ROOT + r"rewards\[0\] is beyond 1e300"),
    "long": (
        [(node(0, "", "rewards", 0), "1" * 5000)],
        ROOT + r".* is written with 5000 characters, the limit is 4000",
    ),
    # fields
    "no horizon": ([(("horizon",), DELETED)], "horizon is missing: add it"),
    "horizon 0": ([(("horizon",), 0)], "horizon is 0, needed at least 1"),
    "horizon 1.5": ([(("horizon",), 1.5)], r"horizon is 1\.5, needed an integer"),
    "horizon text": ([(("horizon",), "2")], r'horizon is "2", needed an integer'),
    "horizon true": ([(("horizon",), True)], "horizon is true, needed an integer"),
    "horizon with a name": ([(("horizon",), {"a": 1})], r"horizon is an object \{…\}, needed an integer"),
    "end_token": ([(("end_token",), 3)], "end_token 3 is outside the vocabulary 0 … 2: change it"),
    "end_token negative": ([(("end_token",), -1)], "end_token -1 is outside the vocabulary"),
    "end_token huge": ([(("end_token",), 10**5000)], "end_token a huge integer is outside the vocabulary"),
    "end_token false": ([(("end_token",), False)], "end_token is false, needed an integer"),
    "discount 0": ([(("discount",), 0)], "discount is 0, needed a number above 0 and at most 1"),
    "discount above 1": ([(("discount",), "11/10")], "discount is 11/10, needed a number above 0"),
    "weight 0": ([(prompt(1, "weight"), 0)], r"prompt 1 \(short\): weight is 0, needed a positive number"),
    "weight negative": ([(prompt(1, "weight"), -0.5)], r"\(short\): weight is -1/2, needed a positive number"),
    "weight of one": (
        [(prompt(1, "weight"), DELETED)],
        r"\(short\): weight is missing: give every prompt one, or none",
    ),
    "no prompts": ([(("prompts",), [])], "prompts is empty, needed at least one entry"),
    "prompts by name": ([(("prompts",), {"a": 1})], r"prompts is an object \{…\}, needed a list"),
    "prompt of another kind": ([(prompt(1), 5)], r"prompt 1: 5 given, needed an object \{…\}"),
    "nodes as a list": ([(prompt(0, "nodes"), [1])], r"prompt 0 \(long\): nodes is a list \[…\], needed an object"),
    "node of another kind": ([(node(0, "0"), [1])], ZERO + r"a list \[…\] given, needed an object"),
    "probs as an object": ([(node(0, "0", "probs"), {"0": 1})], ZERO + r"probs is an object \{…\}, needed a list"),
    "name as a number": ([(prompt(0, "name"), 5)], "prompt 0: name is 5, needed text in quotes"),
    "name of two lines": ([(("name",), "a\nb")], r'name is "a\\nb", needed one line of printable text'),
    "name of half a character": ([(("name",), "\ud800")], r'name is "\\ud800", needed one line of printable text'),
    "key as a number": ([(node(0, 7), {"probs": [0, 0, 1]})], r'node "7": \[key\] is 7, needed text in quotes'),
    "unknown": ([(("horizn",), 2)], r'unknown field "horizn": write "horizon"'),
    "unknown before missing": (
        [(node(0, "0", "prob"), [0, 0, 1]), (node(0, "0", "probs"), DELETED)],
        ZERO + r'unknown field "prob": write "probs"',
    ),
    "unknown in a prompt": ([(prompt(1, "wieght"), 2)], r'\(short\): unknown field "wieght": write "weight"'),
    "unknown, nothing near": (
        [(prompt(1, "x"), 2)],
        r'unknown field "x": the fields here are name, weight, nodes, responses',
    ),
}


@pytest.mark.parametrize(("edits", "message"), MISTAKES.values(), ids=MISTAKES.keys())
def test_every_mistake_is_one_line_that_says_where(edits, message):
    with pytest.raises(ProblemError, match=message) as caught:
        from_dict(edited(*edits), "wrong.json")
    line = str(caught.value)
    assert line.startswith("wrong.json: ")
    assert line.isprintable()
    assert len(line) < 250
    assert caught.value.__cause__ is None


def test_a_mistake_in_other_data():
    with pytest.raises(ProblemError, match=r"^here: a list \[…\] given, needed an object \{…\}$"):
        from_dict([1], "here")
    with pytest.raises(
        ProblemError, match=r'^here: unknown field "3": the fields here are name, description, horizon, '
    ):
        from_dict(base() | {3: 2}, "here")


def test_an_absurd_horizon_is_too_large():
    for horizon in (10**9, 10**4000):
        with pytest.raises(
            TooLarge, match=r"^deep\.json: horizon would need .* entries, the limit is 1e\+04: give the nu"
        ):
            from_dict(base() | {"horizon": horizon}, "deep.json")


def test_what_the_problem_itself_refuses_names_the_file(monkeypatch):
    def refuse(*_, **__):
        raise ProblemError("no\nproblem")

    monkeypatch.setattr(files, "Problem", refuse)
    with pytest.raises(ProblemError, match=r"^some\.json: no\\nproblem$"):
        from_dict(base(), "some.json")


ONE = '{"horizon": 1, "prompts": [{"name": "only", "nodes": {"": %s}}]}'
TEXTS = {
    "empty": ("json", b" \n", "is empty: see docs/problems"),
    "empty toml": ("toml", b"", "is empty: see docs/problems"),
    "not utf-8": ("json", b'{"\xff', "byte 2 is not UTF-8: save the file as UTF-8"),
    "not json": (
        "json",
        b'{"horizon": 1,\n "prompts" []}',
        r"not JSON: Expecting ':' delimiter \(at line 2, column 12\)",
    ),
    "cut json": ("json", b'{"horizon":', r"not JSON: Expecting value \(at line 1, column 12\)"),
    "not toml": ("toml", b"horizon = 1\nprompts = ?", r"not TOML: Invalid value \(at line 2, column 11\)"),
    "cut toml": ("toml", b'horizon = 1\nname = "a', r"not TOML: .*\(at line 2, column 10\)"),
    "toml twice": ("toml", b"horizon = 1\nhorizon = 2", r"not TOML: Cannot overwrite a value \(at line 2, column 12\)"),
    "key twice": ("json", b'{"horizon": 1, "horizon": 1}', "horizon is given twice: keep one"),
    "field twice": (
        "json",
        (ONE % '{"probs": [1], "rewards": [1], "probs": [1]}').encode(),
        r'prompt 0 \(only\), node "" \(the root\): probs is given twice: keep one',
    ),
    "node twice": (
        "json",
        b'{"horizon": 1, "prompts": [{"nodes": {"0 1": {}, "0 1": {}}}]}',
        r'prompt 0, node "0 1": is given twice: keep one',
    ),
    "response twice": (
        "json",
        b'{"horizon": 1, "prompts": [{"nodes": {}, "responses": {"0": 1, "0": 1}}]}',
        r'prompt 0: responses\["0"\] is given twice: keep one',
    ),
    "NaN": ("json", (ONE % '{"probs": [NaN]}').encode(), r"probs\[0\] is NaN: give a finite number"),
    "Infinity": ("json", (ONE % '{"probs": [-Infinity]}').encode(), r"probs\[0\] is -Infinity: give a finite number"),
    "toml inf": ("toml", b'horizon = 1\n[[prompts]]\nnodes."".probs = [inf]', r"probs\[0\] is Infinity: give a finite"),
    "toml date": (
        "toml",
        b'horizon = 1\n[[prompts]]\nnodes."".probs = [2020-01-01]',
        r"is 2020-01-01, needed a number",
    ),
    "exponent": ("json", (ONE % '{"probs": [1e999999999]}').encode(), r"is 1E\+999999999, the limit of an exponent"),
    "absurd exponent": ("json", (ONE % '{"probs": [1e%s]}' % ("9" * 30)).encode(), "a number whose exponent is beyond"),
    "many digits": ("json", (ONE % '{"probs": [%s]}' % ("9" * 5000)).encode(), "an integer of thousands of digits"),
    "many toml digits": ("toml", b"horizon = " + b"9" * 5000, "an integer of thousands of digits: shorten it"),
    "deep": ("json", b'{"horizon": ' + b"[" * 10**5, "is nested too deeply: a problem needs at most 8 levels"),
    "deep toml": ("toml", b"horizon = " + b"[" * 10**5, "is nested too deeply: a problem needs at most 8 levels"),
    "deep, but read": (
        "json",
        b'{"horizon": ' + b"[" * 500 + b"]" * 500 + b"}",
        r"horizon is a list \[…\], needed an in",
    ),
    "no object": ("json", b"[1]", r"a list \[…\] given, needed an object"),
}


@pytest.mark.parametrize(("suffix", "content", "message"), TEXTS.values(), ids=TEXTS.keys())
def test_a_text_that_cannot_be_read(tmp_path, suffix, content, message):
    path = tmp_path / f"text.{suffix}"
    path.write_bytes(content)
    with pytest.raises(ProblemError, match=message) as caught:
        load(path)
    assert str(caught.value).startswith(f"{path}: ")
    assert str(caught.value).isprintable()


def test_a_file_that_cannot_be_opened(tmp_path, monkeypatch):
    for name, message in {
        "none.json": "no such file: check the path",
        "none": "no such file: check the path",
        "nul\0.json": "no such file: check the path",
        "": "is a directory: name a file in it",
        f"{'x' * 300}.json": "cannot be read: File name too long",
    }.items():
        with pytest.raises(ProblemError, match=message):
            load(tmp_path / name)
    (tmp_path / "x.yaml").write_text("{}")
    with pytest.raises(ProblemError, match=r'x\.yaml: unknown suffix "\.yaml": name the file \.json or \.toml'):
        load(tmp_path / "x.yaml")


def test_a_byte_order_mark_is_skipped(tmp_path):
    path = tmp_path / "mark.json"
    path.write_bytes(b"\xef\xbb\xbf" + json.dumps(base()).encode())
    same(load(path), from_dict(base(), "mark"))


# Whatever else

SCALARS = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-3, 12),
    st.floats(),
    st.text(max_size=4),
    st.sampled_from(["1/3", "1/0", "-1", "0 1", "1e400", "nan", "\ud800", "\n"]),
)
FIELDS = st.sampled_from(
    ["", "0", "1", "2", "0 0", "0 1", "probs", "rewards", "nodes", "responses", "features", "prob"]
)
VALUES = st.recursive(
    SCALARS, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(FIELDS, inner, max_size=3), max_leaves=6
)


def places(value, path=()):
    """The path of everything inside ``value``."""
    entries = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, entry in entries:
        yield (*path, key)
        yield from places(entry, (*path, key))


def refusal(read, source, *name):
    """What ``read`` has against ``source``: one line, or None."""
    try:
        read(source, *name)
    except (ProblemError, TooLarge) as error:
        return str(error)
    return None


@settings(max_examples=200, deadline=None)
@given(st.data())
def test_an_altered_problem_loads_or_says_why_in_one_line(data):
    path = data.draw(st.sampled_from(list(places(base()))))
    if data.draw(st.booleans()) and isinstance(path[-1], str):
        path = (*path[:-1], data.draw(FIELDS))
    altered = edited((path, data.draw(VALUES)))
    line = refusal(from_dict, altered, "altered")
    assert line is None or (line.isprintable() and line.startswith("altered: "))
    if line is None:
        problem = from_dict(altered)
        same(from_dict(to_dict(problem)), problem)


@settings(max_examples=200, deadline=None)
@given(st.sampled_from(sorted(EXAMPLES.iterdir())), st.randoms(use_true_random=False), st.integers(1, 4))
def test_an_altered_text_loads_or_says_why_in_one_line(tmp_path_factory, example, rng, changes):
    text = bytearray(example.read_bytes())
    for _ in range(changes):
        at = rng.randrange(len(text))
        text[at : at + rng.randrange(3)] = rng.choice([b"", b"0", b"-", b'"', b",", b"]", b"{", b"\n", b"e9", b"\xff"])
    path = tmp_path_factory.mktemp("text") / f"altered{example.suffix}"
    path.write_bytes(text)
    line = refusal(load, path)
    assert line is None or (line.isprintable() and line.startswith(f"{path}: "))
