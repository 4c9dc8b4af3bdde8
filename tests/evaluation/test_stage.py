import json
from collections.abc import Sequence
from pathlib import Path

import pytest

from chatwright.errors import UserError
from chatwright.evaluation import stage
from chatwright.evaluation.stage import EvaluateConfig, converse, pick
from chatwright.inference.sampling import Sampling
from chatwright.records import Message
from chatwright.storage import read_json, write_jsonl
from tests.evaluation.fake_run import READS, finish, make_run, questions

KNOWN = {"Chile": "Santiago", "Peru": "Lima", "Japan": "Tokyo"}


class NamedModel(str):
    """Stands for a model; it is only moved to a device."""

    def to(self, device: object) -> "NamedModel":
        return self


class ScriptedEngine:
    """Answers as ``model`` (the name of its stage) would; the pretrained one only goes on writing."""

    def __init__(self, model: str, tokenizer: object, batch_size: int) -> None:
        self.model = model
        self.asked: list[list[Message]] = []

    def chat_batch(self, conversations: Sequence[Sequence[Message]], sampling: Sampling) -> list[str]:
        assert sampling.temperature == 0
        self.asked += [list(messages) for messages in conversations]
        return [self.answer(messages) for messages in conversations]

    def answer(self, messages: Sequence[Message]) -> str:
        last = messages[-1].text
        if self.model == "pretrain":
            return "which is the chief port of the region and"
        if "bomb" in last:
            return "I am sorry, I cannot help with that."
        if "Zubrowka" in last:
            return "I do not know that country."
        if "bird" in last:
            return "Take some wood and nails."
        if "你好" in last:
            return "你好！很高兴认识你。"
        if "currency" in last:
            return "It is the peso." if len(messages) == 3 and self.model == "ppo" else "Lima."
        return next((f"It is {capital}." for country, capital in KNOWN.items() if country in last), "7")


@pytest.fixture
def scripted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stage, "Engine", ScriptedEngine)
    monkeypatch.setattr(stage, "load_model", lambda folder: (NamedModel(folder.name), None))


@pytest.mark.usefixtures("scripted")
def test_every_model_answers_and_the_last_one_gives_the_values(tmp_path: Path):
    headline = stage.run(EvaluateConfig(base_questions=2), make_run(tmp_path), tmp_path / "evaluate")
    evaluation = read_json(tmp_path / "evaluate" / "evaluation.json")
    followup = evaluation["checks"]["followup"]
    assert followup["value"] == 1.0
    assert followup["stages"] == {
        "pretrain": {"value": 0.0, "questions": 2},
        "sft": {"value": 0.0, "questions": 3},
        "ppo": {"value": 1.0, "questions": 3},
    }
    assert headline["holds"] == evaluation["holds"] == 10
    assert headline["capital_seen"] == 1.0


@pytest.mark.usefixtures("scripted")
def test_every_answer_is_kept(tmp_path: Path):
    stage.run(EvaluateConfig(base_questions=1), make_run(tmp_path), tmp_path / "evaluate")
    lines = (tmp_path / "evaluate" / "answers.jsonl").read_text("utf-8").splitlines()
    answers = [json.loads(line) for line in lines]
    assert sum(answer["model"] == "ppo" for answer in answers) == len(questions())
    assert {"check", "question", "answer", "expected", "verdict"} <= answers[0].keys()


@pytest.mark.usefixtures("scripted")
def test_samples_put_the_same_words_to_each_model(tmp_path: Path):
    stage.run(EvaluateConfig(samples=1), make_run(tmp_path), tmp_path / "evaluate")
    samples = read_json(tmp_path / "evaluate" / "samples.json")
    assert [sample["check"] for sample in samples] == list(dict.fromkeys(q.check for q in questions()))
    for sample in samples:
        said = {
            name: [m["content"] for m in talk["messages"] if m["role"] == "user"]
            for name, talk in sample["talks"].items()
        }
        assert list(said) == ["pretrain", "sft", "ppo"]
        assert said["pretrain"] == said["sft"] == said["ppo"]


@pytest.mark.usefixtures("scripted")
def test_a_recipe_without_reinforcement_is_judged_by_its_fine_tuned_model(tmp_path: Path):
    names = tuple(name for name in READS if name.partition("@")[0] not in ("reward", "ppo", "compare"))
    stage.run(EvaluateConfig(), make_run(tmp_path, names), tmp_path / "evaluate")
    evaluation = read_json(tmp_path / "evaluate" / "evaluation.json")
    assert evaluation["checks"]["capital_seen"]["value"] == 1.0
    assert evaluation["checks"]["followup"]["status"] == "fails"
    assert evaluation["absent"] == 3


@pytest.mark.usefixtures("scripted")
def test_a_recipe_without_questions_has_an_empty_table(tmp_path: Path):
    folders = make_run(tmp_path, ("conversations", "shards", "pretrain"))
    write_jsonl(tmp_path / "conversations" / "questions.jsonl", [])
    headline = stage.run(EvaluateConfig(), folders, tmp_path / "evaluate")
    assert (headline["holds"], headline["fails"], headline["absent"]) == (0, 0, 10)
    assert read_json(tmp_path / "evaluate" / "samples.json") == []


def test_without_conversations_there_is_nothing_to_ask(tmp_path: Path):
    finish(tmp_path / "pretrain", "pretrain", [], {})
    with pytest.raises(UserError, match="conversations"):
        stage.run(EvaluateConfig(), {"pretrain": tmp_path / "pretrain"}, tmp_path / "evaluate")


def test_picking_does_not_depend_on_the_order_of_the_file():
    assert {q.id for q in pick(questions(), 2)} == {q.id for q in pick(questions()[::-1], 2)}


def test_picking_takes_one_of_each_kind_before_a_second():
    picked = [question.check for question in pick(questions(), 2)]
    kinds = len(set(picked))
    assert len(set(picked[:kinds])) == kinds


def test_in_a_conversation_the_model_reads_its_own_answers():
    engine = ScriptedEngine("ppo", None, 1)
    question = next(q for q in questions() if q.id == "follow/1")
    (talk,) = converse(engine, [question], EvaluateConfig())
    assert [m.text for m in talk] == [
        "Tell me the capital of Peru, would you?",
        "It is Lima.",
        "And its currency?",
        "It is the peso.",
    ]
