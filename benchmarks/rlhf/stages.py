"""What the experiments do beside the road's own stages: fewer demonstrations, best of n, models that play."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from itertools import zip_longest
from pathlib import Path
from statistics import fmean, pstdev
from typing import Any

from pydantic import Field

from chatwright.inference.engine import Engine
from chatwright.inference.sampling import Sampling
from chatwright.labelling.simulated import gold_score
from chatwright.model.folder import load_model, load_reward
from chatwright.records import Conversation, Question, Record
from chatwright.stage import Headline, Inputs, Stage, StageConfig, progress_bar
from chatwright.storage import keyed_uniform, read_jsonl, write_json, write_jsonl
from chatwright.tokenizer.bpe import Tokenizer
from chatwright.tokenizer.chat import render
from chatwright.training.ppo.rollout import episode_seed, reward_model_score
from chatwright.training.runtime import prepare

AT_ONCE = 4096  # answers between two movements of the progress bar
MISSING_EOS = -1.0  # as in PPO (NDET), so that both maximise the same
TURN = {"user": "Q", "assistant": "A"}


class FewerConfig(StageConfig):
    """count: demonstrations that are kept, drawn by the seed."""

    count: int = Field(gt=0)


def fewer(config: FewerConfig, inputs: Inputs, out: Path) -> Headline:
    """The folder of ``conversations`` with only some of its demonstrations."""
    source = inputs["conversations"]
    talks = read_jsonl(source / "demonstrations.jsonl", Conversation)
    talks.sort(key=lambda talk: keyed_uniform("fewer", config.seed, talk.id))
    write_jsonl(out / "demonstrations.jsonl", talks[: config.count])
    for name in ("demonstrations_heldout.jsonl", "prompts.jsonl", "prompts_heldout.jsonl", "questions.jsonl"):
        (out / name).write_bytes((source / name).read_bytes())
    return {"demonstrations": min(config.count, len(talks)), "of": len(talks)}


class DrawsConfig(StageConfig):
    """prompts: the last ones of the file to learn from, which no reward model saw; answers: to each of them."""

    prompts: int = 256
    answers: int = 64
    temperature: float = 1.0
    max_tokens: int = 48


class Draws(Record):
    """Answers to a prompt: each distinct one as ids, how often it came, its gold score, whether it ended by itself."""

    id: str
    prompt: list[int]
    answers: list[list[int]]
    counts: list[int]
    gold: list[float]
    finished: list[bool]


def draw(config: DrawsConfig, inputs: Inputs, out: Path) -> Headline:
    """Sample many answers of the SFT model to each prompt."""
    model, tokenizer = load_model(inputs["sft"])
    engine = Engine(model.to(prepare()), tokenizer, batch_size=256)
    questions = read_jsonl(inputs["conversations"] / "prompts.jsonl", Question)[-config.prompts :]
    found: list[Draws] = []
    together = max(1, AT_ONCE // config.answers)
    with progress_bar("draws", len(questions)) as bar:
        for start in range(0, len(questions), together):
            found += _drawn(config, engine, tokenizer, questions[start : start + together])
            bar.update(len(found), "prompts")
    write_jsonl(out / "draws.jsonl", found)
    gold = [score for item in found for score, n in zip(item.gold, item.counts, strict=True) for _ in range(n)]
    return {"prompts": len(found), "answers": len(gold), "gold_mean": fmean(gold), "gold_std": pstdev(gold)}


def _drawn(config: DrawsConfig, engine: Engine, tokenizer: Tokenizer, questions: Sequence[Question]) -> list[Draws]:
    prompts = [render(tokenizer, question.messages, generation_prompt=True) for question in questions]
    samplings = [
        Sampling(config.max_tokens, config.temperature, seed=episode_seed("draws", config.seed, question.id, i))
        for question in questions
        for i in range(config.answers)
    ]
    completions = engine.generate([prompt for prompt in prompts for _ in range(config.answers)], samplings)
    found = []
    for number, (question, prompt) in enumerate(zip(questions, prompts, strict=True)):
        own = completions[number * config.answers : (number + 1) * config.answers]
        counts = Counter((tuple(c.tokens), c.finish_reason == "stop") for c in own)
        gold = [gold_score(question.gold, tokenizer.decode(ids), finished) for ids, finished in counts]
        answers, finished = [list(ids) for ids, _ in counts], [finished for _, finished in counts]
        item = Draws(
            id=question.id,
            prompt=prompt,
            answers=answers,
            counts=list(counts.values()),
            gold=gold,
            finished=finished,
        )
        found.append(item)
    return found


def best_of_n(config: StageConfig, inputs: Inputs, out: Path) -> Headline:
    """Gold and proxy of the best of n by a reward model, for n = 1, 2, 4, ... up to what was drawn."""
    prepare()
    model, tokenizer = load_reward(inputs["reward"])
    score = reward_model_score(model, tokenizer.pad, "float32", 64)
    found = read_jsonl(inputs["draws"] / "draws.jsonl", Draws)
    scored: list[tuple[list[float], list[float]]] = []
    with progress_bar("best of n", len(found)) as bar:
        for item in found:
            raw = score([item.prompt] * len(item.answers), item.answers).tolist()
            proxy = [value if ended else MISSING_EOS for value, ended in zip(raw, item.finished, strict=True)]
            scored.append((_repeated(proxy, item.counts), _repeated(item.gold, item.counts)))
            bar.update(len(scored), "prompts")
    total = len(scored[0][0])
    points = []
    for n in (2**power for power in range(int(math.log2(total)) + 1)):
        proxy = fmean(expected_best(proxies, proxies, n) for proxies, _ in scored)
        gold = fmean(expected_best(proxies, golds, n) for proxies, golds in scored)
        points.append({"n": n, "kl": math.log(n) - (n - 1) / n, "proxy": proxy, "gold": gold})  # STIEN, GAO
    write_json(out / "curve.json", points)
    every = [value for proxy, _ in scored for value in proxy]
    return {"proxy_mean": fmean(every), "proxy_std": pstdev(every), "gold_best": max(p["gold"] for p in points)}


def _repeated(values: Sequence[float], counts: Sequence[int]) -> list[float]:
    return [value for value, n in zip(values, counts, strict=True) for _ in range(n)]


def expected_best(by: Sequence[float], values: Sequence[float], n: int) -> float:
    """The mean of ``values`` at the highest ``by`` of n answers drawn without putting back, over all ways to draw them.

    The unbiased estimate of best of n from N answers (Nakano 2021, appendix I): the one that stands at place i of N is
    the best of n in C(i - 1, n - 1) of C(N, n) ways.

    >>> expected_best([1.0, 3.0, 2.0], [10.0, 30.0, 20.0], 2)  # 30 in two of three pairs, 20 in one
    26.666666666666668
    """
    order = sorted(range(len(by)), key=lambda i: by[i])
    ways = [math.comb(place, n - 1) for place in range(len(order))]
    return sum(w * values[i] for w, i in zip(ways, order, strict=True)) / math.comb(len(order), n)


class PlayConfig(StageConfig):
    """prompts: the first ones of the held-out file. shots: demonstrations before the question, for ``prompted``."""

    prompts: int = 400
    temperature: float = 1.0
    max_tokens: int = 48
    shots: int = 5


def play(config: PlayConfig, inputs: Inputs, out: Path) -> Headline:
    """A chat model answers the held-out prompts, each once, with the same seeds whatever the model."""
    model, tokenizer = load_model(inputs["policy"])
    questions = _heldout(config, inputs)
    prompts = [render(tokenizer, question.messages, generation_prompt=True) for question in questions]
    completions = Engine(model.to(prepare()), tokenizer, batch_size=256).generate(
        prompts, _samplings(config, questions)
    )
    answers = [(tokenizer.decode(c.tokens), c.finish_reason == "stop") for c in completions]
    return _played(questions, answers, out)


def prompted(config: PlayConfig, inputs: Inputs, out: Path) -> Headline:
    """A pretrained model answers them after a few demonstrations, as plain text: "Q: ...", "A: ..." (GPT-3's few-shot).

    The demonstrations are drawn by the seed, one of each kind in turn, the same for all questions, as many as fit.
    """
    model, tokenizer = load_model(inputs["policy"])
    questions = _heldout(config, inputs)
    talks = read_jsonl(inputs["conversations"] / "demonstrations.jsonl", Conversation)
    shots = [_text(talk.messages) for talk in _of_each_kind(talks, config.seed)[: config.shots]]
    prompts = []
    for question in questions:
        asked = _text(question.messages) + "A:"
        room = model.config.context - config.max_tokens
        fitting = shots
        while len(ids := tokenizer.encode("\n".join([*fitting, asked]))) >= room and fitting:
            fitting = fitting[1:]
        prompts.append([tokenizer.end_of_text, *ids[-(room - 1) :]])
    samplings = [Sampling(**{**vars(s), "stop": ("\n",)}) for s in _samplings(config, questions)]
    completions = Engine(model.to(prepare()), tokenizer, batch_size=256).generate(prompts, samplings)
    return _played(questions, [(c.text.strip(), c.finish_reason == "stop") for c in completions], out)


def _of_each_kind(talks: Sequence[Conversation], seed: int) -> list[Conversation]:
    """Conversations of one exchange, shuffled: one of each kind, the most frequent kind first, then another of each."""
    short = [talk for talk in talks if len(talk.messages) == 2]
    kinds = [kind for kind, _ in Counter(talk.meta.get("kind", "") for talk in short).most_common()]
    short.sort(key=lambda talk: keyed_uniform("shots", seed, talk.id))
    of_kind = [[talk for talk in short if talk.meta.get("kind", "") == kind] for kind in kinds]
    return [talk for turn in zip_longest(*of_kind) for talk in turn if talk is not None]


def _text(messages: Sequence[Any]) -> str:
    """Turns as lines that begin with Q: or A:."""
    return "".join(f"{TURN[m.role]}: {' '.join(m.text.split())}\n" for m in messages if m.role in TURN)


def _heldout(config: PlayConfig, inputs: Inputs) -> list[Question]:
    return read_jsonl(inputs["conversations"] / "prompts_heldout.jsonl", Question)[: config.prompts]


def _samplings(config: PlayConfig, questions: Sequence[Question]) -> list[Sampling]:
    seeds = [episode_seed("play", config.seed, question.id) for question in questions]
    return [Sampling(config.max_tokens, config.temperature, seed=seed) for seed in seeds]


def _played(questions: Sequence[Question], answers: Sequence[tuple[str, bool]], out: Path) -> Headline:
    gold = [gold_score(q.gold, text, ended) for q, (text, ended) in zip(questions, answers, strict=True)]
    write_jsonl(
        out / "answers.jsonl",
        (
            {"id": q.id, "question": q.messages[-1].text, "answer": text, "gold": score}
            for q, (text, _), score in zip(questions, answers, gold, strict=True)
        ),
    )
    return {"prompts": len(gold), "gold": fmean(gold), "ended": fmean(float(ended) for _, ended in answers)}


FEWER = Stage("fewer", 1, FewerConfig, ("conversations",), fewer, "keep some of the demonstrations")
DRAWS = Stage("draws", 1, DrawsConfig, ("sft", "conversations"), draw, "sample many answers to each prompt")
BEST_OF_N = Stage("best_of_n", 1, StageConfig, ("draws", "reward"), best_of_n, "take the best of n by a reward model")
PLAY = Stage("play", 1, PlayConfig, ("policy", "conversations"), play, "answer the held-out prompts")
PROMPTED = Stage("prompted", 1, PlayConfig, ("policy", "conversations"), prompted, "answer them, few-shot")
