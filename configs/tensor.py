"""TFN, the outer product of all modalities (EMNLP 2017), over the paper's encoders.

python -m msa_jax.main --config=configs/tensor.py:quick --workdir=DIR
One to two minutes on two cores; test accuracy 88.6 % (validation 86.9 %) where the best possible is
90.9 %. By default 545,395 parameters and 10.6 MFLOPs an utterance of 20 frames.
"""

import ml_collections

from configs import common


def get_config(variant: str = "") -> ml_collections.ConfigDict:
    """The encoders of A1 and A2 below; see `common.variant` for the variants."""
    config = common.get_config()
    config.model = {
        "name": "tensor",
        "width": 16,
        "encoder": common.encoder(),
        "context": common.context(),
        "classifier": {"hidden": (64,), "dropout": 0.1},
    }
    config = common.variant(config, variant)
    if "quick" in variant.split("+"):
        config.optimizer.learning_rate = 4e-3  # of 1e-3 to 4e-3, the best on validation
    return config
