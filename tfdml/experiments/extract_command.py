"""The command `tfdml-extract`, in a module without TensorFlow so that its help is fast."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Literal, Union

from tfdml._utils.command_line import CommandParser
from tfdml.experiments import plugins
from tfdml.experiments.options import TRUST, add_import_options

SCALES = ("0-1", "0-255", "-1-1")
DTYPES = ("float16", "float32")
# Options that write Parquet shards instead of features.npy.
_OF_SHARDS = ("ray", "workers", "address", "shard_size", "retry_failed")

_EXAMPLES = """
examples:
  %(prog)s resnet50 --backbone_options.weights imagenet --data IMAGES --size 224 --out features/pets
  %(prog)s MODEL.keras --data digits --scale 0-255 --out features/digits
  %(prog)s SAVEDMODEL --data cub --options.path CUB_200_2011 --size 224 --short_side 256 --out features/cub
  %(prog)s runs/mine --data glyphs --output pooling --out features/glyphs
  %(prog)s runs/mine --data photos --ray --workers 4 --out vectors/photos

Then: tfdml-train features --data.options.path features/pets"""


def extract_main(argv: Sequence[str] | None = None) -> int:
    """Extract features from the command line. The exit code is 130 after Ctrl-C, 2 for wrong input.

    Args:
        argv: sequence of str. Arguments. Default: those of the process.
    """
    parser = _parser()
    given = parser.parse_given(sys.argv[1:] if argv is None else argv)
    model, options, modules = given.pop("MODEL"), given.pop("options", None), given.pop("import", [])
    missing = [f"--{name}" for name in ("data", "out") if name not in given]
    if missing:
        parser.refuse(f"Options are missing. Expected: {' and '.join(missing)}.")
    dataset, out, verbose = given.pop("data"), given.pop("out"), not given.pop("quiet", False)
    sharded = {name: given.pop(name) for name in _OF_SHARDS if name in given}
    if sharded:
        sharded.update(data_options=options, imports=modules, verbose=verbose)
        return _extract_to_parquet(parser, model, dataset, out, {**sharded, **given})
    try:
        with parser.refusing_input_errors():
            plugins.import_modules(modules)
            from tfdml.experiments.extraction import extract_features

            features = extract_features(model, dataset, out, data_options=options, verbose=verbose, **given)
    except KeyboardInterrupt:
        print("\nInterrupted. Nothing was written.", file=sys.stderr)
        return 130
    print(f"{len(features)} features of {features.feature_size} numbers, {features.num_classes} classes: {out}")
    return 0


def _extract_to_parquet(parser, model, dataset, out, options):
    try:
        with parser.refusing_input_errors():
            options["imports"] = plugins.import_modules(options["imports"])
            from tfdml.experiments.sharded_extraction import extract_to_parquet

            report = extract_to_parquet(model, dataset, out, **options)
    except KeyboardInterrupt:
        print(f"\nInterrupted. Finished shards stay in {out}; the same command continues.", file=sys.stderr)
        return 130
    print(
        f"{report.images - report.failed} vectors of {report.feature_size} numbers in {report.shards} shards "
        f"({report.kept_shards} from before): {out}"
    )
    if report.failed:
        print(f"{report.failed} images failed: {report.folder / 'failed.csv'}")
    return 0


def _parser():
    parser = CommandParser(
        usage="%(prog)s MODEL --data NAME_OR_FOLDER --out DIR ...",
        description="Extracts features of images with a frozen network, to train heads on them or to search them.",
        epilog=_EXAMPLES,
    )
    parser.add_argument(
        "MODEL", help="A .keras file, SavedModel, run folder, or backbone with --backbone_options.weights."
    )
    parser.add_options({
        "--data NAME_OR_FOLDER": "Dataset (tfdml-train --list datasets) or folder of images.",
        "--options": (dict, "Options of the dataset, as in --options.min_typefaces 20."),
        "--out DIR": "Folder of the features, which must not exist.",
        "--backbone_options": (dict, "Options of the backbone, as in --backbone_options.weights imagenet."),
        "--output OUTPUT": "Output to use if the model has several, or a layer of a Keras model.",
        "--pooling POOLING": "Pooling of feature maps or tokens (default: gap, average); of tokens also cls, cls+gap.",
        "--skip_tokens": (int, "Leading class and register tokens of a vision transformer (default: inferred)."),
        "--token_grid": (tuple[int, int], "Height and width of its patch tokens, as in '[14,14]' (default: inferred)."),
        "--size": (
            Union[int, tuple[int, int]], "Height and width in pixels (default: the model's, or the dataset's)."
        ),
        "--channels": (int, "1 (gray) or 3 (color) (default: the model's, or the dataset's)."),
        "--short_side": (int, "Scale the shorter side to this number of pixels, then crop the center."),
        "--scale": (Literal[SCALES], "Values for black and white that the model expects (default: 0-1)."),
        "--batch_size": (int, "Images per batch (default: 64)."),
        "--dtype": (Literal[DTYPES], "Data type of the stored features (default: float32)."),
        "--ray": "Write Parquet shards, computed by Ray. After an interruption, the same command continues.",
        "--workers": (int, "Ray workers (default: one per GPU, or per CPU)."),
        "--address ADDRESS": "Ray cluster, as in auto or HOST:6379 (default: this machine).",
        "--shard_size": (int, "Images per Parquet shard (default: 4096). Without --ray, shards of this process."),
        "--retry_failed": "Compute shards with failed images again.",
        "--quiet": "Show no progress bar.",
    })  # fmt: skip
    add_import_options(parser, TRUST)
    return parser


if __name__ == "__main__":
    sys.exit(extract_main())
