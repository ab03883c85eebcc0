"""Evaluate a trained embedder on any data: `python evaluate.py --help`."""

import os
import sys

if __name__ == "__main__":
    # Help and lists do not wait for TensorFlow.
    os.environ["TFDML_COMMAND"] = "1"
    from tfdml.experiments import evaluate_main

    sys.exit(evaluate_main())
