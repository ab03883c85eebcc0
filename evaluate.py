"""Judges a trained embedder on any data: `python evaluate.py --help`."""

import os
import sys

if __name__ == "__main__":
    # Before TensorFlow is imported, which otherwise begins with lines about its own building blocks.
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    from tfdml.experiments import evaluate_main

    sys.exit(evaluate_main())
