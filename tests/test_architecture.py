"""The house stays in order: imports run one way, files stay readable, `--help` is quick."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FILES = sorted((ROOT / "msa_jax").rglob("*.py"))
# Who may import whom, lowest first: a module may import its own layer and those below.
LAYERS = [
    ("errors", "fields", "config", "tasks", "command", "processes", "workers"),
    ("data.schema", "augment", "losses", "optim", "metrics", "sharding", "statistics", "workdir"),
    ("predictions", "environment", "cpu"),
    ("models", "data", "conditions"),
    ("population", "interval", "state", "steps", "loops", "checkpoints"),
    ("system", "report"),
    ("evaluate",),
    ("member", "summary"),
    ("train", "robustness", "comparison", "judgement"),
    ("sweep", "reproduce"),
    ("main", "benchmarks"),
]


def _module(path: Path) -> str:
    parts = path.relative_to(ROOT / "msa_jax").with_suffix("").parts
    return ".".join(part for part in parts if part != "__init__")


def _imports(path: Path, everywhere: bool = True) -> set[str]:
    """Modules a file imports; only those at its top if not `everywhere`."""
    tree = ast.parse(path.read_text())
    found = set()
    for node in ast.walk(tree) if everywhere else tree.body:
        if isinstance(node, ast.ImportFrom) and node.module:
            found |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
        elif isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
    return found


def _layer(module: str) -> int | None:
    ranks = [
        (len(name), rank)
        for rank, names in enumerate(LAYERS)
        for name in names
        if module == name or module.startswith(name + ".")
    ]
    return max(ranks)[1] if ranks else None


@pytest.mark.parametrize("path", FILES, ids=_module)
def test_imports_run_one_way(path: Path) -> None:
    module = _module(path)
    if not module:
        return
    rank = _layer(module)
    assert rank is not None, f"{module} has no place in LAYERS"
    for name in _imports(path):
        below = _layer(name.removeprefix("msa_jax.")) if name.startswith("msa_jax.") else None
        assert below is None or below <= rank, f"{module} imports {name}, which lies above it"


@pytest.mark.parametrize("path", FILES, ids=_module)
def test_heavy_libraries_stay_in_their_place(path: Path) -> None:
    module, roots = _module(path), {name.split(".")[0] for name in _imports(path)}
    if module.startswith("data.") and module != "data.feed":
        assert not roots & {"jax", "flax", "optax"}, "data must not need JAX"
    if not module.startswith("data."):
        assert not roots & {"tensorflow", "tensorflow_datasets"}, "only data reads with TensorFlow"
    if module != "checkpoints":
        assert "orbax" not in roots, "checkpoints.py alone knows Orbax"
    if module != "command":
        assert "ml_collections" not in roots
    assert "matplotlib" not in {n.split(".")[0] for n in _imports(path, everywhere=False)}


def test_files_stay_short() -> None:
    for folder in ("msa_jax", "configs", "scripts", "tests", "launch"):
        for path in (ROOT / folder).rglob("*.py"):
            assert len(path.read_text().splitlines()) <= 400, path


def test_help_needs_no_heavy_import() -> None:
    code = (
        "import sys, msa_jax.main\n"
        "heavy = {'jax', 'flax', 'tensorflow', 'orbax', 'matplotlib'} & set(sys.modules)\n"
        "sys.exit(f'imported {heavy}' if heavy else 0)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT, timeout=60)
    command = [sys.executable, "-m", "msa_jax.main", "--help"]
    shown = subprocess.run(command, cwd=ROOT, timeout=60, capture_output=True, text=True)
    assert "--workdir" in shown.stdout
    assert "--config" in shown.stdout


def test_nothing_before_the_first_evaluation_needs_tensorflow(tmp_path: Path) -> None:
    code = (
        "import sys\n"
        "from msa_jax import train\n"
        "from msa_jax.errors import PreemptedError\n"
        "from tests.conftest import tiny_config\n"
        "fields = {'data.size': 'quick', 'data.feed': 'resident', 'training.steps_per_loop': 1}\n"
        "config = tiny_config('attention', '', **fields)\n"
        "steps = iter(range(3))\n"
        "try:\n"
        "    train.train_and_evaluate(config, sys.argv[1], lambda: next(steps, None) is None)\n"
        "except PreemptedError:\n"
        "    heavy = {'tensorflow', 'matplotlib', 'scipy'} & set(sys.modules)\n"
        "    sys.exit(f'imported {heavy}' if heavy else 0)\n"
        "sys.exit('was not stopped')\n"
    )
    command = [sys.executable, "-c", code, str(tmp_path / "run")]
    for _ in range(2):  # the first may have to prepare the data, for which TFDS takes TensorFlow
        done = subprocess.run(command, cwd=ROOT, timeout=300, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--config=configs/early.py", "--config.optimizer.learning_rte=1"], "learning_rate"),
        (["--config=configs/early.py", "--config.model.contxt.kind=recurrent"], "contxt"),
        (["--config=nope.py"], "No such file or directory: 'nope.py'"),
        (["--config=configs/early.py:qick"], "there is no variant 'qick'"),
        (["--config=configs/early.py", "--sede=1"], "Unknown command line flag 'sede'"),
    ],
)
def test_a_wrong_flag_ends_with_one_line(flags: list[str], words: str) -> None:
    command = [sys.executable, "-m", "msa_jax.main", "--workdir=x", *flags]
    shown = subprocess.run(command, cwd=ROOT, timeout=60, capture_output=True, text=True)
    assert shown.returncode == 1
    assert words in shown.stderr
    assert shown.stderr.startswith("error: ")
    assert len(shown.stderr.strip().splitlines()) == 1
