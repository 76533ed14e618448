"""What all configs share: the defaults of `msa_jax.config` and the paper's encoder.

The base paper (arXiv 2501.08085) gives no width, depth, learning rate or schedule, so the sizes
here are ours: small enough for a laptop, and the same for every system that is compared.
"""

import dataclasses

import ml_collections

from msa_jax.config import Config


def get_config() -> ml_collections.ConfigDict:
    """The configuration that every system starts from; `model` is left to fill in."""
    return ml_collections.ConfigDict(dataclasses.asdict(Config()))


def encoder() -> ml_collections.ConfigDict:
    """Fields of every modality's Transformer encoder (`msa_jax.models.encoders.Encoder`)."""
    return ml_collections.ConfigDict(
        {
            "width": 64,
            "kernel": 1,
            "num_layers": 2,
            "layers": "unrolled",
            "remat": "nothing",
            "num_heads": 8,
            "hidden": 128,
            "norm": "pre",
            "activation": "relu",
            "positions": "sinusoidal",
            "pooling": "mean",
            "dropout": 0.1,
            "attention_dropout": 0.0,
            "input_dropout": 0.0,
        }
    )


def context() -> ml_collections.ConfigDict:
    """Fields of the layer over the utterances of a video (`msa_jax.models.context.Context`); unless
    a kind is named, each utterance is judged alone.
    """
    return ml_collections.ConfigDict(
        {
            "kind": "none",
            "width": 64,
            "num_layers": 1,
            "num_heads": 4,
            "residual": False,
            "dropout": 0.1,
        }
    )


def variant(config: ml_collections.ConfigDict, name: str) -> ml_collections.ConfigDict:
    """`config` itself for an empty name, or a variant of it; several are joined by "+".

    `quick` shrinks data, model and time, and is short beside others too; `mosi` is for small real
    data such as CMU-MOSI's 1,209 training utterances: encoders of one layer, strong dropout, early
    stopping, chosen on validation (heads keep their size); `vectors` is for features that are one
    vector an utterance, which leave encoders no layers (fusions of sequences keep their own);
    `context` judges each utterance among those of its video.

    Raises:
      ValueError: if there is no such variant.
    """
    names = [each for each in name.split("+") if each]
    for each in names:
        if each not in _VARIANTS:
            known = ", ".join(_VARIANTS)
            raise ValueError(f"there is no variant {each!r}: {known} are, joined by +.")
    for each, change in _VARIANTS.items():  # in whatever order they are named
        if each in names:
            change(config)
    if "quick" in names:  # whatever the others say: it is for a trial
        config.training.update(epochs=8, patience=0)
    return config


def _quick(config: ml_collections.ConfigDict) -> None:
    config.data.update(size="quick", buckets=3)
    config.model.encoder.update(width=32, num_layers=1, num_heads=4, hidden=64, dropout=0.3)
    config.optimizer.update(learning_rate=2e-3, schedule="cosine")
    config.model.classifier.dropout = 0.3
    config.training.batch_size = 50


def _mosi(config: ml_collections.ConfigDict) -> None:
    config.model.encoder.update(num_layers=1, positions="none", dropout=0.4, input_dropout=0.3)
    config.model.classifier.dropout = 0.4
    config.optimizer.update(name="adamw", weight_decay=0.01, learning_rate=1e-3)
    config.training.update(batch_size=64, epochs=40, patience=10)


def _context(config: ml_collections.ConfigDict) -> None:
    config.data.buckets = 2  # each is a size of videos to compile, a recurrent layer slowly
    config.model.context.update(kind="recurrent", width=128, residual=True, dropout=0.3)
    config.training.update(batch_size=8, eval_batch_size=8)  # videos


def _vectors(config: ml_collections.ConfigDict) -> None:
    # There is nothing to attend to, and a norm would take from a vector how much it says: "post"
    # norms stand in layers alone. Overrides `_context`, which comes before it in `_VARIANTS`.
    config.model.encoder.update(
        width=256, num_layers=0, norm="post", dropout=0.0, input_dropout=0.4
    )
    config.model.context.update(width=64, residual=False)
    config.training.update(epochs=60, patience=20)


_VARIANTS = {"quick": _quick, "mosi": _mosi, "context": _context, "vectors": _vectors}
