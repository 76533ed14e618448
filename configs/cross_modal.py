"""MulT: cross-modal Transformers between every two modalities (ACL 2019).

python -m msa_jax.main --config=configs/cross_modal.py:quick --workdir=DIR
About three minutes on two cores; test accuracy 86.1 % where the best possible is 90.9 %.
Without `:quick`: 3,361,155 parameters, 128.7 MFLOPs an utterance of 20 frames.
`--config.model.variant=faithful` is the model as MMSA runs it; see `CrossModalFusion`. MMSA's own
sizes for CMU-MOSEI: width 30, 6 heads, 4 layers, kernels of 5, 1 and 3 frames, attention dropout
0.4, output dropout 0.5, learning rate 5e-4, batches of 4 accumulated over 8.
"""

import ml_collections

from configs import common


def get_config(variant: str = "") -> ml_collections.ConfigDict:
    """Our sizes; see `common.variant` for the variants."""
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
        "context": common.context(),
        "classifier": {"hidden": (), "dropout": 0.1},
    }
    config = common.variant(config, variant)
    config.model.encoder.update(kernel=3, num_layers=0, positions="none", norm="post")
    if "quick" in variant.split("+"):
        config.model.encoder.kernel = 1
        config.model.update(num_layers=1, num_self_layers=1, num_heads=4)
    return config
