"""Chat templates: a model's own Jinja text, rendered so that no content can forge one of its special tokens.

The rules are those of `transformers.PreTrainedTokenizerBase.apply_chat_template`; a test compares both.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from typing import Any, NoReturn

import jinja2
from jinja2 import nodes
from jinja2.ext import Extension, loopcontrols
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment

from chatwright.errors import UserError
from chatwright.records import Message
from chatwright.tokenizer.encoding import Piece

# `chat.render` of this writes `<|im_start|>role\ncontent<|im_end|>\n`, turn after turn (OpenAI's ChatML).
CHATML = """\
{%- for message in messages -%}
{{- '<|im_start|>' + message['role'] + '\\n' -}}
{%- if message['content'] is string -%}
{{- message['content'] -}}
{%- else -%}
{%- for part in message['content'] -%}{{- part['text'] -}}{%- endfor -%}
{%- endif -%}
{{- '<|im_end|>' + '\\n' -}}
{%- endfor -%}
{%- if add_generation_prompt -%}{{- '<|im_start|>assistant\\n' -}}{%- endif -%}
"""

_MARKS = range(0xF0000, 0xFFFFE)  # characters of a private use plane
_HIGH = re.compile(f"[{chr(_MARKS[0])}-\U0010ffff]")  # those, and what is above them


class ChatTemplate:
    """A template with the special tokens that it may write."""

    def __init__(
        self, source: str, specials: Mapping[str, int], variables: Mapping[str, str], stops: frozenset[int]
    ) -> None:
        """``specials``: ids by text. ``variables``: bos_token and the like. UserError when it is not Jinja."""
        self._specials = specials
        self._variables = variables
        self._stops = stops
        self._names = sorted(specials, key=len, reverse=True)
        self._special = re.compile("|".join(map(re.escape, self._names)) or r"(?!)")
        environment = ImmutableSandboxedEnvironment(
            trim_blocks=True, lstrip_blocks=True, extensions=[_Generation, loopcontrols]
        )
        environment.filters["tojson"] = _to_json
        environment.globals |= {"raise_exception": _refuse, "strftime_now": _now}
        try:
            self._template = environment.from_string(source)
            self._marks_itself = any(environment.parse(source).find_all(nodes.ExtensionAttribute))
        except jinja2.TemplateError as error:
            raise UserError(f"The chat template is not valid Jinja: {error}.") from None

    def pieces(self, messages: Sequence[Message], generation_prompt: bool) -> list[Piece]:
        """The conversation. UserError when the template refuses it."""
        marks = _Marks(messages)
        contents = [self._disguise(message.text, marks) for message in messages]
        return self._split(self._render(messages, contents, generation_prompt, marks), marks)

    def pieces_with_answers(self, messages: Sequence[Message]) -> list[Piece]:
        """The conversation, with what the assistant writes: all from the prompt to the stop token after its content.

        UserError when the template changes answers so much that they cannot be told apart.
        """
        marks = _Marks(messages)
        plain = [self._disguise(message.text, marks) for message in messages]
        expected = self._render(messages, plain, False, marks)
        if self._marks_itself:
            return self._split(expected, marks)
        # Marks go around the answers; where a template strips answers, inside the white space at their ends.
        for around in (marks.around, marks.around_stripped):
            contents = [
                around(text) if message.role == "assistant" else text
                for message, text in zip(messages, plain, strict=True)
            ]
            rendered = self._render(messages, contents, False, marks)
            if marks.removed(rendered) == expected and rendered.count(marks.begin) == rendered.count(marks.end):
                return self._split(self._begun_at_prompts(rendered, messages, plain, marks), marks)
        raise UserError(
            "The model's chat template rewrites the assistant's answers, so they cannot be learned from; "
            "put {% generation %} and {% endgeneration %} around them in the template."
        )

    def _begun_at_prompts(self, rendered: str, messages: Sequence[Message], plain: Sequence[str], marks: _Marks) -> str:
        """The marked text, each answer begun where the prompt ends after which the model has to write it.

        Between the two a template may put a space, as Llama 2's does, or an empty thought.
        """
        place = -1
        for i, message in enumerate(messages):
            if message.role != "assistant":
                continue
            earlier = rendered.count(marks.begin, 0, place + 1)
            place = rendered.index(marks.begin, place + 1)
            prompt = self._render(messages[:i], plain[:i], True, marks) if i else ""
            start = len(prompt) + 2 * earlier
            if start < place and marks.removed(rendered[:start]) == prompt:
                rendered = rendered[:start] + marks.begin + rendered[start:place] + rendered[place + 1 :]
        return rendered

    def _render(
        self, messages: Sequence[Message], contents: Sequence[str], generation_prompt: bool, marks: _Marks
    ) -> str:
        dumped = [{"role": m.role, "content": content} for m, content in zip(messages, contents, strict=True)]
        try:
            return self._template.render(
                messages=dumped,
                add_generation_prompt=generation_prompt,
                tools=None,
                documents=None,
                generation_marks=(marks.begin, marks.end),
                **self._variables,
            )
        except jinja2.TemplateError as error:
            reason = str(error)
        except (TypeError, ValueError, ArithmeticError, LookupError) as error:  # of the template's own expressions
            reason = f"{type(error).__name__}: {error}"
        raise UserError(f"The model's chat template refuses this conversation: {reason.rstrip('.!')}.")

    def _disguise(self, text: str, marks: _Marks) -> str:
        """``text`` with every special token in it replaced by two characters that stand for it."""
        return self._special.sub(lambda found: marks.quote + chr(_MARKS[0] + self._names.index(found[0])), text)

    def _reveal(self, text: str, marks: _Marks) -> str:
        if marks.quote not in text:
            return text
        quoted = re.compile(re.escape(marks.quote) + "(.)", re.DOTALL)
        return quoted.sub(lambda found: self._names[ord(found[1]) - _MARKS[0]], text)

    def _split(self, rendered: str, marks: _Marks) -> list[Piece]:
        """The rendered text at its special tokens and at the marks of what is written.

        The stop token that follows an answer belongs to it; only white space may stand between. What follows does not.
        """
        pieces: list[Piece] = []
        written = False
        answered: int | None = None  # where the answer ended whose stop token has not come yet
        for part in re.split(f"({self._special.pattern}|[{marks.begin}{marks.end}])", rendered):
            if part in (marks.begin, marks.end):
                written = part == marks.begin
                answered = None if written else len(pieces)
            elif part:
                special = self._specials.get(part)
                pieces.append(Piece(self._reveal(part, marks), special, written))
                if answered is not None and special in self._stops:
                    pieces[answered:] = [replace(piece, written=True) for piece in pieces[answered:]]
                if special is not None or part.strip():
                    answered = None
        return pieces


class _Marks:
    """Characters that occur in none of the messages."""

    def __init__(self, messages: Sequence[Message]) -> None:
        used = {c for message in messages for c in _HIGH.findall(message.text)}
        unused = (chr(code) for code in reversed(_MARKS) if chr(code) not in used)
        self.begin, self.end, self.quote = next(unused), next(unused), next(unused)

    def around(self, text: str) -> str:
        return f"{self.begin}{text}{self.end}"

    def around_stripped(self, text: str) -> str:
        inner = text.strip()
        before, _, after = text.partition(inner) if inner else (text, "", "")
        return f"{before}{self.begin}{inner}{self.end}{after}"

    def removed(self, text: str) -> str:
        return text.replace(self.begin, "").replace(self.end, "")


class _Generation(Extension):
    """The tag with which a template says itself what the assistant writes."""

    tags = {"generation"}  # noqa: RUF012

    def parse(self, parser: Parser) -> nodes.Node:
        """Read one block."""
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        call = self.call_method("_mark", [nodes.Name("generation_marks", "load")])
        return nodes.CallBlock(call, [], [], body).set_lineno(line)

    def _mark(self, marks: tuple[str, str], caller: Callable[[], str]) -> str:
        return f"{marks[0]}{caller()}{marks[1]}"


def _refuse(message: str) -> NoReturn:
    raise jinja2.TemplateError(message)


def _now(form: str) -> str:
    return datetime.now().strftime(form)


def _to_json(value: Any, ensure_ascii: bool = False, indent: int | None = None) -> str:
    """Jinja's own escapes for HTML."""
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent)
