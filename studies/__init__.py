"""Studies, each answering one question by training: `python -m studies.NAME --out DIR` from the clone."""

import os

# TensorFlow begins with lines about its own building blocks.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
