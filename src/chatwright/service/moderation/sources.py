"""Public sets of harmful and harmless texts that the classifier is trained on, each as it unpacks.

COLD (thu-coai/COLDataset, Apache-2.0): Chinese, offensive to groups or not. Davidson et al. (MIT): tweets, hateful,
offensive or neither. OpenAI's moderation set (openai/moderation-api-release, MIT): eight categories, some unknown.
TOXIGEN (microsoft/TOXIGEN, MIT): sentences about minorities, hateful and neutral.
"""

from __future__ import annotations

import csv
import gzip
import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from chatwright.errors import UserError
from chatwright.service.moderation.text import normal
from chatwright.storage import keyed_uniform

Split = Literal["train", "validation", "test"]

OPENAI_LABELS = {
    "S": "sexual",
    "H": "hate",
    "V": "violence",
    "HR": "harassment",
    "SH": "self-harm",
    "S3": "sexual/minors",
    "H2": "hate/threatening",
    "V2": "violence/graphic",
}
DAVIDSON_HATE, DAVIDSON_OFFENSIVE = "0", "1"
NEUTRAL = ("hate", "harassment", "violence", "sexual")  # what a neutral sentence about a minority is not
HELD_OUT = 0.15  # of a set without a split of its own: so much for validation, and so much for the test


@dataclass(frozen=True)
class Example:
    """A text with what is known of it: categories that are not in `labels` are unknown."""

    source: str
    text: str
    labels: Mapping[str, bool]
    split: Split


def read_sources(folder: Path) -> list[Example]:
    """All examples of the sets in a folder, each text once; what is in a test is in no other part.

    UserError names what a file lacks, or says that there is none of the sets.
    """
    folder = Path(folder)
    examples: list[Example] = []
    for name, read in SOURCES.items():
        if (folder / name).is_dir():
            try:
                examples += read(folder / name)
            except (OSError, KeyError, ValueError, csv.Error) as error:
                raise UserError(f"{folder / name} is not the set {name} as it is published ({error}).") from None
    if not examples:
        raise UserError(f"{folder} has none of the sets {', '.join(SOURCES)}; unpack one or more of them there.")
    seen: set[str] = set()
    kept = []
    for split in ("test", "validation", "train"):
        for example in examples:
            key = normal(example.text)
            if example.split == split and key and key not in seen:
                seen.add(key)
                kept.append(example)
    return kept


def _cold(folder: Path) -> Iterator[Example]:
    """The set's own split. Offensive to a region, a race or a gender: hate. What is not offensive harasses nobody."""
    files: dict[Split, str] = {"train": "train", "validation": "dev", "test": "test"}
    for split, name in files.items():
        for row in _rows(folder / "COLDataset" / f"{name}.csv"):
            offensive = row["label"] == "1"
            labels = {"hate": True} if offensive else {"hate": False, "harassment": False}
            yield Example("cold_zh", row["TEXT"], labels, split)


def _davidson(folder: Path) -> Iterator[Example]:
    """Hateful tweets are hate; offensive ones harassment, and whether also hate is not known to be wrong."""
    for row in _rows(folder / "data" / "labeled_data.csv"):
        text, kind = row["tweet"], row["class"]
        labels = {"harassment": kind in (DAVIDSON_HATE, DAVIDSON_OFFENSIVE)}
        if kind != DAVIDSON_OFFENSIVE:
            labels["hate"] = kind == DAVIDSON_HATE
        yield Example("davidson", text, labels, keyed_split("davidson", text))


def _openai(folder: Path) -> Iterator[Example]:
    with gzip.open(folder / "data" / "samples-1680.jsonl.gz", "rt", encoding="utf-8") as lines:
        for line in lines:
            row = json.loads(line)
            labels = {name: bool(row[key]) for key, name in OPENAI_LABELS.items() if key in row}
            yield Example("openai_moderation", row["prompt"], labels, keyed_split("openai", row["prompt"]))


def _toxigen(folder: Path) -> Iterator[Example]:
    """A line is a prompt of several sentences, many of which come again in others: each sentence once.

    What is neutral is no harassment, no violence and not sexual either.
    """
    files = sorted((folder / "prompts").glob("*.txt"))
    if not files:
        raise ValueError("there is no prompts/*.txt")
    seen: set[str] = set()
    for path in files:
        hateful = path.name.startswith("hate_")
        for line in path.read_text(encoding="utf-8").splitlines():
            for part in line.split("\\n"):
                text = part.removeprefix("-").strip()
                if text and text not in seen:
                    seen.add(text)
                    labels = {"hate": True} if hateful else dict.fromkeys(NEUTRAL, False)
                    yield Example("toxigen_prompts", text, labels, keyed_split("toxigen", text))


SOURCES: Mapping[str, Callable[[Path], Iterator[Example]]] = {
    "cold_zh": _cold,
    "davidson": _davidson,
    "openai_moderation": _openai,
    "toxigen_prompts": _toxigen,
}
LICENCES = {"cold_zh": "Apache-2.0", "davidson": "MIT", "openai_moderation": "MIT", "toxigen_prompts": "MIT"}


def keyed_split(source: str, text: str) -> Split:
    """A text's part, which depends on the text alone."""
    draw = keyed_uniform("moderation", source, normal(text))
    return "test" if draw < HELD_OUT else "validation" if draw < 2 * HELD_OUT else "train"


def _rows(path: Path) -> Iterator[dict[str, str]]:
    with path.open(encoding="utf-8-sig", newline="") as file:
        yield from csv.DictReader(file)
