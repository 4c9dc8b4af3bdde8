"""Other people's conversations and comparisons as records: alpaca, ShareGPT, OpenAI chat and hh-rlhf, beside our own.

A file is a JSON array of objects or has one object a line, whatever its name ends in. Which form an object has is told
by its keys. What cannot be read is kept as a `Problem` that names the file, the place and what is wrong.
"""

from __future__ import annotations

import glob
import json
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, Literal, TypeVar

from pydantic import ValidationError

from chatwright.errors import UserError
from chatwright.records import Comparison, Conversation, Gold, Message, Question
from chatwright.stage import say
from chatwright.storage import digest, first_problem, keyed_uniform, write_jsonl

Malformed = Literal["refuse", "skip"]  # what is done when records cannot be read
RecordT = TypeVar("RecordT", Conversation, Comparison, Question)

NAMED = 8  # problems that a message names one by one
SUFFIXES = (".json", ".jsonl")
SPEAKERS = {  # of ShareGPT and its kin
    "system": "system",
    "human": "user",
    "user": "user",
    "gpt": "assistant",
    "chatgpt": "assistant",
    "assistant": "assistant",
}
TURN = re.compile(r"\n\n(Human|Assistant):")  # hh-rlhf


@dataclass(frozen=True)
class Problem:
    """A record that cannot be read: where it is, and what is wrong with it."""

    place: str
    what: str

    def __str__(self) -> str:
        return f"{self.place}: {self.what}"


@dataclass(frozen=True)
class Loaded(Generic[RecordT]):
    """What was read and what could not be."""

    records: list[RecordT]
    problems: list[Problem]

    def accepted(self, malformed: Malformed, out: Path | None = None) -> list[RecordT]:
        """The records. Problems are a UserError, or with "skip" said and written whole to ``out/malformed.jsonl``."""
        if not self.problems:
            return self.records
        named = "; ".join(str(problem) for problem in self.problems[:NAMED])
        more = f"; and {len(self.problems) - NAMED} more" if len(self.problems) > NAMED else ""
        if malformed == "refuse":
            raise UserError(f'{named}{more}. Correct or remove what is wrong, or set malformed = "skip".')
        say(f"  {len(self.problems):,} records could not be read and are left out: {named}{more}")
        if out is not None:
            lines = ({"place": problem.place, "what": problem.what} for problem in self.problems)
            write_jsonl(out / "malformed.jsonl", lines)
        return self.records


def load_conversations(path: Path) -> Loaded[Conversation]:
    """Demonstrations of a file, of the JSON files in a folder, or of those that a pattern matches.

    alpaca: ``{"instruction", "input"?, "output", "system"?, "history"?: [[asked, answered], ...]}``. ShareGPT:
    ``{"conversations": [{"from": "human", "value"}, {"from": "gpt", "value"}, ...]}``. OpenAI chat, and our own:
    ``{"messages": [{"role", "content"}, ...]}``. Of comparisons, the prompt with the best answer. Without an id, a
    record gets its file's name and its place in it.
    """
    return _load(path, _conversation)


def load_comparisons(path: Path) -> Loaded[Comparison]:
    """Comparisons, from files as in `load_conversations`.

    hh-rlhf: ``{"chosen", "rejected"}``, two transcripts that begin alike. The same keys with lists of messages, or with
    texts that answer a ``"prompt"``. alpaca with a list of outputs, the best first. And our own (`records.Comparison`).
    """
    return _load(path, _comparison)


def load_questions(path: Path) -> Loaded[Question]:
    """Prompts to sample answers to: our own (`records.Question`), or those of conversations and comparisons.

    What people have written has no gold that would say what is right: it is open.
    """
    return _load(path, _question)


def by_prompt(records: Sequence[RecordT], share: float) -> tuple[list[RecordT], list[RecordT]]:
    """Split into those to learn from and a held-out ``share``.

    By a hash of how the conversation begins: what asks the same, and what goes on from the same first message, is on
    one side, whatever the seed of a run and, as long as a prompt is left for each side, whatever else is in the file.
    """
    places = {prompt: keyed_uniform("heldout", prompt) for prompt in map(prompt_id, records)}
    order = sorted(places, key=places.__getitem__)
    count = sum(place < share for place in places.values())
    out = set(order[: min(max(count, share > 0), len(order) - 1)])
    kept = [record for record in records if prompt_id(record) not in out]
    return kept, [record for record in records if prompt_id(record) in out]


def prompt_id(record: Conversation | Comparison | Question) -> str:
    """The same for all records that begin with the same message of the user."""
    messages = record.prompt if isinstance(record, Comparison) else record.messages
    return digest(next(message.text.strip() for message in messages if message.role == "user"))


def _load(path: Path, read: Callable[[dict[str, Any], str, str], RecordT]) -> Loaded[RecordT]:
    records: list[RecordT] = []
    whole: list[Problem] = []  # files of which nothing can be read: these are named first
    problems: list[Problem] = []
    for file in files_of(path):
        for number, (place, value) in enumerate(_objects(file)):
            if isinstance(value, Problem):
                (problems if place else whole).append(value)
                continue
            try:
                if not isinstance(value, dict):
                    raise ValueError(f"it is not an object, but {_short(value)}")
                records.append(read(value, f"{file.stem}/{number}", file.stem))
            except ValidationError as error:
                problems.append(Problem(place, first_problem(error)))
            except ValueError as error:
                problems.append(Problem(place, str(error)))
    return Loaded(records, whole + problems)


def files_of(path: Path) -> list[Path]:
    """The files that a path of a config means. UserError when there are none."""
    if path.is_file():
        return [path]
    names = path.rglob("*") if path.is_dir() else map(Path, glob.glob(str(path), recursive=True))
    found = sorted(name for name in names if name.is_file() and name.suffix in SUFFIXES)
    if not found:
        raise UserError(f"{path} does not exist, or holds no .json or .jsonl file.")
    return found


def _objects(file: Path) -> Iterator[tuple[str, Any]]:
    """Each record of a file as JSON, or the problem it has, with its place."""
    try:
        text = file.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        yield "", Problem(str(file), f"it is not UTF-8 text ({error})")
        return
    try:
        values = json.loads(text)
    except json.JSONDecodeError as error:
        if text.lstrip().startswith("["):
            yield "", Problem(str(file), f"it is not valid JSON, and nothing of it can be read ({error})")
            return
    else:
        values = values if isinstance(values, list) else [values]
        yield from ((f"{file}[{i}]", value) for i, value in enumerate(values))
        return
    for number, line in enumerate(text.split("\n"), start=1):
        if line.strip():
            place = f"{file}, line {number}"
            try:
                yield place, json.loads(line)
            except json.JSONDecodeError as error:
                yield place, Problem(place, f"it is not valid JSON ({error})")


def _conversation(value: dict[str, Any], name: str, source: str) -> Conversation:
    """An object of any form. ValueError says what is wrong with it."""
    if "messages" in value:
        messages = _chat(value["messages"])
    elif "conversations" in value:
        messages = _sharegpt(value)
    elif "instruction" in value and isinstance(value.get("output"), list):
        return best_answered(_comparison(value, name, source))
    elif "instruction" in value and "output" in value:
        messages = [*_asked(value), _turn("assistant", value["output"], "output")]
    elif "chosen" in value or "tiers" in value:
        return best_answered(_comparison(value, name, source))
    else:
        raise ValueError(
            f"its keys {_keys(value)} are of no known form: messages, conversations, or instruction and output"
        )
    own = {"id": value.get("id") or name, "source": value.get("source") or source, "meta": value.get("meta") or {}}
    return Conversation.model_validate({**own, "id": str(own["id"]), "messages": messages})


def best_answered(comparison: Comparison) -> Conversation:
    """A comparison's prompt with its best answer, the first of those that tie."""
    best = Message(role="assistant", content=comparison.answers[comparison.tiers[0][0]])
    return Conversation(id=comparison.id, messages=[*comparison.prompt, best], source=comparison.source)


def _question(value: dict[str, Any], name: str, source: str) -> Question:
    """An object of any form. ValueError says what is wrong with it."""
    if "gold" in value:
        return Question.model_validate(value)
    talk = _conversation(value, name, source)
    return Question(id=talk.id, messages=talk.messages[:-1], gold=Gold(kind="open"), check="open")


def _comparison(value: dict[str, Any], name: str, source: str) -> Comparison:
    """An object of any form. ValueError says what is wrong with it."""
    if "tiers" in value:
        own = Comparison.model_validate(value)
        _check_distinct(own.answers)
        return own
    if "chosen" in value and "rejected" in value:
        (prompt, best), (other, worst) = (_answered(value, key) for key in ("chosen", "rejected"))
        if [(m.role, m.text) for m in prompt] != [(m.role, m.text) for m in other]:
            raise ValueError("chosen and rejected do not answer the same prompt")
        answers = [best, worst]
    elif "instruction" in value and isinstance(value.get("output"), list):
        prompt = [Message.model_validate(message) for message in _asked(value)]
        answers = [_text(answer, f"output {i}") for i, answer in enumerate(value["output"])]
    else:
        raise ValueError(
            f"its keys {_keys(value)} are of no known form: chosen and rejected, tiers, or a list of outputs"
        )
    _check_distinct(answers)
    return Comparison.model_validate(
        {
            "id": str(value.get("id") or name),
            "prompt": prompt,
            "answers": answers,
            "tiers": [[i] for i in range(len(answers))],
            "labeler": str(value.get("labeler") or source),
            "source": str(value.get("source") or source),
        }
    )


def _check_distinct(answers: Sequence[str]) -> None:
    if len(set(answers)) < len(answers):
        raise ValueError("two of its answers are the same text")


def _answered(value: dict[str, Any], key: str) -> tuple[list[Message], str]:
    """One side of a pair: the prompt's messages, and the answer."""
    side, before = value[key], value.get("prompt")
    if isinstance(side, str) and before is None:
        messages = transcript(side, key)
    elif isinstance(side, list):
        messages = _chat([*(before if isinstance(before, list) else []), *side])
    else:
        asked = _chat(before) if isinstance(before, list) else [_turn("user", before, "prompt")]
        messages = [*asked, _turn("assistant", side, key)]
    checked = Conversation.model_validate({"id": key, "messages": messages}).messages
    return checked[:-1], _text(checked[-1].text, key)


def transcript(text: str, name: str = "it") -> list[dict[str, Any]]:
    r"""The turns of an hh-rlhf transcript. ValueError when it is none.

    >>> transcript("\n\nHuman: Hi!\n\nAssistant: Hello.")
    [{'role': 'user', 'content': 'Hi!'}, {'role': 'assistant', 'content': 'Hello.'}]
    """
    before, *parts = TURN.split(text)
    if before.strip() or not parts:
        raise ValueError(rf"{name} does not begin with '\n\nHuman:'")
    roles = {"Human": "user", "Assistant": "assistant"}
    return [
        {"role": roles[speaker], "content": said.strip()} for speaker, said in zip(parts[::2], parts[1::2], strict=True)
    ]


def _chat(messages: Any) -> list[Any]:
    """Messages in the OpenAI form; of each only what is read here."""
    if not isinstance(messages, list):
        raise ValueError(f"messages must be a list, not {_short(messages)}")
    return [{k: m[k] for k in ("role", "content") if k in m} if isinstance(m, dict) else m for m in messages]


def _sharegpt(value: dict[str, Any]) -> list[dict[str, Any]]:
    turns = value["conversations"]
    if not isinstance(turns, list):
        raise ValueError(f"conversations must be a list, not {_short(turns)}")
    messages = [_turn("system", value["system"], "system")] if value.get("system") else []
    for i, turn in enumerate(turns):
        if not isinstance(turn, dict) or "from" not in turn or "value" not in turn:
            raise ValueError(f"conversations.{i} must have the keys from and value")
        if turn["from"] not in SPEAKERS:
            raise ValueError(f"conversations.{i}.from is {_short(turn['from'])}, not one of {', '.join(SPEAKERS)}")
        messages.append(_turn(SPEAKERS[turn["from"]], turn["value"], f"conversations.{i}.value"))
    return messages


def _asked(value: dict[str, Any]) -> list[dict[str, Any]]:
    """What comes before the output of an alpaca record: the input stands below the instruction."""
    messages = [_turn("system", value["system"], "system")] if value.get("system") else []
    history = value.get("history") or []
    if not isinstance(history, list) or not all(isinstance(pair, list) and len(pair) == 2 for pair in history):
        raise ValueError("history must be a list of pairs: what was asked, and what was answered")
    for i, (asked, answered) in enumerate(history):
        messages += [_turn("user", asked, f"history.{i}.0"), _turn("assistant", answered, f"history.{i}.1")]
    instruction, given = _text(value["instruction"], "instruction"), value.get("input") or ""
    if not isinstance(given, str):
        raise ValueError(f"input must be a text, not {_short(given)}")
    return [*messages, {"role": "user", "content": f"{instruction}\n\n{given}" if given.strip() else instruction}]


def _turn(role: str, text: Any, key: str) -> dict[str, Any]:
    return {"role": role, "content": _text(text, key)}


def _text(value: Any, key: str) -> str:
    """``value`` if it is a text with something in it."""
    if not isinstance(value, str):
        raise ValueError(f"{key} must be a text, not {_short(value)}")
    if not value.strip():
        raise ValueError(f"{key} is empty")
    return value


def _keys(value: dict[str, Any]) -> str:
    return ", ".join(map(str, value)) or "(none)"


def _short(value: Any) -> str:
    shown = json.dumps(value, ensure_ascii=False)
    return shown if len(shown) <= 40 else shown[:37] + "..."
