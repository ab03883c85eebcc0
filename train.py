"""Trains an embedder by a recipe: `python train.py --help`."""

import os
import sys

if __name__ == "__main__":
    # Before TensorFlow is imported, which otherwise begins with lines about its own building blocks.
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    from tfdml.experiments import train_main

    sys.exit(train_main())
