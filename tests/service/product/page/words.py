"""What the page says, by key, read from its sources: so that a test asks for words in any language."""

from __future__ import annotations

import json
import re
from functools import cache
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).parents[4] / "web" / "src" / "words"
TEXT = re.compile(r'^  (\w+): ("(?:[^"\\]|\\.)*"),$', re.MULTILINE)
TEMPLATE = re.compile(r"^  (\w+): \(([^)]*)\) => `([^`]*)`,$", re.MULTILINE)
LOCALES = {"en": "en-GB", "zh": "zh-CN"}


class Words:
    """The words of a language as attributes: `words.send`, and `words.optionsFor("a title")` of those with gaps."""

    def __init__(self, language: str) -> None:
        """language: the name of a file in web/src/words."""
        self.language, self.locale = language, LOCALES[language]
        self._said = read(language)

    def __getattr__(self, key: str) -> Any:
        if key.startswith("_") or key not in self._said:
            raise AttributeError(f"{self.language}.ts has no {key!r}")
        parameters, said = self._said[key]
        if parameters is None:
            return said

        def fill(*values: object) -> str:
            given = {f"${{{name}}}": str(value) for name, value in zip(parameters, values, strict=True)}
            return re.sub(r"\$\{\w+\}", lambda gap: given[gap[0]], said)

        return fill

    def tag(self, name: str) -> str:
        """The word of a tag."""
        return str(getattr(self, f"tag_{name}"))


@cache
def read(language: str) -> dict[str, tuple[list[str] | None, str]]:
    """By key: the names of the gaps (None for plain text), and the text."""
    source = (FOLDER / f"{language}.ts").read_text(encoding="utf-8")
    said: dict[str, tuple[list[str] | None, str]] = {
        key: (None, json.loads(text)) for key, text in TEXT.findall(source)
    }
    for key, parameters, text in TEMPLATE.findall(source):
        said[key] = [one.split(":")[0].strip() for one in parameters.split(",")], text
    return said
