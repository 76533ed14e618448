"""Gated, tensor and low-rank fusion against their papers' formulas; what DAF gives weight to."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import torch

from msa_jax import models
from msa_jax import system as system_lib
from msa_jax.config import resolve
from msa_jax.errors import UserError
from msa_jax.models.contract import Encoded
from msa_jax.models.daf import DynamicAttentionFusion
from msa_jax.models.gated import GatedFusion, entropy
from msa_jax.models.low_rank import LowRankFusion
from msa_jax.models.tensor import TensorFusion
from tests.conftest import random_batch

B, D, F, R, G = 6, 5, 7, 3, 4
MODALITIES = ("text", "audio", "vision")


def _encoded(names: tuple[str, ...] = MODALITIES, absent: bool = True) -> dict[str, Encoded]:
    """Pooled vectors; the first example lacks the first modality, the last lacks them all."""
    rng = np.random.default_rng(0)
    result = {}
    for name in names:
        present = np.ones((B, 1), bool)
        if absent:
            present[-1] = False
            present[0] = name != names[0]
        pooled = np.where(present, rng.standard_normal((B, D)), 0).astype(np.float32)
        result[name] = Encoded(
            tokens=jnp.asarray(pooled[:, None]), pooled=jnp.asarray(pooled), mask=present
        )
    return result


def _filled(head: Any, encoded: dict[str, Encoded]) -> Any:
    """Weights of the head, biases too, away from where they start."""
    rng = np.random.default_rng(1)
    params = head.init(jax.random.key(0), encoded, False)["params"]
    return jax.tree.map(lambda x: 0.5 * rng.standard_normal(x.shape).astype(np.float32), params)


def _torch(x: Any) -> torch.Tensor:
    return torch.tensor(np.asarray(x))


def _close(ours: Any, theirs: torch.Tensor) -> None:
    np.testing.assert_allclose(ours, theirs.numpy(), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("names", [MODALITIES[:1], MODALITIES[:2], MODALITIES])
def test_tensor_fusion_is_the_outer_product(names: tuple[str, ...]) -> None:
    encoded, head = _encoded(names), TensorFusion(width=G)
    params = _filled(head, encoded)
    padded = []
    for name, e in encoded.items():
        dense = params[f"project_{name}"]
        g = torch.relu(_torch(e.pooled) @ _torch(dense["kernel"]) + _torch(dense["bias"]))
        g = g * _torch(e.present)[:, None]
        padded.append(torch.cat([torch.ones(B, 1), g], dim=1))
    letters = "ijk"[: len(names)]
    product = torch.einsum(",".join("b" + i for i in letters) + "->b" + letters, *padded)
    features = head.apply({"params": params}, encoded, False).features
    assert features.shape == (B, (G + 1) ** len(names))
    _close(features, product.reshape(B, -1))
    nobody = np.zeros(features.shape[1])
    nobody[0] = 1
    np.testing.assert_array_equal(features[-1], nobody)


def _factors(params: Any, names: tuple[str, ...]) -> list[torch.Tensor]:
    """The paper's W_m [rank, 1 + D, F], whose first row is for the 1."""
    result = []
    for name in names:
        factor = params[f"factor_{name}"]
        rows = np.concatenate([factor["bias"][None], factor["kernel"]]).transpose(1, 0, 2)
        result.append(_torch(rows))
    return result


@pytest.mark.parametrize("names", [MODALITIES[:1], MODALITIES[:2], MODALITIES])
def test_low_rank_fusion_is_its_formula(names: tuple[str, ...]) -> None:
    encoded, head = _encoded(names), LowRankFusion(width=F, rank=R)
    params = _filled(head, encoded)
    product = torch.ones(R, B, F)
    for factor, e in zip(_factors(params, names), encoded.values(), strict=True):
        padded = torch.cat([torch.ones(B, 1), _torch(e.pooled)], dim=1)
        product = product * torch.matmul(padded, factor)
    weights = _torch(params["weights"])[None, :]
    fused = torch.matmul(weights, product.permute(1, 0, 2)).squeeze(1) + _torch(params["bias"])
    _close(head.apply({"params": params}, encoded, False).features, fused)


def test_low_rank_fusion_is_a_linear_layer_over_the_tensor() -> None:
    encoded, head = _encoded(), LowRankFusion(width=F, rank=R)
    params = _filled(head, encoded)
    padded = [torch.cat([torch.ones(B, 1), _torch(e.pooled)], dim=1) for e in encoded.values()]
    tensor = torch.einsum("bi,bj,bk->bijk", *padded)
    layer = torch.einsum(
        "r,rif,rjf,rkf->ijkf", _torch(params["weights"]), *_factors(params, MODALITIES)
    )
    fused = torch.einsum("bijk,ijkf->bf", tensor, layer) + _torch(params["bias"])
    _close(head.apply({"params": params}, encoded, False).features, fused)


def test_low_rank_factors_start_as_xavier_would() -> None:
    encoded, head = _encoded(), LowRankFusion(width=400, rank=8)
    factor = head.init(jax.random.key(0), encoded, False)["params"]["factor_text"]
    wanted = np.sqrt(2 / (D + 1 + 400))
    for part in ("kernel", "bias"):
        np.testing.assert_allclose(np.std(factor[part]), wanted, rtol=0.05)


def test_gated_fusion_is_its_formula() -> None:
    encoded, head = _encoded(absent=False), GatedFusion(hidden=F, temperature=0.7)
    params = _filled(head, encoded)

    def dense(name: str, x: torch.Tensor) -> torch.Tensor:
        return x @ _torch(params[name]["kernel"]) + _torch(params[name]["bias"])

    h = torch.stack([_torch(e.pooled) for e in encoded.values()], dim=1)
    certain = torch.distributions.Categorical(probs=h.abs()).entropy()
    alpha = torch.softmax(dense("score", h)[..., 0] * torch.exp(-certain / 0.7), dim=1)
    beta = torch.sigmoid(dense("contract", torch.relu(dense("expand", h.flatten(1)))))
    mix = torch.sigmoid(_torch(params["mix"]))
    gated = dense("join", (beta[..., None] * h).flatten(1))
    fused = head.apply({"params": params}, encoded, False)
    _close(fused.features, mix * (alpha[..., None] * h).sum(1) + (1 - mix) * gated)
    weights = mix * alpha + (1 - mix) * beta / beta.sum(1, keepdim=True)
    _close(np.stack(list(fused.weights.values()), axis=1), weights)


def test_entropy_of_one_entry_is_none_and_of_equal_ones_is_most() -> None:
    states = jnp.array([[0.0, -3.0, 0.0, 0.0], [2.0, -2.0, 2.0, 2.0], [0.0] * 4])
    np.testing.assert_allclose(entropy(states), [0, np.log(4), np.log(4)], atol=1e-4)


@pytest.mark.parametrize("gate", ["dynamic", "uniform", "learned"])
def test_daf_weights_are_shared_among_those_present(gate: str) -> None:
    encoded, head = _encoded(), DynamicAttentionFusion(width=F, gate=gate)
    fused = head.apply({"params": _filled(head, encoded)}, encoded, False)
    weights = np.stack([fused.weights[m] for m in MODALITIES], axis=1)
    np.testing.assert_allclose(weights.sum(axis=1), [1] * (B - 1) + [0], rtol=1e-6)
    assert weights[0, 0] == 0
    differ = np.ptp(weights[1:-1], axis=0).max()
    assert (differ > 0.01) == (gate == "dynamic"), "only a dynamic gate looks at the utterance"
    if gate == "uniform":
        np.testing.assert_allclose(weights[:2], [[0, 1 / 2, 1 / 2], [1 / 3] * 3], rtol=1e-6)


def test_daf_is_sharper_at_a_lower_temperature() -> None:
    encoded = _encoded(absent=False)
    params = _filled(DynamicAttentionFusion(width=F), encoded)
    largest = []
    for temperature in (0.1, 1.0, 10.0):
        head = DynamicAttentionFusion(width=F, temperature=temperature)
        weights = head.apply({"params": params}, encoded, False).weights
        largest.append(float(np.max([*weights.values()], axis=0).mean()))
    assert largest[0] > largest[1] > largest[2]


def _one_is_noise(seed: int, count: int = 512) -> tuple[dict[str, Encoded], Any, Any]:
    """Two modalities that both tell a class, but for one, drawn by utterance, that is loud noise.

    Returns them, the class [N] in {-1, 1} and whether it is the text that is informative [N].
    """
    rng = np.random.default_rng(seed)
    truth, text_tells = rng.choice([-1.0, 1.0], count), rng.random(count) < 0.5
    encoded = {}
    for name, tells in (("text", text_tells), ("audio", ~text_tells)):
        signal = 0.3 * rng.standard_normal((count, D))
        signal[:, 0] += truth
        x = np.where(tells[:, None], signal, 3.0 * rng.standard_normal((count, D)))
        x = jnp.asarray(x, jnp.float32)
        encoded[name] = Encoded(tokens=x[:, None], pooled=x, mask=jnp.ones((count, 1), bool))
    return encoded, truth, text_tells


def _weight_on_the_informative(gate: str) -> np.ndarray:
    """[N] after training, of utterances never seen."""
    encoded, truth, _ = _one_is_noise(seed=0)
    head = DynamicAttentionFusion(width=8, gate=gate, dropout=0.0)
    params = {
        "head": head.init(jax.random.key(0), encoded, False)["params"],
        "out": 0.1 * jax.random.normal(jax.random.key(1), (8,)),
    }
    optimizer = optax.adam(2e-2)

    def loss(params: Any) -> Any:
        features = head.apply({"params": params["head"]}, encoded, True).features
        return jnp.log1p(jnp.exp(-truth * (features @ params["out"]))).mean()

    def step(carry: Any, _: None) -> tuple[Any, None]:
        params, state = carry
        updates, state = optimizer.update(jax.grad(loss)(params), state)
        return (optax.apply_updates(params, updates), state), None

    start = (params, optimizer.init(params))
    (params, _), _ = jax.jit(lambda start: jax.lax.scan(step, start, length=300))(start)
    encoded, _, text_tells = _one_is_noise(seed=1)
    weights = head.apply({"params": params["head"]}, encoded, False).weights
    return np.where(text_tells, weights["text"], weights["audio"])


def test_daf_moves_its_weight_to_the_informative_modality() -> None:
    weights = _weight_on_the_informative("dynamic")
    assert weights.mean() > 0.8
    assert np.mean(weights > 0.5) > 0.9, "utterance by utterance, not on average alone"


def test_a_static_gate_cannot_tell_which_modality_is_noise() -> None:
    assert _weight_on_the_informative("learned").mean() == pytest.approx(0.5, abs=0.05)


def test_pairs_vote_by_the_modality_they_have() -> None:
    model = models.build(
        {"name": "tensor_pairs", "encoder": {"width": 8, "num_heads": 2}},
        modalities=MODALITIES,
        num_outputs=3,
    )
    batch = random_batch()
    batch["text_mask"][0] = batch["vision_mask"][0] = False
    for m in MODALITIES:
        batch[f"{m}_mask"][1] = False
    output = model.apply(model.init(jax.random.key(0), batch, False), batch, False)
    assert list(output.unimodal) == ["text+audio", "text+vision"]
    assert output.present["text+audio"].tolist() == [True, False, True, True, True, True]
    probabilities = {name: jax.nn.softmax(x) for name, x in output.unimodal.items()}
    voted = jnp.exp(output.logits)
    np.testing.assert_allclose(voted[0], probabilities["text+audio"][0], rtol=1e-5)
    mean = sum(probabilities.values()) / 2
    np.testing.assert_allclose(voted[1:], mean[1:], rtol=1e-5)


def test_a_vote_without_the_losses_of_its_classifiers_is_refused() -> None:
    config = resolve({"model": {"name": "tensor_pairs"}, "task": {"unimodal_weight": 0}})
    with pytest.raises(UserError, match="name=tensor_pairs nothing to learn from"):
        system_lib.build(config)
