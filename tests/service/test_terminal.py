from __future__ import annotations

import io
import os
import pty
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable

import pytest

from chatwright.service import terminal
from chatwright.service.models import LoadedModel
from chatwright.service.terminal import Talk, ask, chat

ModelOf = Callable[..., LoadedModel]
Typed = Callable[[str], None]


def reply(prompt: str) -> str:
    return "The yen." if "currency" in prompt else "Tokyo."


@pytest.fixture
def typed(monkeypatch: pytest.MonkeyPatch) -> Typed:
    """Have text come on standard input, which then is no terminal."""
    return lambda text: monkeypatch.setattr("sys.stdin", io.StringIO(text))


def test_lines_from_a_pipe_are_answered_in_one_conversation(
    scripted: ModelOf, typed: Typed, capsys: pytest.CaptureFixture[str]
):
    model = scripted(reply)
    typed("What is the capital of Japan?\n\nAnd its currency?\n")
    chat(model)
    assert capsys.readouterr().out == "Tokyo.\nThe yen.\n"
    assert "assistant\nTokyo.\nuser\nAnd its currency?" in model.engine.prompts[1]


def test_commands_do_what_help_says(scripted: ModelOf, typed: Typed, capsys: pytest.CaptureFixture[str]):
    model = scripted(reply)
    typed("/help\n/system Be brief.\n/temperature 0\nfirst\n/reset\n/system\nsecond\n/quit\nnever\n")
    chat(model, temperature=1.0)
    first, second = model.engine.prompts
    assert first == "system\nBe brief.\nuser\nfirst\nassistant\n"
    assert second == "user\nsecond\nassistant\n"
    assert model.engine.samplings[0].temperature == 0
    assert terminal.HELP in capsys.readouterr().out


@pytest.mark.parametrize("line", ["/temperature hot", "/temperature -1", "/temperature nan", "/frobnicate"])
def test_a_wrong_command_is_explained_and_the_chat_goes_on(
    line: str, scripted: ModelOf, typed: Typed, capsys: pytest.CaptureFixture[str]
):
    typed(f"{line}\nhello\n")
    chat(scripted(reply))
    complaint, answer = capsys.readouterr().out.splitlines()
    assert "/temperature" in complaint or "/help" in complaint
    assert answer == "Tokyo."


def test_a_question_too_long_is_explained_and_forgotten(
    scripted: ModelOf, typed: Typed, capsys: pytest.CaptureFixture[str]
):
    model = scripted(reply)
    typed(f"{'word ' * 500}\nhello\n")
    chat(model)
    assert "context is 256 tokens" in capsys.readouterr().out
    assert model.engine.prompts == ["user\nhello\nassistant\n"]


def test_a_model_cannot_command_the_terminal(scripted: ModelOf, typed: Typed, capsys: pytest.CaptureFixture[str]):
    typed("hello\n")
    chat(scripted("\x1b[2Jred [bold]text[/bold]\x07\n你好"))
    assert capsys.readouterr().out == "[2Jred [bold]text[/bold]\n你好\n"


def test_an_answer_that_is_broken_off_stays_in_the_history_as_far_as_it_came(scripted: ModelOf):
    talk = Talk(scripted("one two three four five"))
    pieces = talk.say("Count.")
    said = next(pieces) + next(pieces)
    pieces.close()
    assert [(turn.role, turn.text) for turn in talk.turns] == [("user", "Count."), ("assistant", said)]


def test_each_answer_of_a_seeded_talk_has_its_own_seed(scripted: ModelOf):
    model = scripted(reply)
    for _ in range(2):
        talk = Talk(model, seed=3)
        for _ in range(2):
            list(talk.say("hello"))
    seeds = [sampling.seed for sampling in model.engine.samplings]
    assert seeds[:2] == seeds[2:]
    assert seeds[0] != seeds[1]


def test_fixed_questions_are_asked_greedily_each_list_as_one_conversation(
    scripted: ModelOf, capsys: pytest.CaptureFixture[str]
):
    model = scripted(reply)
    pairs = ask(model, [["What is the capital of Japan?", "And its currency?"], ["你好"]])
    assert pairs == [
        ("What is the capital of Japan?", "Tokyo."),
        ("And its currency?", "The yen."),
        ("你好", "Tokyo."),
    ]
    assert model.engine.prompts[2] == "user\n你好\nassistant\n"
    assert {sampling.temperature for sampling in model.engine.samplings} == {0.0}
    assert "atlas › The yen." in capsys.readouterr().out


CHAT_IN_A_TERMINAL = """
import signal
import sys
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell starts background jobs with it ignored
sys.path.insert(0, sys.argv[1])
from conftest import CONTEXT, TEXTS, ScriptedEngine
from chatwright.service.models import LoadedModel
from chatwright.service.terminal import chat
from chatwright.tokenizer.bpe import train_bpe
tokenizer = train_bpe(TEXTS, 300)
engine = ScriptedEngine(tokenizer, lambda prompt: "word " * 200 if "long" in prompt[-20:] else "short", 0.02)
chat(LoadedModel("atlas", engine, tokenizer, CONTEXT, "fp", 1))
print("left in peace")
"""


def test_ctrl_c_stops_the_answer_and_at_the_prompt_the_program():
    ours, theirs = pty.openpty()
    command = [sys.executable, "-c", CHAT_IN_A_TERMINAL, os.path.dirname(__file__)]
    process = subprocess.Popen(command, stdin=theirs, stdout=theirs, stderr=theirs, start_new_session=True)
    os.close(theirs)
    shown = ""

    def wait_for(text: str) -> None:
        nonlocal shown
        end = time.monotonic() + 60
        while text not in shown:
            readable, _, _ = select.select([ours], [], [], end - time.monotonic())
            assert readable, f"{text!r} did not come after {shown!r}"
            shown += os.read(ours, 4096).decode(errors="replace")
        shown = shown.split(text, 1)[1]

    try:
        wait_for("›")
        os.write(ours, b"a long one\n")
        wait_for("word word")
        os.kill(process.pid, signal.SIGINT)
        wait_for("(stopped)")
        wait_for("›")
        os.write(ours, b"hello\n")
        wait_for("short")
        wait_for("›")
        time.sleep(0.5)  # the prompt is on the screen a moment before anything reads
        os.kill(process.pid, signal.SIGINT)
        wait_for("left in peace")
        assert process.wait(10) == 0
    finally:
        process.kill()
        os.close(ours)
