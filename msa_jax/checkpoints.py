"""The checkpoint of a run: what to go on from and, within it, the selected parameters.

The only file that knows Orbax. A checkpoint holds as items of their own: `state`, `config`,
`normalization`, `schema` and `selection`, so that it can be evaluated without the code's configs.
"""

from collections.abc import Mapping
from typing import Any

import jax
import orbax.checkpoint as ocp
from absl import logging
from etils import epath

from msa_jax import processes
from msa_jax.errors import UserError
from msa_jax.state import TrainState

_DESCRIPTION = ("config", "normalization", "schema", "selection")


class Checkpoints:
    """The checkpoints of one run, of which the latest is kept.

    Use as a context manager: leaving it waits for the save under way.
    """

    def __init__(self, directory: epath.PathLike, *, read_only: bool = False) -> None:
        """Opens the directory of checkpoints.

        Args:
          directory: of a run's checkpoints.
          read_only: for evaluation; creates nothing.

        Raises:
          UserError: if `read_only` and there is no checkpoint.
        """
        self._directory = epath.Path(directory)
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
            self._manager = _Manager(
                self._directory,
                item_handlers=handlers,
                options=ocp.CheckpointManagerOptions(
                    read_only=read_only,
                    create=not read_only,
                    max_to_keep=1,
                    save_interval_steps=0 if read_only else 1,
                ),
            )
        finally:
            logging.set_verbosity(verbosity)
        if read_only and self.step is None:
            self.close()
            raise UserError(f"{directory} holds no checkpoint: train first, or check --workdir.")

    def __enter__(self) -> "Checkpoints":
        return self

    def __exit__(self, kind: object, error: BaseException | None, *traceback: object) -> None:
        if not processes.is_loss(error):
            self.close()

    def close(self) -> None:
        """Waits for the save under way, then releases the directory."""
        self._manager.wait_until_finished()
        self._manager.close()

    @property
    def step(self) -> int | None:
        """The last step saved, None before the first. All that is read is read from it."""
        return self._manager.latest_step()

    def save(self, step: int, state: Any, description: Mapping[str, Any]) -> None:
        """Starts to save in the background.

        Args:
          step: updates taken.
          state: everything that training changes (or, of a finished run, what was selected).
          description: `config`, `normalization`, `schema` and `selection` as JSON values.
        """
        items = {name: ocp.args.JsonSave(description[name]) for name in _DESCRIPTION}
        args = ocp.args.Composite(state=ocp.args.PyTreeSave(state), **items)
        self._manager.save(step, args=args)

    def wait(self) -> None:
        """Waits for the save under way."""
        self._manager.wait_until_finished()

    def restore_state(self, abstract: TrainState) -> TrainState:
        """The state, with the shardings of `abstract`.

        Raises:
          UserError: naming every weight that is missing, unknown or of another shape.
        """
        return self._restore(abstract)

    def restore_selected(self, abstract: Any) -> Any:
        """The selected parameters, with the shardings of `abstract`.

        Raises:
          UserError: as `restore_state`, or if nothing was evaluated yet.
        """
        if all(each["selected"] is None for each in self.description()["selection"]["members"]):
            raise UserError(
                f"{self._directory} is of a run that stopped before its first evaluation: go on "
                "with its training command."
            )
        return self._restore({"selected": abstract})["selected"]

    def shapes(self) -> Any:
        """The selected parameters' shapes and dtypes, nested as in the model."""
        saved = self._manager.item_metadata(self.step)["state"].tree["selected"]
        return jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype), saved)

    def description(self) -> dict[str, Any]:
        """`config`, `normalization`, `schema` and `selection` as they were saved."""
        items = {name: ocp.args.JsonRestore() for name in _DESCRIPTION}
        return dict(self._manager.restore(self.step, args=ocp.args.Composite(**items)).items())

    def _restore(self, abstract: Any) -> Any:
        saved = self._manager.item_metadata(self.step)["state"].tree
        partial = isinstance(abstract, dict)
        problems = mismatches(named_shapes(abstract), named_shapes(saved), extra=not partial)
        if problems:
            lines = "\n  ".join(problems)
            name = self._directory / str(self.step)
            raise UserError(
                f"the checkpoint {name} does not fit this model:\n  {lines}\n"
                "It is another model's or another version's: start in a new --workdir."
            )
        args = ocp.args.PyTreeRestore(
            item=abstract,
            restore_args=ocp.checkpoint_utils.construct_restore_args(abstract),
            partial_restore=partial,
        )
        return self._manager.restore(self.step, args=ocp.args.Composite(state=args))["state"]


class _Manager(ocp.CheckpointManager):
    """Orbax's, without its own question whether the run shall stop, for the loop asks it."""

    def reached_preemption(self, step: int) -> bool:
        return False


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
