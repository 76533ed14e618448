"""bc-LSTM: an utterance's features among its video's, by a bidirectional LSTM (ACL 2017).

python -m msa_jax.main --config=configs/bc_lstm.py --config.data.path=mosi_utterance.npz \
  --config.task.kind=regression --workdir=DIR
With --config.num_seeds=10: 2 min 20 s on two cores; test Has0 79.0 +- 0.8 %, MAE 0.830 +- 0.005.
With other modalities and beside other systems: `docs/vectors.md`.
"""

import ml_collections

from configs import common


def get_config(variant: str = "") -> ml_collections.ConfigDict:
    """Text alone: that others add to it could not be shown. Several stand side by side.

    Poria et al. feed one vector an utterance to one LSTM layer, and modalities to a second one
    after their own. Here one stack of two layers reads them all, a sequence as the mean of its
    frames; sizes, dropout and optimiser are ours, for CMU-MOSI: of the variants
    (`common.variant`), `:mosi`, `:vectors` and `:context` are already in it.
    """
    config = common.get_config()
    config.data.modalities = ("text",)
    config.model = {
        "name": "early",
        "encoder": common.encoder(),
        "context": common.context(),
        "classifier": {"hidden": (), "dropout": 0.1},
    }
    config = common.variant(config, "+".join(filter(None, ("mosi+vectors+context", variant))))
    config.model.encoder.update(kernel=0, input_dropout=0.0)  # the context drops out its input
    config.model.context.update(num_layers=2, dropout=0.5)
    config.model.classifier.dropout = 0.5
    if "quick" not in variant.split("+"):
        config.training.update(epochs=120, patience=40)
    return config
