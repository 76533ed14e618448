"""A1, early fusion: final hidden states joined, then a classifier (arXiv 2501.08085).

python -m msa_jax.main --config=configs/early.py:quick --workdir=DIR
TIME_SCORE
"""

import ml_collections

from configs import common


def get_config(variant: str = "") -> ml_collections.ConfigDict:
    """The paper's system; `quick` is small enough for two cores."""
    config = common.get_config()
    config.model = {
        "name": "early",
        "encoder": common.encoder(),
        "classifier": {"hidden": (64,), "dropout": 0.1},
    }
    return common.variant(config, variant)
