import numpy as np
import pytest
from matplotlib.colors import to_hex

from studies.plots import neighbor_rows
from tfdml.plots import style

IMAGES = np.linspace(0, 1, 3 * 16).reshape(3, 4, 4, 1)


def test_frames_show_which_neighbors_have_the_same_class():
    rows = {"LMNN": (IMAGES, [True, True, True]), "Euclidean": (IMAGES, [False, True, False])}
    (axes,) = neighbor_rows(IMAGES, rows, title="digits").axes
    assert len(axes.images) == 9
    assert [text.get_text() for text in axes.texts] == ["test image", "LMNN", "Euclidean"]
    colors = [to_hex(patch.get_edgecolor()).upper() for patch in axes.patches]
    right, wrong = style.RIGHT.upper(), style.WRONG.upper()
    assert colors == [style.TEXT] * 3 + [right] * 3 + [wrong, right, wrong]


@pytest.mark.parametrize(
    ("images", "rows", "message"),
    [
        (IMAGES[:0], {"a": (IMAGES[:0], [])}, "nothing to draw. Received: 0 images and 1 metrics"),
        (IMAGES, {}, "nothing to draw. Received: 3 images and 0 metrics"),
        (IMAGES, {"a": (IMAGES, [True])}, "3 neighbors and 1 marks for 'a'. Expected: 3"),
    ],
)
def test_wrong_shapes(images, rows, message):
    with pytest.raises(ValueError, match=message):
        neighbor_rows(images, rows)
