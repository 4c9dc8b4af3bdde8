import doctest

import pytest

from chatwright.evaluation import checks, words


@pytest.mark.parametrize("module", [words, checks])
def test_the_examples_in_the_docstrings_hold(module):
    assert doctest.testmod(module).failed == 0


def test_sixty_seconds_are_a_minute():
    assert words.duration(59.7) == "1 min 00 s"
    assert words.duration(3599.9) == "1 h 00 min"


def test_no_number_is_written_with_an_exponent_below_a_billion():
    assert [words.number(value) for value in (0, 7.25, 1923.4, 999_999, 1e6)] == [
        "0",
        "7.25",
        "1,923",
        "999,999",
        "1 M",
    ]
