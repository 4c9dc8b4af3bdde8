from __future__ import annotations

import doctest
import json
import subprocess
from pathlib import Path
from typing import Any

import pytest

from chatwright import formats
from chatwright.errors import UserError
from chatwright.formats import by_prompt, load_comparisons, load_conversations, load_questions, prompt_id
from chatwright.labelling.simulated import gold_score
from chatwright.records import Comparison, Conversation, Message

SHARED = Path(__file__).resolve().parents[2] / "shared" / "data"  # real data sets, where they are at hand


def write(folder: Path, name: str, records: list[Any], lines: bool) -> Path:
    path = folder / name
    path.write_text("\n".join(map(json.dumps, records)) if lines else json.dumps(records, indent=1), encoding="utf-8")
    return path


def said(record: Conversation) -> list[tuple[str, str]]:
    return [(message.role, message.text) for message in record.messages]


def test_worked_examples_hold() -> None:
    assert doctest.testmod(formats).failed == 0


@pytest.mark.parametrize("lines", [True, False])
def test_every_form_gives_the_same_conversation(tmp_path: Path, lines: bool) -> None:
    forms: list[dict[str, Any]] = [
        {
            "instruction": "And tea?",
            "input": "Be short.",
            "output": "Leaves.",
            "system": "Be kind.",
            "history": [["Coffee?", "Beans."]],
        },
        {
            "id": "x",
            "conversations": [
                {"from": "system", "value": "Be kind."},
                {"from": "human", "value": "Coffee?"},
                {"from": "gpt", "value": "Beans."},
                {"from": "user", "value": "And tea?\n\nBe short."},
                {"from": "assistant", "value": "Leaves."},
            ],
        },
        {
            "messages": [
                {"role": "system", "content": "Be kind."},
                {"role": "user", "content": "Coffee?"},
                {"role": "assistant", "content": [{"type": "text", "text": "Beans."}], "weight": 0},
                {"role": "user", "content": "And tea?\n\nBe short."},
                {"role": "assistant", "content": "Leaves."},
            ],
            "tools": [],
        },
    ]
    loaded = load_conversations(write(tmp_path, "talks.json", forms, lines))
    assert not loaded.problems
    assert [record.id for record in loaded.records] == ["talks/0", "x", "talks/2"]
    assert {record.source for record in loaded.records} == {"talks"}
    assert said(loaded.records[0]) == said(loaded.records[1]) == said(loaded.records[2])
    assert said(loaded.records[0])[-2:] == [("user", "And tea?\n\nBe short."), ("assistant", "Leaves.")]


def test_one_object_over_many_lines_is_one_record(tmp_path: Path) -> None:
    path = tmp_path / "one.json"
    path.write_text(json.dumps({"instruction": "a", "output": "b"}, indent=2), encoding="utf-8")
    assert len(load_conversations(path).records) == 1


BAD: list[tuple[Any, str]] = [
    ({"instruction": "a", "output": ""}, "output is empty"),
    ({"instruction": "a", "output": 3}, "output must be a text, not 3"),
    ({"instruction": "a", "input": ["b"], "output": "c"}, "input must be a text"),
    ({"instruction": "a", "output": "c", "history": ["b"]}, "history must be a list of pairs"),
    ({"conversations": [{"from": "human"}]}, "conversations.0 must have the keys from and value"),
    ({"conversations": [{"from": "bot", "value": "a"}]}, 'conversations.0.from is "bot", not one of'),
    ({"conversations": [{"from": "gpt", "value": "a"}, {"from": "gpt", "value": "b"}]}, "expected 'user'"),
    ({"conversations": [{"from": "human", "value": "a"}]}, "messages: List should have at least 2 items"),
    ({"messages": [{"role": "user", "content": "a"}, {"role": "robot", "content": "b"}]}, "messages.1.role"),
    ({"messages": "hello"}, 'messages must be a list, not "hello"'),
    ({"text": "a"}, "its keys text are of no known form"),
    ([1, 2], "it is not an object, but [1, 2]"),
]


def test_every_malformed_record_is_named_with_its_file_and_place(tmp_path: Path) -> None:
    good = {"instruction": "a", "output": "b"}
    path = write(tmp_path, "bad.jsonl", [good, *(record for record, _ in BAD)], lines=True)
    path.write_text(path.read_text() + '\n{"instruction": \n' + json.dumps(good), encoding="utf-8")
    loaded = load_conversations(path)
    assert len(loaded.records) == 2
    expected = [*(what for _, what in BAD), "it is not valid JSON"]
    for number, (problem, what) in enumerate(zip(loaded.problems, expected, strict=True), start=2):
        assert problem.place == f"{path}, line {number}"
        assert what in problem.what
    with pytest.raises(UserError, match=r"bad\.jsonl, line 2: output is empty; .*; and 5 more\. Correct or remove"):
        loaded.accepted("refuse")
    assert loaded.accepted("skip", tmp_path) == loaded.records
    kept = [json.loads(line) for line in (tmp_path / "malformed.jsonl").read_text().splitlines()]
    assert [record["place"] for record in kept] == [problem.place for problem in loaded.problems]


def test_a_broken_array_and_a_file_of_another_encoding_are_named_whole(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text('[{"instruction": "a", "output": "b"},', encoding="utf-8")
    (tmp_path / "b.jsonl").write_bytes('{"instruction": "é", "output": "b"}'.encode("latin-1"))
    write(tmp_path, "c.json", [{"instruction": "a", "output": "b"}], lines=False)
    loaded = load_conversations(tmp_path)
    assert [record.id for record in loaded.records] == ["c/0"]
    assert [problem.place for problem in loaded.problems] == [str(tmp_path / "a.json"), str(tmp_path / "b.jsonl")]
    assert load_conversations(tmp_path / "c*.json").records == loaded.records
    with pytest.raises(UserError, match="does not exist, or holds no"):
        load_conversations(tmp_path / "d*.json")


def test_pairs_are_two_answers_to_one_prompt(tmp_path: Path) -> None:
    asked = "\n\nHuman: Coffee?\n\nAssistant: Yes: beans.\n\nHuman: And tea?"
    chat = [{"role": "user", "content": "Coffee?"}]
    records: list[Any] = [
        {"chosen": f"{asked}\n\nAssistant: Leaves.", "rejected": f"{asked}\n\nAssistant: No."},
        {"prompt": "Coffee?", "chosen": "Beans.", "rejected": "No."},
        {
            "chosen": [*chat, {"role": "assistant", "content": "Beans."}],
            "rejected": [*chat, {"role": "assistant", "content": "No."}],
        },
        {"instruction": "Coffee?", "input": "", "output": ["Beans.", "Some.", "No."]},
    ]
    loaded = load_comparisons(write(tmp_path, "pairs.jsonl", records, lines=True))
    assert not loaded.problems
    hh, plain, chats, ranked = loaded.records
    assert [message.text for message in hh.prompt] == ["Coffee?", "Yes: beans.", "And tea?"]
    assert (hh.answers, hh.tiers, hh.source) == (["Leaves.", "No."], [[0], [1]], "pairs")
    assert plain.model_dump(exclude={"id"}) == chats.model_dump(exclude={"id"})
    assert (ranked.answers, ranked.tiers) == (["Beans.", "Some.", "No."], [[0], [1], [2]])
    own = write(tmp_path, "own.jsonl", [record.model_dump(mode="json") for record in loaded.records], lines=True)
    assert load_comparisons(own).records == loaded.records


BAD_PAIRS: list[tuple[Any, str]] = [
    ({"chosen": "Hello", "rejected": "Bye"}, "chosen does not begin with"),
    ({"chosen": "\n\nHuman: a\n\nAssistant: b", "rejected": "\n\nHuman: c\n\nAssistant: b"}, "the same prompt"),
    ({"chosen": "\n\nHuman: a\n\nAssistant: b", "rejected": "\n\nHuman: a\n\nAssistant: b"}, "the same text"),
    ({"chosen": "\n\nHuman: a\n\nAssistant: b", "rejected": "\n\nHuman: a\n\nAssistant:"}, "rejected is empty"),
    ({"chosen": "\n\nHuman: a\n\nHuman: b\n\nAssistant: c", "rejected": ""}, "expected 'assistant'"),
    ({"chosen": "\n\nHuman: a", "rejected": "\n\nHuman: a"}, "messages: List should have at least 2 items"),
    ({"id": "a", "prompt": [], "answers": ["b", "c"], "tiers": [[0]], "labeler": "x"}, "prompt: List should have"),
    ({"chosen": "a"}, "its keys chosen are of no known form"),
]


def test_pairs_that_compare_nothing_are_named(tmp_path: Path) -> None:
    loaded = load_comparisons(write(tmp_path, "bad.json", [record for record, _ in BAD_PAIRS], lines=False))
    assert not loaded.records
    for i, (problem, (_, what)) in enumerate(zip(loaded.problems, BAD_PAIRS, strict=True)):
        assert problem.place == f"{tmp_path / 'bad.json'}[{i}]"
        assert what in problem.what


def pair(name: str, *turns: str) -> Comparison:
    roles = ("user", "assistant")
    prompt = [Message(role=roles[i % 2], content=turn) for i, turn in enumerate(turns)]
    return Comparison(id=name, prompt=prompt, answers=["a", "b"], tiers=[[0], [1]], labeler="x")


def test_the_split_is_by_prompt_whatever_else_is_there() -> None:
    pairs = [pair(f"{i}", f"question {i // 2}") for i in range(400)]
    pairs += [pair(f"long {i}", f"question {i}", "yes", "more?") for i in range(200)]
    kept, held = by_prompt(pairs, 0.2)
    assert not {prompt_id(item) for item in kept} & {prompt_id(item) for item in held}
    assert len(held) / len(pairs) == pytest.approx(0.2, abs=0.06)
    alone, _ = by_prompt(pairs[100:], 0.2)
    assert alone == [item for item in kept if item in pairs[100:]]
    assert by_prompt(pairs, 0.0) == (pairs, [])


def unpacked(name: str, folder: Path) -> Path:
    """A set of the shared data; the test is skipped where there is none."""
    packed = SHARED / f"{name}.tar.zst"
    if not packed.is_file():
        pytest.skip("the shared data are not here")
    subprocess.run(f"zstd -dc --long=27 {packed} | tar x -C {folder}", shell=True, check=True)
    return folder / packed.name.partition(".")[0]


def test_real_pairs_of_hh_rlhf(tmp_path: Path) -> None:
    loaded = load_comparisons(unpacked("preference/hh_rlhf", tmp_path))
    assert (len(loaded.records), len(loaded.problems)) == (6296, 56)
    assert len({record.source for record in loaded.records}) == 4
    kept, held = by_prompt(loaded.records, 0.2)
    assert len(held) / len(loaded.records) == pytest.approx(0.2, abs=0.02)
    assert not {prompt_id(record) for record in kept} & {prompt_id(record) for record in held}


def test_real_conversations_of_sharegpt_and_alpaca(tmp_path: Path) -> None:
    talks = load_conversations(unpacked("sft/fastchat", tmp_path) / "data")
    assert (len(talks.records), talks.problems) == (500, [])
    alpaca = load_conversations(unpacked("noncommercial/alpaca_en_zh", tmp_path) / "history" / "翻译后的中文数据")
    assert len(alpaca.records) > 17_000
    whole = [problem for problem in alpaca.problems if "nothing of it can be read" in problem.what]
    assert [Path(problem.place).name for problem in whole] == ["alpaca_data-9407-12345-中文-未完成.json"]
    with pytest.raises(UserError, match="未完成"):
        alpaca.accepted("refuse")


def test_prompts_of_people_are_open_and_pairs_demonstrate_their_better_answer(tmp_path: Path) -> None:
    records: list[Any] = [
        {"chosen": "\n\nHuman: a\n\nAssistant: b", "rejected": "\n\nHuman: a\n\nAssistant: c"},
        {"instruction": "d", "output": ["e", "f"]},
        {"instruction": "g", "output": "h"},
        {
            "id": "q",
            "messages": [{"role": "user", "content": "i"}],
            "gold": {"kind": "fact", "right": [["j"]]},
            "check": "facts",
        },
        {"instruction": "", "output": "h"},
    ]
    path = write(tmp_path, "mixed.jsonl", records, lines=True)
    prompts = load_questions(path)
    assert [question.messages[-1].text for question in prompts.records] == ["a", "d", "g", "i"]
    assert [question.gold.kind for question in prompts.records] == ["open"] * 3 + ["fact"]
    assert [problem.place for problem in prompts.problems] == [f"{path}, line 5"]
    talks = load_conversations(path)
    assert [said(talk)[-1] for talk in talks.records] == [("assistant", text) for text in "beh"]
    assert gold_score(prompts.records[0].gold, "whatever is said", True) == 0.0
