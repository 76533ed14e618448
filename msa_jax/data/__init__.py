"""From files to batches. Uses NumPy and TensorFlow and never JAX, but for `feed`."""

import os

# TensorFlow greets everyone who imports it; its warnings and errors still show. It only moves data
# here, and oneDNN's greeting goes with oneDNN alone.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "1")
os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "0")
