"""Tokenizers in GGUF: every kind that llama.cpp has comes back with equal ids, and llama.cpp agrees."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from chatwright.errors import UserError
from chatwright.model.decoder import Decoder
from chatwright.model.gguf import read_gguf, write_gguf
from chatwright.model.presets import preset
from chatwright.tokenizer.bpe import Tokenizer
from tests.tokenizer.conftest import write

KINDS = ["gpt2", "smollm", "qwen2", "llama3", "llama2"]
LINES = [
    "The capital of France is Paris.",
    "DON'T we'll I've 12 1234 3.14",
    "def f(x):\n\treturn x ** 2",
    "你好，世界！ hello 🙂",
    "general kenobi",
    "a  b   c",
]


def written(kind: str, tmp_path: Path, template: str | None = None) -> tuple[Tokenizer, Path]:
    tokenizer = Tokenizer.load(write(tmp_path / kind, kind, chat_template=template))
    with torch.random.fork_rng():
        model = Decoder(preset("llama", vocab_size=tokenizer.vocab_size + 3, context=64, layers=1, d_model=32, heads=2))
    write_gguf(model, tmp_path / "model.gguf", tokenizer, kind)
    return tokenizer, tmp_path / "model.gguf"


@pytest.mark.parametrize("kind", KINDS)
def test_ids_roles_and_template_come_back(kind: str, tmp_path: Path) -> None:
    tokenizer, path = written(kind, tmp_path, template="{{ messages[0].content }}")
    _, read = read_gguf(path)
    for line in LINES:
        assert read.encode(line) == tokenizer.encode(line)
        assert read.decode(read.encode(line)) == line
    assert read.template == tokenizer.template
    assert read.roles == tokenizer.roles
    assert read.specials == tokenizer.specials
    assert (read.stops, read.begin_of_text) == (tokenizer.stops, tokenizer.begin_of_text)
    begins = tokenizer.description["post_processor"] is not None
    assert (read.description["post_processor"] is not None) == begins


@pytest.mark.parametrize("kind", KINDS)
def test_llama_cpp_makes_equal_ids(kind: str, tmp_path: Path) -> None:
    llama_cpp = pytest.importorskip("llama_cpp", reason="llama-cpp-python is not installed")
    tokenizer, path = written(kind, tmp_path)
    theirs = llama_cpp.Llama(str(path), n_ctx=64, vocab_only=True, verbose=False)
    for line in LINES:
        assert theirs.tokenize(line.encode(), add_bos=False, special=False) == tokenizer.encode(line)
    theirs.close()


def test_a_tokenizer_that_llama_cpp_has_no_name_for_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no name for the way this tokenizer cuts text"):
        written("gpt1", tmp_path)
