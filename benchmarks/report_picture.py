"""A picture of the top of a model's report, for the README: light scheme, 1600 pixels wide, a palette to keep it small.

    python benchmarks/report_picture.py RM FILES... --output docs/images/report.png [options of rewardsmith report]

Needs chromium and the package playwright.
"""

from __future__ import annotations

import argparse
import io
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

WIDTH, HEIGHT, SCALE = 1120, 1080, 10 / 7  # CSS pixels, and pixels of the picture in one of them


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", help="an artifact folder")
    parser.add_argument("files", nargs="+", help="preference files that it was not trained on")
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--title")
    parser.add_argument("--height", type=int, default=HEIGHT, help="CSS pixels from the top")
    options, others = parser.parse_known_args()
    with tempfile.TemporaryDirectory() as folder:
        page = Path(folder) / "report.html"
        title = ["--title", options.title] if options.title else []
        words = ["report", options.model, *options.files, "--output", str(page), "--quiet", *title, *others]
        subprocess.run([sys.executable, "-m", "rewardsmith.cli", *words], check=True)
        options.output.parent.mkdir(parents=True, exist_ok=True)
        save(picture(page, options.height), options.output)
    print(f"{options.output}: {options.output.stat().st_size / 1000:.0f} kB")


def picture(page: Path, height: int) -> bytes:
    """The top of a page as PNG."""
    from playwright.sync_api import sync_playwright

    chromium = shutil.which("chromium") or shutil.which("google-chrome")
    if chromium is None:
        sys.exit("no chromium on the PATH: install it (Debian: apt-get install chromium)")
    with sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        view = browser.new_page(
            viewport={"width": WIDTH, "height": height}, device_scale_factor=SCALE, color_scheme="light"
        )
        view.goto(page.absolute().as_uri())
        shot = view.screenshot()
        browser.close()
    return shot


def save(shot: bytes, output: Path) -> None:
    """With 128 colours, which a page of text and lines does not miss."""
    from PIL import Image

    Image.open(io.BytesIO(shot)).convert("RGB").quantize(128, dither=Image.Dither.NONE).save(output, optimize=True)


if __name__ == "__main__":
    main()
