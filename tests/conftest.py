"""Small data and small configs for all tests."""

import os
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

# TensorFlow's and TFDS's own deprecations are not ours to mend; set here, before their import.
os.environ["TF_CPP_MIN_LOG_LEVEL"] = "2"
# Compiling takes most of the tests' time: without the compiler's optimisations half as much.
FAST_COMPILING = "--xla_backend_optimization_level=0"
os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {FAST_COMPILING}"
# TFDS reads it once, at import: nothing of the tests may land in the user's own data.
os.environ["TFDS_DATA_DIR"] = tempfile.mkdtemp(prefix="msa_jax_tests_")

SHARED = Path(__file__).parents[2] / "shared" / "data"
needs_linux = pytest.mark.skipif(sys.platform != "linux", reason="memory is read from /proc")
CHANNELS = {"text": 5, "audio": 3, "vision": 4}


@pytest.fixture(scope="session", autouse=True)
def data_dir() -> Iterator[None]:
    """Removes the session's prepared datasets."""
    yield
    shutil.rmtree(os.environ["TFDS_DATA_DIR"])


@pytest.fixture(scope="session", autouse=True)
def compilation_cache(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Tests compile the same few programs over and over, here and in child processes."""
    import jax

    directory = str(tmp_path_factory.mktemp("xla"))
    for name, value in (
        ("jax_compilation_cache_dir", directory),
        ("jax_persistent_cache_min_compile_time_secs", 0.0),
        ("jax_persistent_cache_min_entry_size_bytes", -1),
    ):
        jax.config.update(name, value)
        os.environ[name.upper()] = str(value)


@pytest.fixture(scope="module", autouse=True)
def programs() -> Iterator[None]:
    """Forgets a module's compiled programs, which add up to gigabytes; the files above stay."""
    yield
    import jax

    jax.clear_caches()


def features(count: int = 100, seed: int = 0) -> dict[str, Any]:
    """Arrays of a features file with a sequence, a single vector and a table of vectors.

    Text tells the sign of the score, so that something can be learnt.
    """
    rng = np.random.default_rng(seed)
    scores = np.round(rng.uniform(-3, 3, count) * 3).astype(np.float32) / 3
    text = rng.standard_normal((count, 6, CHANNELS["text"])).astype(np.float32)
    text[:, :, 0] += scores[:, None]
    splits = np.array(["train"] * (count * 3 // 5) + ["valid"] * (count // 5))
    splits = np.concatenate([splits, ["test"] * (count - len(splits))])
    return {
        "id": np.array([f"video{i // 4}[{i % 4}]" for i in range(count)]),
        "video_id": np.array([f"video{i // 4}" for i in range(count)]),
        "score": scores,
        "split": splits,
        "text": text,
        "text_length": rng.integers(1, 7, count),
        "audio": rng.standard_normal((count, CHANNELS["audio"])).astype(np.float32),
        "vision_ids": rng.integers(0, 9, (count, 4)),
        "vision_table": rng.standard_normal((9, CHANNELS["vision"])).astype(np.float32),
        "vision_length": rng.integers(0, 5, count),
    }


@pytest.fixture
def write_features(tmp_path: Path) -> Callable[..., str]:
    """Writes a features file; keyword arguments replace arrays, None leaves one out."""

    def write(name: str = "features.npz", count: int = 100, **changes: Any) -> str:
        arrays = {**features(count), **changes}
        path = tmp_path / name
        np.savez(path, **{key: value for key, value in arrays.items() if value is not None})
        return str(path)

    return write


def tiny_config(name: str, path: str, **overrides: Any) -> Any:
    """`configs/NAME.py` on the features file `path`, small; overrides are dotted names."""
    import importlib

    config = importlib.import_module(f"configs.{name}").get_config()
    config.data.path = path
    config.model.encoder.update(width=8, num_layers=1, num_heads=2, hidden=16)
    config.training.update(batch_size=16, eval_batch_size=16, epochs=3)
    config.data.buckets = 2  # each is a program to compile
    config.update_from_flattened_dict(overrides)
    return config


def random_batch(lengths: dict[str, int] | None = None, size: int = 6, seed: int = 0) -> Any:
    """A batch with ragged sequences, as the pipeline would make it."""
    rng = np.random.default_rng(seed)
    lengths = lengths or {"text": 7, "audio": 5, "vision": 1}
    batch: dict[str, Any] = {}
    for modality, steps in lengths.items():
        mask = np.arange(steps) < rng.integers(1, steps + 1, size)[:, None]
        frames = rng.standard_normal((size, steps, CHANNELS[modality])).astype(np.float32)
        batch |= {modality: np.where(mask[..., None], frames, 0), f"{modality}_mask": mask}
    scores = rng.uniform(-3, 3, size).astype(np.float32)
    labels = np.digitize(scores, [-1, 1]).astype(np.int32)
    return {**batch, "score": scores, "label": labels, "example_mask": np.ones(size, bool)}
