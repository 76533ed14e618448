"""The base paper's A2 in PyTorch: what the trainer here is measured against.

As its users write it: `nn.TransformerEncoder` over batches that are padded to one length, without
masks, `loss.backward()` and `torch.optim.Adam`. The same function of the same weights as
`configs/attention.py` where no frame is padding (tested).
"""

import itertools
import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from msa_jax.config import Config
from msa_jax.errors import UserError


class Twin(nn.Module):
    """A2 with the sizes, dropouts and modalities of a config."""

    def __init__(self, config: Config, channels: Mapping[str, int]) -> None:
        """Builds the layers.

        Args:
          config: a resolved config of `attention`.
          channels: `{modality: C}`.

        Raises:
          UserError: if the config describes what the twin does not have.
        """
        super().__init__()
        model = config.model
        sizes = model["encoder"]
        _check(config)
        self.encoders = nn.ModuleDict({m: Encoder(c, sizes) for m, c in channels.items()})
        width = sizes["width"]
        self.attention = nn.MultiheadAttention(width, model["num_heads"], batch_first=True)
        self.norm = nn.LayerNorm(width)
        self.dropout = nn.Dropout(model["dropout"])
        classifier = model["classifier"]
        widths = [width * len(channels), *classifier["hidden"]]
        layers: list[nn.Module] = []
        for before, after in itertools.pairwise(widths):
            layers += [nn.Dropout(classifier["dropout"]), nn.Linear(before, after), nn.ReLU()]
        self.classifier = nn.Sequential(
            *layers, nn.Dropout(classifier["dropout"]), nn.Linear(widths[-1], 3)
        )

    def forward(self, frames: Mapping[str, torch.Tensor]) -> torch.Tensor:
        """Logits [B, 3] of `{modality: [B, T, C]}`."""
        states = torch.stack([self.encoders[m](frames[m]) for m in self.encoders], dim=1)
        attended, _ = self.attention(states, states, states, need_weights=False)
        return self.classifier(self.norm(states + self.dropout(attended)).flatten(1))


class Encoder(nn.Module):
    """Linear, sinusoidal positions, Transformer, mean over the frames."""

    def __init__(self, channels: int, sizes: Mapping[str, Any], longest: int = 512) -> None:
        """Builds the layers of the encoder `sizes`, as `msa_jax.models.encoders.Encoder` names."""
        super().__init__()
        width, pre = sizes["width"], sizes["norm"] == "pre"
        self.project = nn.Linear(channels, width)
        self.dropout = nn.Dropout(sizes["dropout"])
        layer = nn.TransformerEncoderLayer(
            width,
            sizes["num_heads"],
            sizes["hidden"],
            dropout=sizes["dropout"],
            activation=sizes["activation"],
            batch_first=True,
            norm_first=pre,
        )
        layer.self_attn.dropout = sizes["attention_dropout"]
        self.layers = nn.TransformerEncoder(
            layer,
            sizes["num_layers"],
            norm=nn.LayerNorm(width) if pre else None,
            enable_nested_tensor=False,
        )
        angles = torch.arange(longest)[:, None] * torch.exp(
            torch.arange(0, width, 2) * (-math.log(10000.0) / width)
        )
        positions = torch.zeros(longest, width)
        positions[:, 0::2], positions[:, 1::2] = angles.sin(), angles.cos()[:, : width // 2]
        self.positions: torch.Tensor
        self.register_buffer("positions", positions)

    def forward(self, frames: torch.Tensor) -> torch.Tensor:
        """[B, D] of `frames` [B, T, C]."""
        x = self.dropout(self.project(frames) + self.positions[: frames.shape[1]])
        return self.layers(x).mean(dim=1)


class Trainer:
    """The twin and its optimiser."""

    def __init__(
        self, config: Config, channels: Mapping[str, int], device: str, *, compiled: bool
    ) -> None:
        """Builds both; `compiled` runs the model through `torch.compile`."""
        torch.manual_seed(config.seed)
        self.model = Twin(config, channels).to(device).train()
        self._forward = torch.compile(self.model) if compiled else self.model
        self._optimizer = torch.optim.Adam(
            self.model.parameters(), lr=config.optimizer.learning_rate
        )
        self._clip = config.optimizer.clip_norm

    def step(self, frames: Mapping[str, torch.Tensor], labels: torch.Tensor) -> torch.Tensor:
        """One update; the loss, still on its device."""
        self._optimizer.zero_grad(set_to_none=True)
        loss = nn.functional.cross_entropy(self._forward(frames), labels)
        loss.backward()
        if self._clip:
            nn.utils.clip_grad_norm_(self.model.parameters(), self._clip)
        self._optimizer.step()
        return loss.detach()


def _check(config: Config) -> None:
    encoder = config.model["encoder"]
    known_encoder: dict[str, Any] = {"kernel": 1, "input_dropout": 0.0}
    known_encoder |= {"positions": "sinusoidal", "pooling": "mean"}
    fields: dict[str, tuple[Any, Any]] = {
        f"model.encoder.{name}": (encoder[name], known) for name, known in known_encoder.items()
    }
    fields |= {
        "model.name": (config.model["name"], "attention"),
        "task.kind": (config.task.kind, "three_class"),
        "optimizer.name": (config.optimizer.name, "adam"),
        "training.dtype": (config.training.dtype, "float32"),
    }
    for name, (value, known) in fields.items():
        if value != known:
            raise UserError(f"config.{name}={value}: the PyTorch twin has {known} alone.")
