"""Evaluation text out of the corpus (GPT-3, appendix C): what a model is asked later, it must not have read.

Grams of 13 words of the evaluation text are looked up in every document. Where one is found it is removed with 200
characters each side, which splits the document; pieces under 200 characters go, a document in more than 10 pieces goes
whole, and a gram found in more than 10 documents is no contamination but a common phrase, so it is ignored.

Ours: a shorter evaluation text, down to 5 words, is one gram of its own length. A document under about 400 characters
that holds a gram goes whole, since no piece of 200 characters can be left of it.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from chatwright.corpus.words import words, words_with_spans
from chatwright.records import Question

GRAM_WORDS = 13  # GPT-3 appendix C
MARGIN = 200  # characters removed on each side; also the least length of a piece that stays
MOST_PIECES = 10
MOST_DOCUMENTS = 10
LEAST_WORDS = 5  # ours: a shorter question ("And its capital?") is everyday language

Gram = tuple[str, ...]


@dataclass(frozen=True)
class Cut:
    """What contamination does to a document. grams: what was found. pieces: texts that stay. count: pieces in all."""

    grams: list[str]
    pieces: list[str]
    count: int

    @property
    def reason(self) -> str:
        """One sentence for the document's row."""
        found = f"holds evaluation text: {self.grams[0]!r}"
        if self.count > MOST_PIECES:
            return f"{found}; split into {self.count} pieces, more than {MOST_PIECES}"
        return f"{found}; {len(self.pieces)} of {self.count} pieces stay"


def evaluation_texts(questions: Iterable[Question]) -> list[str]:
    """What must not be in the corpus: every user message, and the last one followed by each accepted answer."""
    texts = []
    for question in questions:
        asked = [message.text for message in question.messages if message.role == "user"]
        answers = [spelling for group in question.gold.right for spelling in group]
        texts += asked + [f"{asked[-1]} {answer}" for answer in answers]
    return texts


def grams_of(texts: Iterable[str]) -> set[Gram]:
    """The grams to look for: 13 words each, or a whole text of 5 to 12 words."""
    grams: set[Gram] = set()
    for text in texts:
        tokens = tuple(words(text))
        if len(tokens) >= GRAM_WORDS:
            grams.update(tokens[i : i + GRAM_WORDS] for i in range(len(tokens) - GRAM_WORDS + 1))
        elif len(tokens) >= LEAST_WORDS:
            grams.add(tokens)
    return grams


def decontaminate(texts: Mapping[str, str], grams: set[Gram]) -> dict[str, Cut]:
    """The documents (id: text) that hold a gram found in at most 10 documents, and what is left of each."""
    by_start: dict[Gram, list[Gram]] = defaultdict(list)
    for gram in sorted(grams):
        by_start[gram[:LEAST_WORDS]].append(gram)
    found: dict[str, set[Gram]] = {}
    documents_with: dict[Gram, int] = defaultdict(int)
    for name, text in texts.items():
        held = {gram for gram, _, _ in _find(text, by_start)}
        if held:
            found[name] = held
        for gram in held:
            documents_with[gram] += 1
    cuts = {}
    for name, held in found.items():
        if any(documents_with[gram] <= MOST_DOCUMENTS for gram in held):
            places = [place for place in _find(texts[name], by_start) if documents_with[place[0]] <= MOST_DOCUMENTS]
            cuts[name] = _cut(texts[name], places)
    return cuts


def _find(text: str, by_start: Mapping[Gram, list[Gram]]) -> list[tuple[Gram, int, int]]:
    """Every gram in the text, with the place where it begins and ends."""
    tokens = words(text)
    if by_start.keys().isdisjoint(zip(*(tokens[i:] for i in range(LEAST_WORDS)), strict=False)):
        return []
    spans = list(words_with_spans(text))
    places = []
    for i in range(len(tokens) - LEAST_WORDS + 1):
        for gram in by_start.get(tuple(tokens[i : i + LEAST_WORDS]), ()):
            if tuple(tokens[i : i + len(gram)]) == gram:
                places.append((gram, spans[i][1], spans[i + len(gram) - 1][2]))
    return places


def _cut(text: str, places: list[tuple[Gram, int, int]]) -> Cut:
    """Remove each place and its margins; overlapping ones merge, so that only gaps between them count as pieces."""
    pieces = []
    start = 0
    for _, begin, end in sorted(places, key=lambda place: place[1:]):
        if begin - MARGIN > start:
            pieces.append(text[start : begin - MARGIN])
        start = max(start, end + MARGIN)
    if start < len(text):
        pieces.append(text[start:])
    long = [piece.strip() for piece in pieces if len(piece.strip()) >= MARGIN]
    grams = sorted({" ".join(gram) for gram, _, _ in places})
    return Cut(grams, long if len(pieces) <= MOST_PIECES else [], len(pieces))
