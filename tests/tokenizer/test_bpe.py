from __future__ import annotations

import json
from pathlib import Path

import pytest
import tokenizers
import transformers
from hypothesis import given
from hypothesis import strategies as st

from chatwright.errors import UserError
from chatwright.tokenizer.bpe import SPECIALS, TURN, Tokenizer, train_bpe

TEXTS = [
    "The capital of France is Paris. Don't you know? I'll say it: it's 12345 km away.\n\n  Indented   text\t.",
    "中文和英文混在一起: 你好，世界！Ünïcödé and emoji 🙂🙂",
] * 20
SAMPLES = [
    *TEXTS[:2],
    "",
    " ",
    "\n\n\n",
    "a  b",
    "I'LL'Re 's",
    "x" * 500,
    "<|im_end|> <|endoftext|>",
    "\u00a0\u3000 a\u0301",
]


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return train_bpe(TEXTS, 380)


@pytest.fixture(scope="module")
def folder(tokenizer: Tokenizer, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("tokenizer")
    tokenizer.save(path)
    return path


@given(text=st.text(st.characters()))
def test_any_text_comes_back_exactly_lone_surrogates_too(tokenizer: Tokenizer, text: str) -> None:
    assert tokenizer.decode_bytes(tokenizer.encode(text)).decode("utf-8", "surrogatepass") == text


@given(data=st.binary())
def test_any_bytes_come_back_exactly(tokenizer: Tokenizer, data: bytes) -> None:
    assert tokenizer.decode_bytes(tokenizer.encode_bytes(data)) == data


@given(text=st.text(st.characters(exclude_categories=["Cs"])))
def test_ids_equal_hugging_face_tokenizers(tokenizer: Tokenizer, folder: Path, text: str) -> None:
    reference = _without_specials(folder)
    assert tokenizer.encode(text) == reference.encode(text).ids
    assert tokenizer.decode(tokenizer.encode(text)) == text


def test_no_text_at_all_gives_the_bytes_and_the_specials() -> None:
    assert train_bpe([], 1000).vocab_size == train_bpe([""], 1000).vocab_size == 260
    assert train_bpe(["12345"], 1000).vocab_size == 264  # four merges make it one token, and there is nothing else


def _without_specials(folder: Path) -> tokenizers.Tokenizer:
    description = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))
    return tokenizers.Tokenizer.from_str(json.dumps({**description, "added_tokens": []}))


@given(parts=st.lists(st.one_of(st.sampled_from(SPECIALS), st.text(max_size=5))))
def test_text_never_becomes_a_special_token(tokenizer: Tokenizer, parts: list[str]) -> None:
    special = {tokenizer.end_of_text, tokenizer.specials[TURN], tokenizer.end_of_turn, tokenizer.pad}
    assert len(special) == 4
    assert not special & set(tokenizer.encode("".join(parts)))


def test_the_saved_file_loads_in_hugging_face_with_equal_ids(tokenizer: Tokenizer, folder: Path) -> None:
    file = tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json"))
    auto = transformers.AutoTokenizer.from_pretrained(folder)
    for text in SAMPLES:
        if "<|" not in text:
            assert file.encode(text).ids == auto(text)["input_ids"] == tokenizer.encode(text)
    assert file.get_vocab_size() == len(auto) == tokenizer.vocab_size
    assert (auto.eos_token_id, auto.pad_token_id) == (tokenizer.end_of_turn, tokenizer.pad)


@pytest.mark.parametrize("model_type", ["qwen3", "gpt2"])
def test_beside_a_model_config_hugging_face_still_gives_equal_ids(
    tokenizer: Tokenizer, tmp_path: Path, model_type: str
) -> None:
    tokenizer.save(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps({"model_type": model_type}))
    auto = transformers.AutoTokenizer.from_pretrained(tmp_path)
    for text in SAMPLES:
        if "<|" not in text:
            assert auto(text)["input_ids"] == tokenizer.encode(text)


def test_a_batch_gives_what_single_texts_give(tokenizer: Tokenizer) -> None:
    texts = [*SAMPLES, "\ud800x"]
    assert tokenizer.encode_batch(texts) == [tokenizer.encode(text) for text in texts]


def test_training_is_deterministic_and_reaches_the_vocabulary(tokenizer: Tokenizer) -> None:
    assert train_bpe(TEXTS, 380).hash == tokenizer.hash
    assert train_bpe(TEXTS, 300).hash != tokenizer.hash
    assert tokenizer.vocab_size == 380


def test_load_gives_the_tokenizer_that_was_saved(tokenizer: Tokenizer, folder: Path) -> None:
    loaded = Tokenizer.load(folder)
    assert loaded.hash == tokenizer.hash
    assert [loaded.encode(text) for text in SAMPLES] == [tokenizer.encode(text) for text in SAMPLES]


def test_decode_skips_specials_and_replaces_broken_utf8(tokenizer: Tokenizer) -> None:
    ids = [
        tokenizer.specials[TURN],
        *tokenizer.encode("hi"),
        tokenizer.end_of_turn,
        tokenizer.pad,
        tokenizer.end_of_text,
    ]
    assert tokenizer.decode(ids) == "hi"
    assert tokenizer.decode(tokenizer.encode_bytes(b"a\xffb")) == "a\ufffdb"


def test_a_missing_or_broken_tokenizer_is_a_user_error(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="does not exist"):
        Tokenizer.load(tmp_path)
    whole = (folder / "tokenizer.json").read_text(encoding="utf-8")
    description = json.loads(whole)
    broken = [
        whole[:100],
        "[]",
        "{}",
        json.dumps({**description, "model": {}}),
    ]
    for text in broken:
        (tmp_path / "tokenizer.json").write_text(text)
        with pytest.raises(UserError, match=r"is not valid JSON|cannot be used as a tokenizer"):
            Tokenizer.load(tmp_path)


def test_a_vocabulary_smaller_than_the_bytes_is_a_user_error() -> None:
    with pytest.raises(UserError, match="at least 260"):
        train_bpe(TEXTS, 259)
