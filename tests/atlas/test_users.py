"""Prompts as people sent them: near-copies, users with many, the split by user (IGPT A.2)."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import pytest

from chatwright.atlas import stage
from chatwright.atlas.stage import ConversationsConfig
from chatwright.atlas.users import UsersConfig, by_user, kept, user
from chatwright.records import Conversation, Message, Question
from chatwright.storage import digest, read_jsonl


def talk(name: str, asked: str, who: str = "") -> Conversation:
    messages = [Message(role="user", content=asked), Message(role="assistant", content="Yes.")]
    return Conversation(id=name, messages=messages, meta={"user": who} if who else {})


def test_of_questions_with_a_long_common_prefix_one_is_kept() -> None:
    asked = [
        "Translate this into French for me: one",
        "Translate this into French for me: two",
        "Translate",
        "Hi",
        " Hi",
    ]
    talks = [talk(str(i), text) for i, text in enumerate(asked)]
    assert [t.id for t in kept(talks, UsersConfig(prefix=20))] == ["0", "2", "3"]
    assert [t.id for t in kept(talks, UsersConfig(prefix=100))] == ["0", "1", "2", "3"]


def test_of_a_user_at_most_so_many_are_kept() -> None:
    talks = [talk(str(i), f"{i}?", "ann" if i % 3 else "bob") for i in range(900)] + [talk("x", "other?")]
    found = kept(talks, UsersConfig())
    assert Counter(t.meta.get("user") for t in found) == {"ann": 200, "bob": 200, None: 1}
    assert [t.id for t in found[:3]] == ["0", "1", "2"], "the first ones, in their order"


def test_a_user_is_on_one_side() -> None:
    talks = [talk(str(i), f"{i}?", f"user {i % 50}") for i in range(500)] + [talk(f"n{i}", f"n{i}") for i in range(100)]
    training, heldout = by_user(talks, 0.2)
    assert {user(t) for t in training}.isdisjoint(user(t) for t in heldout)
    assert len(training) + len(heldout) == 600
    assert [len(side) for side in by_user([talk("a", "a?"), talk("b", "b?")], 0.0001)] == [1, 1]
    assert 0.1 < len({user(t) for t in heldout}) / 150 < 0.3


def test_the_stage_keeps_prompts_and_demonstrations_so(tmp_path: Path) -> None:
    path, out = tmp_path / "sent.jsonl", tmp_path / "out"
    out.mkdir()
    talks = [talk(str(i), f"{i}: what?", f"user {i % 40}") for i in range(400)]
    path.write_text("".join(json.dumps(t.model_dump(mode="json")) + "\n" for t in [*talks, *talks[:50]]))
    config = ConversationsConfig(demonstrations=path, prompts=path, heldout=0.2, users=UsersConfig(most=5))
    headline = stage.run(config, {}, out)
    for name, record in (("demonstrations", Conversation), ("prompts", Question)):
        sides = [read_jsonl(out / f"{name}{end}.jsonl", record) for end in ("", "_heldout")]
        assert sum(map(len, sides)) == 40 * 5
        assert min(map(len, sides)) > 0
        owner = {t.id: user(t) for t in talks}
        assert {owner[r.id] for r in sides[0]}.isdisjoint(owner[r.id] for r in sides[1])
    assert headline["prompts"] + headline["prompts_heldout"] == 200


def test_without_users_nothing_changes_and_with_nothing_sent_they_are_refused() -> None:
    plain = ConversationsConfig()
    assert "users" not in plain.counted()
    assert digest(plain.counted()) == digest({k: v for k, v in plain.model_dump().items() if k != "users"})
    with pytest.raises(ValueError, match="users is about demonstrations or prompts of your own"):
        ConversationsConfig(users=UsersConfig())
