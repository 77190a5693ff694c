"""Open every built notebook as a learner would, and check that each figure has drawn itself.

In three forms: a real JupyterLab, an interactive HTML page, and a static one with PNGs, as on
GitHub. Nothing may come from the network. Pages go to build/html, screenshots to build/pictures.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import quote
from urllib.request import urlopen

import nbformat

from pages import export, figures

NOTEBOOKS = Path(__file__).resolve().parent.parent
BUILD = NOTEBOOKS.parent / "build"
PAGES, SHOTS = BUILD / "html", BUILD / "pictures"
BROWSERS = ("chromium", "chromium-browser", "google-chrome")
FLAGS = """--no-sandbox --disable-gpu --disable-quic --no-first-run --disable-sync
--disable-background-networking --disable-component-update""".split()
# What may be asked for, or be a console error, without failing: part of the message -> reason.
IGNORED = {"https://colab.research.google.com/assets/colab-badge.svg": "offline: its alt text"}
# What is wrong with a figure; "" if it is drawn. plotly.js silently draws a trace of a type that
# it does not know as a scatter, so wanted and drawn types are compared.
WRONG = """box => {
  const size = e => { const b = e.getBoundingClientRect(); return [b.width, b.height]; };
  if (box.tagName === 'IMG')
    return box.naturalWidth <= 300 ? 'shows no picture' : box.alt ? '' : 'has no alt text';
  const svg = box.querySelector('svg.main-svg');
  if (!svg || Math.min(...size(svg)) < 1) return 'has not drawn itself';
  const full = box._fullData.filter(t => t.visible === true);
  const odd = (box.data || []).find((t, i) => t.type && t.type !== box._fullData[i].type);
  if (odd) return `has a trace of the unknown type ${odd.type}`;
  if (!full.length) return 'has no trace';
  const drawn = [...box.querySelectorAll('g.trace, g.hm')].filter(g =>
    [...g.querySelectorAll('path, image')].some(e => Math.max(...size(e)) > 1));
  return drawn.length < full.length ? `shows ${drawn.length} of ${full.length} traces` : '';
}"""
SCROLL = """top => { const e = document.querySelector('.jp-WindowedPanel-outer');
  e.scrollTop = top; return e.scrollHeight - e.clientHeight - top; }"""


def put_setting(folder: Path, plugin: str, **values: Any) -> None:
    """One setting of JupyterLab, in force from the next time that a page loads."""
    path = folder / "@jupyterlab" / f"{plugin}.jupyterlab-settings"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(values), encoding="utf-8")


@contextmanager
def jupyterlab(root: Path) -> Iterator[tuple[str, Path]]:
    """A JupyterLab for this machine and this moment only: its address, its folder of settings."""
    with tempfile.TemporaryDirectory() as folder:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        kinds = "JUPYTER_CONFIG JUPYTER_DATA JUPYTER_RUNTIME JUPYTERLAB_SETTINGS"
        kinds = f"{kinds} JUPYTERLAB_WORKSPACES".split()
        variables = os.environ | {f"{kind}_DIR": str(Path(folder, kind)) for kind in kinds}
        settings, log = Path(folder, "JUPYTERLAB_SETTINGS"), Path(folder, "log")
        news = {"fetchNews": "false", "checkForUpdates": False}
        put_setting(settings, "apputils-extension/notification", **news)
        # An opened notebook counts as changed at once; the file must stay as it is.
        put_setting(settings, "docmanager-extension/plugin", autosave=False)
        command = [sys.executable, "-m", "jupyterlab", "--no-browser", "--allow-root"]
        command += ["--ip=127.0.0.1", f"--port={port}", "--ServerApp.port_retries=0"]
        command += ["--IdentityProvider.token=", f"--ServerApp.root_dir={root}"]
        command += [f"--FileCheckpoints.checkpoint_dir={folder}/checkpoints"]  # not beside them
        with log.open("w") as out:
            server = subprocess.Popen(command, stdout=out, stderr=out, env=variables)
        address, deadline = f"http://127.0.0.1:{port}", time.monotonic() + 90
        try:
            while True:
                try:
                    urlopen(f"{address}/api", timeout=5).close()
                    break
                except OSError:
                    time.sleep(0.3)
                if server.poll() is not None or time.monotonic() > deadline:
                    raise SystemExit(f"JupyterLab did not start:\n{log.read_text()[-2000:]}")
            yield address, settings
        finally:
            server.terminate()  # it ends its kernels before itself
            try:
                server.wait(20)
            except subprocess.TimeoutExpired:
                server.kill()


@contextmanager
def guarded_page(browser: Any, home: str) -> Iterator[tuple[Any, list[str]]]:
    """A page that can load from `home` alone, and the growing list of what is wrong with it."""
    context, wrong = browser.new_context(viewport={"width": 1280, "height": 900}), []

    def blame(text: str) -> None:
        if not any(known in text for known in IGNORED):
            wrong.append(text[:400])

    def load(route: Any) -> None:
        if route.request.url.startswith((home, "data:", "blob:")):
            return route.continue_()
        blame(f"asks for {route.request.url}")
        route.abort()

    def hear(message: Any) -> None:
        if message.type == "error":
            blame(f"console: {message.text} {message.location.get('url', '')}")

    context.route("**/*", load)
    page = context.new_page()
    page.on("console", hear)
    page.on("pageerror", lambda error: blame(f"script error: {error}"))
    yield page, wrong
    context.close()


def look(page: Any, selector: str, count: int, wrong: list[str]) -> int:
    """How many of a page's figures are drawn; what ails the others goes to `wrong`."""
    boxes, good, verdict = page.locator(selector), 0, ""
    for _ in range(40 * (boxes.count() < count)):  # cells come one after the other
        page.wait_for_timeout(250 * (boxes.count() < count))
    if boxes.count() != count:
        wrong.append(f"the page has {boxes.count()} figures, the notebook {count}")
    for number in range(boxes.count()):
        box = boxes.nth(number)
        box.evaluate("e => e.scrollIntoView({block: 'center'})")
        for _ in range(30):
            # JupyterLab shows the stored PNG, and draws the figure when the mouse comes.
            if place := box.bounding_box():
                page.mouse.move(place["x"] + place["width"] / 2, place["y"] + place["height"] / 2)
            if not (verdict := box.evaluate(WRONG)):
                break
            page.wait_for_timeout(250)
            page.mouse.move(2, 2)
        page.mouse.move(2, 2)  # no hover label on the screenshots
        good += not verdict
        wrong += [f"figure {number + 1} {verdict}"] if verdict else []
    return good


def photograph(page: Any, name: str, most: int) -> None:
    """Screenshots of a notebook in JupyterLab, from its top; of a single one, where it stands."""
    for piece in range(most):
        left = page.evaluate(SCROLL, piece * 700) if most > 1 else 0
        page.wait_for_timeout(300)
        page.screenshot(path=SHOTS / f"{name}-{piece + 1}.png")
        if left <= 0:
            return


def visit(browser: Any, form: str, path: Path, root: Path, address: str) -> bool:
    """Check one notebook in one form, take its pictures, print a line; True if all is well."""
    notebook, started = nbformat.read(path, as_version=4), time.perf_counter()
    count, lab = len(figures(notebook)), form.startswith("lab")
    good, suffix = 0, "-static" if form == "static" else ""
    with guarded_page(browser, address if lab else "file:") as (page, wrong):
        try:
            if lab:
                page.goto(f"{address}/lab/tree/{quote(path.relative_to(root).as_posix())}?reset")
                page.wait_for_selector(".jp-NotebookPanel .jp-Cell", timeout=90_000)
                good = look(page, ".jp-RenderedPlotly", count, wrong)
                photograph(page, f"{path.stem}-{form}", 200 if form == "lab" else 1)
            else:
                target = PAGES / f"{path.stem}{suffix}.html"
                export(notebook, form == "html", target)
                page.goto(target.as_uri())
                good = look(page, "img.figure" if suffix else ".plotly-graph-div", count, wrong)
                page.screenshot(path=SHOTS / f"{path.stem}-{form}.png", full_page=True)
        except Exception as error:  # a broken notebook must not hide the others
            wrong.append(f"{type(error).__name__}: {error}"[:400])
    took = time.perf_counter() - started
    print(f"{path.stem} {form}: {good} of {count} figures drawn, {took:.0f} s", flush=True)
    for line in dict.fromkeys(wrong):
        print(f"  FAILED {path.name} ({form}): {line}", flush=True)
    return not wrong


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("notebooks", nargs="*", type=Path, help="default: notebooks/*.ipynb")
    paths = [p.resolve() for p in parser.parse_args().notebooks] or sorted(
        NOTEBOOKS.glob("*.ipynb")
    )
    program = next(filter(None, map(shutil.which, [os.environ.get("CHROMIUM", ""), *BROWSERS])), "")
    try:
        from playwright.sync_api import sync_playwright
    except ImportError:
        program = ""
    if not program:
        print("Pictures need a browser: apt install chromium; pip install -e '.[pictures]'")
        return 2
    for folder in (PAGES, SHOTS):
        folder.mkdir(parents=True, exist_ok=True)
    root = Path(os.path.commonpath([path.parent for path in paths]))
    with sync_playwright() as play, jupyterlab(root) as (address, settings):
        browser = play.chromium.launch(executable_path=program, args=FLAGS)
        fine = [
            visit(browser, f, p, root, address) for p in paths for f in ("lab", "html", "static")
        ]
        put_setting(settings, "apputils-extension/themes", theme="JupyterLab Dark")
        fine.append(visit(browser, "lab-dark", paths[0], root, address))
    return 0 if all(fine) else 1


if __name__ == "__main__":
    sys.exit(main())
