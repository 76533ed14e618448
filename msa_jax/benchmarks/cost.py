"""How the cost of a training step grows: with examples, with length, with width and with layers."""

from typing import Any

import numpy as np

from msa_jax.benchmarks import train
from msa_jax.errors import UserError

_FRAMES = (16, 32, 64, 128)
_WIDTHS = (32, 64, 128, 256)
_LAYERS = (1, 2, 4)
_BATCHES = (10, 20, 40)


def measure(config: Any, repeats: int = 5) -> dict[str, Any]:
    """One field is doubled at a time, all else as in `config`; all sizes are measured in turns.

    Args:
      config: an `ml_collections.ConfigDict`.
      repeats: of each measurement.

    Returns:
      `{what grows: {size: figures}}` with `seconds` of all batches, `gflops` (XLA's count)
      and, from the second size on, how many `times` the one before each of the two is. Cost grows
      no faster than it must where the seconds grow no more than the operations.

    Raises:
      UserError: if the encoders have neither width nor layers.
    """
    if config["model"]["encoder"]["kernel"] == 0:
        raise UserError(
            "config.model.encoder.kernel=0 is an encoder without width and layers: nothing to "
            "double. Name another config."
        )
    contenders: dict[tuple[str, int], train.Contender] = {}
    for frames in _FRAMES:
        contenders["frames", frames] = _contender(config, frames, **{"data.max_length": frames})
    for width in _WIDTHS:
        changed = {"model.encoder.width": width, "model.encoder.hidden": 2 * width}
        contenders["width", width] = _contender(config, _FRAMES[1], **changed)
    for layers in _LAYERS:
        changed = {"model.encoder.num_layers": layers}
        contenders["layers", layers] = _contender(config, _FRAMES[1], **changed)
    for batches in _BATCHES:
        examples = batches * config["training"]["batch_size"]
        contenders["examples", examples] = _contender(config, _FRAMES[1], batches)
    found = train.measure({f"{name} {size}": c for (name, size), c in contenders.items()}, repeats)
    grown: dict[str, dict[str, Any]] = {}
    for (name, size), contender in contenders.items():
        figures = found[f"{name} {size}"]
        seconds = figures["step_ms"] / 1e3 * contender.batches
        cost = {"seconds": seconds, "gflops": figures["gflops_per_second"] * seconds}
        sizes = grown.setdefault(name, {})
        if sizes:
            before = list(sizes.values())[-1]
            cost["times"] = {key: cost[key] / before[key] for key in ("seconds", "gflops")}
        sizes[str(size)] = cost
    return grown


def _contender(config: Any, frames: int, batches: int = 10, **changed: Any) -> train.Contender:
    other = config.copy_and_resolve_references()
    other.update_from_flattened_dict(changed)
    lengths = np.full(batches * config["training"]["batch_size"], frames)
    return train.Contender(config=other, lengths=lengths, batches=batches)
