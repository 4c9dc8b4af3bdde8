"""What names or reaches a person goes, and what only looks like it stays, in English and Chinese."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chatwright.service.scrub import chinese_identity, iban, luhn, scrub


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Write to anna.b+x@mail.example.org, please.", "Write to [email], please."),
        ("我的邮箱是anna@example.com，谢谢。", "我的邮箱是[email]，谢谢。"),
        ("anna (at) example (dot) org", "[email]"),
        ("Ring +44 20 7946 0958 or (415) 555-0132 or 415-555-0132.", "Ring [phone] or [phone] or [phone]."),
        ("+1 (415) 555-0132 works, 0049 30 901820 too", "[phone] works, [phone] too"),
        ("打我手机13800138000，或者 138 0013 8000、138-0013-8000。", "打我手机[phone]，或者 [phone]、[phone]。"),
        ("固定电话010-62751234和+86 138 0013 8000", "固定电话[phone]和[phone]"),
        ("My phone number is 5551234", "My phone[phone]"),
        ("电话：62751234", "电话[phone]"),
        ("身份证11010519491231002X号", "身份证[id]号"),
        ("SSN 078-05-1120", "SSN [id]"),
        ("passport no. C01X00T47? Passport: X1234567", "passport no. C01X00T47? Passport[id]"),
        ("护照号E12345678", "护照[id]"),
        ("Card 4111 1111 1111 1111 or 5500-0000-0000-0004.", "Card [card] or [card]."),
        ("银行卡6222021234567890128是我的", "银行卡[card]是我的"),
        ("IBAN DE89 3704 0044 0532 0130 00", "IBAN [account]"),
        ("From 203.0.113.7 and 2001:db8::8a2e:370:7334.", "From [ip] and [ip]."),
    ],
)
def test_what_reaches_a_person_goes(text: str, expected: str):
    assert scrub(text) == expected


@pytest.mark.parametrize(
    "text",
    [
        "The population of Japan is 125,124,989 and of Tokyo 13,960,000.",
        "3.14159265358979 and 2718281828",
        "In 1949-12-31 and 2024/01/15 12:30:45.",
        "127.0.0.1 is this machine; version 1.2.3 and 10.0",
        "Card 4111 1111 1111 1112 has a wrong digit.",
        "日本的人口是125124989人，面积377975平方公里。",
        "f(x) @ g and user@host",
        "0123456789 is a row of digits; 12345678901234567890 another",
        "::1 and a::b::c and 12:30",
        "000-12-3456 and 900-12-3456 were never given out",
        "2 + 2 = 4, 10 - 3 = 7, 1 000 000",
    ],
)
def test_what_only_looks_like_it_stays(text: str):
    assert scrub(text) == text


def test_checks_of_digits_are_those_of_the_standards():
    assert luhn("79927398713" + "") is False  # right, but too short for a card
    assert luhn("378282246310005")
    assert not luhn("0000000000000000")
    assert chinese_identity("11010519491231002X")
    assert not chinese_identity("110105194912310021")
    assert iban("GB82 WEST 1234 5698 7654 32")
    assert not iban("GB82 WEST 1234 5698 7654 33")


@given(st.text(max_size=200))
def test_scrubbing_twice_changes_nothing_more(text: str):
    once = scrub(text)
    assert scrub(once) == once
