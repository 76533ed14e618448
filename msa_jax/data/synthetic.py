"""`synthetic_mosei`: data in CMU-MOSEI's shape whose best possible accuracy is known.

The generative model, all of it drawn from `seed`:

1. A video holds a few utterances; splits are by video. An utterance lasts a log-normal time of
   median 6.5 s and has about 2.6 words a second: T words, to which all modalities are aligned.
2. Its score y is a multiple of 1/3 in [-3, 3], drawn with the shares of CMU-MOSEI (14 / 69 / 17 %
   negative, neutral, positive at the base paper's bins).
3. Its *tone* b is +1 (sincere) or, in `IRONY` of the utterances, -1 (ironic).
4. Every frame has `LATENT` independent unit Gaussians. The first carries the modality's *cue*:
   - text: a word tells b * y, what the words say, in a share `TEXT_BEARING` of the words;
   - audio: every frame tells y faintly; a second latent tells the tone b;
   - vision: every frame tells y, more faintly still.
   The other latents tell nothing, and share an offset within a video (the speaker).
5. A fixed orthonormal map, and a scale and an offset a column, turn latents into GloVe-300,
   COVAREP-74 and FACET-35 sized frames.

So a positive text under an ironic voice is negative: text alone misreads these utterances, audio
alone hears the irony but hardly the sentiment, and only a model that combines them can tell.

Steps 4 and 5 are invertible and Gaussian, so the posterior of (y, b) given any set of modalities is
exact, and `ceilings` gives the accuracy of the Bayes classifier: no model can do better on average.
`python -m msa_jax.data.synthetic` prints these ceilings.
"""

import dataclasses
import itertools
from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from msa_jax.data.schema import SPLITS, Utterance

CHANNELS = {"text": 300, "audio": 74, "vision": 35}
SIZES = {
    "quick": {"train": 5000, "valid": 1000, "test": 2000},
    "full": {"train": 16326, "valid": 1871, "test": 4659},
    "tenfold": {"train": 163260, "valid": 18710, "test": 46590},
}
VERSION = "1.0.0"

IRONY = 0.35
LATENT = 12
TEXT_BEARING = 0.5
CUE = {"text": 1.2, "audio": 0.22, "vision": 0.15}
TONE = 0.6
WORDS_PER_SECOND = 2.6
UTTERANCES_PER_VIDEO = 7.0
LEVELS = np.arange(-9, 10) / 3.0
# Shares of the 19 levels among 16,549 labelled segments of CMU-MOSEI.
SHARES = np.array(
    [50, 113, 171, 266, 317, 347, 390, 482, 658, 2201, 1335, 1118, 835, 619, 454, 334, 189, 92, 29]
) / 1e4  # fmt: skip
_TONES = np.array([1.0, -1.0])


@dataclasses.dataclass(frozen=True)
class Latents:
    """The part of a split that tells the sentiment, frames of all utterances one after another.

    Attributes:
      scores: [N] the true y.
      lengths: [N] frames of each utterance.
      cues: `{modality: [sum(lengths)]}` the first latent of every frame.
      tones: [sum(lengths)] the second latent of every audio frame.
    """

    scores: np.ndarray
    lengths: np.ndarray
    cues: Mapping[str, np.ndarray]
    tones: np.ndarray


def utterances(split: str, size: str = "quick", seed: int = 0) -> Iterator[Utterance]:
    """The utterances of a split, always the same for the same arguments."""
    rng = np.random.default_rng([seed, SPLITS.index(split)])
    latents = sample_latents(SIZES[size][split], rng)
    columns = {m: _columns(m, seed) for m in CHANNELS}
    ends = np.cumsum(latents.lengths)
    video, left, clock = -1, 0, 0.0
    offsets: dict[str, np.ndarray] = {}
    for row, (start, end) in enumerate(zip(ends - latents.lengths, ends, strict=True)):
        if left == 0:
            video, left, clock = video + 1, int(rng.geometric(1 / UTTERANCES_PER_VIDEO)), 0.0
            segment = 0
            offsets = {m: 0.5 * rng.standard_normal(LATENT) for m in CHANNELS}
        left, segment = left - 1, segment + 1
        seconds = (end - start) / WORDS_PER_SECOND
        frames = {}
        for m in CHANNELS:
            latent = rng.standard_normal((end - start, LATENT)) + offsets[m]
            latent[:, 0] = latents.cues[m][start:end]
            if m == "audio":
                latent[:, 1] = latents.tones[start:end]
            mixing, offset = columns[m]
            frames[m] = (latent @ mixing + offset).astype(np.float32)
        yield Utterance(
            id=f"{split}{video:05d}[{segment}]",
            frames=frames,
            score=float(latents.scores[row]),
            video_id=f"{split}{video:05d}",
            segment=segment,
            start=float(clock),
            end=float(clock + seconds),
        )
        clock += seconds


def sample_latents(count: int, rng: np.random.Generator) -> Latents:
    """Draws steps 1 to 4 of the generative model for `count` utterances."""
    scores = rng.choice(LEVELS, count, p=SHARES / SHARES.sum())
    tones = np.where(rng.random(count) < IRONY, -1.0, 1.0)
    seconds = np.exp(rng.normal(np.log(6.5), 0.58, count))
    lengths = np.maximum(1, np.rint(seconds * WORDS_PER_SECOND)).astype(np.int64)
    y, b = np.repeat(scores, lengths), np.repeat(tones, lengths)
    bearing = rng.random(len(y)) < TEXT_BEARING
    means = {"text": CUE["text"] * b * y * bearing, "audio": CUE["audio"] * y}
    means["vision"] = CUE["vision"] * y
    return Latents(
        scores=scores,
        lengths=lengths,
        cues={m: mean + rng.standard_normal(len(y)) for m, mean in means.items()},
        tones=TONE * b + rng.standard_normal(len(y)),
    )


def posterior(latents: Latents, modalities: Sequence[str]) -> np.ndarray:
    """P(y | the frames of `modalities`), [N, 19], exact."""
    log_joint = np.log(SHARES / SHARES.sum())[:, None] + np.log([1 - IRONY, IRONY])
    starts = np.cumsum(latents.lengths) - latents.lengths

    def likelihood(frames: np.ndarray, means: np.ndarray, bearing: float = 1.0) -> np.ndarray:
        """Sum over each utterance's frames of log p(frame | mean), [N, len(means)]."""
        ratio = frames[:, None] * means - means**2 / 2  # against a mean of 0
        if bearing < 1:
            ratio = np.logaddexp(np.log(bearing) + ratio, np.log1p(-bearing))
        return np.add.reduceat(ratio, starts, axis=0)

    total = np.broadcast_to(log_joint, (len(starts), *log_joint.shape)).copy()
    if "text" in modalities:
        said = likelihood(latents.cues["text"], CUE["text"] * LEVELS, TEXT_BEARING)
        total += np.stack([said, said[:, ::-1]], axis=-1)  # an ironic text says -y
    for m in ("audio", "vision"):
        if m in modalities:
            total += likelihood(latents.cues[m], CUE[m] * LEVELS)[:, :, None]
    if "audio" in modalities:
        total += likelihood(latents.tones, TONE * _TONES)[:, None, :]
    total -= total.max(axis=(1, 2), keepdims=True)
    joint = np.exp(total).sum(axis=-1)
    return joint / joint.sum(axis=1, keepdims=True)


def subsets(modalities: Sequence[str] = tuple(CHANNELS)) -> list[tuple[str, ...]]:
    """Every non-empty subset, smallest first."""
    sizes = range(1, len(modalities) + 1)
    return [s for size in sizes for s in itertools.combinations(modalities, size)]


def ceilings(classes: np.ndarray, count: int = 40_000, seed: int = 1) -> dict[str, float]:
    """Bayes accuracy of a classification by subset of modalities, and of their majority vote.

    Args:
      classes: [19] the class of each of `LEVELS`.
      count: utterances of the Monte Carlo estimate; the standard error is below 0.5 / sqrt(count).
      seed: of these utterances.

    Returns:
      `{"text": ..., "text+audio": ..., "vote": ...}`: expected accuracies in [0, 1]. `vote` is the
      majority vote of the three unimodal Bayes classifiers, ties to the highest mean probability.
    """
    latents = sample_latents(count, np.random.default_rng([seed, len(SPLITS)]))
    one_hot = np.eye(int(classes.max()) + 1)[classes]
    truth = classes[np.rint(latents.scores * 3).astype(int) + 9]
    by_subset = {s: posterior(latents, s) @ one_hot for s in subsets()}
    result = {"+".join(s): float(np.mean(p.argmax(-1) == truth)) for s, p in by_subset.items()}
    unimodal = np.stack([by_subset[(m,)] for m in CHANNELS])
    votes = np.eye(one_hot.shape[1])[unimodal.argmax(-1)].sum(0) + unimodal.mean(0)
    return {**result, "vote": float(np.mean(votes.argmax(-1) == truth))}


def regression_ceilings(count: int = 40_000, seed: int = 1) -> dict[str, float]:
    """Least mean absolute error by subset of modalities (that of the posterior median)."""
    latents = sample_latents(count, np.random.default_rng([seed, len(SPLITS)]))
    result = {}
    for subset in subsets():
        cumulative = posterior(latents, subset).cumsum(axis=1)
        median = LEVELS[(cumulative < 0.5).sum(axis=1)]
        result["+".join(subset)] = float(np.mean(np.abs(median - latents.scores)))
    return result


def _columns(modality: str, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """The map [LATENT, C] from latents to columns, and the columns' offsets [C]."""
    rng = np.random.default_rng([seed, len(SPLITS) + 1, list(CHANNELS).index(modality)])
    channels = CHANNELS[modality]
    rotation, _ = np.linalg.qr(rng.standard_normal((channels, LATENT)))
    scale = np.exp(rng.normal(0.0, 1.0, channels))
    return rotation.T * scale * np.sqrt(channels / LATENT), rng.normal(0.0, 3.0, channels)


def _main() -> None:
    from msa_jax.tasks import three_class

    for closure in ("closed", "right_closed"):
        classes = three_class(LEVELS, closure)
        majority = max(SHARES[classes == k].sum() for k in range(3)) / SHARES.sum()
        print(f"three_class, neutral {closure}: majority {100 * majority:.1f}")
        for name, accuracy in ceilings(classes).items():
            print(f"  {name:20s} {100 * accuracy:.1f}")
    print("regression, least mean absolute error:")
    for name, error in regression_ceilings().items():
        print(f"  {name:20s} {error:.3f}")


if __name__ == "__main__":
    _main()
