from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chatwright.corpus.extract import clean, html_to_text, rst_to_text, tidy

# fmt: off
MARKUP = st.sampled_from((
    "<p>", "</p>", "<br/>", "<ul><li>", "</ul>", "<b ", "</div></div>", "<script>if (a<b) {}</script>", "<!-- c -->",
    "&nbsp;", "&nbsp", "&amp;amp;", "&eacute;", "&#x1F642;", "&bogus;", "<![CDATA[x]]>", "<table><td>1<td>2",
    "<a href='x\">y</a>", "\x00", "\r\n", "\ufeff",
))
# fmt: on


@pytest.mark.parametrize(
    ("html", "text"),
    [
        ("<p>One<br>two</p>three", "One\ntwo\n\nthree"),
        ("<strong>note:</strong>&nbsp;a &amp; b", "note: a & b"),
        ("<ul><li>first<li><em>sec</em>ond</ul>", "- first\n- second"),
        ("a<script>alert('<p>')</script><style>b{}</style><title>t</title>c", "ac"),
        ("<table><tr><td>1<td>2<tr><td>3</table>", "1 2\n\n3"),
        ("Proven&ccedil;al &ldquo;x&rdquo;", "Provençal “x”"),
        ("if a < b and c > d", "if a < b and c > d"),
        ("<p>unclosed <b>bold", "unclosed bold"),
        ("", ""),
        ("<p> \n </p>", ""),
    ],
)
def test_html_becomes_what_a_reader_sees(html: str, text: str) -> None:
    assert re.sub(r"\n+", "\n", clean(html, "html")) == re.sub(r"\n+", "\n", text)


def test_deeply_nested_html_does_not_break() -> None:
    assert html_to_text("<div>" * 20_000 + "deep") == "deep"


@given(parts=st.lists(st.one_of(MARKUP, st.text(max_size=5)), max_size=12))
def test_ugly_html_leaves_no_tags_or_stray_white_space(parts: list[str]) -> None:
    text = clean("".join(parts), "html")
    assert "<p>" not in text
    assert "<script" not in text
    assert not re.search(r"&(?:nbsp|amp|eacute);", text)
    _assert_tidy(text)


@given(raw=st.text())
def test_any_text_is_tidied_once_and_for_all(raw: str) -> None:
    _assert_tidy(tidy(raw))


def _assert_tidy(text: str) -> None:
    assert text == text.strip()
    assert "\n\n\n" not in text
    assert not re.search(r" \n|(?<=\S)  ", text)
    assert not re.search(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\ufeff\u200b]", text)
    text.encode()  # no lone surrogate


@pytest.mark.parametrize(("broken", "mended"), [("schÃ¶n", "schön"), ("donâ€™t", "don’t"), ("&lt;", "<"), ("ok", "ok")])
def test_mojibake_is_mended(broken: str, mended: str) -> None:
    assert tidy(broken) == mended


def test_chinese_punctuation_stays_as_it_is() -> None:
    assert tidy("你好，世界！“好”吗？") == "你好，世界！“好”吗？"


def test_rst_marks_go_and_code_stays() -> None:
    raw = "Title\n=====\n\nUse ``f(x)`` of :class:`~pkg.Foo`, *not* **g**::\n\n    a = b * c ** d\n\n"
    raw += ".. versionadded:: 3.1\n"
    assert tidy(rst_to_text(raw)) == "Title\n\nUse f(x) of pkg.Foo, not g:\n\n    a = b * c ** d"
