import re

import pytest
from matplotlib.text import Text

from chatwright.corpus.table import Row, write_rows
from chatwright.evaluation import palette, plots
from chatwright.evaluation.runs import curve, stage_runs
from tests.evaluation.fake_run import finish, make_run


def test_thinning_keeps_short_curves_and_the_mean_and_end_of_long_ones():
    assert plots.thin([1, 2, 3], [4.0, 5.0, 6.0], 240) == ([1, 2, 3], [4.0, 5.0, 6.0])
    steps, values = plots.thin(range(1, 1001), [float(i % 2) for i in range(1000)], 10)
    assert len(steps) == 10
    assert steps[-1] == 1000
    assert values == [0.5] * 10


def test_a_curve_has_the_lines_that_hold_its_metric():
    assert curve([{"step": 1, "loss": 2.0}, {"step": 2, "kl": 1.0}, {"step": 3, "loss": 1.0}], "loss") == (
        [1, 3],
        [2, 1],
    )


@pytest.mark.parametrize("name", list(plots.FIGURES))
def test_a_figure_of_a_stage_that_is_not_there_is_left_out(name: str, tmp_path):
    draw, _ = plots.FIGURES[name]
    assert draw({}) is None


def test_the_funnel_counts_documents_and_not_the_pieces_they_were_cut_into(tmp_path):
    root = tmp_path / "corpus"
    finish(root, "corpus", [], {})
    rows = [Row("a", "web", None, "text", 4), Row("b", "web", None, "text", 4), Row("c", "web", None, "text", 4)]
    rows[1].drop("decontamination", "overlap")
    rows[2].drop("near_duplicate", "of a")
    write_rows(root / "documents.parquet", [*rows, *(Row(f"b#{i}", "web", None, "t", 4, piece_of="b") for i in (1, 2))])
    figure = plots.corpus_figure(stage_runs({"corpus": root}))
    words = {text.get_text() for text in figure.findobj(Text)}
    assert {"kept", "kept in part", "near duplicate", "1 of 3"} <= words
    assert "decontamination" not in words


def test_ids_in_figures_never_meet_on_a_page(tmp_path):
    runs = stage_runs(make_run(tmp_path))
    found: list[str] = []
    for name, (draw, description) in plots.FIGURES.items():
        figure = draw(runs)
        assert figure is not None
        svg = plots.inline_svg(figure, name, description)
        ids = re.findall(r'\bid="([^"]+)"', svg)
        used = re.findall(r'(?:url\(#|href="#)([^")]+)', svg)
        assert set(used) <= set(ids)
        found += ids
    assert len(found) == len(set(found))


def test_figures_have_no_colour_that_the_page_does_not_set(tmp_path):
    runs = stage_runs(make_run(tmp_path))
    for name, (draw, description) in plots.FIGURES.items():
        assert not re.search(r"#[0-9a-f]{6}\b", plots.inline_svg(draw(runs), name, description)), name


def test_no_two_hues_share_a_tone():
    lights = [light for light, _ in palette.HUES.values()] + [palette.INK, palette.FAINT]
    assert len(lights) == len(set(lights))


def test_stages_come_after_what_they_read_whatever_the_order_given(tmp_path):
    folders = make_run(tmp_path)
    runs = stage_runs(dict(reversed(folders.items())))
    order = list(runs)
    assert all(order.index(source) < order.index(name) for name in runs for source in runs[name].inputs)
