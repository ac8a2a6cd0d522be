"""The scaling law, and the size that a budget is best spent on, against closed forms and by hand."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest

from babygpt.scaling import LAW, Law, Size, best_for_tokens, best_size, expected_loss, useful, worth

KNOWN = Law(0.5, 400.0, 0.5, 400.0, 0.5, 0.02, (10**5, 10**7), (10**5, 10**7))
SIZES = [Size(f"{n}", n, 6 * n) for n in (round(10 ** (4 + k / 20)) for k in range(81))]


def test_equal_exponents_split_the_operations_evenly() -> None:
    """With alpha = beta and A = B, 6 N D operations are best spent where N = D."""
    for flops in (6e10, 6e12, 6e14):
        choice = best_size(SIZES, lambda size, flops=flops: flops / size.flops_per_token, 1e18, KNOWN)
        assert choice.size.parameters == pytest.approx(math.sqrt(flops / 6), rel=0.06)
        assert choice.tokens == pytest.approx(math.sqrt(flops / 6), rel=0.06)
        assert choice.loss == pytest.approx(0.5 + 800 * (flops / 6) ** -0.25, rel=0.01)


def test_a_budget_in_tokens_takes_the_size_that_these_are_the_best_use_of() -> None:
    for tokens in (1e5, 1e6, 1e7):
        choice = best_for_tokens(SIZES, lambda _, tokens=tokens: tokens, 1e18, KNOWN)
        assert choice.size.parameters == pytest.approx(tokens, rel=0.15)
        assert choice.tokens == tokens


def test_nothing_bought_is_the_smallest() -> None:
    choice = best_size(SIZES, lambda size: -1.0, 1e18, KNOWN)
    assert (choice.size, choice.tokens, choice.loss) == (SIZES[0], 0.0, math.inf)


def test_a_text_read_again_is_worth_less() -> None:
    assert worth(900, 1000) == 900
    assert worth(1000, 1000) == 1000
    # By hand: 3 repetitions of 1000 are 1000 * 15.4 * (1 - exp(-3 / 15.4)) = 2725.6 new ones.
    assert worth(4000, 1000) == pytest.approx(3725.6, abs=0.5)
    assert worth(1e9, 1000) == pytest.approx(16_400)
    few = [worth(1000 * n, 1000) for n in range(1, 60)]
    assert few == sorted(few)


def test_a_model_beyond_its_text_is_worth_less() -> None:
    assert KNOWN.best_parameters(1e4) == pytest.approx(1e4)
    assert LAW.best_parameters(1e6) == pytest.approx(
        best_for_tokens(SIZES, lambda _: 1e6, 1e18).size.parameters, rel=0.15
    )
    assert useful(9000, 1e4, KNOWN) == 9000
    # By hand: 3 times 10,000 beyond it are 10,000 * 5.3 * (1 - exp(-3 / 5.3)) = 22,908.
    assert useful(4e4, 1e4, KNOWN) == pytest.approx(32_908, abs=5)
    assert useful(1e9, 1e4, KNOWN) == pytest.approx(63_000)
    assert expected_loss(4e4, 1e4, 1e4, KNOWN) == KNOWN.loss(4e4, 1e4), (
        "what is read once is not learned by heart"
    )
    assert expected_loss(4e4, 2e4, 1e4, KNOWN) == KNOWN.loss(useful(4e4, 1e4, KNOWN), worth(2e4, 1e4))


def test_little_text_takes_no_larger_model() -> None:
    """It would learn the text by heart: where passes are worth nothing any more, parameters are not either."""

    def bought(size: Size) -> float:
        return 6e13 / size.flops_per_token

    much, little = (best_size(SIZES, bought, distinct, KNOWN) for distinct in (1e18, 1e4))
    assert little.size.parameters < much.size.parameters
    assert little.loss > much.loss


def test_the_law_that_is_shipped() -> None:
    """More of either is better, down to a floor above zero bits, and a byte takes less than its eight bits."""
    assert 0 <= LAW.floor < LAW.loss(*(high for _, high in (LAW.parameters, LAW.tokens))) < 8
    assert LAW.loss(1e6, 1e6) > LAW.loss(2e6, 1e6)
    assert LAW.loss(1e6, 1e6) > LAW.loss(1e6, 2e6)
    assert 0 < LAW.error < 0.1
    inside = (LAW.parameters[0], LAW.tokens[0])
    assert LAW.covers(*inside)
    assert not LAW.covers(inside[0] - 1, inside[1])
    assert not LAW.covers(inside[0], LAW.tokens[1] + 1)
    assert replace(LAW, floor=1.0).loss(1e6, 1e6) == pytest.approx(LAW.loss(1e6, 1e6) + 1 - LAW.floor)
