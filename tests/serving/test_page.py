"""The page of the service in a real browser: drawing a digit, narrow, dark, and with the keyboard alone."""

import contextlib
import shutil
import threading

import pytest
import torch
import uvicorn

from base.data.inputs import ArrayInput
from base.data.outputs import Output
from base.data.texts import TextInput
from base.trained_model import TrainedModel
from docs.readme_pictures import draw_three
from helpers import PROJECT
from parse_config import ConfigParser
from serve import bound_port
from serving.app import create_app, prepare
from train import build

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium"),
    pytest.mark.filterwarnings("default"),  # of playwright
]


@pytest.fixture(scope="module")
def address(tmp_path_factory):
    """Of a service of the default job after 150 batches."""
    settings = {"epochs": 1, "len_epoch": 150, "limit_valid_batches": 2, "verbosity": 0, "tensorboard": False}
    settings["save_dir"] = str(tmp_path_factory.mktemp("page"))
    given = {f"trainer.{key}": value for key, value in settings.items()}
    trainer = build(ConfigParser.from_file(PROJECT / "config.json", given))
    trainer.train()
    with served(TrainedModel.load(trainer.checkpoint_dir)) as place:
        yield place


@contextlib.contextmanager
def served(model):
    """Serve a model, and yield its address."""
    prepare(model)
    server = uvicorn.Server(uvicorn.Config(create_app(model), log_level="critical"))
    with bound_port("127.0.0.1", 0) as port:
        thread = threading.Thread(target=server.run, kwargs={"sockets": [port]})
        thread.start()
        try:
            yield f"http://127.0.0.1:{port.getsockname()[1]}"
        finally:
            server.should_exit = True
            thread.join(20)


@contextlib.contextmanager
def opened(address, shown="#drawing:not([hidden])", **options):
    """(page, its errors) of the service in a browser."""
    playwright = pytest.importorskip("playwright.sync_api")
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        page, errors = browser.new_page(**options), []
        page.on("console", lambda message: errors.append(message.text) if message.type == "error" else None)
        page.on("pageerror", lambda error: errors.append(str(error)))
        page.on("request", lambda request: request.url.startswith((address, "data:")) or errors.append(request.url))
        page.goto(address)
        page.wait_for_selector(shown)
        yield page
        browser.close()
    assert errors == []


@pytest.mark.parametrize(
    "options",
    [
        {"viewport": {"width": 1000, "height": 700}, "color_scheme": "light"},
        {"viewport": {"width": 360, "height": 740}, "color_scheme": "dark"},
    ],
    ids=["light", "narrow-dark"],
)
def test_a_three_that_is_drawn_is_read(address, options, tmp_path):
    with opened(address, **options) as page:
        draw_three(page)
        page.screenshot(path=tmp_path / "page.png", full_page=True)
        assert page.evaluate("document.documentElement.scrollWidth") <= options["viewport"]["width"]
        ink, paper = page.evaluate("(s => [s.color, s.backgroundColor])(getComputedStyle(document.body))")
        assert (sum(map(int, ink[4:-1].split(","))) > sum(map(int, paper[4:-1].split(",")))) == (
            options["color_scheme"] == "dark"
        )


def test_the_keyboard_alone_draws_and_clears(address):
    with opened(address) as page:
        page.keyboard.press("Tab")
        assert page.evaluate("document.activeElement.id") == "canvas"
        page.keyboard.press("Space")
        for _ in range(15):
            page.keyboard.press("ArrowUp")
        page.wait_for_selector(".best", timeout=30_000)
        assert "The pen is down at 50 %" in page.inner_text("#pen")
        page.keyboard.press("Tab")
        assert page.evaluate("document.activeElement.id") == "clear"
        page.keyboard.press("Enter")
        assert page.locator(".best").count() == 0


class Alphabet(torch.nn.Module):
    """Writes the letter that follows the last one."""

    def forward(self, tokens):
        logits = torch.zeros(len(tokens), 256, tokens.shape[1])
        return logits.scatter(1, ((tokens + 1) % 256)[:, None], 50.0)


def test_a_text_that_is_typed_is_continued(tmp_path):
    model = TrainedModel(Alphabet(), TextInput(8), Output(), torch.device("cpu"))
    size = {"width": 360, "height": 740}
    with served(model) as place, opened(place, "#go:has-text('Continue')", viewport=size) as page:
        page.get_by_label("A text to continue:").fill("<b>a\nk")
        page.get_by_label("length").fill("4")
        page.get_by_label("temperature").fill("0")
        page.get_by_role("button", name="Continue").click()
        page.wait_for_selector("#result .best", timeout=30_000)
        assert page.inner_text("#result .text") == "<b>a\nklmno" and page.inner_text("#result .best") == "lmno"
        assert page.inner_text("#message") == ""
        page.screenshot(path=tmp_path / "page.png", full_page=True)
        assert page.evaluate("document.documentElement.scrollWidth") <= 360
        page.get_by_label("length").fill("1001")
        page.get_by_role("button", name="Continue").click()  # which the form refuses
        assert page.evaluate("document.activeElement.name") == "length"


def test_an_output_that_is_a_picture_is_drawn_and_long_numbers_stay_on_the_page():
    model = TrainedModel(torch.nn.Identity(), ArrayInput(), Output(), torch.device("cpu"))
    size = {"width": 360, "height": 740}
    with served(model) as place, opened(place, "#go:has-text('Predict')", viewport=size) as page:
        page.get_by_label("An example as JSON:").fill("[[[0, 1, 2], [0, 0, 4]]]")
        page.get_by_role("button", name="Predict").click()
        drawn = page.wait_for_selector("canvas.output", timeout=30_000)
        pixels = (
            "c => [c.width, c.height, ...c.getContext('2d').getImageData(0, 0, 3, 2).data.filter((_, i) => i % 4 == 1)]"
        )
        assert drawn.evaluate(pixels) == [3, 2, 0, 64, 128, 0, 0, 255]
        page.get_by_label("An example as JSON:").fill(f"[{', '.join(['0.123456789'] * 300)}, 1234567]")
        page.get_by_role("button", name="Predict").click()
        page.wait_for_selector("#result .text", timeout=30_000)
        text = page.inner_text("#result .text")
        assert text.startswith("[0.1234568,0.1234568,") and text.endswith(",1234567]")
        assert page.evaluate("document.documentElement.scrollWidth") <= 360


@pytest.mark.parametrize("classes", [None, ["ground", "cell"]])
def test_a_mask_is_drawn_with_and_without_names_of_classes(classes):
    model = TrainedModel(torch.nn.Identity(), ArrayInput(), Output(classes, kind="classes"), torch.device("cpu"))
    with served(model) as place, opened(place, "#go:has-text('Predict')") as page:
        page.get_by_label("An example as JSON:").fill("[[[1, 0, 1]], [[0, 1, 0]]]")
        page.get_by_role("button", name="Predict").click()
        drawn = page.wait_for_selector("canvas.output", timeout=30_000)
        pixels = "c => [...c.getContext('2d').getImageData(0, 0, 3, 1).data.filter((_, i) => i % 4 == 0)]"
        assert drawn.evaluate(pixels) == [0, 255, 0]
