"""The page of the report in a real browser: it opens from a file, without network or errors."""

import os

import pytest
from browser import CHROMIUM, DRIVER, chromium, open_page, problems, wait_for
from report_runs import write_sweep
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from written_runs import write_run, write_test

from tin.reports.results import load_runs, write_report

DRAWN = "return document.querySelectorAll('#curves .plot .main-svg').length"
NAMES = "return [...document.querySelectorAll('#runs tbody th')].map((cell) => cell.textContent)"


@pytest.fixture(scope="module", autouse=True)
def _browser():
    """Skip without Chromium, unless the run must have it."""
    if not (CHROMIUM.exists() and DRIVER.exists()):
        if os.environ.get("TIN_REQUIRE_BROWSER"):
            pytest.fail(f"{CHROMIUM} or {DRIVER} is absent and TIN_REQUIRE_BROWSER is set")
        pytest.skip("no browser: install chromium and chromium-driver")


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    """Return the page of twelve runs: four models with three seeds each."""
    folder = tmp_path_factory.mktemp("report")
    write_sweep(folder / "runs", 12, num_classes=50, num_videos=300)
    return write_report(load_runs([folder / "runs"]), folder / "out")


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    with chromium(tmp_path_factory.mktemp("browser") / "profile") as opened:
        yield opened


@pytest.fixture
def driver(browser, results):
    """Return a browser that has just opened the page; the console must stay without errors."""
    open_page(browser, results)
    yield browser
    assert problems(browser) == []


def test_the_table_sorts_filters_and_hides_columns(driver):
    first = driver.execute_script(NAMES)
    assert len(first) == 12
    driver.find_element(By.XPATH, "//table[@id='runs']//th[contains(., 'top1 %')]").click()
    rising = driver.execute_script(NAMES)
    assert rising[0].startswith("none")
    assert rising[-1].startswith("interlace")
    driver.find_element(By.CSS_SELECTOR, "input[type=search]").send_keys("shift")
    shown = wait_for(driver, f"const n = (() => {{ {NAMES} }})(); return n.length < 12 && n")
    assert {name.split("_")[0] for name in shown} == {"shift"}
    assert not driver.find_elements(By.XPATH, "//table[@id='runs']//th[contains(., 'commit')]")
    driver.find_element(By.XPATH, "//button[contains(., 'Columns')]").click()
    driver.find_element(By.XPATH, "//button[contains(., 'best_epoch')]").click()
    assert driver.find_elements(By.XPATH, "//table[@id='runs']//th[contains(., 'best_epoch')]")


def test_the_states_are_not_cut_off_on_a_laptop(driver, tmp_path):
    paths = []
    for seed, module in enumerate(("interlace", "shift")):
        name = f"model.temporal-{module}_train.seed-{seed}"
        path = write_run(tmp_path / name, f"model.temporal={module}", f"train.seed={seed}")
        write_test(path, "val-1x1-224", right=3)
        paths.append(path)
    open_page(driver, write_report(load_runs(paths), tmp_path / "out"))
    script = "return document.querySelector('#runs .state').getBoundingClientRect().right"
    assert driver.execute_script(script) <= 1280


def test_plotly_runs_when_the_first_plot_is_looked_at(driver):
    assert driver.execute_script("return typeof window.Plotly") == "undefined"
    driver.execute_script("document.getElementById('curves').scrollIntoView()")
    assert wait_for(driver, DRAWN)


def test_selection_and_legend_choose_the_lines(driver):
    driver.execute_script("document.getElementById('curves').scrollIntoView()")
    wait_for(driver, DRAWN)
    lines = "return document.querySelector('[data-name=\"accuracy, %\"]').data?.length"
    assert wait_for(driver, lines) == 8  # the best eight runs are selected at first
    driver.execute_script("document.querySelectorAll('#legend button')[0].click()")
    wait_for(driver, f"{lines} === 7")
    assert driver.find_element(By.CSS_SELECTOR, "#legend button").get_attribute("aria-pressed") == (
        "false"
    )
    box = driver.find_element(By.CSS_SELECTOR, "#runs input:not(:checked)")
    driver.execute_script("arguments[0].focus()", box)
    box.send_keys(Keys.SPACE)  # by keyboard
    wait_for(driver, f"{lines} === 8")
    assert len(driver.find_elements(By.CSS_SELECTOR, "#legend button")) == 9


def test_the_heat_map_zooms(driver):
    driver.execute_script("document.querySelector('details.run').open = true")
    driver.execute_script("document.querySelector('[data-plot=confusion]').scrollIntoView()")
    spread = (
        "const e = document.querySelector('[data-plot=confusion]'); if (!e._fullLayout) return 0;"
        " const [a, b] = e._fullLayout.xaxis.range; return b - a"
    )
    assert wait_for(driver, spread) == 50
    zoom = driver.find_element(By.CSS_SELECTOR, "details.run figure [data-zoom='0.5']")
    driver.execute_script("arguments[0].focus()", zoom)
    zoom.send_keys(Keys.ENTER)
    wait_for(driver, f"return (() => {{ {spread} }})() === 25")
    driver.execute_script("document.querySelector('details.run figure [data-zoom=\"0\"]').click()")
    wait_for(driver, f"return (() => {{ {spread} }})() === 50")


def test_two_runs_are_compared_class_by_class(driver):
    rows = "return document.querySelectorAll('#difference-table tbody tr').length"
    assert wait_for(driver, rows) == 16
    driver.execute_script(
        "const s = document.getElementById('second-run'); s.value = "
        "document.getElementById('first-run').value; s.dispatchEvent(new Event('change'))"
    )
    last = "return document.querySelector('#difference-table tbody tr td:last-child').textContent"
    assert driver.execute_script(last) == "0.0"  # a run does not differ from itself


def test_everything_has_a_name_and_enough_contrast(driver):
    unnamed = driver.execute_script(
        "return [...document.querySelectorAll('button, input, select, img, [role=img]')].filter("
        "(e) => !(e.textContent.trim() || e.ariaLabel || e.getAttribute('aria-label') || e.alt"
        " || e.labels?.length || e.title)).map((e) => e.outerHTML)"
    )
    assert unnamed == []
    for selector in ("p", "caption", "td", "thead th", ".state.done", "#legend button"):
        assert _contrast(driver, selector) >= 4.5, selector


@pytest.mark.parametrize("dark", [False, True])
def test_a_phone_shows_the_page_without_scrolling_sideways(tmp_path, results, dark):
    with chromium(tmp_path / "profile", 400, dark=dark) as driver:
        open_page(driver, results)
        assert driver.execute_script("return document.documentElement.scrollWidth") <= 400
        for selector in ("p", "td", "thead th", ".state.done"):
            assert _contrast(driver, selector) >= 4.5, selector
        assert problems(driver) == []


def test_forty_runs_are_usable_three_seconds_after_opening(tmp_path):
    write_sweep(tmp_path / "runs", 40, num_classes=20, num_videos=50)
    path = write_report(load_runs([tmp_path / "runs"]), tmp_path / "out")
    with chromium(tmp_path / "profile") as driver:
        # The time of the page's thread on a CPU does not depend on what else the machine does.
        driver.execute_cdp_cmd("Performance.enable", {"timeDomain": "threadTicks"})
        open_page(driver, path)
        metrics = driver.execute_cdp_cmd("Performance.getMetrics", {})["metrics"]
        assert {one["name"]: one["value"] for one in metrics}["TaskDuration"] < 3
        assert len(driver.execute_script(NAMES)) == 25  # the first page of the table


def _contrast(driver, selector: str) -> float:
    """Return the contrast of the first such element by WCAG 2.1: from 1 to 21."""
    colors = driver.execute_script(
        "let e = document.querySelector(arguments[0]); const ink = getComputedStyle(e).color;"
        " let ground = 'rgba(0, 0, 0, 0)';"
        " while (e && /, 0\\)$/.test(ground)) {"
        " ground = getComputedStyle(e).backgroundColor; e = e.parentElement }"
        " return [ink, ground]",
        selector,
    )
    bright, dim = sorted(map(_luminance, colors), reverse=True)
    return (bright + 0.05) / (dim + 0.05)


def _luminance(color: str) -> float:
    shares = [float(part) / 255 for part in color[color.index("(") + 1 : -1].split(",")[:3]]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in shares]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]
