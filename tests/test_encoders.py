"""The ModalityTransformer against torch's own layers, with the same weights."""

from typing import Any

import jax
import numpy as np
import pytest
import torch

from msa_jax import models
from msa_jax.models.encoders import Encoder
from msa_jax.models.layers import pool_last, pool_mean, sinusoidal_positions

B, T, C, D, H, F, K = 5, 9, 6, 16, 4, 32, 3


def _torch_twin(norm: str, activation: str) -> Any:
    """The base paper's network as its users write it: linear, positions, nn.TransformerEncoder."""
    layer = torch.nn.TransformerEncoderLayer(
        D, H, F, dropout=0.1, activation=activation, batch_first=True, norm_first=norm == "pre"
    )
    encoder = torch.nn.TransformerEncoder(
        layer,
        2,
        norm=torch.nn.LayerNorm(D) if norm == "pre" else None,
        enable_nested_tensor=False,
    )
    twin = torch.nn.ModuleDict(
        {"project": torch.nn.Linear(C, D), "encoder": encoder, "logits": torch.nn.Linear(D, K)}
    )
    torch.manual_seed(0)
    for parameter in twin.parameters():  # biases and norms away from 0 and 1, to be seen
        torch.nn.init.normal_(parameter, std=0.3)
    return twin.eval()


def _dense(linear: Any) -> dict[str, np.ndarray]:
    return {"kernel": linear.weight.detach().numpy().T, "bias": linear.bias.detach().numpy()}


def _norm(norm: Any) -> dict[str, np.ndarray]:
    return {"scale": norm.weight.detach().numpy(), "bias": norm.bias.detach().numpy()}


def _attention(attention: Any) -> dict[str, Any]:
    width, heads = attention.embed_dim, attention.num_heads
    weights = attention.in_proj_weight.detach().numpy().reshape(3, width, width)
    biases = attention.in_proj_bias.detach().numpy().reshape(3, heads, width // heads)
    projected = {
        name: {"kernel": weight.T.reshape(width, heads, width // heads), "bias": bias}
        for name, weight, bias in zip(("query", "key", "value"), weights, biases, strict=True)
    }
    out = attention.out_proj
    kernel = out.weight.detach().numpy().T.reshape(heads, width // heads, width)
    return {**projected, "out": {"kernel": kernel, "bias": out.bias.detach().numpy()}}


def _flax_params(twin: Any) -> dict[str, Any]:
    encoder: dict[str, Any] = {"project": _dense(twin["project"])}
    for index, layer in enumerate(twin["encoder"].layers):
        encoder[f"layer_{index}"] = {
            "attention": _attention(layer.self_attn),
            "attention_norm": _norm(layer.norm1),
            "feed_forward_norm": _norm(layer.norm2),
            "expand": _dense(layer.linear1),
            "contract": _dense(layer.linear2),
        }
    if twin["encoder"].norm is not None:
        encoder["norm"] = _norm(twin["encoder"].norm)
    classifier = {"logits": _dense(twin["logits"])}
    return {"encoders_text": encoder, "classifiers_text": classifier}


@pytest.mark.parametrize("norm", ["pre", "post"])
@pytest.mark.parametrize("activation", ["relu", "gelu"])
def test_modality_transformer_gives_torch_outputs(norm: str, activation: str) -> None:
    rng = np.random.default_rng(0)
    frames = rng.standard_normal((B, T, C)).astype(np.float32)
    lengths = np.array([9, 4, 1, 7, 2])
    mask = np.arange(T) < lengths[:, None]
    twin = _torch_twin(norm, activation)
    with torch.no_grad():
        hidden = twin["project"](torch.tensor(frames))
        hidden = hidden + torch.tensor(sinusoidal_positions(T, D))
        hidden = twin["encoder"](hidden, src_key_padding_mask=torch.tensor(~mask))
        pooled = (hidden * torch.tensor(mask[..., None])).sum(1) / torch.tensor(lengths[:, None])
        expected = twin["logits"](pooled).numpy()
    encoder = {"width": D, "num_layers": 2, "num_heads": H, "hidden": F}
    model = models.build(
        {"name": "unimodal", "encoder": {**encoder, "norm": norm, "activation": activation}},
        modalities=("text",),
        num_outputs=K,
    )
    batch = {"text": frames, "text_mask": mask}
    params = _flax_params(twin)
    shapes = jax.eval_shape(lambda: model.init(jax.random.key(0), batch, False))["params"]
    assert jax.tree.map(np.shape, params) == jax.tree.map(lambda leaf: leaf.shape, shapes)
    output = model.apply({"params": params}, batch, False)
    np.testing.assert_allclose(output.logits, expected, atol=1e-5, rtol=1e-5)


def test_the_convolution_is_torchs_and_padding_does_not_leak() -> None:
    rng = np.random.default_rng(0)
    frames = rng.standard_normal((2, T, C)).astype(np.float32)
    mask = np.arange(T) < np.array([[T], [4]])
    twin = torch.nn.Conv1d(C, D, 5, padding=2)
    with torch.no_grad():
        alone = [
            twin(torch.tensor(frames[i : i + 1, :n].swapaxes(1, 2))) for i, n in ((0, T), (1, 4))
        ]
    encoder = Encoder(width=D, kernel=5, num_layers=0, positions="none", norm="post")
    weight = twin.weight.detach().numpy()
    project = {"kernel": weight.transpose(2, 1, 0), "bias": twin.bias.detach().numpy()}
    tokens = encoder.apply({"params": {"project": project}}, frames, mask, False).tokens
    for row, expected in zip(tokens, alone, strict=True):
        found = row[: expected.shape[-1]]
        np.testing.assert_allclose(found, expected[0].numpy().T, atol=1e-5, rtol=1e-5)


def test_positions_follow_the_formula() -> None:
    table = sinusoidal_positions(50, 7)
    assert table.shape == (50, 7)
    assert table[3, 4] == pytest.approx(np.sin(3 / 10000 ** (4 / 7)))
    assert table[3, 5] == pytest.approx(np.cos(3 / 10000 ** (4 / 7)))


def test_pooling_reads_real_frames_alone() -> None:
    tokens = np.arange(24, dtype=np.float32).reshape(2, 4, 3)
    mask = np.array([[True, True, False, False], [False] * 4])
    np.testing.assert_array_equal(pool_mean(tokens, mask), [[1.5, 2.5, 3.5], [0, 0, 0]])
    np.testing.assert_array_equal(pool_last(tokens, mask), [[3, 4, 5], [0, 0, 0]])
