"""DAF, dynamic attention fusion of frozen embeddings (arXiv 2509.22729), as we reconstruct it.

python -m msa_jax.main --config=configs/daf.py:quick --workdir=DIR
A minute or two on two cores; test accuracy 88.3 % (validation 87.6 %) where the best possible of
text and audio is 90.6 %. Over three seeds 87.6 +- 0.6 %; with `--config.model.gate=uniform` 86.4 +-
0.8 %, with `learned` 86.8 +- 0.9 %: too few to tell the gates apart. By default 49,667 parameters
and 1.4 MFLOPs an utterance of 20 frames; with vision too 60,483 and 1.7.
"""

import ml_collections

from configs import common


def get_config(variant: str = "") -> ml_collections.ConfigDict:
    """Text and audio, a linear layer and a pooling each; see `common.variant` for the variants."""
    config = common.get_config()
    config.data.modalities = ("text", "audio")
    config.model = {
        "name": "daf",
        "width": 64,
        "activation": "gelu",
        "gate": "dynamic",
        "temperature": 1.0,
        "dropout": 0.1,
        "encoder": {**common.encoder(), "positions": "none", "pooling": "attention"},
        "context": common.context(),
        "classifier": {"hidden": (64,), "dropout": 0.1},
    }
    config = common.variant(config, variant)
    # Frozen embeddings are taken as they come. The embedded data's words are none: they know
    # nothing of their neighbours, so that `quick` keeps the one layer that has to tell.
    if "quick" in variant.split("+"):
        config.optimizer.learning_rate = 4e-3  # of 2e-3 and 4e-3, the better on validation
    else:
        config.model.encoder.num_layers = 0
    return config
