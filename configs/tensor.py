"""TFN, the outer product of all modalities (EMNLP 2017), over the paper's encoders.

python -m msa_jax.main --config=configs/tensor.py:quick --workdir=DIR
"""

import ml_collections

from configs import common


def get_config(variant: str = "") -> ml_collections.ConfigDict:
    """The encoders of A1 and A2 below; see `common.variant` for `quick` and `mosi`."""
    config = common.get_config()
    config.model = {
        "name": "tensor",
        "width": 16,
        "encoder": common.encoder(),
        "classifier": {"hidden": (64,), "dropout": 0.1},
    }
    return common.variant(config, variant)
