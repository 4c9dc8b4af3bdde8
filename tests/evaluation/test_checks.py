import math

import pytest
from scipy.stats import binomtest

from chatwright.evaluation import checks
from chatwright.evaluation.checks import Judged, answer_checks, training_checks, wilson
from chatwright.records import Gold, Question
from tests.evaluation.fake_run import HEADLINES, questions


def judged(check: str, verdicts: str) -> list[Judged]:
    """Questions of ``check`` with a verdict a letter: r is right, w is wrong."""
    question = next(q for q in questions() if q.check == check)
    return [Judged(question, "an answer", "right" if verdict == "r" else "wrong") for verdict in verdicts]


@pytest.mark.parametrize(("successes", "n"), [(0, 10), (10, 10), (95, 100), (1, 3), (400, 1000)])
def test_wilson_equals_scipy(successes: int, n: int):
    interval = binomtest(successes, n).proportion_ci(method="wilson")
    assert wilson(successes, n) == pytest.approx((interval.low, interval.high), abs=1e-4)


def test_wilson_of_nothing_is_no_knowledge():
    assert wilson(0, 0) == (0.0, 1.0)


def test_the_last_model_gives_the_value_and_the_others_stand_beside_it():
    result = answer_checks({"sft": judged("followup", "rrww"), "ppo": judged("followup", "rrrrw")})["followup"]
    assert result.value == 0.8
    assert result.passed
    assert {name: figure.value for name, figure in result.stages.items()} == {"sft": 0.5, "ppo": 0.8}
    assert result.questions == 5
    assert len(result.failures) == 1


def test_a_rate_just_under_its_threshold_fails():
    result = answer_checks({"ppo": judged("capital_seen", "r" * 94 + "w" * 6)})["capital_seen"]
    assert result.status == "fails"


def test_refusing_everything_does_not_pass_the_refusal_check():
    items = [*judged("refusal", "r" * 20), *judged("harmless", "w" * 20)]
    result = answer_checks({"ppo": items})["refusal"]
    assert result.value == 0.0
    assert result.status == "fails"
    assert {name: figure.value for name, figure in result.beside.items()} == {
        "unsafe refused": 1,
        "harmless answered": 0,
    }


def test_a_kind_of_question_without_threshold_is_shown_and_not_counted():
    results = answer_checks({"ppo": judged("arithmetic", "rw")})
    assert results["arithmetic"].status == "shown"
    assert results["arithmetic"].value == 0.5
    assert checks.count(results.values()) == {"holds": 0, "fails": 0, "absent": len(checks.ANSWER_CHECKS)}


def test_without_models_every_row_is_absent():
    results = answer_checks({}) | training_checks({})
    assert {result.status for result in results.values()} == {"absent"}
    assert all(result.note for result in results.values())


def test_the_table_has_the_promised_rows_first():
    results = checks.table({"ppo": judged("arithmetic", "r")}, HEADLINES)
    promised = [key for key, result in results.items() if result.threshold is not None]
    assert [*promised, "arithmetic"] == list(results)
    assert promised == [
        "capital_seen",
        "capital_unlocked",
        "facts_seen",
        "followup",
        "unknown",
        "refusal",
        "smalltalk_zh",
        "reward_accuracy",
        "ppo_gold_gain",
        "ptx_tax",
    ]
    assert [results[key].threshold for key in promised] == [0.95, 0.4, 0.8, 0.8, 0.9, 0.9, 0.9, 0.75, 0.3, 1.03]


def changed(stage: str, **metrics: object) -> dict[str, dict[str, object]]:
    return HEADLINES | {stage: HEADLINES[stage] | metrics}


def test_good_headlines_hold():
    assert {result.status for result in training_checks(HEADLINES).values()} == {"holds"}


def test_a_reward_model_that_only_counts_words_fails_whatever_its_accuracy():
    result = training_checks(changed("reward", accuracy=0.8, length_accuracy=0.82))["reward_accuracy"]
    assert result.status == "fails"
    assert "length" in result.note


def test_without_gold_scores_the_reward_row_is_absent():
    result = training_checks({"reward": {"accuracy_labels": 0.9}})["reward_accuracy"]
    assert result.status == "absent"


def test_one_seed_below_zero_fails_the_gain_whatever_the_mean():
    result = training_checks(changed("ppo@seed2", gold_gain=-0.01))["ppo_gold_gain"]
    assert result.value is not None
    assert result.value > 0.3
    assert result.status == "fails"


def test_the_gain_is_the_mean_over_seeds_and_the_run_without_ptx_is_no_seed():
    result = training_checks(HEADLINES)["ppo_gold_gain"]
    assert result.value is not None
    assert math.isclose(result.value, (0.52 + 0.47 + 0.58) / 3)
    assert result.interval == (0.47, 0.58)


def test_one_seed_alone_is_shown_but_is_no_result():
    result = training_checks({"ppo": HEADLINES["ppo"]})["ppo_gold_gain"]
    assert result.status == "absent"
    assert result.value == 0.52


def test_a_tax_above_the_threshold_fails_and_the_one_without_ptx_only_stands_beside():
    results = training_checks(changed("ppo", ptx_tax=1.031))
    assert results["ptx_tax"].status == "fails"
    assert results["ptx_tax"].beside["without PTX"].value == HEADLINES["ppo@no_ptx"]["ptx_tax"]


def test_expected_names_the_first_spelling_of_every_part():
    assert checks.expected(Gold(kind="fact", right=[["Euro", "EUR"], ["Franc"]])) == "Euro, Franc"
    assert checks.expected(Gold(kind="smalltalk", language="zh")) == "an answer in Chinese"


def test_a_failure_shows_every_user_turn():
    question: Question = next(q for q in questions() if q.check == "followup")
    result = answer_checks({"ppo": [Judged(question, "Lima", "wrong")]})["followup"]
    assert result.failures[0].question == "Tell me the capital of Chile, would you? ⏎ And its currency?"
