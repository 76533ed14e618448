"""From files to batches. Uses NumPy and TensorFlow and never JAX, but for `feed`."""
