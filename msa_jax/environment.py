"""On what a run was computed, for the record."""

import os
import platform
from importlib import metadata
from typing import Any

import jax

_PACKAGES = ("msa_jax", "jax", "flax", "optax", "orbax-checkpoint", "numpy")


def describe() -> dict[str, Any]:
    """Versions, devices and cores."""
    device = jax.devices()[0]
    return {
        "python": platform.python_version(),
        "packages": {name: metadata.version(name) for name in _PACKAGES},
        "device": f"{jax.device_count()} x {device.device_kind} ({device.platform})",
        "cores": os.cpu_count(),
    }
