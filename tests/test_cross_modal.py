"""MulT against its formulas in torch, with the same weights."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

from msa_jax.models.contract import Encoded
from msa_jax.models.cross_modal import CrossModalFusion, causal_mask
from tests.test_encoders import _attention, _dense, _norm

B, D, H = 3, 16, 4
LENGTHS = {"text": 6, "audio": 9, "vision": 4}


class _TorchStack(torch.nn.Module):
    """Pre-norm layers of (cross-)attention as the paper draws them, without positions and masks."""

    def __init__(self, num_layers: int, width: int) -> None:
        super().__init__()
        self.width = width
        self.attention = torch.nn.ModuleList(
            torch.nn.MultiheadAttention(width, H, batch_first=True) for _ in range(num_layers)
        )
        self.norms = torch.nn.ModuleList(torch.nn.LayerNorm(width) for _ in range(2 * num_layers))
        self.expand = torch.nn.ModuleList(
            torch.nn.Linear(width, 4 * width) for _ in range(num_layers)
        )
        self.contract = torch.nn.ModuleList(
            torch.nn.Linear(4 * width, width) for _ in range(num_layers)
        )
        self.norm = torch.nn.LayerNorm(width)

    def forward(self, x: Any, source: Any = None) -> Any:
        x = x * self.width**0.5
        source = None if source is None else source * self.width**0.5
        for i, attention in enumerate(self.attention):
            asking = self.norms[2 * i](x)
            keys = asking if source is None else self.norms[2 * i](source)
            queries, length = asking.shape[1], keys.shape[1]
            beyond = torch.triu(torch.ones(queries, length), 1 + abs(length - queries)).bool()
            x = x + attention(asking, keys, keys, attn_mask=beyond, need_weights=False)[0]
            x = x + self.contract[i](torch.relu(self.expand[i](self.norms[2 * i + 1](x))))
        return self.norm(x)

    def flax(self) -> dict[str, Any]:
        layers = {
            f"layer_{i}": {
                "attention": _attention(attention),
                "attention_norm": _norm(self.norms[2 * i]),
                "feed_forward_norm": _norm(self.norms[2 * i + 1]),
                "expand": _dense(self.expand[i]),
                "contract": _dense(self.contract[i]),
            }
            for i, attention in enumerate(self.attention)
        }
        return {**layers, "norm": _norm(self.norm)}


def _sequences(modalities: tuple[str, ...]) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    rng = np.random.default_rng(0)
    found = {}
    for m in modalities:
        steps = LENGTHS[m]
        mask = np.arange(steps) < rng.integers(1, steps + 1, B)[:, None]
        found[m] = rng.standard_normal((B, steps, D)).astype(np.float32), mask
    return found


def _encoded(sequences: Any) -> dict[str, Encoded]:
    return {
        m: Encoded(tokens=jnp.asarray(x), pooled=jnp.zeros((B, D)), mask=jnp.asarray(mask))
        for m, (x, mask) in sequences.items()
    }


@pytest.mark.parametrize("modalities", [("text", "audio", "vision"), ("text", "audio"), ("text",)])
def test_faithful_gives_the_formulas_outputs(modalities: tuple[str, ...]) -> None:
    torch.manual_seed(0)
    pairs = [(a, b) for a in modalities for b in modalities if a != b]
    stacks = {f"{a}_from_{b}": _TorchStack(2, D) for a, b in pairs}
    wide = D * max(len(modalities) - 1, 1)
    memories = {f"{a}_memory": _TorchStack(1, wide) for a in modalities}
    joined = wide * len(modalities)
    first, second = torch.nn.Linear(joined, joined), torch.nn.Linear(joined, joined)
    everything = torch.nn.ModuleList([*stacks.values(), *memories.values(), first, second])
    for parameter in everything.parameters():  # biases and norms away from 0 and 1, to be seen
        torch.nn.init.normal_(parameter, std=0.2)
    sequences = _sequences(modalities)
    with torch.no_grad():
        x = {m: torch.tensor(np.where(k[..., None], v, 0)) for m, (v, k) in sequences.items()}
        last = []
        for a in modalities:
            found = [stacks[f"{a}_from_{b}"](x[a], x[b]) for b in modalities if b != a]
            last.append(memories[f"{a}_memory"](torch.cat(found or [x[a]], dim=-1))[:, -1])
        h = torch.cat(last, dim=-1)
        expected = (h + second(torch.relu(first(h)))).numpy()
    head = CrossModalFusion(num_layers=2, num_self_layers=1, num_heads=H, variant="faithful")
    params = {name: stack.flax() for name, stack in (stacks | memories).items()}
    params |= {"expand": _dense(first), "contract": _dense(second)}
    encoded = _encoded(sequences)
    shapes = jax.eval_shape(lambda: head.init(jax.random.key(0), encoded, False))["params"]
    assert jax.tree.map(np.shape, params) == jax.tree.map(lambda leaf: leaf.shape, shapes)
    features = head.apply({"params": params}, encoded, False).features
    np.testing.assert_allclose(features, expected, atol=1e-5, rtol=1e-5)


def test_causal_mask_of_unequal_lengths() -> None:
    np.testing.assert_array_equal(causal_mask(2, 4)[0], [[1, 1, 1, 0], [1, 1, 1, 1]])
    np.testing.assert_array_equal(causal_mask(4, 2)[0], np.ones((4, 2)))
    np.testing.assert_array_equal(causal_mask(3, 3)[0], np.tri(3))


@pytest.mark.parametrize(("variant", "same"), [("masked", True), ("faithful", False)])
def test_padding_counts_in_the_faithful_variant_alone(variant: Any, same: bool) -> None:
    head = CrossModalFusion(num_layers=1, num_self_layers=1, num_heads=H, variant=variant)
    sequences = _sequences(("text", "audio"))
    longer = {
        m: (np.pad(x, [(0, 0), (0, 3), (0, 0)], constant_values=9), np.pad(k, [(0, 0), (0, 3)]))
        for m, (x, k) in sequences.items()
    }
    variables = head.init(jax.random.key(0), _encoded(sequences), False)
    short, long = (
        head.apply(variables, _encoded(each), False).features for each in (sequences, longer)
    )
    assert np.allclose(short, long, atol=1e-5) == same


def test_faithful_stands_absence_in_half_precision() -> None:
    head = CrossModalFusion(
        num_layers=1, num_self_layers=1, num_heads=H, variant="faithful", dtype=jnp.bfloat16
    )
    sequences = {m: (x, np.zeros_like(k)) for m, (x, k) in _sequences(("text", "audio")).items()}
    encoded = jax.tree.map(
        lambda x: x.astype(jnp.bfloat16) if x.dtype == jnp.float32 else x, _encoded(sequences)
    )
    variables = head.init(jax.random.key(0), encoded, False)

    def total(variables: Any) -> jax.Array:
        return (head.apply(variables, encoded, False).features.astype(jnp.float32) ** 2).sum()

    value, gradient = jax.value_and_grad(total)(variables)
    assert np.isfinite(value)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(gradient))
