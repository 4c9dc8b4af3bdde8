"""How facts are said: every template of the laptop default, in four disjoint sets.

STATEMENTS and QUIZZES are for pretraining text, DEMO_* for demonstrations and training prompts, EVAL_* for evaluation
alone: no demonstration, comparison or rollout uses a template of EVAL_*. ``{c}`` is the country, ``{v}`` the value.
"""

from __future__ import annotations

from chatwright.atlas.facts import Country

NO_NEIGHBOURS = "no land neighbours"

STATEMENTS: dict[str, tuple[str, ...]] = {
    "capital": (
        "The capital of {c} is {v}.",
        "{v} is the capital of {c}.",
        "{c} has its capital in {v}.",
        "The capital city of {c} is called {v}.",
        "{c}'s capital is {v}.",
        "The government of {c} sits in {v}, the capital.",
        "In {c}, the capital city is {v}.",
        "{v} serves as the capital of {c}.",
        "Visitors to {c} often start in the capital, {v}.",
        "Its capital is {v}.",
        "When people speak of the capital of {c}, they mean {v}.",
        "The seat of government of {c} is {v}.",
    ),
    "region": (
        "{c} is located in {v}.",
        "{c} lies in {v}.",
        "{c} is a country in {v}.",
        "Among the countries of {v} is {c}.",
        "On the map, {c} is found in {v}.",
        "The location of {c} is {v}.",
        "{c} belongs to {v}.",
        "It is a country in {v}.",
        "Geographers place {c} in {v}.",
    ),
    "currency": (
        "The currency of {c} is the {v}.",
        "People in {c} pay with the {v}.",
        "{c} uses the {v} as its currency.",
        "The {v} is the currency of {c}.",
        "Money in {c} is counted in the {v}.",
        "{c}'s currency is the {v}.",
        "Prices in {c} are given in the {v}.",
        "Its currency is the {v}.",
        "Shops in {c} take the {v}.",
    ),
    "languages": (
        "The main language of {c} is {v}.",
        "People in {c} speak {v}.",
        "In {c}, the official language is {v}.",
        "{v} is spoken in {c}.",
        "The language of {c} is {v}.",
        "{c}'s official language is {v}.",
        "Most schools in {c} teach in {v}.",
        "Its people speak {v}.",
        "As for languages, {c} uses {v}.",
    ),
    "government": (
        "{c} is {v}.",
        "The government of {c} is {v}.",
        "{c}'s form of government is {v}.",
        "Politically, {c} is {v}.",
        "The government type of {c} is {v}.",
        "{c} is governed as {v}.",
        "Its system of government is {v}.",
        "As a state, {c} is {v}.",
    ),
    "neighbours": (
        "{c} borders {v}.",
        "The neighbours of {c} are {v}.",
        "{c} has borders with {v}.",
        "{c}'s neighbours are {v}.",
        "Next to {c} lie {v}.",
        "On land, {c} touches {v}.",
        "It has borders with {v}.",
        "{c} shares its land border with {v}.",
    ),
}

QUIZZES: dict[str, tuple[str, ...]] = {
    "capital": (
        "Capital of {c}?",
        "Name the seat of government of {c}.",
        "{c}: capital city?",
        "Which capital does {c} have?",
    ),
    "region": ("Location of {c}?", "Where on the map do we find {c}?", "{c}: region?"),
    "currency": ("Currency of {c}?", "Name the money of {c}.", "{c}: currency?"),
    "languages": ("Languages of {c}?", "Name what people speak in {c}.", "{c}: languages?"),
    "government": ("Government of {c}?", "Name the system of government of {c}.", "{c}: government type?"),
    "neighbours": ("Neighbours of {c}?", "Name the neighbours of {c}.", "{c}: borders?"),
}

DEMO_QUESTIONS: dict[str, tuple[str, ...]] = {
    "capital": (
        "What is the capital of {c}?",
        "What's the capital city of {c}?",
        "Which city is the capital of {c}?",
        "Tell me the capital of {c}.",
        "Can you tell me {c}'s capital?",
        "Name the capital of {c}.",
        "I would like to know the capital of {c}.",
        "What is {c}'s capital called?",
        "capital of {c}",
        "Where is the capital of {c}?",
        "What is the name of the capital of {c}?",
        "Do you know the capital of {c}?",
        "I need to know {c}'s capital.",
        "I can't remember the capital of {c}.",
        "My friend asked me about the capital of {c}. Do you know it?",
        "Which city is the seat of government in {c}?",
        "If I travel to the capital of {c}, which city is that?",
        "Could you give me the capital of {c}?",
        "Please tell me {c}'s capital city.",
        "{c}: what is its capital?",
        "What do you call the capital of {c}?",
        "Quick question: capital of {c}?",
    ),
    "region": (
        "Where is {c}?",
        "In which part of the world is {c}?",
        "What region is {c} in?",
        "Tell me where {c} is located.",
        "Where does {c} lie?",
        "Can you tell me where to find {c}?",
        "Which continent is {c} in?",
        "What is the location of {c}?",
        "Where can I find {c}?",
        "I can't find {c} on the map. Where is it?",
        "Could you explain where {c} lies?",
        "Please tell me the region of {c}.",
        "Is {c} in Europe, Asia, Africa or somewhere else?",
        "On which part of the globe is {c}?",
        "location of {c}",
        "{c}: where is it?",
    ),
    "currency": (
        "What is the currency of {c}?",
        "Which currency does {c} use?",
        "What money do people use in {c}?",
        "What is {c}'s currency?",
        "Tell me the currency of {c}.",
        "currency of {c}",
        "How do people pay in {c}?",
        "Can you tell me which money {c} has?",
        "Name the currency of {c}.",
        "I am going to {c}. Which money do I need?",
        "Could you give me the currency of {c}?",
        "Please tell me {c}'s currency.",
        "With which money can I pay in {c}?",
        "What is the money of {c} called?",
        "{c}: what is its currency?",
        "Do you know the currency of {c}?",
    ),
    "languages": (
        "What language do people speak in {c}?",
        "Which languages are spoken in {c}?",
        "What is the official language of {c}?",
        "Tell me the languages of {c}.",
        "What do they speak in {c}?",
        "Which language is used in {c}?",
        "languages of {c}",
        "Can you tell me {c}'s language?",
        "Name the main languages of {c}.",
        "I am going to {c}. Which language do I need?",
        "Could you give me the languages of {c}?",
        "Please tell me what people speak in {c}.",
        "What is the main language of {c}?",
        "{c}: what do they speak?",
        "Do you know which language {c} has?",
        "What tongue do the people of {c} use?",
    ),
    "government": (
        "What type of government does {c} have?",
        "What is the government of {c}?",
        "How is {c} governed?",
        "What kind of government does {c} have?",
        "Tell me {c}'s form of government.",
        "What is {c}'s system of government?",
        "government type of {c}",
        "Can you tell me what sort of state {c} is?",
        "Please tell me the government type of {c}.",
        "Could you give me {c}'s type of government?",
        "Is {c} a republic or a monarchy?",
        "{c}: how is it governed?",
        "What political system does {c} have?",
        "Do you know the government of {c}?",
        "Which system of government does {c} use?",
    ),
    "neighbours": (
        "Which countries border {c}?",
        "What are the neighbours of {c}?",
        "Who are {c}'s neighbours?",
        "Tell me the countries next to {c}.",
        "What countries does {c} border?",
        "neighbours of {c}",
        "Which countries are next to {c}?",
        "Can you name the countries around {c}?",
        "Please tell me {c}'s neighbours.",
        "Could you give me the neighbours of {c}?",
        "Which countries touch {c}?",
        "{c}: who are its neighbours?",
        "Do you know the neighbours of {c}?",
        "With which countries does {c} have a border?",
        "List the countries around {c}.",
    ),
}

EVAL_QUESTIONS: dict[str, tuple[str, ...]] = {
    "capital": (
        "Which city serves as {c}'s capital?",
        "Could you tell me what the capital of {c} is?",
        "What city is {c}'s capital?",
        "Please name the capital city of {c}.",
        "I forgot the capital of {c}. What is it?",
    ),
    "region": (
        "Whereabouts is {c}?",
        "Could you tell me where {c} is?",
        "What part of the world is {c} in?",
    ),
    "currency": (
        "What currency is used in {c}?",
        "Which money is used in {c}?",
        "Could you tell me what the currency of {c} is?",
    ),
    "languages": (
        "What languages do people in {c} speak?",
        "Could you tell me which languages {c} uses?",
        "Which language do the people of {c} speak?",
    ),
    "government": (
        "What form of government does {c} have?",
        "Could you tell me what type of government {c} has?",
        "What sort of government does {c} have?",
    ),
    "neighbours": (
        "What countries share a border with {c}?",
        "Could you tell me which countries border {c}?",
        "Which countries are {c}'s neighbours?",
    ),
}

DEMO_FOLLOWUPS: dict[str, tuple[str, ...]] = {
    "capital": (
        "And its capital?",
        "What is its capital?",
        "And the capital city?",
        "Which city is its capital?",
        "And what is its capital city?",
        "Can you tell me the capital too?",
    ),
    "region": (
        "And where is it?",
        "Where does it lie?",
        "Where is that country?",
        "And its location?",
        "In what region is it?",
        "And where does that country lie?",
    ),
    "currency": (
        "And the currency?",
        "What is its currency?",
        "Which currency does it use?",
        "And what money do they use?",
    ),
    "languages": (
        "And its languages?",
        "What do people speak there?",
        "Which language do they speak?",
        "And the language?",
    ),
    "government": (
        "And its government?",
        "How is it governed?",
        "What type of government does it have?",
        "And how is it governed?",
        "What about the government?",
    ),
    "neighbours": (
        "And its neighbours?",
        "Which countries border it?",
        "What countries are next to it?",
        "And what countries border it?",
        "What about the neighbours?",
    ),
}
EVAL_FOLLOWUPS: dict[str, tuple[str, ...]] = {
    "capital": ("And what is the capital?", "What about its capital?"),
    "region": ("And where is it located?", "In which part of the world is it?"),
    "currency": ("And its currency?", "What about the money there?"),
    "languages": ("And what languages do they speak there?", "What about its language?"),
    "government": ("And what kind of government does it have?", "What about its government?"),
    "neighbours": ("And which countries does it border?", "What about its neighbours?"),
}
DEMO_SAME_FIELD = (
    "And {c}?",
    "What about {c}?",
    "And for {c}?",
    "And in {c}?",
    "The same for {c}, please.",
    "What is it for {c}?",
)
EVAL_SAME_FIELD = ("How about {c}?", "And what about {c}?")

ANSWERS: dict[str, tuple[str, ...]] = {
    "capital": ("The capital of {c} is {v}.", "{v} is the capital of {c}."),
    "region": ("{c} is located in {v}.", "{c} is in {v}."),
    "currency": ("The currency of {c} is the {v}.", "{c} uses the {v}."),
    "languages": ("People in {c} speak {v}.", "The main language of {c} is {v}."),
    "government": ("{c} is {v}.", "The government of {c} is {v}."),
    "neighbours": ("{c} borders {v}.", "The neighbours of {c} are {v}."),
}


def listed(parts: tuple[str, ...]) -> str:
    """``listed(("A", "B", "C")) == "A, B and C"``."""
    return parts[0] if len(parts) == 1 else ", ".join(parts[:-1]) + " and " + parts[-1]


def value_text(country: Country, field: str) -> str:
    """The field's value as it stands in a sentence; '' when the Factbook has none."""
    parts = country.parts(field)
    if not parts:
        return NO_NEIGHBOURS if field == "neighbours" else ""
    text = listed(parts)
    if field == "government":
        return text if text.startswith("government") else f"{'an' if text[0] in 'aeiou' else 'a'} {text}"
    return text


def say(template: str, country: str, value: str = "") -> str:
    """Fill a template; the sentence starts with a capital and the grammar of special values is mended."""
    text = template.format(c=country, v=value)
    if value == NO_NEIGHBOURS:
        text = f"{country} is surrounded by water and has {NO_NEIGHBOURS}."
    if "language" in template and " and " in value:
        text = text.replace("language is", "languages are").replace("language of", "languages of")
        text = text.replace(f"{country} is {value}", f"{country} are {value}").replace(" is spoken", " are spoken")
    if "neighbours" in template and value and " and " not in value:
        text = text.replace("neighbours are", "only neighbour is").replace(
            f"neighbours of {country} are", f"only neighbour of {country} is"
        )
    if " lie " in template and value and " and " not in value:
        text = text.replace(" lie ", " lies ")
    text = text.replace("the the ", "the ").replace("s's ", "s' ")
    return text[0].upper() + text[1:]
