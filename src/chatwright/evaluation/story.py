"""The story of the road, as the report tells it: for each stop what happens there, its figures, and its key numbers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from chatwright.evaluation.words import number, percent


@dataclass(frozen=True)
class Tile:
    """A key number: its name, the stage and the headline metric that give it, and how it is written."""

    name: str
    stage: str
    metric: str
    form: str = "number"


@dataclass(frozen=True)
class Stop:
    """A stop on the road: the stage whose hue and place it has, what is told, key numbers, figures with captions."""

    stage: str
    title: str
    text: str
    tiles: tuple[Tile, ...]
    figures: tuple[tuple[str, str], ...] = ()


ROAD = (
    Stop(
        "corpus",
        "Raw pages become text",
        "Markup and broken encodings go, copies and near-copies go, a classifier keeps what reads like curated prose,"
        " and whatever overlaps with the evaluation questions is cut out. Every dropped document has a reason that "
        "can be asked for.",
        (
            Tile("raw documents", "corpus", "documents"),
            Tile("kept", "corpus", "kept"),
            Tile("text kept", "corpus", "bytes", "bytes"),
        ),
        (("corpus", "What became of the documents of each source, and which step dropped them."),),
    ),
    Stop(
        "tokenizer",
        "Text becomes tokens",
        "A vocabulary of byte sequences is learned on the mixture: frequent words become one token, and anything at "
        "all can still be written, byte by byte. The sources are then drawn by weight, not by size, so that small "
        "good ones come more often.",
        (
            Tile("vocabulary", "tokenizer", "vocab_size"),
            Tile("bytes in a token", "shards", "bytes_per_token", "decimal"),
            Tile("training tokens", "shards", "train_tokens"),
        ),
        (("mixture", "The mixture: each source’s share of the training tokens, and how often that goes through it."),),
    ),
    Stop(
        "pretrain",
        "Tokens become knowledge",
        "A decoder with random weights learns to predict the next token. What it has to know for that, such as which "
        "city is the capital of which country, ends up in its weights. It cannot converse yet: it only goes on "
        "writing.",
        (
            Tile("parameters", "pretrain", "parameters"),
            Tile("tokens seen", "pretrain", "tokens"),
            Tile("held-out bits per byte", "pretrain", "bits_per_byte", "decimal"),
        ),
        (
            (
                "pretrain",
                "Bits per byte is the loss freed of the tokenizer: how many bits a byte of unseen text still costs.",
            ),
        ),
    ),
    Stop(
        "sft",
        "Knowledge learns to answer",
        "Demonstrations show how an assistant talks, with loss on the assistant’s words only. They speak of some of "
        "the countries; about the others the model has only read, so that a right answer on those shows that fine-"
        "tuning unlocked what pretraining had learned.",
        (
            Tile("demonstrations", "conversations", "demonstrations"),
            Tile("steps", "sft", "steps"),
            Tile("held-out loss", "sft", "heldout_loss", "decimal"),
        ),
        (("sft", "When the held-out curve turns up, the model begins to learn its demonstrations by heart."),),
    ),
    Stop(
        "reward",
        "Answers are compared",
        "The model answers each prompt several times, and a labeller ranks the answers. Here it is simulated: it "
        "knows the truth, and makes mistakes on purpose. A reward model learns to score an answer so that the "
        "preferred one of each pair scores higher.",
        (
            Tile("prompts compared", "compare", "prompts"),
            Tile("pairs in the right order", "reward", "accuracy", "percent"),
            Tile("“longer wins” gets", "reward", "length_accuracy", "percent"),
            Tile("the noisy labeller gets", "reward", "labeler_agreement", "percent"),
        ),
        (
            ("reward", "Here accuracy is against the labeller’s noisy rankings; the check holds it against the truth."),
            (
                "reward_accuracy",
                "A taste for length is right where the better answer is longer, and wrong where it is shorter.",
            ),
            ("reward_calibration", "On the dashed line the scores are as sure of a pair as they may be."),
            ("reward_probes", "The same answer with words that say nothing, said twice, flattering, and as a list."),
        ),
    ),
    Stop(
        "ppo",
        "Better answers are reinforced",
        "The assistant samples answers, the reward model scores them, and PPO makes what scored well more likely, at "
        "a price for every step away from the fine-tuned model. The proxy reward must rise; whether the answers "
        "really got better only the gold reward tells. A pretraining mix (PTX) in every step keeps the language from "
        "being unlearned.",
        (
            Tile("gold gain, in SFT deviations", "ppo", "gold_gain", "signed"),
            Tile("KL of an answer", "ppo", "kl", "decimal"),
            Tile("bits per byte, after ÷ before", "ppo", "ptx_tax", "ratio"),
        ),
        (
            (
                "ppo",
                "Runs with the pretraining mix, and one without. Gold: the labeller without noise. Proxy: the reward.",
            ),
            ("tax", "What reinforcement costs in language, and what the pretraining mix saves."),
        ),
    ),
)


def stops(stages: Mapping[str, Any]) -> list[Stop]:
    """The stops of this run's road."""
    return [stop for stop in ROAD if stop.stage in stages]


def tiles(stop: Stop, stages: Mapping[str, Any]) -> list[tuple[str, str]]:
    """The key numbers of a stop that this run has, written for a person."""
    headlines = {name: stage["headline"] for name, stage in stages.items()}
    return [
        (tile.name, FORMS[tile.form](headlines[tile.stage][tile.metric]))
        for tile in stop.tiles
        if headlines.get(tile.stage, {}).get(tile.metric) is not None
    ]


FORMS = {
    "number": number,
    "decimal": "{:.3g}".format,
    "ratio": "{:.3f}".format,
    "signed": "{:+.2f}".format,
    "percent": percent,
    "bytes": lambda value: f"{value / 1e6:.1f} MB",
}
