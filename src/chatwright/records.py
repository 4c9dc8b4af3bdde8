"""What passes between rooms: Document, Conversation, Question, Comparison, Feedback, Rollout. It only validates."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator

if TYPE_CHECKING:
    import torch

Role = Literal["system", "user", "assistant"]


class Record(BaseModel):
    """Base of the records that are stored: immutable, unknown keys refused."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Document(Record):
    """A piece of text of the corpus. Scores and decisions are columns beside it, never written into it."""

    id: str = Field(min_length=1)
    text: str
    source: str
    url: str | None = None
    meta: dict[str, Any] = Field(default_factory=dict)


class TextPart(Record):
    """A textual part of a message, as in the OpenAI chat format."""

    type: Literal["text"]
    text: str


class Message(Record):
    """One turn of a conversation."""

    role: Role
    content: str | list[TextPart]

    @property
    def text(self) -> str:
        """The message's text, parts joined."""
        return self.content if isinstance(self.content, str) else "".join(part.text for part in self.content)


def _asks(messages: list[Message]) -> list[Message]:
    check_turns(messages, last="user")
    return messages


Prompt = Annotated[list[Message], Field(min_length=1), AfterValidator(_asks)]


class Conversation(Record):
    """A demonstration: an optional system message, then user and assistant in turn, the assistant last."""

    id: str = Field(min_length=1)
    messages: list[Message] = Field(min_length=2)
    source: str = ""
    meta: dict[str, Any] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _turns_alternate(self) -> Conversation:
        check_turns(self.messages, last="assistant")
        return self


class Gold(Record):
    """What a labeller who knows the truth would look for in an answer.

    kind: what is asked for: a fact, an admission of not knowing, a refusal, small talk, a definition, a sum; or open,
    where nobody here knows what is right and every answer is worth 0.
    field: for facts, which one (``capital``, ``currency``, ...).
    right: groups of accepted spellings; a complete answer has one spelling of every group, an incomplete one of some.
    wrong: values of the same field that would be wrong here, known to the labeller (others count as made up).
    language: the language the answer must be in.
    """

    kind: Literal["fact", "unknown", "refusal", "harmless", "smalltalk", "definition", "arithmetic", "open"]
    field: str = ""
    right: list[list[str]] = Field(default_factory=list)
    wrong: list[str] = Field(default_factory=list)
    language: Literal["en", "zh"] = "en"


class Question(Record):
    """A prompt whose answer can be judged: for evaluation (``check`` names the row it counts in) and for sampling."""

    id: str = Field(min_length=1)
    messages: Prompt
    gold: Gold
    check: str
    subject: str = ""


class Comparison(Record):
    """K answers to one prompt, ranked: ``tiers`` holds indices into ``answers``, best first; one tier, one rank.

    meta: of the chat's people, ``text`` is what they said of their choice.
    """

    id: str = Field(min_length=1)
    prompt: Prompt
    answers: list[str] = Field(min_length=2)
    tiers: list[Annotated[list[int], Field(min_length=1)]] = Field(min_length=1)
    labeler: str
    source: str = ""
    meta: dict[str, Any] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _tiers_cover_answers(self) -> Comparison:
        if sorted(i for tier in self.tiers for i in tier) != list(range(len(self.answers))):
            raise ValueError("tiers must name every answer exactly once")
        return self


class Feedback(Record):
    """One person's rating of one answer, as the service exports it: consented, and without what names people.

    model_hash: of the weights that answered; sampling: temperature, top_p, max_tokens and seed. user: the same for all
    ratings of a person, and no name. created, updated: seconds since 1970.
    """

    id: str = Field(min_length=1)
    prompt: Prompt
    answer: str = Field(min_length=1)
    vote: Literal["up", "down"]
    tags: list[str] = Field(default_factory=list)
    text: str = ""
    model: str
    model_hash: str
    sampling: dict[str, Any] = Field(default_factory=dict)
    user: str
    created: float
    updated: float
    source: str = ""


@dataclass(frozen=True)
class Rollout:
    """A batch of B sampled answers for PPO; T = prompt + response, left-padded prompts, right-padded responses.

    tokens_BT: int64. valid_BT: bool, false on padding. response_BT: bool, true on tokens that the policy chose (the
    end-of-turn token included). logprobs_BT, ref_logprobs_BT: float32, log-probability of token t given those before it
    under the policy that sampled and under the reference, at the sampling temperature; 0 outside ``response_BT``.
    values_BT: float32, value of the state *before* token t was chosen. scores_B: the reward model's score of the
    answer.
    policy_version: number of optimiser steps the policy had when it sampled.
    """

    tokens_BT: torch.Tensor
    valid_BT: torch.Tensor
    response_BT: torch.Tensor
    logprobs_BT: torch.Tensor
    ref_logprobs_BT: torch.Tensor
    values_BT: torch.Tensor
    scores_B: torch.Tensor
    policy_version: int


def check_turns(messages: list[Message], last: Role) -> None:
    """Raise ValueError unless the turns are [system,] user, assistant, user, ... and end with ``last``."""
    turns = messages[1:] if messages and messages[0].role == "system" else messages
    for i, message in enumerate(turns):
        expected = "user" if i % 2 == 0 else "assistant"
        if message.role != expected:
            raise ValueError(
                f"message {i + 1} after the system message has role {message.role!r}, expected {expected!r}"
            )
    if not turns or turns[-1].role != last:
        raise ValueError(f"the last message must have role {last!r}")
