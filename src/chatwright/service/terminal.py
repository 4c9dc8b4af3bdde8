"""The chat in the terminal: streamed answers, a history, and a few commands. Also asks a fixed list of questions."""

from __future__ import annotations

import secrets
import sys
from collections.abc import Generator, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field

from rich.console import Console
from rich.text import Text

from chatwright.errors import UserError
from chatwright.inference.prompts import fit
from chatwright.inference.sampling import Sampling
from chatwright.records import Message
from chatwright.service.models import LoadedModel

TEMPERATURE = 0.3  # ours: small models are right more often when they stay close to their best guess

HELP = """\
/reset            begin a new conversation
/system TEXT      say how the assistant should be; without TEXT, nothing
/temperature X    0 for the surest answer, up to 2 for the most varied
/help             this list
/quit             leave; so does Ctrl-D
Ctrl-C stops an answer."""

# What a terminal would obey and not show, Escape among it; newline and tab are text.
CONTROL_CHARACTERS = {code: None for code in [*range(32), *range(0x7F, 0xA0)] if chr(code) not in "\n\t"}


@dataclass
class Talk:
    """A conversation with a model. Every answer has a random seed of its own, which follows from `seed`."""

    model: LoadedModel
    temperature: float = TEMPERATURE
    max_tokens: int | None = None
    seed: int = field(default_factory=lambda: secrets.randbits(32))
    system: str = ""
    turns: list[Message] = field(default_factory=list)

    def say(self, text: str) -> Generator[str, None, None]:
        """Stream the answer to `text`. What was answered when iteration ends, or is broken off, enters the history.

        UserError when `text` is too long; the history is then as before.
        """
        system = [Message(role="system", content=self.system)] if self.system else []
        asked = [*self.turns, Message(role="user", content=text)]
        prompt = fit([*system, *asked], self.model.tokenizer, self.model.context, self.max_tokens)
        sampling = Sampling(
            max_tokens=self.max_tokens or self.model.context,
            temperature=self.temperature,
            seed=self.seed + len(self.turns),
        )
        said = ""
        try:
            for piece in self.model.engine.stream(prompt.ids, sampling, lambda: False):
                said += piece
                yield piece
        finally:
            if said:
                self.turns = [*asked, Message(role="assistant", content=said)]

    def obey(self, line: str) -> str | None:
        """Do what a line that begins with `/` says; return what to tell, None to leave. UserError when unclear."""
        command, _, argument = line.partition(" ")
        argument = argument.strip()
        match command:
            case "/quit" | "/exit":
                return None
            case "/help":
                return HELP
            case "/reset":
                self.turns = []
                return "A new conversation."
            case "/system":
                self.system = argument
                return "The system message is set." if argument else "There is no system message now."
            case "/temperature":
                self.temperature = _temperature(argument)
                return f"The temperature is {self.temperature:g}."
        raise UserError(f"{command} is not a command; /help lists them.")


def _temperature(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value <= 2:
        raise UserError("Write /temperature and a number from 0 to 2.")
    return value


def chat(
    model: LoadedModel,
    *,
    temperature: float = TEMPERATURE,
    max_tokens: int | None = None,
    seed: int | None = None,
    system: str = "",
) -> None:
    """Talk with `model` on standard input and output until /quit or the end of input.

    Input that is not a terminal is read line by line, and only answers are written.
    """
    talk = Talk(model, temperature, max_tokens, secrets.randbits(32) if seed is None else seed, system)
    console = Console()
    interactive = sys.stdin.isatty()
    if interactive:
        console.print(Text.assemble("Talking with ", (model.name, "bold cyan"), ". /help lists the commands.\n"))
    for line in _typed_lines(console) if interactive else map(str.strip, sys.stdin):
        if not line:
            continue
        try:
            if line.startswith("/"):
                told = talk.obey(line)
                if told is None:
                    break
                console.print(told, style="dim", markup=False, highlight=False)
            else:
                _print_answer(console, talk, line)
        except UserError as error:
            console.print(str(error), style="yellow", markup=False, highlight=False)


def _typed_lines(console: Console) -> Iterator[str]:
    """What the person types, line by line; Ctrl-C or Ctrl-D at the prompt ends it."""
    with suppress(ImportError):  # where it exists, it gives `input` line editing and a history
        import readline  # noqa: F401

    while True:
        try:
            yield console.input("[bold green]you ›[/] ").strip()
        except (EOFError, KeyboardInterrupt):
            console.print()
            return


def _print_answer(console: Console, talk: Talk, question: str) -> str:
    """Print the answer as it comes and return it. Ctrl-C ends the answer alone."""
    said = ""
    pieces = talk.say(question)
    try:
        for piece in pieces:
            said += piece
            console.print(Text(piece.translate(CONTROL_CHARACTERS)), end="", soft_wrap=True)
        console.print()
    except KeyboardInterrupt:
        console.print(" (stopped)", style="dim", highlight=False)
    finally:
        pieces.close()
    return said


def ask(model: LoadedModel, questions: Sequence[Sequence[str]]) -> list[tuple[str, str]]:
    """Ask each list of questions as one conversation, print questions and answers, and return them in pairs.

    Answers are greedy, so that the same model says the same.

    >>> ask(model, [["What is the capital of Japan?", "And its currency?"], ["你好"]])
    """
    console = Console()
    pairs = []
    for conversation in questions:
        talk = Talk(model, temperature=0.0, seed=0)
        for question in conversation:
            console.print(Text.assemble(("you › ", "bold green"), question))
            console.print(Text(f"{model.name} › ", style="bold cyan"), end="")
            pairs.append((question, _print_answer(console, talk, question)))
        console.print()
    return pairs
