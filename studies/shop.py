"""Views of a small shop, rendered by casting rays: the images and positions of the localization study."""

from __future__ import annotations

import csv
import pathlib

import numpy as np
import tensorflow as tf

from tfdml.plots import style

# Each character is a square meter: shelves and walls are #, and the cart moves between them.
PLAN = (
    "##########",
    "#........#",
    "#.##..##.#",
    "#.##..##.#",
    "#........#",
    "#.####.#.#",
    "#......#.#",
    "##########",
)
SIDE = 48
# Weight of the viewing direction in a pose, in meters: opposite directions are twice this apart.
DIRECTION_WEIGHT = 1.0
_FIELD_OF_VIEW = np.deg2rad(75.0)
_MARGIN = 0.3
_TEXTURES, _TEXELS = 10, 16
_STEPS = 24
_FAR = 1e3
# Views that are rendered at once.
_BLOCK = 50


def solid():
    """Return which square meters are walls, bool `(rows, columns)`."""
    return np.array([[character == "#" for character in row] for row in PLAN])


def textures_of(seed):
    """Return textures, which several shelves share, and the number of the texture of each side of each square.

    Args:
        seed: int. Seed of the shop.

    Returns:
        Pair of float arrays `(textures, texels, texels, 3)` in 0–1 and integers `(rows, columns, 4)`.
    """
    rng = np.random.default_rng([seed, 0])
    # Shelves: rows of products of a few colors.
    products = rng.random((_TEXTURES, 4, 8, 3))
    textures = np.repeat(np.repeat(products, _TEXELS // 4, axis=1), _TEXELS // 8, axis=2)
    textures[:, :: _TEXELS // 4] *= 0.3
    numbers = rng.integers(0, _TEXTURES, (*solid().shape, 4))
    return textures, numbers


def random_poses(seed, part, count):
    """Return random poses between the shelves.

    Args:
        seed: int. Seed of the shop.
        part: int. Number of the part, which has its own poses.
        count: int.

    Returns:
        float array `(count, 3)`: x and y in meters, and the direction in radians.
    """
    rng, walls = np.random.default_rng([seed, 1, part]), solid()
    poses = np.zeros((0, 3))
    while len(poses) < count:
        drawn = rng.random((4 * count, 3)) * [walls.shape[1], walls.shape[0], 2 * np.pi]
        corners = [
            walls[(drawn[:, 1] + dy).astype(int) % len(walls), (drawn[:, 0] + dx).astype(int) % walls.shape[1]]
            for dx in (-_MARGIN, _MARGIN)
            for dy in (-_MARGIN, _MARGIN)
        ]
        poses = np.concatenate([poses, drawn[~np.any(corners, axis=0)]])
    return poses[:count]


def cast(poses, angles):
    """Find where rays hit a wall, by walking from square to square.

    Args:
        poses: float array `(n, 3)`.
        angles: float array `(rays,)`. Directions relative to that of the pose.

    Returns:
        Tuple of arrays `(n, rays)`: the distance along the ray, the place on the wall in 0–1, and the row, column and
        side (0 to 3) of the square that is hit.
    """
    walls = solid()
    direction = poses[:, 2, None] + angles
    dx, dy = np.cos(direction), np.sin(direction)
    column, row = (np.broadcast_to(np.floor(poses[:, axis, None]), dx.shape).astype(int) for axis in (0, 1))
    step_x, step_y = np.sign(dx).astype(int), np.sign(dy).astype(int)
    per_x, per_y = (1.0 / np.maximum(np.abs(along), 1.0 / _FAR) for along in (dx, dy))
    # Distances along the ray to the next border in each direction.
    next_x = np.where(step_x > 0, column + 1 - poses[:, 0, None], poses[:, 0, None] - column) * per_x
    next_y = np.where(step_y > 0, row + 1 - poses[:, 1, None], poses[:, 1, None] - row) * per_y
    distance, is_x, is_hit = np.zeros_like(dx), np.zeros(dx.shape, bool), np.zeros(dx.shape, bool)
    for _ in range(_STEPS):
        goes_x = (next_x < next_y) & ~is_hit
        goes_y = ~goes_x & ~is_hit
        distance = np.where(goes_x, next_x, np.where(goes_y, next_y, distance))
        is_x = np.where(is_hit, is_x, goes_x)
        column, row = column + step_x * goes_x, row + step_y * goes_y
        next_x, next_y = next_x + per_x * goes_x, next_y + per_y * goes_y
        is_hit = is_hit | walls[row, column]
    x, y = poses[:, 0, None] + dx * distance, poses[:, 1, None] + dy * distance
    place = np.where(is_x, y, x) % 1.0
    side = np.where(is_x, np.where(step_x > 0, 0, 1), np.where(step_y > 0, 2, 3))
    return distance, place, row, column, side


def render(poses, seed, part):
    """Render views, each with its own light, noise and up to two people who hide a part of the shelves.

    Args:
        poses: float array `(n, 3)`.
        seed: int. Seed of the shop.
        part: int. Number of the part, which has its own light and people.

    Returns:
        uint8 array `(n, SIDE, SIDE, 3)`.
    """
    textures, numbers = textures_of(seed)
    rng = np.random.default_rng([seed, 2, part])
    blocks = [_render(poses[start : start + _BLOCK], textures, numbers, rng) for start in range(0, len(poses), _BLOCK)]
    return np.concatenate(blocks)


def _render(poses, textures, numbers, rng):
    # Twice the size, and averaged: single rays would flicker.
    size = 2 * SIDE
    screen = (np.arange(size) + 0.5) / size * 2 - 1
    angles = np.arctan(screen * np.tan(_FIELD_OF_VIEW / 2))
    distance, place, row, column, side = cast(poses, angles)
    depth = np.maximum(distance * np.cos(angles), 1e-2)
    # Height of the screen at unit depth, and the camera in the middle of walls of 1 m.
    scale = 1.0 / np.tan(_FIELD_OF_VIEW / 2)
    height = 0.5 * scale / depth
    vertical = screen[None, :, None]
    on_wall = np.abs(vertical) < height[:, None, :]
    v = np.clip((vertical / height[:, None, :] + 1) / 2, 0, 0.999)
    texels = (v * _TEXELS).astype(int), (place * _TEXELS).astype(int)[:, None, :]
    colors = textures[numbers[row, column, side][:, None, :], texels[0], texels[1]]
    colors = colors / (1.0 + 0.15 * depth[:, None, :, None])
    # Floor and ceiling: the distance follows from the row of the screen.
    far = 0.5 * scale / np.maximum(np.abs(vertical), 1e-2) / np.cos(angles)[None, None, :]
    direction = poses[:, 2, None] + angles
    x = poses[:, 0, None, None] + far * np.cos(direction)[:, None, :]
    y = poses[:, 1, None, None] + far * np.sin(direction)[:, None, :]
    tiles = (np.floor(2 * x) + np.floor(2 * y)) % 2
    floor = np.where(vertical > 0, 0.45 + 0.15 * tiles, 0.85)
    views = np.where(on_wall[..., None], colors, floor[..., None])
    views = _with_people(views, rng)
    views = views.reshape(len(poses), SIDE, 2, SIDE, 2, 3).mean(axis=(2, 4))
    light = rng.uniform(0.5, 1.3, (len(poses), 1, 1, 1)) * rng.uniform(0.85, 1.15, (len(poses), 1, 1, 3))
    views = views * light + rng.normal(0, 0.03, views.shape)
    return np.rint(255 * np.clip(views, 0, 1)).astype(np.uint8)


def _with_people(views, rng):
    """Draw up to two people of random size and color."""
    size = views.shape[1]
    across, down = np.meshgrid(np.linspace(-1, 1, size), np.linspace(-1, 1, size))
    for view in views:
        for _ in range(rng.integers(0, 3)):
            center, width = rng.uniform(-1, 1), rng.uniform(0.08, 0.25)
            is_body = (np.abs(across - center) < width) & (down > -0.35 - width)
            is_head = (across - center) ** 2 + (down + 0.5 + width) ** 2 < (0.7 * width) ** 2
            view[is_body] = rng.random(3)
            view[is_head] = rng.uniform(0.3, 0.9) * np.array([1.0, 0.8, 0.7])
    return views


def write_shop(folder, seed, images):
    """Write the images of a shop and a CSV file of poses for each part, unless they are there.

    Args:
        folder: path. Gets `train.csv`, `validation.csv` and `test.csv`, with the columns path, x, y, u and v, and a
            folder of PNG files for each.
        seed: int. Seed of the shop.
        images: int. Number of training images; validation and test have a third each.

    Returns:
        The folder.
    """
    folder = pathlib.Path(folder)
    for part, (name, count) in enumerate({"train": images, "validation": images // 3, "test": images // 3}.items()):
        table = folder / f"{name}.csv"
        if table.exists() and len(table.read_text(encoding="utf-8").splitlines()) == count + 1:
            continue
        (folder / name).mkdir(parents=True, exist_ok=True)
        poses = random_poses(seed, part, count)
        rows = []
        for number, (pose, view) in enumerate(zip(poses, render(poses, seed, part))):
            path = f"{name}/{number:04d}.png"
            tf.io.write_file(str(folder / path), tf.io.encode_png(view))
            rows.append([path, *(f"{value:.5f}" for value in pose_vector(pose))])
        with open(table, "w", newline="", encoding="utf-8") as file:
            csv.writer(file).writerows([["path", "x", "y", "u", "v"], *rows])
    return folder


def pose_vector(pose):
    """Return (x, y, u, v), where u and v are the viewing direction times its weight."""
    x, y, direction = pose
    return x, y, DIRECTION_WEIGHT * np.cos(direction), DIRECTION_WEIGHT * np.sin(direction)


def draw_shop(images, poses):
    """Draw the plan with the poses, and some of the views.

    Args:
        images: uint8 array `(n, SIDE, SIDE, 3)`, at least 8.
        poses: float array `(n, 4)` of (x, y, u, v).

    Returns:
        A `matplotlib.figure.Figure`.
    """
    figure = style.new_figure(style.TEXT_WIDTH, 0.42 * style.TEXT_WIDTH)
    grid = figure.subfigures(1, 2, width_ratios=(1.25, 2))
    plan = grid[0].subplots()
    plan.imshow(~solid(), cmap="gray", vmin=-1, vmax=1, extent=(0, len(PLAN[0]), len(PLAN), 0))
    plan.quiver(*poses.T[:2], *poses.T[2:], angles="xy", scale=25, width=0.004, color=style.TEXT)
    plan.set(xlabel="x, m", ylabel="y, m")
    for axes, image in zip(grid[1].subplots(2, 4).flat, images):
        axes.imshow(image, interpolation="nearest")
        axes.set(xticks=[], yticks=[])
    return figure
