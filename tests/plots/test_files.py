import sys
import threading

import matplotlib
import numpy as np
import pytest
import tensorflow as tf

from tfdml import plots
from tfdml.plots import save, training_curve


def figure():
    return training_curve({"loss": [2.0, 1.0], "val_map_at_r": [0.1, 0.2]}, width=4.0)


def test_a_png_of_the_expected_size_in_a_new_folder(tmp_path):
    drawn = figure()
    path = save(drawn, tmp_path / "some" / "where" / "curve.png", dpi=100)
    image = tf.io.decode_png(path.read_bytes()).numpy()
    width, height = drawn.get_size_inches()
    assert image.shape[:2] == (round(height * 100), round(width * 100))
    assert image.shape[1] == 400
    assert image[..., :3].min() < 100 and image[..., :3].max() == 255
    assert [entry.name for entry in path.parent.iterdir()] == ["curve.png"]


@pytest.mark.parametrize(("suffix", "start"), [("pdf", b"%PDF"), ("svg", b"<?xml")])
def test_other_formats(tmp_path, suffix, start):
    assert save(figure(), str(tmp_path / f"curve.{suffix}")).read_bytes().startswith(start)


def test_the_older_image_stays_whole_when_drawing_fails(tmp_path):
    path = save(figure(), tmp_path / "curve.png")
    before = path.read_bytes()
    broken = figure()

    def fail(*_, **__):
        raise RuntimeError("no ink")

    broken.draw = fail
    with pytest.raises(RuntimeError, match="no ink"):
        save(broken, path)
    assert path.read_bytes() == before
    assert [entry.name for entry in tmp_path.iterdir()] == ["curve.png"]
    save(training_curve({"loss": [1.0]}), path)
    assert path.read_bytes() != before


@pytest.mark.parametrize("name", ["curve", "curve.docx"])
def test_an_unknown_format(tmp_path, name):
    with pytest.raises(ValueError, match="Unknown figure format.*Expected: one of the extensions"):
        save(figure(), tmp_path / name)
    assert list(tmp_path.iterdir()) == []


def draw_all(folder):
    generator = np.random.default_rng(0)
    images = generator.random((2, 8, 8, 1), np.float32)
    maps = np.full((2, 2, 2), 0.25)
    save(figure(), folder / "curve.png", dpi=50)
    save(plots.embedding_map(generator.normal(size=(12, 4)), np.arange(12) % 3), folder / "map.png", dpi=50)
    save(plots.nearest_neighbors(images, images[:, None], np.ones((2, 1), bool)), folder / "near.png", dpi=50)
    save(plots.pooling_maps(images, maps), folder / "pool.png", dpi=50)


def test_matplotlib_s_global_state_is_left_alone(tmp_path):
    from matplotlib import pyplot

    open_before, settings = pyplot.get_fignums(), dict(matplotlib.rcParams)
    draw_all(tmp_path)
    assert pyplot.get_fignums() == open_before
    assert dict(matplotlib.rcParams) == settings


def test_no_module_of_the_plots_imports_pyplot():
    modules = [module for name, module in sys.modules.items() if name.startswith("tfdml.plots")]
    assert len(modules) >= 6
    assert not any("pyplot" in name or "plt" == name for module in modules for name in vars(module))


def test_threads_draw_the_same_images(tmp_path):
    def run(index):
        try:
            draw_all(tmp_path / str(index))
        except Exception as error:  # A thread's error must reach the test.
            failures.append(error)

    failures = []
    threads = [threading.Thread(target=run, args=(index,)) for index in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures
    for name in ("curve.png", "map.png", "near.png", "pool.png"):
        assert len({(tmp_path / str(index) / name).read_bytes() for index in range(3)}) == 1
