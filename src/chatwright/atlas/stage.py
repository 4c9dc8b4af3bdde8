"""Stage `conversations`: demonstrations, the questions of the checks, and prompts to sample answers to."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

from pydantic import Field, model_validator

from chatwright.atlas.demonstrations import demonstrations, held_out_capitals
from chatwright.atlas.questions import evaluation_questions, sampling_prompts
from chatwright.atlas.users import UsersConfig, as_question, by_user, kept
from chatwright.errors import UserError
from chatwright.formats import Malformed, by_prompt, load_conversations, load_questions
from chatwright.records import Question
from chatwright.stage import Headline, Inputs, Stage, StageConfig
from chatwright.storage import keyed_uniform, read_jsonl, write_jsonl

MEASURED = 0.2  # of the prompts, held out


class ConversationsConfig(StageConfig):
    """Where conversations come from: the World Factbook by default, or files of one's own.

    demonstrations: conversations that take the place of the built-in ones, in any form that
    `formats.load_conversations` reads. questions: a JSONL file of questions with their gold, for the checks. prompts:
    for sampling, likewise, or in any form that `formats.load_questions` reads; a fifth is held out, of open ones by
    prompt, as the stage reward does. With own demonstrations and no such files, the sets are empty. malformed: what
    becomes of records that cannot be read. heldout: share of demonstrations kept out of training, of own ones by
    prompt; a fifth are those of the prompts that are held out here and in the stage reward. prompt_count: prompts drawn
    for comparisons and rollouts. users: what is kept of own demonstrations and prompts (conversations, then) that
    people sent, and the held-out ones are other users' (see `UsersConfig`).
    """

    demonstrations: Path | None = None
    questions: Path | None = None
    prompts: Path | None = None
    malformed: Malformed = "refuse"
    heldout: float = Field(default=0.03, ge=0, lt=1)
    prompt_count: int = Field(default=4000, gt=0)
    users: UsersConfig | None = None

    @model_validator(mode="after")
    def _users_have_sent_something(self) -> ConversationsConfig:
        if self.users is not None and self.demonstrations is None and self.prompts is None:
            raise ValueError("users is about demonstrations or prompts of your own; name a file, or leave it out")
        return self

    def counted(self) -> dict[str, Any]:
        """Without users where there are none: what was made before anyone could ask for them is still as asked for."""
        return {key: value for key, value in super().counted().items() if key != "users" or value is not None}


def run(config: ConversationsConfig, inputs: Inputs, out: Path) -> Headline:
    """Write demonstrations and prompts, each with a held-out file beside it, and the questions of the checks."""
    if config.demonstrations is None:
        talks = list(demonstrations(config.seed))
        questions = list(evaluation_questions(config.seed))
        prompts, measured = sampling_prompts(config.seed, config.prompt_count)
    else:
        talks = load_conversations(config.demonstrations).accepted(config.malformed, out)
        if not talks:
            raise UserError(f"{config.demonstrations} holds no conversation; give one JSON object a line.")
        questions, prompts, measured = [], [], []
    if config.questions is not None:
        questions = read_jsonl(config.questions, Question)
    if config.prompts is not None and config.users is not None:
        sent = kept(load_conversations(config.prompts).accepted(config.malformed, out), config.users)
        prompts, measured = ([as_question(talk) for talk in part] for part in by_user(sent, MEASURED))
    elif config.prompts is not None:
        given = load_questions(config.prompts).accepted(config.malformed, out)
        open_ones = [question for question in given if question.gold.kind == "open"]
        known = [question for question in given if question.gold.kind != "open"]
        prompts, measured = by_prompt(open_ones, MEASURED) if open_ones else ([], [])
        for question in known:
            held_out = keyed_uniform(config.seed, "measured", question.id) < MEASURED
            (measured if held_out else prompts).append(question)
    if config.demonstrations is not None and config.users is not None:
        training, kept_out = by_user(kept(talks, config.users), config.heldout)
    elif config.demonstrations is not None:
        training, kept_out = by_prompt(talks, config.heldout)
    else:
        kept_out = [talk for talk in talks if keyed_uniform(config.seed, "heldout", talk.id) < config.heldout]
        names = {talk.id for talk in kept_out}
        training = [talk for talk in talks if talk.id not in names]
    write_jsonl(out / "demonstrations.jsonl", training)
    write_jsonl(out / "demonstrations_heldout.jsonl", kept_out)
    write_jsonl(out / "questions.jsonl", questions)
    write_jsonl(out / "prompts.jsonl", prompts)
    write_jsonl(out / "prompts_heldout.jsonl", measured)
    return {
        "demonstrations": len(training),
        "demonstrations_heldout": len(kept_out),
        "questions": dict(sorted(Counter(question.check for question in questions).items())),
        "prompts": len(prompts),
        "prompts_heldout": len(measured),
        "held_out_capitals": len(held_out_capitals(config.seed)) if config.demonstrations is None else 0,
    }


STAGE = Stage(
    name="conversations",
    version=4,
    config=ConversationsConfig,
    inputs=(),
    run=run,
    summary="demonstrations, questions of the checks, prompts",
)
