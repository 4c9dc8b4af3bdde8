"""Takes out of texts what would name or reach a person: addresses, numbers of phones, cards and documents, and names
where people tell theirs.

What is found becomes its kind in brackets, such as `[email]`. English and Chinese ways of writing are known. Names in
the middle of a sentence are not found: who exports must know that.
"""

from __future__ import annotations

import ipaddress
import re
import unicodedata
from collections.abc import Callable
from dataclasses import dataclass

from chatwright.service.addresses import ADDRESSES
from chatwright.service.names import INTRODUCED, SIGNED

# A digit or letter right before or behind makes it part of something longer; Chinese characters do not.
_L, _R = r"(?<![0-9A-Za-z])", r"(?![0-9A-Za-z])"
_SPACE = r"[ \u00a0-]?"


@dataclass(frozen=True)
class Rule:
    """What one kind looks like; a group in it stays. holds: whether what looks like it is it, judged by its text."""

    kind: str
    pattern: re.Pattern[str]
    holds: Callable[[str], bool] | None = None

    def replace(self, found: re.Match[str]) -> str:
        """What stands there afterwards."""
        before = found[1] if self.pattern.groups else ""
        return f"{before}[{self.kind}]" if self.holds is None or self.holds(found[0]) else found[0]


def scrub(text: str, *, model: bool = False) -> str:
    """The text without what would name or reach a person. model: whether a model says it, whose own name stays.

    >>> scrub("My name is Anna. Write to anna@example.org or call +44 20 7946 0958.")
    'My name is [name]. Write to [email] or call [phone].'
    >>> scrub("I am called Atlas.", model=True)
    'I am called Atlas.'
    """
    for rule in RULES if model else (*RULES, *OWN):
        text = rule.pattern.sub(rule.replace, text)
    return text


def luhn(number: str) -> bool:
    """Whether a card's number has the right check digit (ISO/IEC 7812-1).

    >>> luhn("4111 1111 1111 1111"), luhn("4111 1111 1111 1112")
    (True, False)
    """
    digits = [unicodedata.digit(character) for character in number if character.isdigit()]
    doubled = [digit * 2 - 9 * (digit > 4) for digit in digits[-2::-2]]
    return 13 <= len(digits) <= 19 and (sum(digits[::-2]) + sum(doubled)) % 10 == 0 and len(set(digits)) > 1


def chinese_identity(number: str) -> bool:
    """Whether it is the number of a Chinese identity card, by its check character (GB 11643-1999)."""
    weights = [2 ** (17 - place) % 11 for place in range(17)]
    total = sum(int(digit) * weight for digit, weight in zip(number[:17], weights, strict=True))
    return "10X98765432"[total % 11] == number[17].upper()


def iban(text: str) -> bool:
    """Whether it is an account's number (ISO 13616): it gives 1 modulo 97."""
    compact = re.sub(r"\s", "", text).upper()
    if not 15 <= len(compact) <= 34:
        return False
    return int("".join(str(int(character, 36)) for character in compact[4:] + compact[:4])) % 97 == 1


def _address(text: str) -> bool:
    """Whether it is an IP address of somebody; loopback and the like name nobody."""
    try:
        found = ipaddress.ip_address(text)
    except ValueError:
        return False
    return not (found.is_loopback or found.is_unspecified)


def _phone(text: str) -> bool:
    """Whether it has as many digits as a phone's number (ITU-T E.164: 15 at most), and is no date or measure."""
    digits = re.sub(r"\D", "", text)
    date = re.fullmatch(r"(19|20)\d\d[-./ ](0?[1-9]|1[0-2])[-./ ](0?[1-9]|[12]\d|3[01])", text.strip())
    return 7 <= len(digits) <= 15 and date is None


def _social_security(text: str) -> bool:
    """Whether it can have been given out (SSA: no 000, 666 or 9xx, no group 00, no serial 0000)."""
    area, group, serial = text.split("-")
    return area not in ("000", "666") and area < "900" and group != "00" and serial != "0000"


# Long and sure kinds first: what they take cannot be taken for a phone's number.
RULES = (
    Rule(
        "email",
        re.compile(
            r"(?<![\w.+-])[a-z0-9._%+-]{1,64}(?:[@＠]|\s?[(\[]at[)\]]\s?)(?:[a-z0-9-]{1,63}(?:\.|\s?[(\[]dot[)\]]\s?))+[a-z]{2,24}(?![a-z0-9])",
            re.IGNORECASE | re.ASCII,
        ),
    ),
    Rule("account", re.compile(rf"{_L}[A-Z]{{2}}\d{{2}}(?: ?[0-9A-Z]{{4}}){{2,7}}(?: ?[0-9A-Z]{{1,3}})?{_R}"), iban),
    Rule("id", re.compile(rf"{_L}[1-9]\d{{16}}[0-9Xx]{_R}", re.ASCII), chinese_identity),
    Rule("card", re.compile(rf"{_L}\d(?:{_SPACE}\d){{12,18}}{_R}"), luhn),
    Rule("id", re.compile(rf"{_L}\d{{3}}-\d{{2}}-\d{{4}}{_R}", re.ASCII), _social_security),
    Rule("ip", re.compile(r"(?<![\d.])(?:\d{1,3}\.){3}\d{1,3}(?![\d]|\.\d)", re.ASCII), _address),
    Rule("ip", re.compile(r"(?<![0-9A-Fa-f:.])[0-9A-Fa-f]{0,4}(?::[0-9A-Fa-f]{0,4}){2,7}(?![0-9A-Fa-f:])"), _address),
    # A Chinese mobile number.
    Rule("phone", re.compile(rf"(?<![0-9A-Za-z+])(?:(?:\+|00)86[ -]?)?1[3-9]\d(?:[ -]?\d{{4}}){{2}}{_R}", re.ASCII)),
    # +44 20 7946 0958, (020) 7946 0958: with a sign, two zeros or a bracket in front.
    Rule(
        "phone",
        re.compile(r"(?<![\w.+])(?:\+|00)[1-9]\d{0,2}(?:[ ./-]{0,2}\(?\d{1,4}\)?){2,6}(?!\d|\w)", re.ASCII),
        _phone,
    ),
    Rule("phone", re.compile(r"(?<![\w.])\(\d{2,5}\)[ -]?\d{2,4}(?:[ .-]?\d{2,4}){1,3}(?!\d|\w)", re.ASCII), _phone),
    # A Chinese landline with its area code.
    Rule("phone", re.compile(rf"{_L}0\d{{2,3}}[ -]\d{{7,8}}{_R}", re.ASCII)),
    # 415-555-0132, 415.555.0132, 020 7946 0958.
    Rule("phone", re.compile(r"(?<![\w.-])\d{3}[ .-]\d{3}[ .-]\d{4}(?![\w-])", re.ASCII)),
    Rule("phone", re.compile(r"(?<![\w.-])0\d{2,4}[ -]\d{3,4}[ -]?\d{3,4}(?![\w-])", re.ASCII), _phone),
    # What is called a phone's, passport's or document's number is one, whatever it looks like.
    Rule(
        "phone",
        re.compile(
            r"(?:(?<=phone)|(?<=tel)|(?<=tel\.)|(?<=mobile)|(?<=whatsapp)|(?<=电话)|(?<=手机)|(?<=手机号)|(?<=電話))"
            r"(?: number)?(?: is)?[是为:： ]{0,3}\d[\d -]{5,16}\d(?!\d)",
            re.IGNORECASE | re.ASCII,
        ),
    ),
    Rule(
        "id",
        re.compile(
            r"(?:(?<=passport)|(?<=护照)|(?<=护照号)|(?<=護照)|(?<=身份证)|(?<=身份证号))"
            r"(?: number| no\.?)?(?: is)?[是为:：号 ]{0,3}[A-Z]{0,2}\d{6,17}[Xx]?(?![0-9A-Za-z])",
            re.IGNORECASE | re.ASCII,
        ),
    ),
    *(Rule("address", pattern) for pattern in ADDRESSES),
    *(Rule("name", pattern) for pattern in SIGNED),
)
OWN = tuple(Rule("name", pattern) for pattern in INTRODUCED)  # of people alone
