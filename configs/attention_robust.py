"""A2 trained with modalities and frames missing, so that it stands their absence (ours).

python -m msa_jax.main --config=configs/attention_robust.py:quick --workdir=DIR
About two minutes on two cores. scripts/robustness.py tells what it bought; the rates were chosen on
the validation split of the embedded data.
"""

import ml_collections

from configs import attention


def get_config(variant: str = "") -> ml_collections.ConfigDict:
    """`configs/attention.py` with dropped input and twice the epochs."""
    config = attention.get_config(variant)
    config.augment.update(modality_dropout=0.3, frame_dropout=0.85)
    config.training.epochs *= 2
    return config
