"""Prompt lookup: guess that what followed the last few tokens before follows them again (Saxena 2023).

A step of few tokens on a CPU costs about as much as a step of one, because its time goes into reading the weights. A
guess that the model would not have chosen is dropped: each token is chosen from the model's own logits with the
request's own uniform number, guessed or not, so the answer is the same text as without guessing.
"""

from __future__ import annotations

from collections.abc import Sequence

MOST_ANSWERS = 4  # in a step: with more, products of more rows cost more than guesses save
LONGEST, SHORTEST = 3, 2  # tokens that must have come before
LOOK_BACK = 1024  # tokens


def lookup(tokens: Sequence[int], most: int) -> list[int]:
    """Up to ``most`` tokens that followed the latest place where the last tokens stood before.

    >>> lookup([5, 6, 7, 8, 1, 5, 6], most=2)
    [7, 8]
    """
    recent = list(tokens[-LOOK_BACK:])
    for length in range(LONGEST, SHORTEST - 1, -1):
        end = recent[-length:]
        for place in range(len(recent) - 2, length - 2, -1):
            if recent[place] == end[-1] and recent[place - length + 1 : place + 1] == end:
                return recent[place + 1 : place + 1 + most]
    return []
