"""Facts read from the World Factbook: known values, and no traces of its markup."""

from __future__ import annotations

import re

from chatwright.atlas.facts import FIELDS, countries

BY_CODE = {country.code: country for country in countries()}


def test_known_countries_have_known_facts() -> None:
    france, bolivia, china = BY_CODE["fr"], BY_CODE["bl"], BY_CODE["ch"]
    assert france.capital == ("Paris",)
    assert france.currency == ("euro",)
    assert france.region == ("Western Europe",)
    assert france.government == ("semi-presidential republic",)
    assert bolivia.capital == ("La Paz",)
    assert bolivia.other_capitals == ("Sucre",)
    assert bolivia.languages == ("Spanish", "Quechua", "Aymara")
    assert china.currency == ("Chinese yuan",)
    assert BY_CODE["ja"].neighbours == ()
    assert BY_CODE["uk"].neighbours == ("Ireland",)


def test_there_are_about_two_hundred_countries_with_unique_names() -> None:
    assert 190 <= len(countries()) <= 200
    assert len({country.name for country in countries()}) == len(countries())


def test_values_hold_no_markup_numbers_or_brackets() -> None:
    for country in countries():
        for field in FIELDS:
            for part in country.parts(field):
                assert re.fullmatch(r"[^\d<>&;()%]{2,70}", part), (country.name, field, part)


def test_every_country_has_nearly_every_field() -> None:
    for field in FIELDS:
        known = sum(bool(country.parts(field)) for country in countries())
        assert known == len(countries()) or field == "neighbours", field
