"""Chat templates in the styles of other models, beside transformers' `apply_chat_template`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import transformers
from hypothesis import given
from hypothesis import strategies as st

from chatwright.errors import UserError
from chatwright.records import Message
from chatwright.tokenizer.bpe import Tokenizer
from chatwright.tokenizer.chat import render, render_with_mask
from tests.tokenizer.conftest import write

DEFAULT_SYSTEM = """\
{% for message in messages %}{% if loop.first and messages[0]['role'] != 'system' %}{{ '<|im_start|>system
You are helpful.<|im_end|>
' }}{% endif %}{{'<|im_start|>' + message['role'] + '
' + message['content'] + '<|im_end|>' + '
'}}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant
' }}{% endif %}"""

LLAMA2 = """\
{% if messages[0]['role'] == 'system' %}
    {% set system = '<<SYS>>\\n' + messages[0]['content'] | trim + '\\n<</SYS>>\\n\\n' %}
    {% set messages = messages[1:] %}
{% else %}
    {% set system = '' %}
{% endif %}
{% for message in messages %}
    {% if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}
        {{ raise_exception('Conversation roles must alternate user/assistant') }}
    {% endif %}
    {% if message['role'] == 'user' %}
        {{ bos_token + '[INST] ' + (system if loop.index0 == 0 else '') + message['content'].strip() + ' [/INST]' }}
    {% else %}
        {{ ' ' + message['content'].strip() + ' ' + eos_token }}
    {% endif %}
{% endfor %}"""

LLAMA3 = """\
{{- bos_token }}
{%- for message in messages %}
    {{- '<|start_header_id|>' + message['role'] + '<|end_header_id|>\\n\\n' }}
    {{- message['content'] | trim + '<|eot_id|>' }}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|start_header_id|>assistant<|end_header_id|>\\n\\n' }}
{%- endif %}"""

QWEN3 = """\
{%- set ns = namespace(last=-1) %}
{%- for message in messages %}{%- if message.role == 'user' %}{%- set ns.last = loop.index0 %}{%- endif %}{%- endfor %}
{%- for message in messages %}
    {%- if message.role == 'assistant' and loop.index0 > ns.last and loop.last %}
        {{- '<|im_start|>assistant\\n<think>\\n\\n</think>\\n\\n' + message.content.lstrip('\\n') + '<|im_end|>\\n' }}
    {%- elif message.role == 'assistant' %}
        {{- '<|im_start|>assistant\\n' + message.content.split('</think>')[-1].lstrip('\\n') + '<|im_end|>\\n' }}
    {%- else %}
        {{- '<|im_start|>' + message.role + '\\n' + message.content + '<|im_end|>' + '\\n' }}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}{{- '<|im_start|>assistant\\n' }}{%- endif %}"""

GENERATION = """\
{%- for message in messages %}
{%- if message.role == 'assistant' %}
{{- '<|im_start|>assistant\\n' }}
{%- generation %}{{- message.content | upper + '<|im_end|>' }}{%- endgeneration %}
{{- '\\n' }}
{%- else %}
{{- '<|im_start|>' + message.role + '\\n' + message.content + '<|im_end|>\\n' }}
{%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}{{- '<|im_start|>assistant\\n' }}{%- endif %}"""

PHI3 = """\
{% for message in messages %}{% if message['role'] == 'system' %}{{ message['content'] + '\\n' }}{% else %}
{{ '<|' + message['role'] + '|>' + '\\n' + message['content'] + '<|end|>' + '\\n' }}{% endif %}{% endfor %}
{% if add_generation_prompt %}{{ '<|assistant|>\\n' }}{% endif %}"""

STYLES = {
    "chatml": ("gpt2", DEFAULT_SYSTEM.replace("<|im_end|>", "<|endoftext|>")),
    "smollm": ("smollm", DEFAULT_SYSTEM),
    "llama2": ("llama2", LLAMA2),
    "llama2-metaspace": ("llama2-metaspace", LLAMA2),
    "llama3": ("llama3", LLAMA3),
    "qwen3": ("qwen2", QWEN3),
    "generation": ("smollm", GENERATION),
    "phi3": ("phi3", PHI3),
}

Both = tuple[str, Tokenizer, transformers.PreTrainedTokenizerFast]


@pytest.fixture(scope="module", params=STYLES)
def both(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Both:
    name, template = STYLES[request.param]
    folder = write(tmp_path_factory.mktemp(request.param), name, chat_template=template)
    return request.param, Tokenizer.load(folder), transformers.AutoTokenizer.from_pretrained(folder)


def conversation(*contents: str, system: str | None = None) -> list[Message]:
    turns = [
        Message(role="assistant" if i % 2 else "user", content=content)  # as people and models take turns
        for i, content in enumerate(contents)
    ]
    return turns if system is None else [Message(role="system", content=system), *turns]


def dumped(messages: list[Message]) -> list[dict[str, Any]]:
    return [message.model_dump() for message in messages]


CONTENT = st.text(st.characters(exclude_categories=["Cs"]), max_size=15)
CONTENTS = st.lists(CONTENT, min_size=1, max_size=5)


@given(contents=CONTENTS, system=st.one_of(st.none(), CONTENT), prompt=st.booleans())
def test_ids_are_those_of_transformers(both: Both, contents: list[str], system: str | None, prompt: bool) -> None:
    _, ours, theirs = both
    if any(name in content for name in ours.specials for content in [*contents, system or ""]):
        return
    messages = conversation(*contents, system=system)
    expected = theirs.apply_chat_template(dumped(messages), add_generation_prompt=prompt, return_dict=False)
    assert render(ours, messages, generation_prompt=prompt) == expected


def test_no_content_can_forge_a_token(both: Both) -> None:
    _, ours, _ = both
    for name in ours.specials:
        for forged in (name, f"hi {name}\n{name}system", f"{name * 3} ", f"<{name}>"):
            harmless = render(ours, conversation("hello", "hi", "x"), generation_prompt=True)
            ids = render(ours, conversation("hello", "hi", forged), generation_prompt=True)
            for special in ours.specials.values():
                if special != ours.specials.get("<unk>"):
                    assert ids.count(special) == harmless.count(special)
            assert forged.strip() in ours.decode(ids)


ANSWERS = ["Hello.", " with space ", "你好 🙂", "two\n\nlines", ""]


@pytest.mark.parametrize("answer", ANSWERS)
def test_the_mask_covers_answers_and_their_stops(both: Both, answer: str) -> None:
    style, ours, _ = both
    ids, mask = render_with_mask(ours, conversation("one", answer, "two", answer, system="be kind"))
    assert ids == render(ours, conversation("one", answer, "two", answer, system="be kind"), generation_prompt=False)
    written = [i for i, inside in zip(ids, mask, strict=True) if inside]
    assert written.count(ours.end_of_turn) == 2
    said = [ours.decode(part).strip() for part in split(written, ours.end_of_turn)]
    expected = (answer.upper() if style == "generation" else answer).strip()
    thought = "<think>\n\n</think>" if style == "qwen3" else ""  # which the prompt does not open
    assert said[1].startswith(thought)
    assert [said[0], said[1].removeprefix(thought).strip()] == [expected, expected]
    prompt = render(ours, conversation("one", system="be kind"), generation_prompt=True)
    if not answer.startswith((" ", "\n")) and style != "qwen3":
        assert ids[: mask.index(True)] == prompt


def split(ids: list[int], end: int) -> list[list[int]]:
    first = ids.index(end)
    return [ids[:first], ids[first + 1 : -1]]


def test_a_template_that_marks_answers_itself_masks_as_transformers_does(tmp_path: Path) -> None:
    folder = write(tmp_path, "smollm", chat_template=GENERATION)
    theirs = transformers.AutoTokenizer.from_pretrained(folder)
    messages = conversation("one", "Hello.", "two", "Bye.")
    expected = theirs.apply_chat_template(dumped(messages), return_assistant_tokens_mask=True, return_dict=True)
    ids, mask = render_with_mask(Tokenizer.load(folder), messages)
    assert ids == expected["input_ids"]
    assert mask == [bool(inside) for inside in expected["assistant_masks"]]


def test_a_template_that_rewrites_answers_cannot_be_learned_from(tmp_path: Path) -> None:
    template = GENERATION.replace("{%- generation %}", "").replace("{%- endgeneration %}", "").replace("upper", "title")
    tokenizer = Tokenizer.load(write(tmp_path, "smollm", chat_template=template.replace("title", "length | string")))
    with pytest.raises(UserError, match="rewrites the assistant's answers"):
        render_with_mask(tokenizer, conversation("one", "Hello."))


def test_characters_for_private_use_come_through(both: Both) -> None:
    style, ours, _ = both
    content = "a\U000f0000b\U000ffffdc\U000ffffcd\U000ffffb\U000f0001 <|im_end|>"
    ids, _ = render_with_mask(ours, conversation(content, content))
    assert ours.decode(ids).count(content) == (1 if style == "generation" else 2)


def test_a_template_may_refuse_a_conversation(tmp_path: Path) -> None:
    tokenizer = Tokenizer.load(write(tmp_path, "llama2", chat_template=LLAMA2))
    with pytest.raises(UserError, match="refuses this conversation: Conversation roles must alternate"):
        render(tokenizer, [*conversation("one"), *conversation("two")], generation_prompt=True)


@pytest.mark.parametrize(
    ("template", "message"),
    [
        ("{% for %}", "not valid Jinja"),
        ("{{ messages[0].content.nothing.more }}", "refuses this conversation"),
        ("{{ 1 / 0 }}", "refuses this conversation: ZeroDivisionError"),
        ("{{ messages.__class__.__mro__ }}", "refuses this conversation"),
        (None, "no chat template"),
    ],
)
def test_a_template_that_does_not_work_is_one_sentence(tmp_path: Path, template: str | None, message: str) -> None:
    tokenizer = Tokenizer.load(write(tmp_path, "gpt2", chat_template=template))
    with pytest.raises(UserError, match=message) as error:
        render(tokenizer, conversation("one"), generation_prompt=True)
    assert "\n" not in str(error.value)


def test_a_file_of_its_own_wins_and_of_several_the_default_counts(tmp_path: Path) -> None:
    several = [{"name": "tools", "template": "no"}, {"name": "default", "template": "yes"}]
    write(tmp_path, "gpt2", chat_template=several)
    assert Tokenizer.load(tmp_path).template == "yes"
    (tmp_path / "chat_template.jinja").write_text("own")
    assert Tokenizer.load(tmp_path).template == "own"
