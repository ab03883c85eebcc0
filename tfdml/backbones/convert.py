"""Convert weights of a backbone: `python -m tfdml.backbones.convert SOURCE.pth TARGET.npz --backbone bn_inception`."""

import argparse

from tfdml import backbones
from tfdml.backbones import convert_weights


def main(arguments=None):
    """Run the command.

    Args:
        arguments: List of str. `None` uses the command line. Default `None`.
    """
    parser = argparse.ArgumentParser(
        prog="python -m tfdml.backbones.convert",
        description="Convert weights of a backbone to an .npz, which can be passed as weights=…. Code that is pickled "
        "in a PyTorch file is not run.",
    )
    parser.add_argument("source", help="File to read: .pth of PyTorch, .h5, .weights.h5 or .npz.")
    parser.add_argument("target", help="File to write: .npz.")
    parser.add_argument(
        "--backbone", choices=backbones.names(), default="bn_inception", help="Name. Default: %(default)s."
    )
    options = parser.parse_args(arguments)
    try:
        print(convert_weights(options.source, options.target, options.backbone))
    except (OSError, ValueError) as error:
        parser.exit(1, f"{error}\n")


if __name__ == "__main__":
    main()
