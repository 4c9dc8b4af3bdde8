from __future__ import annotations

import json
from pathlib import Path

import pytest

from chatwright.atlas import stage
from chatwright.atlas.stage import ConversationsConfig
from chatwright.errors import UserError
from chatwright.formats import by_prompt, load_comparisons, prompt_id
from chatwright.records import Conversation, Question
from chatwright.storage import read_jsonl


def test_pairs_of_people_are_demonstrations_and_prompts_split_as_the_reward_model_splits_them(tmp_path: Path) -> None:
    path = tmp_path / "pairs.jsonl"
    asked = [f"\n\nHuman: question {i}\n\nAssistant:" for i in range(100)]
    lines = [{"chosen": f"{text} yes", "rejected": f"{text} no"} for text in asked]
    path.write_text("".join(json.dumps(line) + "\n" for line in [*lines, {"chosen": "", "rejected": ""}]))
    config = ConversationsConfig(demonstrations=path, prompts=path, malformed="skip", heldout=0.1)
    out = tmp_path / "out"
    out.mkdir()
    headline = stage.run(config, {}, out)
    assert headline["demonstrations"] + headline["demonstrations_heldout"] == 100
    talks = read_jsonl(out / "demonstrations.jsonl", Conversation)
    assert {talk.messages[-1].text for talk in talks} == {"yes"}
    kept, held = by_prompt(load_comparisons(path).records, 0.2)
    for name, expected in (("prompts", kept), ("prompts_heldout", held)):
        found = read_jsonl(out / f"{name}.jsonl", Question)
        assert {prompt_id(question) for question in found} == {prompt_id(item) for item in expected}
    learned = {prompt_id(talk) for talk in talks}
    assert learned == {prompt_id(item) for item in by_prompt(load_comparisons(path).records, 0.1)[0]}
    with pytest.raises(UserError, match=r"pairs\.jsonl, line 101: chosen does not begin with"):
        stage.run(config.model_copy(update={"malformed": "refuse"}), {}, out)
