"""Rewards for recipes/grpo_sums.toml: functions of conversations and the texts that answer them."""

import re


def right_sum(prompts, answers):
    """1 where the answer names the sum that was asked for and no number that was not asked about, else 0."""
    scores = []
    for prompt, answer in zip(prompts, answers, strict=True):
        terms = re.findall(r"\d+", prompt[-1].text)
        named = set(re.findall(r"\d+", answer)) - set(terms)
        scores.append(1.0 if named == {str(sum(map(int, terms)))} else 0.0)
    return scores


def short(prompts, answers):
    """Nothing for an answer of one word, and a hundredth less for every further one."""
    return [-0.01 * max(0, len(answer.split()) - 1) for answer in answers]
