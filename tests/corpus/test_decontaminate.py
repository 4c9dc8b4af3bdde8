from __future__ import annotations

import random

from chatwright.corpus.decontaminate import decontaminate, evaluation_texts, grams_of
from chatwright.records import Gold, Message, Question

RNG = random.Random(0)
GRAM = "Which of these seven great rivers flows through the old capital of Ruritania"  # 13 words
SHORT = "What is the capital of Ruritania?"


def _filler(characters: int) -> str:
    text = ""
    while len(text) < characters:
        text += "".join(RNG.choices("abcdefgh", k=7)) + " "
    return text[: characters - 1] + " "


def _question(content: str, right: list[list[str]] | None = None) -> Question:
    gold = Gold(kind="fact", right=right or [])
    return Question(id="q", messages=[Message(role="user", content=content)], gold=gold, check="capital_seen")


def test_a_long_text_gives_13_grams_and_a_short_one_itself() -> None:
    assert len(grams_of([GRAM])) == 1
    assert len(grams_of([GRAM + " today"])) == 2
    assert grams_of([SHORT]) == {("what", "is", "the", "capital", "of", "ruritania")}
    assert grams_of(["And its capital?"]) == set()


def test_accepted_answers_are_evaluation_text() -> None:
    assert evaluation_texts([_question("Capital of Ruritania?", [["Strelsau", "Strelsau City"]])]) == [
        "Capital of Ruritania?",
        "Capital of Ruritania? Strelsau",
        "Capital of Ruritania? Strelsau City",
    ]


def test_a_planted_gram_goes_with_200_characters_on_each_side() -> None:
    before, after = _filler(600), _filler(500)
    cut = decontaminate({"planted": before + GRAM.upper() + "! " + after, "clean": _filler(900)}, grams_of([GRAM]))
    assert list(cut) == ["planted"]
    assert cut["planted"].count == 2
    left, right = cut["planted"].pieces
    assert left == before[:400].strip()
    assert right == after[199:].strip()  # a space stands before it, and the "!" belongs to the gram's last word


def test_case_and_punctuation_do_not_hide_a_gram() -> None:
    hidden = SHORT.upper().replace(" ", " -- ").replace("?", "...")
    assert "d" in decontaminate({"d": _filler(50) + hidden + " " + _filler(50)}, grams_of([SHORT]))


def test_pieces_under_200_characters_go() -> None:
    cut = decontaminate({"d": _filler(390) + SHORT + " " + _filler(410)}, grams_of([SHORT]))["d"]
    assert [len(piece) >= 200 for piece in cut.pieces] == [True]


def test_a_short_document_goes_whole() -> None:
    cut = decontaminate({"d": f"Ask: {SHORT} Strelsau, of course."}, grams_of([SHORT]))["d"]
    assert cut.pieces == []
    assert "what is the capital of ruritania" in cut.reason


def test_a_document_in_more_than_ten_pieces_goes_whole() -> None:
    def planted(times: int) -> str:
        return _filler(700) + "".join(" " + SHORT + " " + _filler(700) for _ in range(times))

    cuts = decontaminate({"nine": planted(9), "ten": planted(10)}, grams_of([SHORT]))
    assert (cuts["nine"].count, len(cuts["nine"].pieces)) == (10, 10)
    assert (cuts["ten"].count, cuts["ten"].pieces) == (11, [])
    assert "more than 10" in cuts["ten"].reason


def test_a_gram_in_more_than_ten_documents_is_ignored() -> None:
    texts = {f"d{i}": _filler(20) + SHORT for i in range(10)}
    assert len(decontaminate(texts, grams_of([SHORT]))) == 10
    texts["d10"] = SHORT
    assert decontaminate(texts, grams_of([SHORT])) == {}


def test_no_gram_that_counts_is_left_in_any_piece() -> None:
    grams = grams_of([GRAM, SHORT])
    texts = {f"d{i}": _filler(300 + 97 * i) + RNG.choice((GRAM, SHORT)) + " " + _filler(800) for i in range(10)}
    pieces = {
        f"{name}#{i}": piece for name, cut in decontaminate(texts, grams).items() for i, piece in enumerate(cut.pieces)
    }
    assert len(pieces) >= 10
    assert decontaminate(pieces, grams) == {}
