"""Which loss a size of model reaches with so many tokens, and the size that a budget is best spent on.

    L(N, D) = E + A N^-alpha + B D^-beta                                   Hoffmann et al., arXiv:2203.15556

N are all parameters of a model of the family llama-WIDTHxLAYERS, D the target tokens it was trained on, L the bits
of a byte of held-out text. Bits of a byte, since they compare across tokenizers where nats of a token do not.

The exponents are those of Hoffmann et al.; runs of minutes span too little to tell them. The other constants come from
runs of our own on the built-in text (`python benchmarks/scaling_fit.py fit`), each with the optimiser, batch and
schedule that a recipe takes by default. A loss is foretold for these alone; on other text, and far beyond the runs, the
law says which size is the better one.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

__all__ = ["LAW", "Choice", "Law", "Size", "best_for_tokens", "best_size", "expected_loss", "useful", "worth"]

# The constants of Muennighoff et al., arXiv:2305.16264: passes over the same text that are worth about as much as new
# text (R*_D), and how many times the parameters that the text is enough for still add something (R*_N).
_PASSES, _TIMES = 15.4, 5.3


@dataclass(frozen=True)
class Law:
    """A fitted law.

    Args:
        floor: E, bits a byte.
        of_size, alpha: A and its exponent.
        of_tokens, beta: B and its exponent.
        error: relative; 19 of 20 runs lay within it that were predicted by a law fitted without them.
        parameters: smallest and largest model of the runs.
        tokens: shortest and longest run.
    """

    floor: float
    of_size: float
    alpha: float
    of_tokens: float
    beta: float
    error: float
    parameters: tuple[int, int]
    tokens: tuple[int, int]

    def loss(self, parameters: float, tokens: float) -> float:
        """Bits a byte of held-out text."""
        sizes = self.of_size * math.pow(parameters, -self.alpha)
        return self.floor + sizes + self.of_tokens * math.pow(tokens, -self.beta)

    def best_parameters(self, tokens: float) -> float:
        """Of the size for which so many tokens, each read once, are the best use of the operations."""
        ratio = self.alpha * self.of_size / (self.beta * self.of_tokens)
        return math.pow(ratio * math.pow(tokens, self.beta), 1 / self.alpha)

    def covers(self, parameters: float, tokens: float) -> bool:
        """Whether a run lies among those that the law was fitted on."""
        return (
            self.parameters[0] <= parameters <= self.parameters[1]
            and self.tokens[0] <= tokens <= self.tokens[1]
        )


LAW = Law(
    floor=0.5261,
    of_size=43.94,
    alpha=0.34,
    of_tokens=40.8,
    beta=0.28,
    error=0.043,
    parameters=(624960, 13767552),
    tokens=(65024, 4157691),
)


def worth(tokens: float, distinct: float) -> float:
    """Of how many distinct tokens a run's are worth as much, if it reads its text several times.

    D' = U + U R* (1 - exp(-R / R*)), with U distinct tokens and R = D / U - 1 repetitions (arXiv:2305.16264).

    Args:
        tokens: that the run reads.
        distinct: that the text has.
    """
    return _diminished(tokens, distinct, _PASSES)


def useful(parameters: float, distinct: float, law: Law = LAW) -> float:
    """Of how many parameters a model's are worth as much, if its text is short for them.

    N' = U + U R* (1 - exp(-R / R*)), with U the parameters that the text is best read once with and R = N / U - 1
    (arXiv:2305.16264). Without it little text would take a larger model, which learns it by heart.

    Args:
        parameters: of the model.
        distinct: tokens of the text.
        law: of the loss.
    """
    return _diminished(parameters, law.best_parameters(distinct), _TIMES)


def _diminished(number: float, full: float, most: float) -> float:
    """What is beyond `full` counts ever less, and never for more than `most` times that."""
    if number <= full:
        return number
    return full * (1 + most * -math.expm1(-(number / full - 1) / most))


def expected_loss(parameters: float, tokens: float, distinct: float, law: Law = LAW) -> float:
    """Bits a byte of held-out text after so many tokens of a text of so many distinct ones."""
    if tokens <= distinct:  # what is read once is not learned by heart
        return law.loss(parameters, tokens)
    return law.loss(useful(parameters, distinct, law), worth(tokens, distinct))


@dataclass(frozen=True)
class Size:
    """A model that might be trained.

    Args:
        name: as in `model.name`.
        parameters: each counted once.
        flops_per_token: forward and backward.
    """

    name: str
    parameters: int
    flops_per_token: int


@dataclass(frozen=True)
class Choice:
    """The size taken.

    Args:
        size: of the model.
        tokens: that the budget buys of it.
        loss: predicted, bits a byte.
    """

    size: Size
    tokens: float
    loss: float


def best_size(
    sizes: Sequence[Size], tokens_of: Callable[[Size], float], distinct: float, law: Law = LAW
) -> Choice:
    """The size that reaches the lowest loss in a budget; the smallest where it buys no token of any.

    Args:
        sizes: to choose from, the smallest first.
        tokens_of: how many tokens the budget buys of a size.
        distinct: tokens of the text.
        law: of the loss.
    """
    found = [(size, tokens_of(size)) for size in sizes]
    choices = [
        Choice(size, tokens, expected_loss(size.parameters, tokens, distinct, law))
        for size, tokens in found
        if tokens > 0
    ]
    return min(choices, key=lambda each: each.loss, default=Choice(sizes[0], 0.0, math.inf))


def best_for_tokens(
    sizes: Sequence[Size], tokens_of: Callable[[Size], float], distinct: float, law: Law = LAW
) -> Choice:
    """The largest size with which no smaller one would have reached a lower loss by the same operations.

    More parameters always reach a lower loss with the same tokens; what bounds them is that the same operations do
    better in a smaller model that sees more text.

    Args:
        sizes, distinct, law: as of `best_size`.
        tokens_of: the run of a size; of a budget in steps they follow its batch.
    """

    def is_well_spent(size: Size) -> bool:
        flops = tokens_of(size) * size.flops_per_token
        best = best_size(sizes, lambda other: flops / other.flops_per_token, distinct, law)
        return best.size.parameters >= size.parameters

    chosen = max(
        (size for size in sizes if is_well_spent(size)), key=lambda s: s.parameters, default=sizes[0]
    )
    tokens = tokens_of(chosen)
    return Choice(chosen, tokens, expected_loss(chosen.parameters, tokens, distinct, law))
