"""The transformer against one that computes a position, a head and a number at a time; keys and values kept or not."""

from __future__ import annotations

import itertools

import pytest
import torch

from tests import neural_references as ref
from tpg.errors import TpgError
from tpg.neural import gpt as network
from tpg.neural.gpt import branch, flat, make, number_type, place, unflat

SIZES: dict[str, dict[str, int]] = {
    "one layer, one head": {"vocab": 3, "horizon": 4, "prompts": 2, "layers": 1, "width": 4, "heads": 1},
    "two layers, two heads": {"vocab": 4, "horizon": 4, "prompts": 3, "layers": 2, "width": 6, "heads": 2},
    "three layers, as many heads as numbers": {
        "vocab": 2,
        "horizon": 5,
        "prompts": 1,
        "layers": 3,
        "width": 4,
        "heads": 4,
    },
    "horizon 1": {"vocab": 2, "horizon": 1, "prompts": 2, "layers": 1, "width": 2, "heads": 1},
    "narrow": {"vocab": 5, "horizon": 3, "prompts": 1, "layers": 1, "width": 2, "heads": 2},
}
DEEP = SIZES["two layers, two heads"]


@pytest.mark.parametrize("size", SIZES)
def test_forward_is_the_literal_transformer(size: str) -> None:
    assert ref.forward_error(ref.crooked(3, **SIZES[size])) < ref.EXACT


@pytest.mark.parametrize("size", SIZES)
def test_keys_and_values_kept_change_nothing(size: str) -> None:
    net = ref.crooked(4, **SIZES[size])
    assert ref.cache_error(net) < ref.EXACT
    assert ref.cache_error(net, width=1) < ref.EXACT


def test_siblings_do_not_see_each_other() -> None:
    net = ref.crooked(5, **DEEP)
    _, past = net.start(torch.tensor([0, 1]))
    together, _ = net.extend(past, torch.tensor([[0, 1, 2, 3], [3, 2, 1, 0]]))
    alone, _ = net.extend(past, torch.tensor([[0], [3]]))
    assert ref.apart(together[:, :1], alone) < ref.EXACT


def test_a_past_holds_every_position_once() -> None:
    net = ref.crooked(5, **DEEP)
    _, past = net.start(torch.tensor([0, 1]))
    for t in (1, 2, 3):
        assert len(past) == net.layers
        assert {tuple(p.key.shape) for p in past} == {(2 * 4 ** (t - 1), net.heads, t, net.width // net.heads)}
        _, new = net.extend(past, torch.arange(4).expand(len(past[0].key), 4))
        past = branch(past, new)


@pytest.mark.parametrize("length", [1, 2, 3])
def test_later_tokens_do_not_change_earlier_logits(length: int) -> None:
    net = ref.crooked(6, **DEEP)
    prompt, tokens = ref.sample(net, 3)
    other = tokens.clone()
    other[:, length - 1 :] = (other[:, length - 1 :] + 1) % net.vocab
    before, after = net.forward(prompt, tokens), net.forward(prompt, other)
    assert torch.equal(before[:, :length], after[:, :length])
    assert (before[:, length:] - after[:, length:]).abs().amax((0, 2)).min() > 1e-3  # but later ones do depend on it


def test_prompts_and_positions_and_order_matter() -> None:
    net = ref.crooked(7, **DEEP)
    none = torch.zeros(3, 0, dtype=torch.long)
    rows = net.forward(torch.arange(3), none)[:, 0]
    assert min(float((a - b).abs().max()) for a, b in itertools.combinations(rows, 2)) > 1e-3
    swapped = net.forward(torch.tensor([0, 0]), torch.tensor([[1, 2, 0], [2, 1, 0]]))
    assert (swapped[0, 3] - swapped[1, 3]).abs().max() > 1e-3


def test_a_seed_is_a_network() -> None:
    one, same, other = (make(3, 3, width=8, heads=2, seed=seed) for seed in (1, 1, 2))
    assert torch.equal(flat(one.params), flat(same.params))
    assert (flat(one.params) - flat(other.params)).abs().max() > 0.1
    before = torch.get_rng_state()
    make(3, 3, width=8, heads=2, seed=5)
    assert torch.equal(torch.get_rng_state(), before)  # no global state


def test_float32_is_the_same_network_rounded() -> None:
    wide, narrow = (make(3, 3, width=8, heads=2, seed=1, dtype=dtype) for dtype in ("float64", "float32"))
    assert (wide.dtype, narrow.dtype) == (torch.float64, torch.float32)
    assert all(torch.equal(p.float(), narrow.params[name]) for name, p in wide.params.items())
    assert narrow.forward(*ref.sample(narrow, 2)).dtype == torch.float32


def test_the_first_logits_differ_by_about_a_nat() -> None:
    # 64 independent unit-variance logits per network of a normed stream: |head row|² has mean 1, sd √(2/64).
    spread = [float(make(64, 1, seed=s, layers=1).forward(*ref.sample(make(64, 1), 0, 1)).std()) for s in range(5)]
    assert all(0.5 < value < 2 for value in spread)


def test_sizes_are_counted() -> None:
    # embed (V+P)D, position TD, a layer 3D² + D² + 4D² + 4D² + 2D + 4D + D = 12D² + 7D, norm D, head VD
    for size in SIZES.values():
        net, d = make(**size), size["width"]
        layers = size["layers"] * (12 * d * d + 7 * d)
        assert net.size == (2 * size["vocab"] + size["prompts"] + size["horizon"] + 1) * d + layers
        assert (net.width, net.device.type) == (d, "cpu")


def test_flat_and_unflat_undo_each_other() -> None:
    net = ref.crooked(1, **DEEP)
    vector = flat(net.params)
    assert vector.shape == (net.size,)
    assert list(unflat(vector, net.params)) == list(net.params)
    assert all(torch.equal(p, net.params[name]) for name, p in unflat(vector, net.params).items())
    counted = torch.arange(net.size, dtype=torch.float64)
    assert torch.equal(flat(unflat(counted, net.params)), counted)


def test_other_parameters_make_another_network() -> None:
    net = ref.crooked(1, **DEEP)
    zero = net.at({name: torch.zeros_like(p) for name, p in net.params.items()})
    assert zero.forward(*ref.sample(zero, 2)).abs().max() == 0
    assert net.forward(*ref.sample(net, 2)).abs().max() > 0
    near = network.nearby(net, 0.1, seed=3)
    off = (flat(near.params) - flat(net.params)) / 0.1
    # n standard normal numbers: the mean square lies within 6 √(2/n) of 1, but for 2e-9 of all seeds
    assert abs(float((off**2).mean()) - 1) < 6 * (2 / net.size) ** 0.5
    assert torch.equal(flat(near.params), flat(network.nearby(net, 0.1, seed=3).params))


# What is refused


@pytest.mark.parametrize("name", ["vocab", "horizon", "prompts", "layers", "width", "heads"])
@pytest.mark.parametrize("size", [0, -1])
def test_a_size_below_one_is_refused(name: str, size: int) -> None:
    with pytest.raises(TpgError, match=f"^{name}={size} given: it must be at least 1$"):
        make(**{"vocab": 2, "horizon": 2, name: size})


def test_heads_that_do_not_divide_the_width_are_refused() -> None:
    with pytest.raises(TpgError, match=r"^width=6 and heads=4 given: the width must be a multiple of the heads$"):
        make(2, 2, width=6, heads=4)


def test_another_number_type_is_refused() -> None:
    assert number_type("float32") == torch.float32
    with pytest.raises(TpgError, match=r"^dtype 'float16' given, needed float64 or float32$"):
        make(2, 2, dtype="float16")


@pytest.mark.parametrize("device", ["cuda:99", "nonsense", ""])
def test_a_missing_device_is_refused(device: str) -> None:
    assert place("cpu") == torch.device("cpu")
    with pytest.raises(TpgError, match=rf"^device '{device}' given, this machine has cpu"):
        make(2, 2, device=device)


@pytest.mark.gpu
def test_a_gpu_has_the_same_policy() -> None:
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device on this machine")
    here, there = make(device="cpu", **DEEP), make(device="cuda", **DEEP)
    prompt, tokens = ref.sample(here, 3)
    assert torch.equal(flat(here.params), flat(there.params).cpu())
    assert ref.apart(there.forward(prompt.cuda(), tokens.cuda()).cpu(), here.forward(prompt, tokens)) < ref.EXACT
