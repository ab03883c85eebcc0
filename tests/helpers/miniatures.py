"""Small datasets in exactly the layouts of the published ones.

`make_X(folder, …)` writes one into a new folder and returns the `path` for its loader. Loaders refuse the counts of a
miniature: pass `counts="any"` (in a recipe `data.options.counts=any`), or use `expected_counts_of`. `cifar_files` makes
the files of CIFAR.

    path = miniatures.make_cub(tmp_path, classes=8, per_class=4)
    images = data.cub(path, counts="any")
"""

import contextlib
import hashlib
import pathlib
import shutil
import tarfile
import zipfile

import cifar_files
import numpy as np
from PIL import Image
from scipy.io import savemat

from tfdml.data.download_specs import PUBLISHED
from tfdml.data.prepare import found_in

_KINDS = ("bicycle", "coffee_maker", "sofa")
_BOX = {"bbox_x1": 1, "bbox_y1": 1, "bbox_x2": 9, "bbox_y2": 9}


def write_image(path, label, number, size=(40, 30)):
    """Write a JPEG in two colors of its class, with noise. Every fifth image of a class is gray, and sizes differ."""
    rng = np.random.default_rng([label, number])
    of_class = np.random.default_rng(label).integers(0, 256, (2, 3))
    width, height = size[0] + number % 3, size[1] + 2 * (number % 2)
    image = np.where(np.arange(width)[None, :, None] < width // 2, *of_class[:, None, None])
    image = np.clip(image + rng.normal(scale=20.0, size=(height, width, 3)), 0, 255).astype(np.uint8)
    path.parent.mkdir(parents=True, exist_ok=True)
    image = Image.fromarray(image)
    (image.convert("L") if number % 5 == 4 else image).save(path, "JPEG")


def make_cub(folder, classes=8, per_class=4, size=(40, 30)):
    root = pathlib.Path(folder) / "CUB_200_2011"
    names = [f"{label + 1:03d}.Bird_{chr(97 + label % 26)}" for label in range(classes)]
    rows = [(label, number) for label in range(classes) for number in range(per_class)]
    files = [f"{names[label]}/Bird_{number:04d}_{label}.jpg" for label, number in rows]
    for (label, number), file in zip(rows, files):
        write_image(root / "images" / file, label, number, size)
    write_cub_lists(root, names, [label for label, _ in rows], files)
    return pathlib.Path(folder)


def write_cub_lists(root, names, labels, files):
    root.mkdir(parents=True, exist_ok=True)
    _write_lines(root / "classes.txt", (f"{label + 1} {name}" for label, name in enumerate(names)))
    _write_lines(root / "images.txt", (f"{number + 1} {file}" for number, file in enumerate(files)))
    _write_lines(root / "image_class_labels.txt", (f"{number + 1} {label + 1}" for number, label in enumerate(labels)))


def make_cars196(folder, classes=8, per_class=4, size=(40, 30), devkit=False):
    """Write Cars196 in its first layout, or in the second with `devkit`."""
    root = pathlib.Path(folder)
    names = [f"Maker Model {label} {2000 + label}" for label in range(classes)]
    rows = [(label, number) for number in range(per_class) for label in range(classes)]
    labels = [label for label, _ in rows]
    for file, (label, number) in zip(write_cars_lists(root, names, labels, devkit), rows):
        write_image(root / file, label, number, size)
    return root


def write_cars_lists(root, names, labels, devkit=False):
    """Write the MATLAB files; returns the paths of the images relative to `root`."""
    root.mkdir(parents=True, exist_ok=True)
    class_names = _cells(names)
    if not devkit:
        files = [f"car_ims/{number + 1:06d}.jpg" for number in range(len(labels))]
        rows = [
            {"relative_im_path": file, **_BOX, "class": label + 1, "test": number % 2}
            for number, (file, label) in enumerate(zip(files, labels))
        ]
        savemat(root / "cars_annos.mat", {"annotations": _structs(rows), "class_names": class_names})
        return files
    (root / "devkit").mkdir(exist_ok=True)
    savemat(root / "devkit" / "cars_meta.mat", {"class_names": class_names})
    half = len(labels) // 2
    files = []
    for part, of_part, place in (
        ("cars_train", labels[:half], root / "devkit" / "cars_train_annos.mat"),
        ("cars_test", labels[half:], root / "cars_test_annos_withlabels.mat"),
    ):
        names_of_part = [f"{number + 1:05d}.jpg" for number in range(len(of_part))]
        rows = [{**_BOX, "class": label + 1, "fname": name} for label, name in zip(of_part, names_of_part)]
        savemat(place, {"annotations": _structs(rows)})
        files += [f"{part}/{name}" for name in names_of_part]
    unlabeled = [{**_BOX, "fname": f"{number + 1:05d}.jpg"} for number in range(len(labels) - half)]
    savemat(root / "devkit" / "cars_test_annos.mat", {"annotations": _structs(unlabeled)})
    return files


def make_sop(folder, classes=8, per_class=4, size=(40, 30)):
    root = pathlib.Path(folder) / "Stanford_Online_Products"
    half = classes - classes // 2
    labels = np.repeat(np.arange(classes), per_class).tolist()
    files = write_sop_lists(root, labels, half)
    for index, (file, label) in enumerate(zip(files, labels)):
        write_image(root / file, label, index % per_class, size)
    return pathlib.Path(folder)


def write_sop_lists(root, labels, num_train_classes):
    """Write Stanford Online Products. Labels must be sorted."""
    root.mkdir(parents=True, exist_ok=True)
    lines, files, seen = {"train": [], "test": []}, [], {}
    for index, label in enumerate(labels):
        number = seen[label] = seen.get(label, -1) + 1
        kind = label % len(_KINDS)
        files.append(f"{_KINDS[kind]}_final/{111_000_000_000 + label}_{number}.JPG")
        part = lines["train" if label < num_train_classes else "test"]
        part.append(f"{index + 1} {label + 1} {kind + 1} {files[-1]}")
    for name, of_part in lines.items():
        _write_lines(root / f"Ebay_{name}.txt", ["image_id class_id super_class_id path", *of_part])
    return files


def make_in_shop(folder, classes=8, per_class=4, size=(40, 30)):
    """Write In-shop. The first half of the images of a test class are queries."""
    root = pathlib.Path(folder) / "In-shop Clothes Retrieval Benchmark"
    # Training and test items are interleaved, as in the original.
    is_train = np.arange(classes) % 2 == 0
    rows, images = [], []
    for label in range(classes):
        for number in range(per_class):
            status = "train" if is_train[label] else "query" if number < per_class // 2 else "gallery"
            rows.append((label, status))
            images.append((label, number))
    for file, (label, number) in zip(write_in_shop_list(root, rows), images):
        write_image(root / "Img" / file, label, number, size)
    return pathlib.Path(folder)


def write_in_shop_list(root, rows):
    """Write the files for rows of (label, status); returns the paths of the images relative to `Img`."""
    (root / "Eval").mkdir(parents=True, exist_ok=True)
    files, lines, seen = [], [], {}
    for label, status in rows:
        number = seen[label] = seen.get(label, -1) + 1
        item = f"id_{label + 1:08d}"
        files.append(f"img/{('WOMEN', 'MEN')[label % 2]}/Dresses/{item}/{number + 1:02d}_1_front.jpg")
        lines.append(f"{files[-1]:<70} {item} {status}")
    header = [str(len(rows)), "image_name item_id evaluation_status"]
    _write_lines(root / "Eval" / "list_eval_partition.txt", [*header, *lines])
    return files


def make_cifar10(folder):
    """Write ten training images and two test images per class."""
    cifar_files.write_cifar10(pathlib.Path(folder) / "cifar-10-batches-bin")
    return pathlib.Path(folder)


def make_cifar100(folder, train=2, test=1):
    """Write `train` training images and `test` test images per class; also for `cifar_collage`."""
    cifar_files.write_cifar100(pathlib.Path(folder) / "cifar-100-binary", train, test)
    return pathlib.Path(folder)


MAKERS = {
    "cars196": make_cars196,
    "cifar10": make_cifar10,
    "cifar100": make_cifar100,
    "cifar_collage": make_cifar100,
    "cub": make_cub,
    "in_shop": make_in_shop,
    "sop": make_sop,
}


def make(name, folder, **options):
    """Write the miniature of a dataset by its registered name."""
    return MAKERS[name](folder, **options)


def pack(target, archive):
    """Replace a folder by an archive next to it; returns the path of the archive."""
    target, archive = pathlib.Path(target), pathlib.Path(target).with_name(archive)
    if archive.suffix == ".zip":
        with zipfile.ZipFile(archive, "w") as file:
            for path in sorted(target.rglob("*")):
                file.write(path, path.relative_to(target.parent))
    else:
        with tarfile.open(archive, "w:gz") as file:
            file.add(target, target.name)
    shutil.rmtree(target)
    return archive


@contextlib.contextmanager
def expected_counts_of(name, path, md5=None):
    """Context in which loaders expect the counts of the extracted miniature in `path`.

    `md5` is a dict from names of archives or files to checksums; all others are unpublished.
    """
    before = PUBLISHED[name]

    def with_md5(part):
        return part._replace(md5=(md5 or {}).get(part.source(pathlib.Path(path)).name))

    layouts = [layout._replace(parts=tuple(map(with_md5, layout.parts))) for layout in before.layouts]
    PUBLISHED[name] = before._replace(counts=found_in(name, path, counts="any"), layouts=tuple(layouts))
    try:
        yield PUBLISHED[name]
    finally:
        PUBLISHED[name] = before


def md5_of(path):
    return hashlib.md5(pathlib.Path(path).read_bytes()).hexdigest()


def _write_lines(path, lines):
    path.write_text("\n".join(lines) + "\n")


def _cells(values):
    cells = np.empty((1, len(values)), object)
    cells[0] = values
    return cells


def _structs(rows):
    """Rows as a 1×n struct array for SciPy."""
    structs = np.empty((1, len(rows)), [(field, object) for field in rows[0]])
    for index, row in enumerate(rows):
        structs[0, index] = tuple(row.values())
    return structs
