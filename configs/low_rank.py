"""LMF, low-rank multimodal fusion (ACL 2018), over the paper's encoders.

python -m msa_jax.main --config=configs/low_rank.py:quick --workdir=DIR
"""

import ml_collections

from configs import common


def get_config(variant: str = "") -> ml_collections.ConfigDict:
    """The encoders of A1 and A2 below; see `common.variant` for `quick` and `mosi`."""
    config = common.get_config()
    config.model = {
        "name": "low_rank",
        "width": 32,
        "rank": 4,
        "encoder": common.encoder(),
        "classifier": {"hidden": (64,), "dropout": 0.1},
    }
    return common.variant(config, variant)
