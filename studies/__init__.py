"""Studies, each answering one question by training: `python -m studies.NAME --out DIR` from the clone."""

import os

# TensorFlow would print log messages about its own libraries first.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
