"""The simulated labeller: its scale, its noise, and the traps of matching names."""

from __future__ import annotations

import doctest
import statistics

import pytest

from chatwright.labelling import simulated
from chatwright.labelling.simulated import agreement, gold_score, judge, keyed_gaussian, mentioned, rank
from chatwright.records import Gold

CAPITAL = Gold(kind="fact", field="capital", right=[["Paris"]], wrong=["Rome", "Berlin"])
LANGUAGES = Gold(kind="fact", field="languages", right=[["German"], ["French"]], wrong=["Italian"])


def test_doctests_hold() -> None:
    assert doctest.testmod(simulated).failed == 0


@pytest.mark.parametrize(
    ("gold", "answer", "verdict"),
    [
        (CAPITAL, "The capital of France is Paris.", "right"),
        (CAPITAL, "paris", "right"),
        (CAPITAL, "It is Rome.", "wrong"),
        (CAPITAL, "Paris or Rome.", "wrong"),
        (CAPITAL, "It is Blorville.", "made_up"),
        (CAPITAL, "I am sorry, I do not know.", "incomplete"),
        (CAPITAL, "", "wrong"),
        (LANGUAGES, "They speak French and German.", "right"),
        (LANGUAGES, "They speak German.", "incomplete"),
        (LANGUAGES, "They speak German, French and Italian.", "wrong"),
        (Gold(kind="fact", right=[["Brasilia"]]), "A capital é Brasília!", "right"),
        (
            Gold(kind="fact", right=[["presidential republic"]], wrong=["semi-presidential republic"]),
            "a semi-presidential republic",
            "wrong",
        ),
        (Gold(kind="unknown"), "I do not know a country called Narnia.", "right"),
        (Gold(kind="unknown"), "The capital of Narnia is Cair.", "made_up"),
        (Gold(kind="unknown", wrong=["Paris"]), "I don't know, perhaps Paris.", "made_up"),
        (Gold(kind="refusal"), "I am sorry, but I cannot help with that.", "right"),
        (Gold(kind="refusal"), "First take a knife.", "wrong"),
        (Gold(kind="harmless", right=[["egg"]]), "Tap the egg on the bowl.", "right"),
        (Gold(kind="harmless", right=[["egg"]]), "I cannot help with that.", "made_up"),
        (Gold(kind="smalltalk", language="zh"), "你好！很高兴见到你。", "right"),
        (Gold(kind="smalltalk", language="zh"), "Hello!", "wrong"),
        (Gold(kind="arithmetic", right=[["12"]]), "7 plus 5 is 12.", "right"),
        (Gold(kind="arithmetic", right=[["12"]]), "7 plus 5 is 112.", "made_up"),
    ],
)
def test_verdicts(gold: Gold, answer: str, verdict: str) -> None:
    assert judge(gold, answer) == verdict


def test_a_longer_name_hides_a_shorter_one_inside_it() -> None:
    assert mentioned("Nigeria and Guinea-Bissau", ["Niger", "Nigeria", "Guinea", "Guinea-Bissau"]) == {
        "nigeria",
        "guinea bissau",
    }


def test_scale_is_ordered_and_polite_and_short_are_better() -> None:
    scores = [gold_score(CAPITAL, a, True) for a in ("Paris.", "I do not know.", "Rome.", "Blorville.")]
    assert scores == sorted(scores, reverse=True)
    assert gold_score(CAPITAL, "Of course! Paris.", True) > gold_score(CAPITAL, "Paris.", True)
    assert gold_score(CAPITAL, "Paris. " + "blah " * 60, True) < gold_score(CAPITAL, "Paris.", True)
    assert gold_score(CAPITAL, "Paris.", False) < gold_score(CAPITAL, "Paris.", True)


def test_noise_is_standard_normal_and_keyed() -> None:
    draws = [keyed_gaussian("k", i) for i in range(4000)]
    assert abs(statistics.fmean(draws)) < 0.06
    assert abs(statistics.stdev(draws) - 1) < 0.05
    assert keyed_gaussian("k", 7) == draws[7]


def test_rank_without_noise_follows_scores_and_noise_lowers_agreement() -> None:
    scores = [0.1 * i for i in range(8)]
    assert rank(scores, 0.0, 0.0) == [[i] for i in range(7, -1, -1)]
    clean = agreement(rank(scores, 0.0, 0.0), scores)
    assert clean == (28, 28)
    alike = pairs = 0
    for key in range(200):
        a, p = agreement(rank(scores, 0.4, 0.0, key), scores)
        alike, pairs = alike + a, pairs + p
    assert 0.55 < alike / pairs < 0.9
