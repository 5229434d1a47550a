"""Chromium without a window, for tests of the report's page."""

import contextlib
import shutil
from collections.abc import Iterator
from pathlib import Path

from selenium import webdriver
from selenium.webdriver.chrome.options import Options
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.support.ui import WebDriverWait

CHROMIUM = Path("/usr/bin/chromium")
DRIVER = Path("/usr/bin/chromedriver")
TIMEOUT_S = 120.0
FLAGS = (
    "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --hide-scrollbars"
    " --disable-background-networking --disable-component-update --disable-sync"
).split()


@contextlib.contextmanager
def chromium(profile: Path, width: int = 1280, *, dark: bool = False) -> Iterator[webdriver.Chrome]:
    """Start a browser with a new profile, and end it and remove the profile afterwards.

    All names resolve to nothing, so a page that asks the network for something logs an error.
    """
    options = Options()
    options.binary_location = str(CHROMIUM)
    for flag in FLAGS:
        options.add_argument(flag)
    options.add_argument(f"--user-data-dir={profile}")
    options.add_argument("--host-resolver-rules=MAP * ~NOTFOUND")
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    driver = webdriver.Chrome(options=options, service=Service(str(DRIVER)))
    try:
        size = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": False}
        driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [scheme]})
        yield driver
    finally:
        driver.quit()
        shutil.rmtree(profile, ignore_errors=True)


def open_page(driver: webdriver.Chrome, path: Path) -> None:
    """Open a page from a file and wait until its scripts have run."""
    driver.get(path.absolute().as_uri())
    wait_for(driver, "return document.documentElement.dataset.ready === 'yes'")


def wait_for(driver: webdriver.Chrome, script: str, timeout_s: float = TIMEOUT_S) -> object:
    """Wait until a script returns a true value, and return it."""
    return WebDriverWait(driver, timeout_s, 0.05).until(lambda d: d.execute_script(script))


def problems(driver: webdriver.Chrome) -> list[str]:
    """Return the warnings and errors of the console."""
    return [
        entry["message"]
        for entry in driver.get_log("browser")
        if entry["level"] in ("WARNING", "SEVERE")
    ]
