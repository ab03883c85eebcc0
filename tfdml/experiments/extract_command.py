"""The command `tfdml-extract`, apart from what it does: its help does not wait for TensorFlow."""

from __future__ import annotations

import sys
from typing import Literal, Union

from tfdml.experiments.parsing import CommandParser

SCALES = ("0-1", "0-255", "-1-1")
DTYPES = ("float16", "float32")

_EXAMPLES = """
examples:
  %(prog)s resnet50 --backbone_options.weights imagenet --data PICTURES --size 224 --out features/pets
  %(prog)s MODEL.keras --data digits --scale 0-255 --out features/digits
  %(prog)s SAVEDMODEL --data cub --options.path CUB_200_2011 --size 224 --short_side 256 --out features/cub
  %(prog)s runs/mine --data glyphs --output pooling --out features/glyphs

Then: tfdml-train features --data.options.path features/pets"""


def extract_main(argv=None):
    """Extracts features from the command line.

    Args:
        argv: The arguments; by default those of the program.

    Returns:
        The exit code 0. Wrong arguments and input exit with 2.
    """
    parser = _parser()
    given = parser.parse_given(_with_scale(sys.argv[1:] if argv is None else argv))
    model, options = given.pop("MODEL"), given.pop("options", None)
    missing = [f"--{name}" for name in ("data", "out") if name not in given]
    if missing:
        parser.refuse(f"{' and '.join(missing)} must be given.")
    pictures, out, verbose = given.pop("data"), given.pop("out"), not given.pop("quiet", False)
    try:
        with parser.refusing_input_errors():
            from tfdml.experiments.extraction import extract_features

            features = extract_features(model, pictures, out, data_options=options, verbose=verbose, **given)
    except KeyboardInterrupt:
        print("\nInterrupted; nothing is left of it.", file=sys.stderr)
        return 130
    print(f"{len(features)} features of {features.feature_size} numbers, {features.num_classes} classes: {out}")
    return 0


def _with_scale(argv):
    """The arguments, `--scale -1-1` in one: argparse takes the value for an option."""
    joined = []
    for argument in argv:
        if joined and joined[-1] == "--scale" and argument == "-1-1":
            joined[-1] = "--scale=-1-1"
        else:
            joined.append(argument)
    return joined


def _parser():
    parser = CommandParser(
        usage="%(prog)s MODEL --data NAME_OR_FOLDER --out DIR ...",
        description="Puts pictures through a frozen network and keeps its features, for heads to be trained on them.",
        epilog=_EXAMPLES,
    )
    parser.add_argument(
        "MODEL", help="A .keras file, a SavedModel, a run's folder, or a backbone with --backbone_options.weights."
    )
    parser.add_argument(
        "--data", metavar="NAME_OR_FOLDER", help="A data set of the registry or a folder of pictures."
    )
    parser.add_argument(
        "--options", type=dict, help="What the data set takes, as in --options.min_typefaces 20."
    )
    parser.add_argument("--out", metavar="DIR", help="The folder of the features, which must not exist.")
    parser.add_argument("--backbone_options", type=dict, help="What the backbone takes, as in weights imagenet.")
    parser.add_argument("--output", help="Output of a model with several, or a layer of a Keras model.")
    parser.add_argument("--pooling", help="Pooling of a feature map; gap (average).")
    parser.add_argument(
        "--size", type=Union[int, tuple[int, int]], help="Height and width in pixels; the model's, or the data set's."
    )
    parser.add_argument("--channels", type=int, help="1 (grey) or 3 (colour); the model's, or the data set's.")
    parser.add_argument("--short_side", type=int, help="Scale the shorter side to it, then cut out the centre.")
    parser.add_argument("--scale", type=Literal[SCALES], help="What the model expects of black to white; 0-1.")
    parser.add_argument("--batch_size", type=int, help="Pictures at once; 64.")
    parser.add_argument("--dtype", type=Literal[DTYPES], help="Of the features on disk; float32.")
    parser.add_argument(
        "--trust", action="store_true",
        help="Load a SavedModel even if it can reach files, processes or Python; only if you know who made it.",
    )  # fmt: skip
    parser.add_argument("--quiet", action="store_true", help="No progress bar.")
    return parser


if __name__ == "__main__":
    sys.exit(extract_main())
