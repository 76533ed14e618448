"""LMF, low-rank multimodal fusion (ACL 2018), over the paper's encoders.

python -m msa_jax.main --config=configs/low_rank.py:quick --workdir=DIR
One to two minutes on two cores; test accuracy 88.7 % (validation 88.6 %) where the best possible is
90.9 %. By default 254,887 parameters and 10.0 MFLOPs an utterance of 20 frames.
"""

import ml_collections

from configs import common


def get_config(variant: str = "") -> ml_collections.ConfigDict:
    """The encoders of A1 and A2 below; see `common.variant` for the variants."""
    config = common.get_config()
    config.model = {
        "name": "low_rank",
        "width": 32,
        "rank": 4,
        "encoder": common.encoder(),
        "context": common.context(),
        "classifier": {"hidden": (64,), "dropout": 0.1},
    }
    config = common.variant(config, variant)
    if "quick" in variant.split("+"):
        config.optimizer.learning_rate = 4e-3  # of 5e-4 to 4e-3, the best on validation
    return config
