"""Numbers as a person would write them."""

from __future__ import annotations

import math

SUPERSCRIPT = str.maketrans("0123456789", "⁰¹²³⁴⁵⁶⁷⁸⁹")


def number(value: float) -> str:
    """A count or a measure.

    >>> number(512), number(12345), number(2_612_000), number(0.12345)
    ('512', '12,345', '2.61 M', '0.123')
    """
    for size, letter in ((1e9, "B"), (1e6, "M")):
        if abs(value) >= size:
            return f"{value / size:.3g} {letter}"
    return f"{value:,.0f}" if value == int(value) or abs(value) >= 1000 else f"{value:.3g}"


def power(value: float) -> str:
    """A large number by its power of ten.

    >>> power(3.14e23)
    '3.1 × 10²³'
    """
    exponent = math.floor(math.log10(value))
    return f"{value / 10**exponent:.1f} × 10{str(exponent).translate(SUPERSCRIPT)}"


def duration(seconds: float) -> str:
    """A time.

    >>> duration(4.2), duration(125), duration(11_520)
    ('4.2 s', '2 min 05 s', '3 h 12 min')
    """
    if seconds < 10:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes == 0:
        return f"{rest} s"
    return f"{minutes} min {rest:02d} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60:02d} min"


def percent(value: float) -> str:
    """A share.

    >>> percent(0.953), percent(0.9)
    ('95.3%', '90%')
    """
    return f"{100 * value:.1f}".removesuffix(".0") + "%"
