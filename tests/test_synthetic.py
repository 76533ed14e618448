import itertools

import numpy as np
import pytest

from msa_jax.data import synthetic
from msa_jax.tasks import three_class


@pytest.fixture(scope="module")
def latents() -> synthetic.Latents:
    return synthetic.sample_latents(6000, np.random.default_rng(0))


def test_same_seed_same_data_other_seed_other_data() -> None:
    first, again = (next(synthetic.utterances("valid", "quick", 0)) for _ in range(2))
    other = next(synthetic.utterances("valid", "quick", 1))
    np.testing.assert_array_equal(first.frames["text"], again.frames["text"])
    assert first.frames["text"].shape != other.frames["text"].shape or not np.array_equal(
        first.frames["text"], other.frames["text"]
    )


def test_shape_of_mosei() -> None:
    some = list(itertools.islice(synthetic.utterances("train"), 500))
    for utterance in some:
        steps = {m: frames.shape for m, frames in utterance.frames.items()}
        length = steps["text"][0]
        assert steps == {m: (length, c) for m, c in synthetic.CHANNELS.items()}
        assert utterance.score * 3 == pytest.approx(round(utterance.score * 3), abs=1e-5)
    seconds = [u.end - u.start for u in some]
    assert 5.8 < np.median(seconds) < 7.2
    assert len({u.id for u in some}) == 500
    assert len({u.video_id for u in some}) < 150


def test_class_shares_of_mosei(latents: synthetic.Latents) -> None:
    shares = np.bincount(three_class(latents.scores)) / len(latents.scores)
    np.testing.assert_allclose(shares, [0.14, 0.69, 0.17], atol=0.02)


def test_the_shares_follow_the_real_labels() -> None:
    assert synthetic.SHARES.sum() == pytest.approx(1.0)


@pytest.mark.parametrize("subset", synthetic.subsets())
def test_posterior_is_calibrated(latents: synthetic.Latents, subset: tuple[str, ...]) -> None:
    """Where the posterior says p, the class occurs in a share p: only the exact one does."""
    classes = three_class(synthetic.LEVELS)
    probability = synthetic.posterior(latents, subset) @ np.eye(3)[classes]
    truth = three_class(latents.scores)
    for k in range(3):
        p, hit = probability[:, k], truth == k
        for low, high in itertools.pairwise([0, 0.1, 0.3, 0.6, 0.9, 1.0001]):
            rows = (p >= low) & (p < high)
            if rows.sum() > 100:
                error = 4 * np.sqrt(p[rows].mean() * (1 - p[rows].mean()) / rows.sum()) + 2e-3
                assert abs(hit[rows].mean() - p[rows].mean()) < error


def test_more_modalities_tell_more_and_the_vote_less_than_fusion() -> None:
    ceilings = synthetic.ceilings(three_class(synthetic.LEVELS), count=10_000)
    unimodal = max(ceilings[m] for m in synthetic.CHANNELS)
    assert ceilings["text+audio+vision"] > unimodal + 0.06
    assert ceilings["text+audio"] > ceilings["text"] + 0.05
    assert ceilings["vote"] < unimodal


def test_frames_determine_the_cue() -> None:
    """The map from latents to columns is one to one, so the ceilings hold for the frames."""
    mixing, offset = synthetic._columns("vision", 0)
    latent = np.random.default_rng(0).standard_normal((5, synthetic.LATENT))
    recovered = np.linalg.lstsq(mixing.T, (latent @ mixing).T, rcond=None)[0].T
    np.testing.assert_allclose(recovered, latent, atol=1e-9)
    assert offset.shape == (synthetic.CHANNELS["vision"],)
