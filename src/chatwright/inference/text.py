"""An answer's tokens as text, in pieces of whole characters, with no trace of a stop string."""

from __future__ import annotations

from collections.abc import Sequence

from chatwright.tokenizer.decoding import TextStream


class StopStrings:
    """Passes text on, up to the first stop string; holds back what may be the beginning of one.

    >>> stops = StopStrings(["END"])
    >>> stops.feed("the E"), stops.feed("nglish EN"), stops.feed("D of it")
    ('the ', 'English ', '')
    >>> stops.found
    True
    """

    def __init__(self, stops: Sequence[str]) -> None:
        """Look for any of ``stops``, none of them empty."""
        self._stops = tuple(stops)
        self._held = ""
        self.found = False

    def feed(self, text: str) -> str:
        """What can be said now that ``text`` has come."""
        if self.found:
            return ""
        self._held += text
        places = [(place + len(stop), place) for stop in self._stops if (place := self._held.find(stop)) >= 0]
        if places:
            self.found = True
            _, place = min(places)  # the one complete first, so that it does not matter how the text comes in pieces
            said, self._held = self._held[:place], ""
            return said
        kept = max((_beginning_at_end(self._held, stop) for stop in self._stops), default=0)
        cut = len(self._held) - kept
        said, self._held = self._held[:cut], self._held[cut:]
        return said

    def rest(self) -> str:
        """What was held back, now that no more text comes."""
        said, self._held = self._held, ""
        return said


def _beginning_at_end(text: str, stop: str) -> int:
    """Length of the longest proper beginning of ``stop`` with which ``text`` ends."""
    return next((n for n in range(min(len(stop) - 1, len(text)), 0, -1) if text.endswith(stop[:n])), 0)


class AnswerText:
    """The text of an answer while its tokens come."""

    def __init__(self, stream: TextStream, stops: Sequence[str]) -> None:
        self._stream = stream
        self._stops = StopStrings(stops)
        self.pieces: list[str] = []

    @property
    def stopped(self) -> bool:
        """Whether a stop string has come."""
        return self._stops.found

    def feed(self, token: int) -> None:
        """Take in a token."""
        self._say(self._stops.feed(self._stream.feed(token)))

    def end(self) -> None:
        """Say what was held back; no more tokens come."""
        self._say(self._stops.feed(self._stream.rest()) + self._stops.rest())

    def _say(self, text: str) -> None:
        if text:
            self.pieces.append(text)
