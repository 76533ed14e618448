"""A2, attention fusion: A1 with multi-head attention over modalities (arXiv 2501.08085).

python -m msa_jax.main --config=configs/attention.py:quick --workdir=DIR
TIME_SCORE
"""

import ml_collections

from configs import common


def get_config(variant: str = "") -> ml_collections.ConfigDict:
    """The paper's system; `quick` is small enough for two cores."""
    config = common.get_config()
    config.model = {
        "name": "attention",
        "num_heads": 4,
        "dropout": 0.1,
        "encoder": common.encoder(),
        "classifier": {"hidden": (64,), "dropout": 0.1},
    }
    return common.variant(config, variant)
