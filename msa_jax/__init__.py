"""Multimodal sentiment analysis (text, audio, vision) in JAX and Flax."""

__version__ = "0.1.0"
