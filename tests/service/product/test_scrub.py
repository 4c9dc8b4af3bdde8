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


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("My name is Anna Smith and I am happy.", "My name is [name] and I am happy."),
        ("my name's bob.", "my name's [name]."),
        ("hi, my name is anna smith, hello", "hi, my name is [name], hello"),
        ("My full name is J. R. O'Brien. Ring me.", "My full name is [name]. Ring me."),
        ("my wife’s name is Zoë de la Cruz", "my wife’s name is [name]"),
        ("My name is “王小明”", "My name is “[name]”"),
        ("I'm called Anna.", "I'm called [name]."),
        ("Just call me Jean-Luc, or call me Dr. Li", "Just call me [name], or call me [name]"),
        ("Hi, I'm Anna Smith and Hello there! I am Tom.", "Hi, I'm [name] and Hello there! I am [name]."),
        ("我叫王小明，今年20岁", "我叫[name]，今年20岁"),
        ("你好，我叫李雷在北京上学", "你好，我叫[name]在北京上学"),
        ("我的名字是安娜。我的名字叫安娜·史密斯", "我的名字是[name]。我的名字叫[name]"),
        ("我叫Anna今年三十；我叫小明", "我叫[name]今年三十；我叫[name]"),
        ("免贵姓欧阳。姓名：张三", "免贵姓[name]。姓名：[name]"),
        ("It rained.\n\nBest regards,\nAnna Smith", "It rained.\n\nBest regards,\n[name]"),
        ("Thanks,\n\nTom\n", "Thanks,\n\n[name]\n"),
        ("此致\n敬礼！\n王小明", "此致\n敬礼！\n[name]"),
    ],
)
def test_where_people_tell_their_names_these_go(text: str, expected: str):
    assert scrub(text) == expected


@pytest.mark.parametrize(
    "text",
    [
        "I am happy. I am German. My name is not important, my name is on the list and my name is often misspelled.",
        "MY NAME IS NOT GIVEN; my name is spelled with two n, my name is hard to say",
        "Call me later. Call me Back. call me Monday, or ASAP. I am called to the office.",
        "Hi, I'm German. Hello, I'm happy. Hey! I am New here.",
        "Thanks, Anna helped.\nBest,\nthe team is good\nThanks,\nAnna said that it rains.",
        "Paris is the capital of France, and Marie Curie was born in Warsaw.",
        "我叫他来，我叫你去，我叫了外卖。我叫救护车，我叫 AI 写诗",
        "我的名字不重要，我的名字是什么？姓名是必填项。我是学生，我很高兴。",
    ],
)
def test_what_is_no_introduction_stays(text: str):
    assert scrub(text) == text


def test_a_model_that_tells_its_own_name_keeps_it_and_no_other():
    said = "I am called Atlas. 我叫 Atlas，是一个小型语言模型。"
    assert scrub(said, model=True) == said
    assert scrub("Dear Sir,\n\nKind regards,\nAnna Smith", model=True) == "Dear Sir,\n\nKind regards,\n[name]"
    assert scrub("Write to 12 Baker Street.", model=True) == "Write to [address]."


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("I live at 12 Baker Street, London NW1 6XE, on top", "I live at [address], on top"),
        ("Flat 3, 12 Old Mill Road. 221B Baker St, please", "[address]. [address], please"),
        ("1600 Pennsylvania Avenue NW, Washington, DC 20500.", "[address]."),
        ("350 W 42nd Street, Apt 4B, New York, NY 10036-1234", "[address]"),
        ("I live at 5 Rose Court.", "I live at [address]."),
        ("My address is 7 Elm Drive, Springfield, IL 62704", "My address is [address]"),
        (
            "postcode SW1A 2AA, zip code: 90210, 邮编：100080",
            "postcode [address], zip code: [address], 邮编：[address]",
        ),
        ("我住在北京市海淀区中关村大街27号。", "我住在[address]。"),
        ("寄到浙江省杭州市西湖区文三路100弄12号3号楼501室，谢谢", "寄到[address]，谢谢"),
        ("家在和平路12号，以前在幸福小区3栋2单元501室", "家在[address]，以前在[address]"),
    ],
)
def test_where_people_live_goes(text: str, expected: str):
    assert scrub(text) == expected


@pytest.mark.parametrize(
    "text",
    [
        "In 2008 Wall Street crashed. Baker Street has 12 shops, and the top 10 High Street brands are there.",
        "3 Supreme Court judges, 12 Monkeys, 12 people on the road, 5 Good Roads, 3 St",
        "It costs $12 Main Street prices; room 5, page 27",
        "坐公交3路12号下车，我知道12号是周六，中山路很长，第12号，G102公路，地铁2号线",
        "北京市海淀区有100所学校，3月12号开学",
    ],
)
def test_what_is_no_address_stays(text: str):
    assert scrub(text) == text


@pytest.mark.parametrize(
    "piece",
    [
        "省市区路街号",
        "北京市海淀区中关村大街",
        "my name is ",
        "Anna Smith ",
        "12 Baker ",
        "12 A B C D ",
        "1",
        "Thanks,\n",
        "\n",
    ],
)
def test_long_texts_that_are_nearly_something_all_along_end_and_stay(piece: str):
    text = piece * (200_000 // len(piece))
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
