"""Small tokenizers of other models' kinds, each as a folder that transformers and we both load."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import tokenizers
import transformers
from tokenizers import AddedToken, Regex, decoders, models, normalizers, pre_tokenizers, processors, trainers

from chatwright.tokenizer.bpe import Tokenizer

TEXTS = [
    "The capital of France is Paris. Don't you know? I'll say it: it's 12345 km away.\n\n  Indented   text\t.",
    "中文和英文混在一起: 你好，世界！Ünïcödé and emoji 🙂🙂 def f(x):\n    return x ** 2  # code",
    "user\nassistant\nsystem\n[INST] hello there, general kenobi [/INST]",
] * 20

SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}%s| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
CHATML = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]


def special(*names: str, **how: bool) -> list[AddedToken]:
    return [AddedToken(name, special=True, normalized=False, **how) for name in names]


def byte_level(pre: Any = None, normalizer: Any = None, added: Any = (), size: int = 400) -> tokenizers.Tokenizer:
    made = tokenizers.Tokenizer(models.BPE())
    made.normalizer = normalizer
    plain = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=pre is None)
    made.pre_tokenizer = plain if pre is None else pre_tokenizers.Sequence([pre, plain])
    made.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    made.train_from_iterator(
        TEXTS, trainers.BpeTrainer(vocab_size=size, initial_alphabet=alphabet, show_progress=False)
    )
    made.add_tokens(list(added) or special(*CHATML))
    return made


def lacks_bytes() -> tokenizers.Tokenizer:
    made = tokenizers.Tokenizer(models.BPE())
    digits = pre_tokenizers.Digits(individual_digits=True)
    made.pre_tokenizer = pre_tokenizers.Sequence([digits, pre_tokenizers.ByteLevel(add_prefix_space=False)])
    made.decoder = decoders.ByteLevel()
    alphabet = sorted(set(pre_tokenizers.ByteLevel.alphabet()) - {"À", "Ć", "þ", "ÿ"})  # of 0xC0, 0x04, 0xFE, 0xFF
    trainer = trainers.BpeTrainer(vocab_size=400, initial_alphabet=alphabet, show_progress=False)
    made.train_from_iterator(TEXTS, trainer)
    made.add_tokens(special(*CHATML))
    return made


def llama3() -> tokenizers.Tokenizer:
    names = ("<|begin_of_text|>", "<|eot_id|>", "<|start_header_id|>", "<|end_header_id|>")
    made = byte_level(pre_tokenizers.Split(Regex(SPLIT % "{1,3}"), "isolated"), added=special(*names))
    description = json.loads(made.to_str())
    description["model"]["ignore_merges"] = True
    made = tokenizers.Tokenizer.from_str(json.dumps(description))
    begin = made.token_to_id(names[0])
    made.post_processor = processors.TemplateProcessing(single=f"{names[0]} $A", special_tokens=[(names[0], begin)])
    return made


def sentencepiece(metaspace: bool) -> tokenizers.Tokenizer:
    made = tokenizers.Tokenizer(models.BPE(unk_token="<unk>", byte_fallback=True, fuse_unk=True))
    if metaspace:
        made.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first", split=False)
    else:
        made.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    made.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    names = ["<unk>", "<s>", "</s>", *(f"<0x{i:02X}>" for i in range(256))]
    words = [word for text in TEXTS for word in text.split()]
    made.train_from_iterator(
        words, trainers.BpeTrainer(vocab_size=600, special_tokens=names, max_token_length=8, show_progress=False)
    )
    description = json.loads(made.to_str())
    description["added_tokens"] = description["added_tokens"][:3]
    return tokenizers.Tokenizer.from_str(json.dumps(description))


def gpt1() -> tokenizers.Tokenizer:
    made = tokenizers.Tokenizer(models.BPE(unk_token="<unk>", end_of_word_suffix="</w>"))
    made.normalizer = normalizers.BertNormalizer(lowercase=True)
    made.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    made.decoder = decoders.BPEDecoder(suffix="</w>")
    trainer = trainers.BpeTrainer(
        vocab_size=400, special_tokens=["<unk>"], end_of_word_suffix="</w>", show_progress=False
    )
    made.train_from_iterator(TEXTS, trainer)
    made.add_tokens(special("<end>"))
    return made


def greedy_specials() -> tokenizers.Tokenizer:
    """As Phi-3, whose turn tokens eat the white space after them."""
    return byte_level(added=[*special("<|user|>", "<|assistant|>", "<|end|>", rstrip=True), *special("<|endoftext|>")])


QWEN2_ADDED = [
    *special(*CHATML),
    *(AddedToken(name, special=False, normalized=False) for name in ("<think>", "</think>")),
]

MADE: dict[str, tuple[Callable[[], tokenizers.Tokenizer], dict[str, str]]] = {
    "gpt2": (byte_level, {"eos_token": "<|endoftext|>"}),
    "smollm": (lacks_bytes, {"eos_token": "<|im_end|>", "pad_token": "<|im_end|>", "bos_token": "<|im_start|>"}),
    "qwen2": (
        lambda: byte_level(pre_tokenizers.Split(Regex(SPLIT % ""), "isolated"), normalizers.NFC(), QWEN2_ADDED),
        {"eos_token": "<|im_end|>", "pad_token": "<|endoftext|>"},
    ),
    "llama3": (llama3, {"eos_token": "<|eot_id|>", "bos_token": "<|begin_of_text|>"}),
    "llama2": (lambda: sentencepiece(False), {"eos_token": "</s>", "bos_token": "<s>", "unk_token": "<unk>"}),
    "llama2-metaspace": (lambda: sentencepiece(True), {"eos_token": "</s>", "bos_token": "<s>", "unk_token": "<unk>"}),
    "gpt1": (gpt1, {"eos_token": "<end>", "unk_token": "<unk>"}),
    "phi3": (greedy_specials, {"eos_token": "<|end|>", "pad_token": "<|endoftext|>"}),
}


@dataclass(frozen=True)
class Family:
    """One kind of tokenizer: its folder, our reading of it, and that of transformers."""

    name: str
    folder: Path
    ours: Tokenizer
    theirs: transformers.PreTrainedTokenizerFast


def write(folder: Path, name: str, **config: Any) -> Path:
    """Write a tokenizer's folder as transformers would find it on the hub."""
    make, roles = MADE[name]
    folder.mkdir(parents=True, exist_ok=True)
    make().save(str(folder / "tokenizer.json"))
    fields = {"tokenizer_class": "PreTrainedTokenizerFast", **roles, **config}
    (folder / "tokenizer_config.json").write_text(json.dumps(fields))
    return folder


@pytest.fixture(scope="package", params=MADE)
def family(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Family:
    folder = write(tmp_path_factory.mktemp(request.param), request.param)
    theirs = transformers.AutoTokenizer.from_pretrained(folder)
    return Family(request.param, folder, Tokenizer.load(folder), theirs)
