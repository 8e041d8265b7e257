"""Draw the README's pictures: make pictures. Each is what a command shows or writes for the default job.

make pictures RUN=saved/models/Mnist_LeNet/<run> draws them of a run that is there; the runs that are compared and swept
are short ones, in a folder that is removed. Chromium takes the pictures of pages.
"""

import contextlib
import os
import shutil
import subprocess
import sys
import tempfile
import textwrap
from pathlib import Path

from PIL import Image

DOCS = Path(__file__).resolve().parent
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
SHORT = ("--set", "trainer.epochs=3", "--set", "trainer.limit_train_batches=100")
SHORTER = ("--set", "trainer.epochs=1", "--set", "trainer.limit_train_batches=40", "--pruner", "Nop")
LETTERS = "font.size: 15"  # of matplotlib: the pictures of compare.py and sweep.py are shown at half their width
# The report's sections that a run has beside those in the README would only make its picture long.
ONLY_SOME_SECTIONS = """for (const section of document.querySelectorAll("section"))
    if (!["Curves", "Confusion matrix", "Most confident mistakes"].includes(section.querySelector("h2").textContent))
        section.remove();
const most = [[".gallery figure", 16], [".pairs tbody tr", 10], [".scroll:has(.pairs) + .note, footer", 0]];
for (const [kind, number] of most)
    [...document.querySelectorAll(kind)].slice(number).forEach(one => one.remove());"""
# a three, in parts of the page's canvas from its left and its top
THREE = [(0.3, 0.26), (0.38, 0.18), (0.5, 0.15), (0.61, 0.18), (0.66, 0.27), (0.64, 0.37), (0.56, 0.45), (0.45, 0.48)]
THREE += [(0.58, 0.51), (0.67, 0.58), (0.7, 0.68), (0.65, 0.78), (0.54, 0.84), (0.4, 0.84), (0.29, 0.76)]


def main(run=None):
    """Draw all pictures of the run, or of one that is trained first."""
    if CHROMIUM is None:
        sys.exit("error: make pictures needs Chromium, which is not installed")
    with tempfile.TemporaryDirectory() as folder, opened_browser() as browser:
        saved = Path(folder, "saved")
        os.environ["MATPLOTLIBRC"] = f"{folder}/matplotlibrc"
        Path(folder, "matplotlibrc").touch()
        run = Path(run) if run else train(saved / "default")
        ours("-m", "logger.plots", run, "--what", "curves", "--out", DOCS / "curves.png")
        ours("test.py", "-r", run / "model_best.pth")
        ours("-m", "logger.plots", run, "--what", "confusion", "--out", DOCS / "test.png")
        draw_report(browser, run)
        ours("predict.py", "-r", run, "--split", "test", "--errors", "--grid", DOCS / "predict.png")
        draw_page(browser, run)
        draw_export(run, Path(folder))
        Path(folder, "matplotlibrc").write_text(LETTERS)
        for lr in (0.0002, 0.002, 0.02):
            train(saved / "compared", *SHORT, "--lr", lr)
        ours("compare.py", saved / "compared", "--plot", DOCS / "compare.png")
        space = ("optimizer.args.lr=log:1e-4..1e-1", "data_loader.args.batch_size=64,128")
        here = ("--set", f"trainer.save_dir={saved}", *SHORTER)
        ours("sweep.py", "-c", "config.json", *space, "--trials", 8, "--jobs", 2, "--study", "sweep", *here)
        shutil.copy(saved / "sweeps" / "sweep" / "slices.png", DOCS / "sweep.png")
    with Image.open(DOCS / "predict.png") as grid:  # of its 8 columns and 4 rows, 5 and 3 can be read at half width
        part = grid.crop((0, 0.045 * grid.height, 0.626 * grid.width, 0.76 * grid.height))
    part.save(DOCS / "predict.png")
    for name in ("curves", "report", "test", "predict", "export", "serve", "compare", "sweep"):
        make_small(DOCS / f"{name}.png")


def ours(*words):
    """Run a command of the project."""
    words = [sys.executable, *map(str, words)]
    print("$ python", *words[1:], flush=True)
    subprocess.run(words, cwd=DOCS.parent, check=True)


def train(saved, *flags):
    """The folder of a new run of the default job."""
    ours("train.py", "-c", "config.json", "--set", f"trainer.save_dir={saved}", *flags)
    return max((saved / "models" / "Mnist_LeNet").iterdir())


@contextlib.contextmanager
def opened_browser():
    """A browser without a window."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


def draw_report(browser, run):
    """Draw the head of the report, its curves, the confusion matrix and 16 mistakes."""
    page = browser.new_page(viewport={"width": 1040, "height": 800})
    log = run.parent.parent.parent / "log" / run.parent.name / run.name
    page.goto((log / "report.html").resolve().as_uri())
    page.evaluate(ONLY_SOME_SECTIONS)
    page.screenshot(path=DOCS / "report.png", full_page=True)


def draw_export(run, folder):
    """Draw what export.py prints, as a terminal shows it, with short paths."""
    import matplotlib.pyplot as plt

    words = [sys.executable, "export.py", "-r", str(run), "--to", "onnx", "--out", str(folder / "model.onnx")]
    printed = subprocess.run(words, cwd=DOCS.parent, stdout=subprocess.PIPE, text=True, check=True).stdout
    for place in (folder, run, run.resolve()):
        printed = printed.replace(f"{place}/", "")
    text = f"$ python export.py -r latest --to onnx\n{printed.strip()}"
    lines = [part for line in text.split("\n") for part in textwrap.wrap(line, 44, break_on_hyphens=False)]
    figure = plt.figure(figsize=(5.2, 0.36 + 0.25 * len(lines)), facecolor="#1e1e1e")
    figure.text(0.035, 0.5, "\n".join(lines), family="monospace", size=13, color="#e6e6e6", va="center")
    figure.savefig(DOCS / "export.png")
    plt.close(figure)


def draw_page(browser, run):
    """Draw a three on the page of the service, and the page."""
    words = [sys.executable, "serve.py", "-r", str(run), "--port", "0"]
    with subprocess.Popen(words, cwd=DOCS.parent, stdout=subprocess.PIPE, text=True) as service:
        try:
            page = browser.new_page(viewport={"width": 720, "height": 580})
            page.goto(service.stdout.readline().split()[-1])
            draw_three(page)
            page.wait_for_timeout(1000)  # the bars move
            page.screenshot(path=DOCS / "serve.png")
        finally:
            service.terminate()


def draw_three(page):
    """Draw a three on the page of the service with the mouse, and wait until it is read as one."""
    box = page.locator("#canvas").bounding_box()
    places = [(box["x"] + x * box["width"], box["y"] + y * box["height"]) for x, y in THREE]
    page.mouse.move(*places[0])
    page.mouse.down()
    for place in places[1:]:
        page.mouse.move(*place, steps=4)
    page.mouse.up()
    page.wait_for_function("document.querySelector('.best span')?.textContent === '3'", timeout=30_000)


def make_small(path):
    """Write a picture again with 128 colours."""
    with Image.open(path) as image:
        image.convert("RGB").quantize(128, dither=Image.Dither.NONE).save(path, optimize=True)
    print(f"{path.relative_to(DOCS.parent)}: {path.stat().st_size // 1000} KB")


if __name__ == "__main__":
    main(*sys.argv[1:])
