"""The stage ``evaluate``: every model on the road answers the questions; checks, answers and samples are written."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from pydantic import Field

from chatwright.errors import UserError
from chatwright.evaluation import checks
from chatwright.evaluation.runs import stage_runs
from chatwright.inference.engine import Engine
from chatwright.inference.sampling import Sampling
from chatwright.labelling.simulated import judge
from chatwright.model.folder import load_model
from chatwright.records import Message, Question
from chatwright.stage import Headline, Inputs, Stage, StageConfig, progress_bar
from chatwright.storage import keyed_uniform, read_jsonl, write_json, write_jsonl
from chatwright.training.runtime import prepare

MODELS = ("pretrain", "sft", "choose", "dpo", "grpo", "ppo")  # the last one there is gives the values of the checks
CHUNK = 256  # questions between two moves of the progress bar


class EvaluateConfig(StageConfig):
    """How the models are asked. Answers are greedy, so that nothing here is left to chance.

    max_tokens: of an answer. base_questions: of each kind that the pretrained model is asked; it knows no end of turn,
    so that each of its answers takes all tokens. samples: of each kind, shown side by side in the report.
    """

    max_tokens: int = Field(96, ge=1)
    base_questions: int = Field(40, ge=0)
    samples: int = Field(2, ge=0)
    batch_size: int = Field(64, ge=1)


def run(config: EvaluateConfig, inputs: Inputs, out: Path) -> Headline:
    """Write evaluation.json (the checks), answers.jsonl (every answer and its verdict) and samples.json."""
    if "conversations" not in inputs:
        raise UserError("evaluate asks the questions of conversations; add 'conversations' to the recipe's `stages`.")
    device = prepare()
    runs = stage_runs(inputs)
    questions = read_jsonl(inputs["conversations"] / "questions.jsonl", Question)
    sampled = pick(questions, config.samples)
    judged: dict[str, list[checks.Judged]] = {}
    talks: dict[str, list[list[Message]]] = {}
    for name in MODELS:
        if name in runs:
            model, tokenizer = load_model(runs[name].folder)
            engine = Engine(model.to(device), tokenizer, config.batch_size)
            asked = pick(questions, config.base_questions) if name == "pretrain" else questions
            judged[name] = list(_ask(engine, asked, config, name))
            talks[name] = converse(engine, sampled, config)

    results = checks.table(judged, {name: stage.headline for name, stage in runs.items()})
    write_jsonl(out / "answers.jsonl", (_line(name, item) for name, items in judged.items() for item in items))
    write_json(out / "samples.json", _samples(sampled, talks))
    counts = checks.count(results.values())
    write_json(
        out / "evaluation.json",
        {**counts, "checks": {key: result.model_dump(mode="json") for key, result in results.items()}},
    )
    return {**counts, **{key: result.value for key, result in results.items()}}


def pick(questions: Sequence[Question], of_each: int) -> list[Question]:
    """At most ``of_each`` questions of each check, drawn by a hash of their ids: first one of each, then a second."""
    by_check: dict[str, list[Question]] = {}
    for question in questions:
        by_check.setdefault(question.check, []).append(question)
    for group in by_check.values():
        group.sort(key=lambda question: keyed_uniform("evaluate", question.id))
    return [group[i] for i in range(of_each) for group in by_check.values() if i < len(group)]


def _ask(engine: Engine, questions: Sequence[Question], config: EvaluateConfig, name: str) -> Iterator[checks.Judged]:
    """Each question as it stands, earlier turns given, answered greedily and judged by the labeller without noise."""
    sampling = Sampling(max_tokens=config.max_tokens, temperature=0.0)
    with progress_bar(f"{name} answers", len(questions)) as bar:
        for start in range(0, len(questions), CHUNK):
            chunk = questions[start : start + CHUNK]
            for question, answer in zip(chunk, engine.chat_batch([q.messages for q in chunk], sampling), strict=True):
                yield checks.Judged(question, answer, judge(question.gold, answer))
            bar.update(start + len(chunk))


def converse(engine: Engine, questions: Sequence[Question], config: EvaluateConfig) -> list[list[Message]]:
    """Conversations in which the user says what ``questions`` say, and the model gives every answer itself."""
    sampling = Sampling(max_tokens=config.max_tokens, temperature=0.0)
    talks: list[list[Message]] = [[m for m in question.messages if m.role == "system"] for question in questions]
    turns = [[m for m in question.messages if m.role == "user"] for question in questions]
    for turn in range(max(map(len, turns), default=0)):
        speaking = [i for i, said in enumerate(turns) if turn < len(said)]
        for i in speaking:
            talks[i].append(turns[i][turn])
        answers = engine.chat_batch([talks[i] for i in speaking], sampling)
        for i, answer in zip(speaking, answers, strict=True):
            talks[i].append(Message(role="assistant", content=answer))
    return talks


def _samples(questions: Sequence[Question], talks: dict[str, list[list[Message]]]) -> list[dict[str, object]]:
    """One entry a question: what it expects, and the whole conversation with each model and its verdict."""
    return [
        {
            "id": question.id,
            "check": question.check,
            "expected": checks.expected(question.gold),
            "talks": {
                name: {
                    "messages": [{"role": message.role, "content": message.text} for message in talk[i]],
                    "verdict": judge(question.gold, talk[i][-1].text),
                }
                for name, talk in talks.items()
            },
        }
        for i, question in enumerate(questions)
    ]


def _line(name: str, item: checks.Judged) -> dict[str, object]:
    question = item.question
    return {
        "model": name,
        "id": question.id,
        "check": question.check,
        "question": [message.text for message in question.messages],
        "answer": item.answer,
        "expected": checks.expected(question.gold),
        "verdict": item.verdict,
    }


STAGE = Stage(
    name="evaluate",
    version=2,
    config=EvaluateConfig,
    inputs=("conversations", "pretrain", "sft", "reward", "ppo"),
    run=run,
    summary="ask every model the same questions and fill the table of checks",
)
