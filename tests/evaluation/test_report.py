import json
import re
from html.parser import HTMLParser
from pathlib import Path

import pytest

from chatwright.errors import UserError
from chatwright.evaluation.report import ReportConfig, gauge, run
from chatwright.storage import read_json, write_json
from tests.evaluation.fake_run import READS, add_evaluation, finish, make_run

VOID = {"meta", "br", "link", "img", "hr", "input"}


class Page(HTMLParser):
    """Checks that tags are balanced, and collects ids, links to them, and whatever names an address."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.ids: list[str] = []
        self.targets: list[str] = []
        self.addresses: list[str] = []
        self.feed(text)
        assert not self.open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag not in VOID:
            self.open.append(tag)
        for name, value in attrs:
            if name == "id" and value:
                self.ids.append(value)
            if name in ("href", "src", "xlink:href", "action") and value:
                (self.targets if value.startswith("#") else self.addresses).append(value)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        if tag not in VOID:
            self.open.pop()

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def report(root: Path, names: tuple[str, ...] = tuple(READS)) -> tuple[dict, str]:
    folders = add_evaluation(root, make_run(root, names))
    run(ReportConfig(), folders, root / "report")
    return read_json(root / "report" / "report.json"), (root / "report" / "report.html").read_text("utf-8")


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict, str]:
    return report(tmp_path_factory.mktemp("runs") / "atlas")


def test_the_page_asks_nothing_of_a_network(whole: tuple[dict, str]):
    page = Page(whole[1])
    assert page.addresses == []
    assert "@import" not in whole[1]
    assert not re.search(r"url\((?!#)", whole[1])
    assert "<script" not in whole[1]


def test_the_page_is_well_formed_and_its_links_lead_somewhere(whole: tuple[dict, str]):
    page = Page(whole[1])
    assert len(page.ids) == len(set(page.ids))
    assert {target[1:] for target in page.targets} <= set(page.ids)


def test_the_page_is_small(whole: tuple[dict, str]):
    assert len(whole[1].encode()) < 1_000_000


def test_answers_of_models_are_escaped(whole: tuple[dict, str]):
    assert "<b>Kathmandu</b>" not in whole[1]
    assert "&lt;b&gt;Kathmandu&lt;/b&gt;" in whole[1]


def test_the_page_follows_the_light_and_the_dark_theme(whole: tuple[dict, str]):
    assert "prefers-color-scheme: dark" in whole[1]
    body = whole[1].partition("</style>")[2]
    assert not re.search(r"#[0-9a-f]{6}\b", body), "a fixed colour in the page"


def test_every_stage_has_its_curves(whole: tuple[dict, str]):
    for name in ("corpus", "mixture", "pretrain", "sft", "reward", "ppo", "tax"):
        assert f'data-figure="{name}"' in whole[1]


def test_no_place_on_the_disk_is_shown(whole: tuple[dict, str]):
    assert "/home/" not in whole[1] + json.dumps(whole[0])
    assert whole[0]["command"].startswith("chatwright run recipes/atlas.toml --out ")


def test_the_json_holds_what_a_program_wants(whole: tuple[dict, str]):
    content = whole[0]
    assert content["title"] == "atlas"
    assert (content["holds"], content["fails"], content["absent"]) == (10, 0, 0)
    assert content["checks"]["capital_seen"]["questions"] == 120
    assert content["lineage"]["ppo"]["inputs"].keys() == {"sft", "reward", "conversations", "shards"}
    assert content["models"]["ppo"]["parameters"] == 4096 * 192
    pretrain = content["stages"]["pretrain"]
    assert pretrain["predicted_seconds"] == 40.0
    assert pretrain["operations"] == 6 * pretrain["parameters"] * pretrain["tokens"]


def test_the_same_run_gives_the_same_bytes(tmp_path: Path):
    pages = [report(tmp_path / str(i) / "atlas")[1].replace(f"{i}/atlas", "atlas") for i in range(2)]
    assert pages[0] == pages[1]


@pytest.mark.parametrize(
    "names",
    [
        ("conversations", "corpus", "tokenizer", "shards", "pretrain", "sft"),
        ("conversations", "corpus", "tokenizer", "shards", "pretrain"),
        ("conversations",),
        tuple(name for name in READS if "@" not in name),
    ],
)
def test_a_road_that_ends_early_has_its_report(tmp_path: Path, names: tuple[str, ...]):
    content, page = report(tmp_path / "mine", names)
    Page(page)
    assert set(content["stages"]) == {*names, "evaluate"}
    assert content["absent"] > 0


def test_a_failed_check_is_the_first_thing_seen(tmp_path: Path):
    root = tmp_path / "atlas"
    folders = add_evaluation(root, make_run(root))
    evaluation = read_json(root / "evaluate" / "evaluation.json")
    evaluation |= {"holds": 9, "fails": 1}
    evaluation["checks"]["followup"] |= {"value": 0.5, "passed": False, "status": "fails"}
    write_json(root / "evaluate" / "evaluation.json", evaluation)
    run(ReportConfig(title="Mine"), folders, root / "report")
    page = (root / "report" / "report.html").read_text("utf-8")
    assert page.index("1 of 10 checks fails") < page.index("<h1>")
    assert "<title>Mine" in page


def test_without_an_evaluation_there_is_nothing_to_report(tmp_path: Path):
    finish(tmp_path / "pretrain", "pretrain", [], {})
    with pytest.raises(UserError, match="evaluate"):
        run(ReportConfig(), {"pretrain": tmp_path / "pretrain"}, tmp_path / "report")


def test_a_gauge_keeps_every_mark_inside():
    check = {
        "unit": "prompts",
        "direction": "at_least",
        "value": -0.4,
        "threshold": 0.3,
        "interval": [-1.0, 0.2],
        "stages": {},
        "beside": {"seed 1": {"value": -1.0}, "seed 2": {"value": 0.2}},
    }
    placed = gauge(check)
    places = [placed["zero"], placed["value"], placed["threshold"], *placed["interval"]]
    assert all(0 <= place <= 100 for place in places + [ring["place"] for ring in placed["rings"]])
    assert placed["interval"][0] < placed["value"] < placed["zero"] < placed["threshold"]
