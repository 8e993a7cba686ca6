"""Headless Chromium, whose console and network are recorded."""

import json
import shutil

import pytest

webdriver = pytest.importorskip("selenium.webdriver", reason="selenium is not installed")

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
DRIVER = shutil.which("chromedriver")


class Browser:
    """A page at a time, with what it logged and requested since it was opened."""

    def __init__(self, driver, folder):
        self.driver, self.folder = driver, folder
        self.run = driver.execute_script

    def resize(self, width, height=800):
        metrics = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 500}
        self.driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)

    def prefer(self, scheme):
        features = [{"name": "prefers-color-scheme", "value": scheme}]
        self.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})

    def open(self, html):
        path = self.folder / "report.html"
        path.write_text(html, encoding="utf-8")
        self.driver.get_log("browser"), self.driver.get_log("performance")
        self.driver.get(path.as_uri())
        return path.as_uri()

    def console(self):
        return [entry["message"] for entry in self.driver.get_log("browser")]

    def requests(self):
        events = [json.loads(entry["message"])["message"] for entry in self.driver.get_log("performance")]
        return [event["params"]["request"]["url"] for event in events if event["method"] == "Network.requestWillBeSent"]

    def colour(self, selector, name):
        """A computed colour as red, green and blue."""
        text = self.run(f"return getComputedStyle(document.querySelector({selector!r})).{name}")
        return [float(part) for part in text[text.index("(") + 1 : -1].split(",")[:3]]


@pytest.fixture(scope="session")
def driver():
    missing = [name for name, path in (("chromium", CHROMIUM), ("chromedriver", DRIVER)) if path is None]
    if missing:
        pytest.skip(f"no {' and no '.join(missing)} on PATH")
    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM
    for argument in ("--headless=new", "--no-sandbox", "--disable-dev-shm-usage", "--disable-gpu"):
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    found = webdriver.Chrome(options=options, service=webdriver.ChromeService(DRIVER))
    yield found
    found.quit()


@pytest.fixture
def browser(driver, tmp_path):
    found = Browser(driver, tmp_path)
    found.resize(1280)
    found.prefer("light")
    return found
