"""A headless Chromium without a network, for pages that must work in a real browser."""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest


@contextmanager
def open_browser(width: int, height: int, *, local_host: bool = False) -> Iterator[Any]:
    """Yields a Selenium driver with a page of `width` x `height`; skips the test without Chromium.

    Args:
        width: of the page, in CSS pixels; may be that of a phone, narrower than any window.
        height: of the page, in CSS pixels.
        local_host: whether this machine can be reached; no other machine can.
    """
    from selenium import webdriver

    driver_path = shutil.which("chromedriver")
    binary = shutil.which("chromium") or shutil.which("google-chrome")
    if driver_path is None or binary is None:
        pytest.skip("chromium or chromedriver is not installed")
    options = webdriver.ChromeOptions()
    options.binary_location = binary
    rules = "MAP * ~NOTFOUND"
    if local_host:
        rules += ", EXCLUDE localhost, EXCLUDE 127.0.0.1"
    for argument in (
        "--headless=new",
        "--no-sandbox",
        "--disable-dev-shm-usage",
        "--hide-scrollbars",  # as on phones, so that the page has the full width
        f"--host-resolver-rules={rules}",
        f"--window-size={width},{height}",
    ):
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    driver = webdriver.Chrome(
        options=options, service=webdriver.ChromeService(executable_path=driver_path)
    )
    try:
        # A window has a least width of 500 and a frame of its own; the page has neither.
        size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": False}
        driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
        yield driver
    finally:
        driver.quit()


def console_errors(driver: Any) -> list[str]:
    """Returns the warnings and errors of the page's console since the last call."""
    entries = driver.get_log("browser")
    return [entry["message"] for entry in entries if entry["level"] in ("SEVERE", "WARNING")]


def save_screenshot(driver: Any, name: str, tmp_path: Path) -> Path:
    """Saves a picture of the whole page to $NNX_ALEXNET_SCREENSHOTS, or to `tmp_path`."""
    import base64

    folder = Path(os.environ.get("NNX_ALEXNET_SCREENSHOTS", tmp_path))
    folder.mkdir(parents=True, exist_ok=True)
    shot = driver.execute_cdp_cmd("Page.captureScreenshot", {"captureBeyondViewport": True})
    path = folder / f"{name}.png"
    path.write_bytes(base64.b64decode(shot["data"]))
    return path
