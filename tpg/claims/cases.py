"""The problems a claim is checked on: tabular or shared parameters × fixed or variable length × one or two prompts."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np

from tpg.numbers import MERSENNE_61, Field, gf
from tpg.problem import zoo
from tpg.problem.problem import Problem


@dataclass(frozen=True)
class Case:
    """A shape of problem; ``problem`` fills it from a seed."""

    shared: int
    variable: bool
    prompts: int
    vocab: int
    horizon: int
    discount: str

    @property
    def name(self) -> str:
        """In words."""
        policy = f"{self.shared} shared parameters" if self.shared else "tabular"
        length = "variable length" if self.variable else "fixed length"
        return f"{policy}, {length}, {self.prompts} prompt{'s' * (self.prompts > 1)}, V={self.vocab}, T={self.horizon}"

    def problem(self, field: Field, seed: int) -> Problem:
        """Random policy, token rewards, weights and features; in GF(p) a random discount too, unless it is 1."""
        discount: str | int = self.discount
        if not field.ordered and discount != "1":
            discount = int(np.random.Generator(np.random.Philox(seed + 1)).integers(2, MERSENNE_61))
        made = zoo.random(
            seed, self.vocab, self.horizon, self.prompts, self.variable, self.shared, discount=discount, field=field
        )
        return replace(made, name=f"{self.name}, γ={self.discount}, seed {seed}")


def cases(discounts: tuple[str, ...], quick: bool) -> Iterator[Case]:
    """Every contrast; the full run adds longer horizons and other alphabets."""
    shapes = [(3, 2)] if quick else [(3, 2), (2, 3), (4, 2), (2, 4)]
    for (vocab, horizon), discount in itertools.product(shapes, discounts):
        for shared, variable, prompts in itertools.product((0, 2), (False, True), (1, 2)):
            yield Case(shared, variable, prompts, vocab, horizon, discount)


POINT_FIELD = gf(MERSENNE_61)
