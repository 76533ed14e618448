"""From files to batches. Uses NumPy and TensorFlow and never JAX, but for `feed`."""

import os

# TensorFlow greets everyone who imports it; its warnings and errors still show.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "1")
