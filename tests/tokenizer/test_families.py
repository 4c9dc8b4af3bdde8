"""Other models' tokenizers: ids, text and specials as Hugging Face has them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import tokenizers
import transformers
from hypothesis import given
from hypothesis import strategies as st

from chatwright.errors import UserError
from chatwright.tokenizer.bpe import Tokenizer
from tests.tokenizer.conftest import Family, write

SAMPLES = [
    "",
    " ",
    "The capital of France is Paris.",
    " leading and trailing ",
    "DON'T don't I'll we'VE",
    "a  b   c\t\td\n\n\ne \n",
    "1 12 123 1234 12345.67",
    "你好，世界！你好 吗",
    "🙂👩‍👩‍👧🇫🇷",
    "e\u0301 \u00e9 \u212b \ufb01",
    "def f(x):\n    return x ** 2\n",
    "\u0000\u0007\x7f\u00ad\ufeff",
    "<|im_ end|> < s> <unk",
]
TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=30)


def harmless(family: Family, text: str) -> bool:
    return not any(name in text for name in family.ours.specials)


def check(family: Family, text: str) -> None:
    ids = family.ours.encode(text)
    assert ids == family.theirs(text, add_special_tokens=False)["input_ids"]
    decoded = family.theirs.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False)
    assert family.ours.decode(ids) == decoded
    stream = family.ours.stream()
    assert "".join(stream.feed(i) for i in ids) + stream.rest() == decoded


@given(text=TEXT)
def test_ids_and_text_are_those_of_hugging_face(family: Family, text: str) -> None:
    if harmless(family, text):
        check(family, text)


@pytest.mark.parametrize("text", SAMPLES)
def test_so_are_those_of_texts_with_a_catch(family: Family, text: str) -> None:
    check(family, text)


def test_batches_bytes_and_texts_give_the_same(family: Family) -> None:
    expected = [family.ours.encode(text) for text in SAMPLES]
    assert family.ours.encode_batch(SAMPLES) == expected
    assert [family.ours.encode_bytes(text.encode()) for text in SAMPLES] == expected
    surrogate = family.ours.encode("a\ud800b")
    if family.name in ("gpt2", "llama3"):
        assert family.ours.decode_bytes(surrogate).decode("utf-8", "surrogatepass") == "a\ud800b"
    else:
        assert surrogate == family.ours.encode("a\ufffdb")


def test_bytes_that_are_no_text_are_read(family: Family) -> None:
    ids = family.ours.encode_bytes(b"a\xff\xfeb")
    assert all(0 <= i < family.ours.vocab_size for i in ids)
    if family.name in ("gpt2", "llama3"):
        assert family.ours.decode_bytes(ids) == b"a\xff\xfeb"


@given(data=st.data())
def test_no_text_becomes_a_special_token(family: Family, data: st.DataObject) -> None:
    parts = data.draw(st.lists(st.one_of(st.sampled_from(sorted(family.ours.specials)), st.text(max_size=4))))
    unknown = family.ours.specials.get(family.ours.roles.get("unk_token", ""))
    assert not (set(family.ours.specials.values()) - {unknown}) & set(family.ours.encode("".join(parts)))


def test_tokens_that_are_not_special_are_text(tmp_path: Path) -> None:
    tokenizer = Tokenizer.load(write(tmp_path, "qwen2"))
    ids = tokenizer.encode("<think>hm</think>")
    assert len(ids) < 6
    assert tokenizer.decode(ids) == "<think>hm</think>"


def test_saved_and_loaded_it_is_the_same_for_both(family: Family, tmp_path: Path) -> None:
    family.ours.save(tmp_path)
    again = Tokenizer.load(tmp_path)
    theirs = transformers.AutoTokenizer.from_pretrained(tmp_path)
    assert again.hash == family.ours.hash
    assert (again.stops, again.pad, again.end_of_text) == (
        family.ours.stops,
        family.ours.pad,
        family.ours.end_of_text,
    )
    for text in SAMPLES:
        assert theirs(text)["input_ids"] == family.theirs(text)["input_ids"]  # with a begin of text, where there is one
        assert again.encode(text) == family.ours.encode(text)


def test_text_that_breaks_off_within_a_character_ends_as_one_replacement(tmp_path: Path) -> None:
    tokenizer = Tokenizer.load(write(tmp_path, "gpt2"))
    stream = tokenizer.stream()
    ids = tokenizer.encode_bytes("né".encode()[:-1])
    assert "".join(stream.feed(i) for i in ids) == "n"
    assert stream.rest() == "\ufffd"


# --- what the tokens are for ------------------------------------------------------------------------------------------


def change(folder: Path, file: str, **fields: Any) -> Path:
    path = folder / file
    before = json.loads(path.read_text()) if path.is_file() else {}
    path.write_text(json.dumps({key: value for key, value in {**before, **fields}.items() if value is not None}))
    return folder


def test_tokens_may_be_named_as_objects(tmp_path: Path) -> None:
    write(tmp_path, "smollm", eos_token={"content": "<|im_end|>", "__type": "AddedToken"})
    assert Tokenizer.load(tmp_path).roles["eos_token"] == "<|im_end|>"


def test_answers_end_where_the_model_says(tmp_path: Path) -> None:
    write(tmp_path, "smollm")
    specials = Tokenizer.load(tmp_path).specials
    change(tmp_path, "config.json", eos_token_id=specials["<|im_start|>"])
    assert Tokenizer.load(tmp_path).stops == {specials["<|im_end|>"], specials["<|im_start|>"]}
    change(tmp_path, "generation_config.json", eos_token_id=[specials["<|im_end|>"], specials["<|endoftext|>"], 99_999])
    assert Tokenizer.load(tmp_path).stops == {specials["<|im_end|>"], specials["<|endoftext|>"]}


def test_a_tokenizer_that_names_no_end_takes_the_models(tmp_path: Path) -> None:
    write(tmp_path, "gpt2")
    (tmp_path / "tokenizer_config.json").unlink()
    ends = json.loads((tmp_path / "tokenizer.json").read_text())["added_tokens"][0]["id"]
    change(tmp_path, "config.json", eos_token_id=ends)
    read = Tokenizer.load(tmp_path)
    assert read.end_of_turn == read.end_of_text == read.pad == ends
    assert read.stops == {ends}


def test_a_tokenizer_may_have_no_end_at_all(tmp_path: Path) -> None:
    """As GPT-1's, which only continues text."""
    write(tmp_path, "gpt1")
    (tmp_path / "tokenizer_config.json").unlink()
    read = Tokenizer.load(tmp_path)
    assert (read.end_of_turn, read.stops, read.begin_of_text) == (None, frozenset(), None)
    with pytest.raises(UserError, match="no token that ends a text"):
        _ = read.end_of_text


def test_a_folder_with_the_older_files_alone_says_what_to_do(tmp_path: Path) -> None:
    (tmp_path / "vocab.json").write_text("{}")
    with pytest.raises(UserError, match=r"AutoTokenizer\.from_pretrained\(.*\.save_pretrained"):
        Tokenizer.load(tmp_path)


def test_a_role_without_a_token_is_left_out(tmp_path: Path) -> None:
    assert "pad_token" not in Tokenizer.load(write(tmp_path, "gpt2", pad_token="[PAD]")).roles


@pytest.mark.parametrize("model", [tokenizers.models.WordPiece({"a": 0}, unk_token="a"), tokenizers.models.Unigram()])
def test_what_is_not_bpe_is_named(model: Any, tmp_path: Path) -> None:
    tokenizers.Tokenizer(model).save(str(tmp_path / "tokenizer.json"))
    with pytest.raises(UserError, match=f"its model is '{type(model).__name__}' and not BPE"):
        Tokenizer.load(tmp_path)
