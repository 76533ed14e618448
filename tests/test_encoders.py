"""The ModalityTransformer against torch's own layers, with the same weights."""

from typing import Any

import jax
import jax.numpy as jnp
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


def _unrolled_and_stacked(**fields: Any) -> tuple[Encoder, Any, Any]:
    """An encoder of three unrolled layers, its parameters, and these with the layers stacked."""
    encoder = Encoder(width=D, num_layers=3, num_heads=H, hidden=F, **fields)
    params = encoder.init(jax.random.key(0), jnp.zeros((1, T, C)), jnp.ones((1, T), bool), False)
    rng = np.random.default_rng(0)  # biases and norms away from 0 and 1, to be seen
    params = jax.tree.map(lambda x: x + 0.1 * rng.standard_normal(x.shape), params["params"])
    layers = [params[f"layer_{i}"] for i in range(3)]
    stacked = {name: tree for name, tree in params.items() if not name.startswith("layer_")}
    return encoder, params, {**stacked, "layers": jax.tree.map(lambda *x: jnp.stack(x), *layers)}


def _gradient(encoder: Encoder, params: Any, train: bool) -> tuple[Any, Any]:
    """Tokens and pooled vector, and the gradient of a sum over them to frames and parameters."""
    rng = np.random.default_rng(1)
    frames = rng.standard_normal((B, T, C)).astype(np.float32)
    mask = np.arange(T) < np.array([9, 4, 0, 7, 2])[:, None]
    keep = rng.standard_normal((B, D)).astype(np.float32)

    def loss(params: Any, frames: jax.Array) -> tuple[jax.Array, Any]:
        rngs = {"dropout": jax.random.key(2)}
        found = encoder.apply({"params": params}, frames, mask, train, rngs=rngs)
        return jnp.sum(found.pooled * keep) + jnp.sum(found.tokens[:, 0] * keep), found

    gradient = jax.jit(jax.grad(loss, argnums=(0, 1), has_aux=True))
    (to_params, to_frames), found = gradient(params, frames)
    return found, (to_params, to_frames)


def _assert_close(found: Any, expected: Any) -> None:
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5, rtol=1e-5), found, expected
    )


@pytest.mark.parametrize("norm", ["pre", "post"])
@pytest.mark.parametrize("remat", ["nothing", "cheap", "everything"])
def test_scanned_layers_are_the_same_function_of_the_same_weights(norm: str, remat: str) -> None:
    encoder, params, stacked = _unrolled_and_stacked(norm=norm)
    expected, (to_params, to_frames) = _gradient(encoder, params, train=False)
    scanned = encoder.clone(layers="scanned", remat=remat)
    shapes = jax.eval_shape(
        lambda: scanned.init(jax.random.key(0), jnp.zeros((1, T, C)), jnp.ones((1, T), bool), False)
    )
    assert jax.tree.map(np.shape, stacked) == jax.tree.map(lambda x: x.shape, shapes["params"])
    found, (to_stacked, to_same) = _gradient(scanned, stacked, train=False)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6), found, expected)
    _assert_close(to_same, to_frames)
    for i in range(3):
        _assert_close(
            jax.tree.map(lambda x, i=i: x[i], to_stacked["layers"]), to_params[f"layer_{i}"]
        )
    _assert_close(to_stacked["project"], to_params["project"])


@pytest.mark.parametrize("layers", ["unrolled", "scanned"])
@pytest.mark.parametrize("remat", ["cheap", "everything"])
def test_what_is_computed_again_drops_the_same(layers: str, remat: str) -> None:
    dropout = {"dropout": 0.3, "attention_dropout": 0.2, "input_dropout": 0.1}
    encoder, params, stacked = _unrolled_and_stacked(**dropout)
    encoder = encoder.clone(layers=layers)
    params = stacked if layers == "scanned" else params
    _assert_close(
        _gradient(encoder.clone(remat=remat), params, train=True),
        _gradient(encoder, params, train=True),
    )


def test_each_scanned_layer_draws_its_own() -> None:
    encoder = Encoder(num_layers=3, layers="scanned", positions="none", dropout=0.5)
    arguments = (jnp.ones((4, T, C)), jnp.ones((4, T), bool))
    params = encoder.init(jax.random.key(0), *arguments, False)["params"]
    kernels = params["layers"]["expand"]["kernel"]
    np.testing.assert_allclose(kernels.std(axis=(1, 2)), 1 / np.sqrt(64), rtol=0.05)
    assert not np.allclose(kernels[0], kernels[1])
    # Layers that add a 1, or nothing where it is dropped: then a feature of the first embedding,
    # which is 0, ends as a count of the layers that kept it, 0 to 3.
    params = jax.tree.map(jnp.zeros_like, params)
    params["layers"]["contract"]["bias"] += 1.0
    params["norm"]["scale"] += 1.0
    rngs = {"dropout": jax.random.key(0)}
    tokens = encoder.apply({"params": params}, *arguments, True, rngs=rngs).tokens
    assert {len(np.unique(row.round(3))) for row in np.asarray(tokens[:, 0])} == {4}


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
