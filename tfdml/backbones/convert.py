"""Converts weights of a backbone: `python -m tfdml.backbones.convert SOURCE.pth TARGET.npz --backbone bn_inception`."""

import argparse

from tfdml import backbones
from tfdml.backbones import convert_weights


def main(arguments=None):
    """Runs the command.

    Args:
        arguments: A list of strings; `None` takes those of the command line.
    """
    parser = argparse.ArgumentParser(
        prog="python -m tfdml.backbones.convert",
        description="Writes weights of a backbone as an .npz, which can be given as weights=…. Nothing that is "
        "pickled in a PyTorch file is run.",
    )
    parser.add_argument("source", help="a .pth of PyTorch, .h5, .weights.h5 or .npz")
    parser.add_argument("target", help="the .npz to write")
    parser.add_argument("--backbone", choices=backbones.names(), default="bn_inception", help="%(default)s by default")
    options = parser.parse_args(arguments)
    try:
        print(convert_weights(options.source, options.target, options.backbone))
    except (OSError, ValueError) as error:
        parser.exit(1, f"{error}\n")


if __name__ == "__main__":
    main()
