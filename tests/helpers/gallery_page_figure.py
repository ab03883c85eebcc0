"""Draw the page of `tfdml-gallery serve` with a gallery of glyphs, and its map, in headless Chromium.

Run it from the repository:
PYTHONPATH=. python tests/helpers/gallery_page_figure.py assets/gallery_page.png assets/gallery_map.png
"""

import json
import os
import pathlib
import re
import subprocess
import sys
import tempfile
import time

import headless_browser
from PIL import Image

from tfdml.data import load
from tfdml.experiments import gallery_main

CODE = "import sys; from tfdml.experiments import gallery_main; sys.exit(gallery_main())"


def write_photos(folder):
    """Write letters as photos, every fourth typeface as validation images, and return paths of queries."""
    glyphs = load("glyphs", characters="ABCDEFGHKLMNPRSTUVWXYZ", size=96)
    for number, (image, label) in enumerate(zip(glyphs.images, glyphs.labels)):
        letter = glyphs.class_names[label]
        place = pathlib.Path(folder, "validation" if number % 4 == 1 else "photos", letter)
        place.mkdir(parents=True, exist_ok=True)
        Image.fromarray(255 - image[..., 0]).save(place / f"{number}.png")
    return sorted(pathlib.Path(folder, "validation", "R").iterdir())


def draw_map(page, path):
    """Open the map, point at an image near its center, and take a screenshot."""
    page.evaluate("document.getElementById('map').open = true")
    page.wait_for("document.getElementById('map-about').textContent.includes('principal')")
    page.evaluate("document.getElementById('map').scrollIntoView()")
    time.sleep(0.5)
    place = json.loads(page.evaluate("JSON.stringify(document.getElementById('points').getBoundingClientRect())"))
    for right in range(0, 400, 5):
        left, top = place["x"] + place["width"] / 2 + right, place["y"] + place["height"] / 2
        page.send("Input.dispatchMouseEvent", type="mouseMoved", x=left, y=top)
        if not page.evaluate("document.getElementById('tip').hidden"):
            break
    page.wait_for("document.querySelector('#tip img').naturalWidth > 0")
    time.sleep(0.5)
    page.screenshot(path)


def main(path, map_path):
    path, map_path = os.path.abspath(path), os.path.abspath(map_path)
    environment = {**os.environ, "PYTHONPATH": os.getcwd()}
    with tempfile.TemporaryDirectory() as folder:
        queries = write_photos(folder)
        os.chdir(folder)
        gallery_main(["build", "efficientnet_lite0", "photos", "--out", "letters", "--size", "96", "--quiet"])
        gallery_main(["calibrate", "letters", "validation", "--target", "best_f1"])
        server = subprocess.Popen(
            [sys.executable, "-c", CODE, "serve", "letters", "--port", "0"], stdout=subprocess.PIPE, text=True,
            env=environment,
        )  # fmt: skip
        try:
            address = re.search(r"http://\S+", server.stdout.readline())[0]
            with headless_browser.opened(address, 1000, 700) as page:
                page.wait_for("document.getElementById('about').textContent.includes('letters')")
                # The first query that is known.
                for query in queries:
                    page.choose_file("#image", query)
                    page.wait_for("document.getElementById('status').textContent.includes('10 images found')")
                    if page.evaluate("document.getElementById('verdict').className") == "known":
                        break
                    page.evaluate("document.getElementById('status').textContent = ''")
                page.wait_for("[...document.querySelectorAll('img')].every(one => one.complete && one.naturalWidth)")
                page.screenshot(path)
                draw_map(page, map_path)
        finally:
            server.terminate()
            server.wait()


if __name__ == "__main__":
    main(*sys.argv[1:])
