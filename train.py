"""Train an embedder by a recipe: `python train.py --help`."""

import os
import sys

if __name__ == "__main__":
    # Help and lists do not wait for TensorFlow.
    os.environ["TFDML_COMMAND"] = "1"
    from tfdml.experiments import train_main

    sys.exit(train_main())
