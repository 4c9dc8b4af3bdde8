"""Comparisons that a stage learns from: those of ``compare`` or one's own, parted, drawn, and cut to what fits."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from pydantic import Field

from chatwright.errors import UserError
from chatwright.formats import Malformed, by_prompt, load_comparisons
from chatwright.records import Comparison, Conversation
from chatwright.stage import Inputs, StageConfig
from chatwright.storage import keyed_uniform, read_jsonl

RecordT = TypeVar("RecordT", Comparison, Conversation)
IdsT = TypeVar("IdsT")


class ComparisonsConfig(StageConfig):
    """What is learned from.

    data: comparisons of your own in place of those of ``compare``, in any form that `formats.load_comparisons` reads;
    pairs are K = 2. A share ``heldout`` of them, by prompt, is kept out of training; ``malformed`` says what becomes of
    records that cannot be read. prompts, heldout_prompts: at most so many of each, drawn by their ids; None for all.
    max_tokens: of a prompt with an answer, at most the context. Longer ones lose their first exchanges; where one turn
    is too long, the comparison is left out.
    """

    data: Path | None = None
    heldout: float = Field(default=0.2, gt=0, lt=1)
    malformed: Malformed = "refuse"
    prompts: int | None = Field(default=None, gt=0)
    heldout_prompts: int | None = Field(default=None, gt=0)
    max_tokens: int | None = Field(default=None, gt=0)

    def wanted(self, inputs: tuple[str, ...]) -> tuple[str, ...]:
        """With own data, the SFT model alone."""
        return ("sft",) if self.data else inputs


@dataclass(frozen=True)
class Compared:
    """Comparisons in two parts, and the name of the file that they are from, for messages."""

    name: Path
    training: list[Comparison]
    heldout: list[Comparison]

    def limited(self, config: ComparisonsConfig) -> Compared:
        """At most as many of each as the config asks for."""
        training = drawn(self.training, config.prompts, "prompts", config.seed)
        return Compared(self.name, training, drawn(self.heldout, config.heldout_prompts, "heldout prompts"))


def read(config: ComparisonsConfig, inputs: Inputs, out: Path) -> Compared:
    """All comparisons of ``compare``, or of the user's own. UserError when there are none of a kind."""
    if config.data is None:
        name = inputs["compare"] / "comparisons.jsonl"
        return Compared(name, read_file(name), read_file(name.with_name("comparisons_heldout.jsonl")))
    ranked = [c for c in load_comparisons(config.data).accepted(config.malformed, out) if len(c.tiers) > 1]
    training, heldout = by_prompt(ranked, config.heldout)
    if not training or not heldout:
        raise UserError(
            f"{config.data} has too few comparisons in which one answer is ranked above another: {len(training)} to "
            f"learn from and {len(heldout)} held out; change heldout ({config.heldout}) or give more."
        )
    return Compared(config.data, training, heldout)


def read_file(path: Path) -> list[Comparison]:
    """The comparisons of a file. UserError when it holds none or none says which answer is better."""
    comparisons = read_jsonl(path, Comparison)
    if not any(len(comparison.tiers) > 1 for comparison in comparisons):
        raise UserError(f"{path} holds no comparison in which one answer is ranked above another.")
    return comparisons


def drawn(records: Sequence[RecordT], count: int | None, *key: object) -> list[RecordT]:
    """At most ``count`` of the records, drawn by their ids; all of them, in their order, for None."""
    if count is None:
        return list(records)
    return sorted(records, key=lambda record: keyed_uniform(*key, record.id))[:count]


def as_ids(
    comparisons: Sequence[Comparison], ids_of: Callable[[Comparison], IdsT | None], name: Path, most: int
) -> tuple[list[Comparison], list[IdsT]]:
    """The comparisons that fit into ``most`` tokens (``ids_of`` knows) and their ids. UserError when none that says
    which answer is better does.
    """
    found = [(item, ids) for item in comparisons if (ids := ids_of(item)) is not None]
    if not any(len(item.tiers) > 1 for item, _ in found):
        raise UserError(
            f"No comparison of {name} in which one answer is ranked above another fits into {most} tokens; shorten "
            "them, or raise max_tokens."
        )
    return [item for item, _ in found], [ids for _, ids in found]


def mistakes(measured: Mapping[str, float]) -> float | None:
    """Share of held-out pairs ordered wrongly, by which checkpoints are compared; None where it was not measured."""
    return 1 - measured["heldout_accuracy"] if "heldout_accuracy" in measured else None
