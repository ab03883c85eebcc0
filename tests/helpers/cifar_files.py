"""Small files in exactly the layout of the binary versions of CIFAR-10 and CIFAR-100."""

import numpy as np

CIFAR10_NAMES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
SUPERCLASSES = (
    "aquatic_mammals fish flowers food_containers fruit_and_vegetables household_electrical_devices "
    "household_furniture insects large_carnivores large_man-made_outdoor_things large_natural_outdoor_scenes "
    "large_omnivores_and_herbivores medium_mammals non-insect_invertebrates people reptiles small_mammals trees "
    "vehicles_1 vehicles_2"
).split()
CLASSES = [f"class {number}" for number in range(100)]


def superclass_of(label):
    """Super-class of a class. As in the original, the classes of one super-class are not consecutive."""
    return 7 * label % 20


def image_of(label, number, seed=0):
    """Image that encodes its class and number, with channels, rows and columns that all differ."""
    image = np.random.default_rng([seed, label, number]).integers(0, 256, (32, 32, 3), dtype=np.uint8)
    image[0, 0] = (label, number, 255)
    return image


def record(labels, image):
    return bytes(labels) + image.transpose(2, 0, 1).tobytes()


def write_cifar100(folder, train=2, test=1):
    """Write two training images and one test image per class by default; returns the folder."""
    folder.mkdir(parents=True)
    numbers = {"train.bin": range(train), "test.bin": range(train, train + test)}
    for name, of_part in numbers.items():
        records = [
            record((superclass_of(label), label), image_of(label, number))
            for number in of_part
            for label in np.random.default_rng(number).permutation(100)
        ]
        (folder / name).write_bytes(b"".join(records))
    (folder / "fine_label_names.txt").write_text("\n".join(CLASSES) + "\n")
    (folder / "coarse_label_names.txt").write_text("\n".join(SUPERCLASSES) + "\n")
    return folder


def write_cifar10(folder):
    """Write two images of each class to each of the six files; returns the folder."""
    folder.mkdir(parents=True)
    for number, name in enumerate([*(f"data_batch_{batch}.bin" for batch in range(1, 6)), "test_batch.bin"]):
        records = [
            record((label,), image_of(label, 2 * number + copy)) for copy in range(2) for label in range(10)
        ]
        (folder / name).write_bytes(b"".join(records))
    # The original ends with an empty line.
    (folder / "batches.meta.txt").write_text("\n".join(CIFAR10_NAMES) + "\n\n")
    return folder
