"""MulT: cross-modal Transformers between every two modalities (ACL 2019).

python -m msa_jax.main --config=configs/cross_modal.py:quick --workdir=DIR
TODO
"""

import ml_collections

from configs import common


def get_config(variant: str = "") -> ml_collections.ConfigDict:
    """Our sizes; see `common.variant` for `quick` and `mosi`."""
    config = common.get_config()
    config.model = {
        "name": "cross_modal",
        "num_layers": 4,
        "num_self_layers": 3,
        "num_heads": 8,
        "variant": "masked",
        "dropout": 0.1,
        "attention_dropout": 0.0,
        "output_dropout": 0.1,
        "encoder": common.encoder(),
        "classifier": {"hidden": (), "dropout": 0.1},
    }
    config = common.variant(config, variant)
    config.model.encoder.update(kernel=3, num_layers=0, positions="none", norm="post", dropout=0.0)
    if variant == "quick":
        config.model.encoder.kernel = 1
        config.model.update(num_layers=1, num_self_layers=1, num_heads=4, dropout=0.3)
    return config
