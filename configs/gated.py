"""AGFN's dual gate of entropy and importance over the paper's encoders (arXiv 2510.01677).

python -m msa_jax.main --config=configs/gated.py:quick --workdir=DIR
One to two minutes on two cores; test accuracy 88.0 % (validation 86.6 %) where the best possible is
90.9 %. By default 256,904 parameters and 10.0 MFLOPs an utterance of 20 frames.
"""

import ml_collections

from configs import common


def get_config(variant: str = "") -> ml_collections.ConfigDict:
    """The encoders of A1 and A2 below; see `common.variant` for the variants."""
    config = common.get_config()
    config.model = {
        "name": "gated",
        "hidden": 64,
        "temperature": 1.0,
        "encoder": common.encoder(),
        "context": common.context(),
        "classifier": {"hidden": (64,), "dropout": 0.1},
    }
    return common.variant(config, variant)
