from __future__ import annotations

import pytest

from chatwright.service.line import Line, LineFull


class Asked:
    """A request that says what becomes of it; a cancelled one leaves when it has not begun."""

    def __init__(self, line: Line, name: str, log: list[str]) -> None:
        self.line, self.name, self.log = line, name, log

    def begin(self) -> None:
        self.log.append(f"{self.name} begins")

    def cancel(self) -> None:
        self.log.append(f"{self.name} is cancelled")
        if f"{self.name} begins" not in self.log:
            self.line.leave(self)


def test_requests_begin_in_order_as_many_at_once_as_may():
    line, log = Line(places=2, at_once=2), list[str]()
    a, b, c, d = (Asked(line, name, log) for name in "abcd")
    for request in (a, b, c, d):
        line.enter(request)
    assert log == ["a begins", "b begins"]
    assert (line.length, line.busy, line.full) == (4, True, True)
    line.leave(b)
    line.leave(b)
    assert log[2:] == ["c begins"]
    line.leave(a)
    assert log[3:] == ["d begins"]
    line.leave(c)
    line.leave(d)
    assert (line.length, line.busy, line.full) == (0, False, False)


def test_a_full_line_turns_the_next_away_and_opens_again():
    line, log = Line(places=1, at_once=1), list[str]()
    a, b, c = (Asked(line, name, log) for name in "abc")
    line.enter(a)
    line.enter(b)
    with pytest.raises(LineFull):
        line.enter(c)
    line.leave(b)  # tired of waiting
    line.enter(c)
    line.leave(a)
    assert log == ["a begins", "c begins"]


def test_when_all_are_cancelled_none_that_waits_begins():
    line, log = Line(places=2, at_once=1), list[str]()
    for name in "abc":
        line.enter(Asked(line, name, log))
    line.cancel_all()
    assert log == ["a begins", "b is cancelled", "c is cancelled", "a is cancelled"]
    assert line.length == 1
