"""Checkpoints of a run: the latest, to go on from, and the best on validation, to use.

The only file that knows Orbax. A checkpoint holds as items of their own: `state`, `config`,
`normalization`, `schema` and `metrics`, so that it can be evaluated without the code's configs.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import jax
import orbax.checkpoint as ocp
from absl import logging
from etils import epath
from orbax.checkpoint.checkpoint_managers import preservation_policy

from msa_jax import metrics as metrics_lib
from msa_jax.errors import UserError
from msa_jax.state import TrainState

_DESCRIPTION = ("config", "normalization", "schema")


class Checkpoints:
    """The checkpoints of one run.

    Use as a context manager: leaving it waits for the save under way.
    """

    def __init__(
        self, directory: epath.PathLike, *, selection: str = "", read_only: bool = False
    ) -> None:
        """Opens the directory of checkpoints.

        Args:
          directory: of a run's checkpoints.
          selection: validation metric that says which is best; of equals the earliest. Empty when
            `read_only`: what the run recorded.
          read_only: for evaluation; creates nothing.

        Raises:
          UserError: if `read_only` and there is no checkpoint.
        """
        self._directory = epath.Path(directory)
        self._selection = selection
        if read_only and not self._directory.exists():
            raise UserError(f"{directory} does not exist: train first, or check --workdir.")
        handlers = {
            "state": ocp.PyTreeCheckpointHandler(),
            **{name: ocp.JsonCheckpointHandler() for name in _DESCRIPTION},
        }
        verbosity = logging.get_verbosity()
        if read_only:
            logging.set_verbosity(logging.ERROR)  # Orbax warns that it will write nothing
        try:
            self._manager = ocp.CheckpointManager(
                self._directory,
                item_handlers=handlers,
                options=ocp.CheckpointManagerOptions(
                    read_only=read_only,
                    create=not read_only,
                    best_fn=lambda metrics: metrics[selection],
                    preservation_policy=_LatestAndBest(selection),
                    save_interval_steps=0 if read_only else 1,
                ),
            )
        finally:
            logging.set_verbosity(verbosity)
        if read_only:
            if self.latest_step is None:
                self.close()
                raise UserError(
                    f"{directory} holds no checkpoint: train first, or check --workdir."
                )
            recorded = self.description(self.latest_step)["config"]
            self._selection = recorded["training"]["selection"]

        # Orbax gives a step's metrics only once its save has ended.
        self._metrics = {step: self._manager.metrics(step) for step in self._manager.all_steps()}

    def __enter__(self) -> "Checkpoints":
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def close(self) -> None:
        """Waits for the save under way, then releases the directory."""
        self._manager.wait_until_finished()
        self._manager.close()

    @property
    def latest_step(self) -> int | None:
        """The last step saved, None before the first."""
        return self._manager.latest_step()

    @property
    def best_step(self) -> int:
        """The step of the best validation metric."""
        steps = sorted(self._metrics)
        return steps[_best([self._metrics[step] for step in steps], self._selection)]

    def save(
        self,
        step: int,
        state: TrainState,
        description: Mapping[str, Any],
        metrics: dict[str, float],
    ) -> None:
        """Starts to save in the background.

        Args:
          step: updates taken.
          state: everything that training changes.
          description: `config`, `normalization` and `schema` as JSON values.
          metrics: on validation, the selecting one among them.
        """
        items = {name: ocp.args.JsonSave(dict(description[name])) for name in _DESCRIPTION}
        self._metrics[step] = metrics
        self._manager.save(
            step,
            args=ocp.args.Composite(state=ocp.args.PyTreeSave(state), **items),
            metrics=metrics,
        )

    def wait(self) -> None:
        """Waits for the save under way."""
        self._manager.wait_until_finished()

    def restore_state(self, step: int, abstract: TrainState) -> TrainState:
        """The state at `step`, with the shardings of `abstract`.

        Raises:
          UserError: naming every weight that is missing, unknown or of another shape.
        """
        return self._restore(step, abstract)

    def restore_params(self, step: int, abstract: Any) -> Any:
        """The parameters alone, with the shardings of `abstract`; raises as `restore_state`."""
        return self._restore(step, {"params": abstract})["params"]

    def shapes(self, step: int) -> Any:
        """The parameters' shapes and dtypes, nested as in the model."""
        saved = self._manager.item_metadata(step)["state"].tree["params"]
        return jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype), saved)

    def description(self, step: int) -> dict[str, Any]:
        """`config`, `normalization` and `schema` as they were saved."""
        items = {name: ocp.args.JsonRestore() for name in _DESCRIPTION}
        return dict(self._manager.restore(step, args=ocp.args.Composite(**items)).items())

    def _restore(self, step: int, abstract: Any) -> Any:
        saved = self._manager.item_metadata(step)["state"].tree
        partial = isinstance(abstract, dict)
        problems = mismatches(named_shapes(abstract), named_shapes(saved), extra=not partial)
        if problems:
            lines = "\n  ".join(problems)
            raise UserError(
                f"the checkpoint {self._directory / str(step)} does not fit this model:\n  {lines}"
            )
        args = ocp.args.PyTreeRestore(
            item=abstract,
            restore_args=ocp.checkpoint_utils.construct_restore_args(abstract),
            partial_restore=partial,
        )
        return self._manager.restore(step, args=ocp.args.Composite(state=args))["state"]


def mismatches(
    wanted: Mapping[str, tuple[int, ...]], saved: Mapping[str, tuple[int, ...]], *, extra: bool
) -> list[str]:
    """One line for every weight that is missing, has another shape or (`extra`) is not wanted."""
    missing = [f"{name}: missing" for name in wanted if name not in saved]
    shaped = [
        f"{name}: {list(saved[name])} in the checkpoint, {list(shape)} in the model"
        for name, shape in wanted.items()
        if name in saved and saved[name] != shape
    ]
    unknown = [f"{name}: not in the model" for name in saved if name not in wanted] if extra else []
    return missing + shaped + unknown


def named_shapes(tree: Any) -> dict[str, tuple[int, ...]]:
    """The shape of every leaf by its path; of a random key, that of the numbers that are saved."""

    def saved(leaf: Any) -> Any:
        is_key = jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key)
        return jax.eval_shape(jax.random.key_data, leaf) if is_key else leaf

    leaves = jax.tree_util.tree_leaves_with_path(jax.tree.map(saved, tree))
    return {
        jax.tree_util.keystr(path, simple=True, separator="/"): tuple(leaf.shape)
        for path, leaf in leaves
    }


def _best(metrics: Sequence[Mapping[str, float]], selection: str) -> int:
    """Index of the best metrics, the earliest of equals."""
    best = 0
    for index, entry in enumerate(metrics):
        if metrics_lib.is_better(selection, entry[selection], metrics[best][selection]):
            best = index
    return best


class _LatestAndBest(preservation_policy.PreservationPolicy):
    """Keeps the latest checkpoint and the best one. Orbax's BestN leaves ties to chance."""

    def __init__(self, selection: str) -> None:
        self._selection = selection

    def should_preserve(self, checkpoints: Sequence[Any], *, context: Any) -> list[bool]:
        del context
        best = _best([checkpoint.metrics for checkpoint in checkpoints], self._selection)
        last = len(checkpoints) - 1
        return [index in (best, last) for index in range(len(checkpoints))]
