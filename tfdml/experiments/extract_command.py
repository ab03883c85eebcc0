"""The command `tfdml-extract`, apart from what it does: its help does not wait for TensorFlow."""

from __future__ import annotations

import sys
from typing import Literal, Union

from tfdml._utils.command_line import CommandParser
from tfdml.experiments import plugins
from tfdml.experiments.options import TRUST, add_import_options

SCALES = ("0-1", "0-255", "-1-1")
DTYPES = ("float16", "float32")

_EXAMPLES = """
examples:
  %(prog)s resnet50 --backbone_options.weights imagenet --data IMAGES --size 224 --out features/pets
  %(prog)s MODEL.keras --data digits --scale 0-255 --out features/digits
  %(prog)s SAVEDMODEL --data cub --options.path CUB_200_2011 --size 224 --short_side 256 --out features/cub
  %(prog)s runs/mine --data glyphs --output pooling --out features/glyphs

Then: tfdml-train features --data.options.path features/pets"""


def extract_main(argv=None):
    """Extracts features from the command line. The exit code is 130 after Ctrl-C, 2 for wrong input."""
    parser = _parser()
    given = parser.parse_given(sys.argv[1:] if argv is None else argv)
    model, options, modules = given.pop("MODEL"), given.pop("options", None), given.pop("import", [])
    missing = [f"--{name}" for name in ("data", "out") if name not in given]
    if missing:
        parser.refuse(f"{' and '.join(missing)} must be given.")
    dataset, out, verbose = given.pop("data"), given.pop("out"), not given.pop("quiet", False)
    try:
        with parser.refusing_input_errors():
            plugins.import_modules(modules)
            from tfdml.experiments.extraction import extract_features

            features = extract_features(model, dataset, out, data_options=options, verbose=verbose, **given)
    except KeyboardInterrupt:
        print("\nInterrupted; nothing is left of it.", file=sys.stderr)
        return 130
    print(f"{len(features)} features of {features.feature_size} numbers, {features.num_classes} classes: {out}")
    return 0


def _parser():
    parser = CommandParser(
        usage="%(prog)s MODEL --data NAME_OR_FOLDER --out DIR ...",
        description="Extracts features of images with a frozen network, for heads to be trained on them.",
        epilog=_EXAMPLES,
    )
    parser.add_argument(
        "MODEL", help="A .keras file, a SavedModel, a run's folder, or a backbone with --backbone_options.weights."
    )
    parser.add_options({
        "--data NAME_OR_FOLDER": "Dataset (tfdml-train --list datasets) or folder of images.",
        "--options": (dict, "Options of the dataset, as in --options.min_typefaces 20."),
        "--out DIR": "Folder of the features, which must not exist.",
        "--backbone_options": (dict, "Options of the backbone, as in --backbone_options.weights imagenet."),
        "--output OUTPUT": "Output of a model with several, or a layer of a Keras model.",
        "--pooling POOLING": "Pooling of a feature map (default: gap, average).",
        "--size": (
            Union[int, tuple[int, int]], "Height and width in pixels (default: the model's, or the dataset's)."
        ),
        "--channels": (int, "1 (gray) or 3 (color) (default: the model's, or the dataset's)."),
        "--short_side": (int, "Scale the shorter side to this many pixels, then crop the center."),
        "--scale": (Literal[SCALES], "What the model expects of black to white (default: 0-1)."),
        "--batch_size": (int, "Images at once (default: 64)."),
        "--dtype": (Literal[DTYPES], "Of the features on disk (default: float32)."),
        "--quiet": "No progress bar.",
    })  # fmt: skip
    add_import_options(parser, TRUST)
    return parser


if __name__ == "__main__":
    sys.exit(extract_main())
