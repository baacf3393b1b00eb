"""The report's page in a real browser: what it shows, what it does, and that it needs nothing else."""

import json
import math
import re
import sys
from dataclasses import replace

import pytest

pytest.importorskip("plotly", reason="the page needs plotly: pip install 'unmask[report]'")
pytest.importorskip("jinja2", reason="the page needs jinja2: pip install 'unmask[report]'")

from tests.browser import browser, violations  # noqa: F401
from tests.evaluation.findings_for_tests import EVIL, made_up, only_trajectories
from unmask.errors import UnmaskError
from unmask.evaluation.differences import Difference
from unmask.evaluation.page import _headlines, render

FINDINGS = made_up()
PLOTS = ("accuracy-plot", "training-plot", "map")
POINT = """([x, y]) => {
  const plot = document.getElementById('accuracy-plot'), at = plot.getBoundingClientRect(), axes = plot._fullLayout;
  return [at.left + axes.xaxis._offset + axes.xaxis.d2p(x), at.top + axes.yaxis._offset + axes.yaxis.d2p(y)];
}"""
PAPER = "document.getElementById('accuracy-plot')._fullLayout.paper_bgcolor"
BACKGROUND = "getComputedStyle(document.documentElement).backgroundColor"


@pytest.fixture(scope="module")
def open_page(browser, tmp_path_factory):  # noqa: F811
    """Opens findings; whatever is done with it, a page asks for nothing but itself and complains of nothing."""
    asked, told = [], []

    def open_page(findings=FINDINGS, **settings):
        path = tmp_path_factory.mktemp("page") / "report.html"
        path.write_text(render(findings), "utf-8")
        page = browser.new_context(**{"viewport": {"width": 1280, "height": 900}, **settings}).new_page()
        page.on("request", lambda request: asked.append(request.url))
        page.on("console", lambda message: told.append(message.text))
        page.on("pageerror", lambda error: told.append(str(error)))
        page.goto(path.as_uri())
        return page

    yield open_page
    assert [url for url in asked if not url.startswith(("file:", "data:"))] == []
    assert told == []


@pytest.fixture(scope="module")
def desk(open_page):
    """Opened once: each test sets what it needs."""
    page = open_page(color_scheme="light", reduced_motion="reduce")
    draw(page, *PLOTS)
    return page


@pytest.fixture(scope="module")
def phone(open_page):
    page = open_page(color_scheme="light", viewport={"width": 390, "height": 844})
    draw(page, *PLOTS)
    return page


def draw(page, *plots):
    """Plots are drawn when they come near."""
    for plot in plots:
        page.locator(f"#{plot}").scroll_into_view_if_needed()
        page.wait_for_selector(f"#{plot} .main-svg")


def step_to(page, step):
    page.locator("#step").fill(str(step))


def show_prompt(page, index):
    """Anew, with the first two ways to decode it, at the last step."""
    page.locator("#prompt").select_option(str(index))
    page.locator("#left select").select_option("0")
    page.locator("#right select").select_option("1")
    return [shown.trajectory for shown in FINDINGS.trajectories if shown.index == index][:2]


def shown_tokens(page, side):
    """Of each position whether it is revealed, and its text."""
    tokens = page.locator(f"#{side} .tokens span")
    return tokens.evaluate_all("all => all.map(one => [!one.classList.contains('masked'), one.textContent])")


def hover_over(page, cell):
    """Moves the mouse to a cell. Where that is, and what it says there."""
    page.locator("#accuracy-plot").scroll_into_view_if_needed()
    page.mouse.move(1, 1)
    page.locator("#accuracy-plot .hovertext").wait_for(state="detached")  # of the cell before
    x, y = page.evaluate(POINT, [cell.nfe.mean, 100 * cell.accuracy.mean])
    page.mouse.move(x - 2, y - 2)
    page.mouse.move(x, y)
    return x, y, page.locator("#accuracy-plot .hovertext").text_content()


def test_one_small_page():
    html = render(made_up(positions=256, prompts=13))
    assert len(html.encode()) < 8e6
    assert "://" not in re.sub(r"<script>.*?</script>", "", html, flags=re.DOTALL)


def test_opens_and_fits_a_phone(phone):
    assert phone.evaluate("performance.getEntriesByType('navigation')[0].loadEventEnd") < 10_000  # of a busy machine
    assert phone.evaluate("document.documentElement.scrollWidth") == 390
    assert phone.locator(".modebar-btn").count() == 0
    assert violations(phone) == []


def test_text_of_the_data_stays_text(desk):
    show_prompt(desk, 0)
    assert desk.title() == FINDINGS.title
    assert desk.locator("img, b").count() == 0
    assert desk.locator("#prompt-text").text_content() == FINDINGS.trajectories[0].trajectory.prompt
    assert desk.locator("#rules tbody th", has_text=EVIL).count() == 1
    assert desk.locator("#accuracy-plot .legendtext", has_text=EVIL[:30]).count() == 1
    slowest = max((cell for cell in FINDINGS.cells if cell.rule == EVIL), key=lambda cell: cell.nfe.mean)
    assert "<b>bold</b> & {{ 7 * 7 }}" in hover_over(desk, slowest)[2]


def test_no_button_sends_data_away(desk):
    buttons = desk.locator("#accuracy-plot .modebar-btn").evaluate_all("all => all.map(one => one.dataset.title)")
    assert buttons == ["Download plot as a PNG", "Zoom", "Pan", "Reset axes"]


def test_hover_tells_the_cell_and_a_click_finds_it(desk):
    place, cell = next((i, cell) for i, cell in enumerate(FINDINGS.cells) if cell.learned)
    x, y, hover = hover_over(desk, cell)
    for told in (cell.setting, "full diffusion", "95.3% (92.3 to 98.3)", "6.2 (5.9 to 6.5)", "400 prompts, 3 seeds"):
        assert told in hover
    assert '"name": "house-base-full"' in hover
    desk.mouse.click(x, y)
    config = desk.locator(f"#cell-{place} pre")
    assert config.is_visible()
    assert json.loads(config.text_content()) == cell.config


def test_what_oracles_reach_stands_beside_the_cells(desk):
    table = desk.locator("table[aria-labelledby=bounds-title], [aria-labelledby=bounds-title] table")
    assert [" ".join(row.split()) for row in table.locator("tbody tr").all_inner_texts()] == [
        "known order 99.0 (97.0 to 100.0) 3.0 (2.9 to 3.1)",
        "best of 64, none right 0.0 (0.0 to 1.0) –",  # noqa: RUF001 (a dash, as in print)
    ]
    (known, _) = FINDINGS.bounds
    x, y, hover = hover_over(desk, known)
    assert hover == "known order99.0% @ 3.0"
    before = desk.url
    desk.mouse.click(x, y)
    assert desk.url == before, "no cell of the table"
    drawn = "document.getElementById('accuracy-plot').data.map(one => one.name)"
    desk.get_by_label("blocks of 16").check()
    assert "known order" not in desk.evaluate(drawn)
    desk.get_by_label("all", exact=True).check()
    assert "known order" in desk.evaluate(drawn)


def test_blocks_are_chosen_and_frontiers_are_those_of_the_findings(desk):
    drawn = "kind => document.getElementById('accuracy-plot').data.filter(kind).flatMap(one => one.customdata ?? [])"
    desk.get_by_label("blocks of 16").check()
    shown = desk.evaluate(drawn.replace("(kind)", "(() => true)"))
    assert sorted(shown) == [i for i, cell in enumerate(FINDINGS.cells) if cell.blocks == "16"]
    desk.get_by_label("all", exact=True).check()
    best = desk.evaluate(drawn.replace("(kind)", "(one => one.mode === 'lines+markers')"))
    assert sorted(best) == [i for i, cell in enumerate(FINDINGS.cells) if cell.frontier]


@pytest.mark.parametrize("press", ["click", "press"])
def test_sorting_by_a_number(desk, press):
    head = desk.locator("#cells-table thead th", has_text="accuracy")
    button = head.locator("button")
    desk.locator("#cells-table thead th button").first.click()  # by something else
    expected = [f"{accuracy:.1f}" for accuracy in sorted(100 * cell.accuracy.mean for cell in FINDINGS.cells)]
    for order in ("ascending", "descending"):
        button.click() if press == "click" else button.press("Enter")
        assert head.get_attribute("aria-sort") == order
        found = desk.locator("#cells-table tbody tr td:nth-child(4) strong").all_text_contents()
        assert found == (expected if order == "ascending" else expected[::-1])


def test_what_is_not_known_sorts_last(desk):
    for rising in (True, False):
        desk.locator("#beside thead th button", has_text="difference").click()
        found = desk.locator("#beside tbody tr td:nth-child(5)").all_text_contents()
        known = sorted((0.373, 0.41, 0.52), reverse=not rising)
        assert [text.split()[0] for text in found] == [f"{100 * gap:+.1f}" for gap in known] + ["none"]


def test_filter_of_cells(desk):
    desk.locator("#filter").fill("eos FULL")
    expected = [cell for cell in FINDINGS.cells if "EOS" in cell.rule and cell.blocks == "full"]
    assert desk.locator("#cells-table tbody tr:visible").count() == len(expected)
    assert desk.locator("#filtered").text_content() == f"{len(expected)} of {len(FINDINGS.cells)} cells"
    desk.locator("#filter").fill("")
    assert desk.locator("#cells-table tbody tr:visible").count() == len(FINDINGS.cells)


def test_training_shows_a_run_a_line(desk):
    plot = "document.getElementById('training-plot')"
    desk.locator("#metric").select_option("")
    shown = desk.evaluate(f"{plot}.layout.annotations.map(one => one.text)")
    assert shown == ["validation correct", "validation NFE", "reward"]
    desk.locator("#metric").select_option("nfe")
    lines = desk.evaluate(f"{plot}.data.map(one => [one.name, one.y])")
    assert lines == [[run.name, list(run.series["nfe"][1])] for run in FINDINGS.training]


def test_a_calibration_is_a_table_with_its_promises(desk):
    rows = desk.locator("#calibration tbody").first.locator("tr").all_text_contents()
    assert [" ".join(row.split()) for row in rows] == [
        "0.00 6.50 99.0 (97.0 to 101.0)",
        "0.50 4.10 90.0 (87.0 to 93.0)",
        "1.00 2.00 40.0 (35.0 to 45.0)",
    ]
    heads = desk.locator("#calibration th:last-child").all_text_contents()
    assert heads == ["accuracy, % (95%)", "agreement with speed 0, % (95%)"]
    assert "--max-drop 1%: speed 0.20, about 5.0 forward passes" in desk.locator("#calibration li").first.text_content()


def test_transfer_is_a_table(desk):
    cells = desk.locator("#transfer tbody td").all_text_contents()
    assert sum("native" in text for text in cells) == 3
    assert sum("not measured" in text for text in cells) == 1
    lost = next(one for one in FINDINGS.transfer if not one.native)
    assert f"{abs(100 * lost.loss.mean):.1f} points" in desk.locator("#transfer tbody tr").first.text_content()


def test_a_step_shows_what_was_revealed_until_then(desk):
    pair = show_prompt(desk, 1)
    slowest = max(one.nfe for one in pair)
    assert desk.locator("#step").get_attribute("max") == str(slowest)
    for step in (0, 1, pair[0].nfe, slowest):
        step_to(desk, step)
        for side, one in zip(("left", "right"), pair, strict=True):
            tokens = shown_tokens(desk, side)
            assert [seen for seen, _ in tokens] == [0 <= at < step for at in one.revealed_at]
            words = ["◇" if end else word.replace("\n", "↵\n") for word, end in zip(one.words, one.end, strict=True)]
            assert all(text == word for (seen, text), word in zip(tokens, words, strict=True) if seen)
            assert desk.locator(f"#{side} .new").count() == (step > 0) * one.revealed_at.count(step - 1)
            status = desk.locator(f"#{side} .status").text_content()
            assert f"NFE {min(step, one.nfe)} of {one.nfe}" in status
            assert (f"done at step {one.nfe}" in status) == (step >= one.nfe)
    assert desk.locator("#left .verdict").text_content() == "wrong, gold answer: 84"


def test_what_stays_masked_is_said(desk):
    show_prompt(desk, 0)
    desk.locator("#left select").select_option(label="top-k k 1, full diffusion")
    one = FINDINGS.trajectories[2].trajectory
    assert desk.locator("#left .masked").count() == one.revealed_at.count(-1)
    assert f"out of steps at step {one.nfe}" in desk.locator("#left .status").text_content()


def test_play_goes_on_to_the_end_and_stops(desk):
    last = str(max(one.nfe for one in show_prompt(desk, 1)))
    assert desk.locator("#step").input_value() == last  # nothing plays by itself
    desk.locator("#speed").select_option("20")
    desk.get_by_role("button", name="Play").click()
    assert desk.get_by_role("button", name="Pause").count() == 1
    desk.wait_for_function("last => document.getElementById('step').value === last", arg=last)
    desk.get_by_role("button", name="Play").wait_for()
    desk.get_by_role("button", name="Previous").click()
    assert desk.locator("#step").input_value() == str(int(last) - 1)
    desk.locator("#step").press("ArrowLeft")
    assert desk.locator("#step").input_value() == str(int(last) - 2)


def test_space_plays_but_not_while_typing(desk):
    desk.locator("#speed").select_option("1")
    desk.locator("#filter").press("Space")
    assert desk.locator("#play").text_content() == "Play"
    desk.locator("#map").scroll_into_view_if_needed()
    desk.evaluate("document.activeElement.blur()")
    for expected in ("Pause", "Play"):
        desk.keyboard.press("Space")
        assert desk.locator("#play").text_content() == expected


def test_colours_by_step_or_confidence(desk):
    one = show_prompt(desk, 0)[0]
    levels = "all => all.map(one => Number(one.dataset.level))"
    last = int(desk.locator("#step").get_attribute("max"))
    spans = desk.locator("#left .tokens span")
    desk.get_by_label("step", exact=True).check()
    assert spans.evaluate_all(levels) == [min(6, 7 * at // last) for at in one.revealed_at]
    desk.get_by_label("confidence", exact=True).check()
    assert spans.evaluate_all(levels) == [min(6, int(7 * value)) for value in one.confidence]
    told = f"position 1, step 1, confidence {one.confidence[0]:g}: {json.dumps(one.words[0])}"
    assert spans.first.get_attribute("title") == told


def test_map_has_each_revealed_position_and_the_step(desk):
    pair = show_prompt(desk, 0)
    step_to(desk, 2)
    data, lines = desk.evaluate("(p => [p.data.map(one => [one.x, one.y]), p.layout.shapes])(window.map)")
    for (x, y), one in zip(data, pair, strict=True):
        assert dict(zip(x, y, strict=True)) == {i + 1: at + 1 for i, at in enumerate(one.revealed_at)}
    assert [line["y0"] for line in lines] == [2, 2]


def test_accessible_in_light_and_dark(desk):
    """In the end, since it chooses a theme by hand."""
    show_prompt(desk, 0)
    desk.get_by_label("confidence", exact=True).check()  # which has every shade
    step_to(desk, 5)
    button = desk.get_by_role("button", name="Dark")
    light = desk.evaluate(BACKGROUND)
    assert desk.evaluate(PAPER) == light
    assert violations(desk) == []
    button.click()
    assert button.get_attribute("aria-pressed") == "true"
    assert desk.evaluate(BACKGROUND) == desk.evaluate(PAPER) != light
    assert violations(desk) == []
    button.click()
    assert desk.evaluate(BACKGROUND) == desk.evaluate(PAPER) == light


def test_the_system_chooses_the_theme_first(phone):
    light = phone.evaluate(BACKGROUND)
    phone.emulate_media(color_scheme="dark")
    assert phone.evaluate(BACKGROUND) == phone.evaluate(PAPER) != light


def test_prints_in_light_with_every_plot(phone):
    phone.emulate_media(color_scheme="dark")
    phone.evaluate(
        """plots => addEventListener('beforeprint', () => {
          window.papers = plots.map((id) => document.getElementById(id)._fullLayout)
            .map((one) => [one.paper_bgcolor, one.font.color, one.width]);
        })""",
        PLOTS,
    )
    phone.pdf()
    assert phone.evaluate("window.papers") == [["white", "rgb(28, 27, 25)", 680]] * 3
    phone.emulate_media(media="print")
    assert phone.evaluate(BACKGROUND) == "rgb(255, 255, 255)"
    assert not phone.locator("#play").is_visible()
    assert phone.locator("#cells-table thead th").first.inner_text() == "rule"


def test_tables_stand_without_scripts(open_page):
    page = open_page(java_script_enabled=False)
    assert page.locator("#cells-table tbody tr").count() == len(FINDINGS.cells)
    assert "need JavaScript" in page.locator("noscript").inner_text()
    assert not page.locator("#play").is_visible()


def test_one_trajectory_alone(open_page):
    shown = only_trajectories().trajectories[0]
    page = open_page(replace(only_trajectories(), trajectories=[shown]))
    draw(page, "map")
    assert page.locator("main section").evaluate_all("all => all.map(one => one.id)") == ["steps"]
    assert page.locator("footer dt").all_text_contents() == ["NFE", "Step", "Confidence"]
    assert page.locator(".side:visible").count() == 1
    assert page.locator("#step").get_attribute("max") == str(shown.trajectory.nfe)


def test_without_plots_there_is_no_plotly():
    tables = replace(FINDINGS, cells=(), rules=(), versus=(), training=(), trajectories=())
    assert len(render(tables)) < 100_000


@pytest.mark.parametrize(
    ("gap", "told"),
    [
        ((0.373, 0.331, 0.412), "+37.3 points (95% interval +33.1 to +41.2) over the best rule at 6.2 forward passes,"),
        ((-0.02, -0.03, -0.01), "-2.0 points (95% interval -3.0 to -1.0) against the best rule at 6.2 forward passes,"),
        ((0.01, -0.01, 0.03), "+1.0 points (95% interval -1.0 to +3.0), which does not tell them apart, over the best"),
        ((math.nan, math.nan, math.nan), "no rule is as fast as its 6.2 forward passes."),
    ],
)
def test_headline_is_honest(gap, told):
    beside = replace(FINDINGS.versus[0], difference=Difference(*gap, undefined=0.0, selection=0.0))
    (line,) = _headlines(replace(FINDINGS, versus=(beside,)))
    assert line.startswith("policy house-base-full (full diffusion) answers 95.3%: ")
    assert told in line.replace("\N{MINUS SIGN}", "-")


def test_headline_takes_the_rule_that_comes_closest():
    (line,) = _headlines(FINDINGS)
    assert "+37.3 points" in line
    assert line.endswith(f"{FINDINGS.rules[0].rule}.")


def test_missing_packages_are_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "plotly.offline", None)
    with pytest.raises(UnmaskError, match=re.escape("needs plotly and jinja2: pip install 'unmask[report]'.")):
        render(FINDINGS)
