"""Several processes that train one model: how they meet, what they agree on, how they end.

A lone process needs none of it: here it is the first, and has all that there is.
"""

import contextlib
import ctypes
import functools
import itertools
import os
import re
import signal
import sys
import traceback
from collections.abc import Callable, Iterator
from typing import Any, NoReturn, TypeVar

import jax
from jax._src import distributed  # the only way to the cluster's store of keys
from jax.experimental import multihost_utils
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from msa_jax.errors import DivergedError, PreemptedError, UserError

COORDINATOR = "JAX_COORDINATOR_ADDRESS"
COUNT = "JAX_NUM_PROCESSES"
INDEX = "JAX_PROCESS_ID"

_HEARTBEAT_SECONDS = 60  # without a sign of life, after which a process counts as dead
_LEAVE_SECONDS = 10  # that one which was refused waits for the others to be refused too
_WORK_SECONDS = 24 * 3600  # of `in_turn`; a process that dies meanwhile ends it sooner

# How XLA (on CPU, GPU and of the cluster itself) says that another process cannot be reached.
_LOSS = re.compile(r"^(UNAVAILABLE|DEADLINE_EXCEEDED|ABORTED|CANCELLED): |\bGloo\b|\bNCCL\b")

_DONE = "done"
_TURNS = itertools.count()  # names the keys of each, the same in all processes

_Result = TypeVar("_Result")


@contextlib.contextmanager
def cluster(join_seconds: int) -> Iterator[None]:
    """Within it this process is one of a cluster. To be entered before any device is asked for.

    The environment says which: `JAX_COORDINATOR_ADDRESS`, `JAX_NUM_PROCESSES`, `JAX_PROCESS_ID`, or
    else Slurm, a TPU pod or Kubernetes, as JAX finds them. What goes wrong within ends the process
    with one line, since an orderly exit would wait for processes that may be gone.

    Args:
      join_seconds: how long to wait for the others.
    """
    try:
        _join(join_seconds)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr, flush=True)
        _leave()
    try:
        yield
    except PreemptedError:
        raise  # of all processes
    except (Exception, KeyboardInterrupt) as error:
        if is_loss(error):
            _end(f"error: {_lost()} ({_gist(error)})")
        if isinstance(error, UserError | DivergedError):
            print(f"error: {error}", file=sys.stderr, flush=True)
        else:
            traceback.print_exc()
        _leave()


def check_alone() -> None:
    """Raises UserError if the devices are those of several processes, as a TPU pod tells itself."""
    if jax.process_count() > 1:
        raise UserError(
            f"this is one of {jax.process_count()} processes: start them all with "
            "`python -m msa_jax.main --distributed`. Scripts run in one alone."
        )


def is_loss(error: BaseException | None) -> bool:
    """Whether it tells of other processes that are gone: these cannot be waited for any more."""
    from_jax = isinstance(error, RuntimeError | ValueError)  # storage has errors of its own
    return jax.distributed.is_initialized() and from_jax and bool(_LOSS.search(str(error)))


def is_first() -> bool:
    """Whether this is the process that writes and prints."""
    return not jax.distributed.is_initialized() or _index() == 0


def tell(text: str) -> None:
    """Prints, once for all processes."""
    if is_first():
        print(text)


def in_turn(work: Callable[[], _Result]) -> _Result:
    """What `work` returns to this process: the first does it alone, then all others at once.

    So what the first leaves on a shared disk is found by the others. No process returns before all
    have done it.

    Args:
      work: may take long.

    Raises:
      UserError: of every process, if any of them is refused.
    """
    if not jax.distributed.is_initialized():
        return work()
    client, index, key = _client(), _index(), f"msa_jax/turn_{next(_TURNS)}"
    if index:
        _refuse(client.blocking_key_value_get(f"{key}/0", _WORK_SECONDS * 1000))
    refusal = ""
    try:
        result = work()
    except UserError as error:
        refusal = str(error)
    client.key_value_set(f"{key}/{index}", refusal or _DONE)
    if index == 0:
        others = [f"{key}/{other}" for other in range(0 if refusal else _count())]
        said = [client.blocking_key_value_get(each, _WORK_SECONDS * 1000) for each in others]
        refusals = [each for each in said if each != _DONE]
        client.key_value_set(f"{key}/all", refusal or (refusals or [_DONE])[0])
    _refuse(client.blocking_key_value_get(f"{key}/all", _WORK_SECONDS * 1000))
    return result


def agree(what: str, value: str) -> None:
    """Raises UserError, of every process, unless all have the same `value` of `what`."""
    if not jax.distributed.is_initialized():
        return
    key = f"msa_jax/agreed_{next(_TURNS)}"

    def compare() -> None:
        if _index() == 0:
            _client().key_value_set(key, value)
        first = _client().blocking_key_value_get(key, _WORK_SECONDS * 1000)
        if first != value:
            raise UserError(
                f"{what} is {first} of process 0, but {value} of process {_index()}: start all "
                "processes with the same command, the same code and a directory that all share."
            )

    in_turn(compare)


def fetch(tree: Any) -> Any:
    """The values of `tree` as NumPy arrays, on whatever process they are. All must call it."""
    leaves, structure = jax.tree.flatten(tree)
    apart = {
        place: leaf
        for place, leaf in enumerate(leaves)
        if isinstance(leaf, jax.Array)
        and not (leaf.is_fully_addressable or leaf.is_fully_replicated)
    }
    if apart:
        place_of_any: Any = next(iter(apart.values())).sharding
        for place, leaf in _replicate(place_of_any.mesh)(apart).items():
            leaves[place] = leaf
    return jax.tree.unflatten(structure, jax.device_get(leaves))


@functools.cache
def _replicate(mesh: Mesh) -> Callable[[Any], Any]:
    return jax.jit(lambda tree: tree, out_shardings=NamedSharding(mesh, PartitionSpec()))


class StopNotice:
    """Whether SIGTERM has told this process, or any other of its cluster, to end.

    Of a cluster, all ask before the same steps, and all hear it before the same one: they agree on
    the next question that none has asked. What is counted are this process's questions, not the
    run's steps, since a notice that comes before the first question is meant for the first.
    """

    def __init__(self) -> None:
        """Listens from now on; in a cluster JAX does, from the moment it was joined."""
        self._asked, self._told = 0, False
        if not jax.distributed.is_initialized():
            signal.signal(signal.SIGTERM, self._tell)

    def __call__(self) -> bool:
        """Asks, without waiting for devices."""
        self._asked += 1
        return self._told or multihost_utils.reached_preemption_sync_point(self._asked)

    def _tell(self, number: int, frame: object) -> None:
        self._told = True
        signal.signal(number, signal.SIG_DFL)  # a second one ends it at once


def _join(seconds: int) -> None:
    """Makes this process one of the cluster, or raises UserError."""
    address, count, index = os.environ.get(COORDINATOR), _number(COUNT), _number(INDEX)
    given = not (address is None or count is None or index is None)
    try:
        with _caught_losses():
            jax.distributed.initialize(
                address,
                count,
                index,
                cluster_detection_method="deactivate" if given else None,
                initialization_timeout=seconds,
                heartbeat_timeout_seconds=_HEARTBEAT_SECONDS,
            )
    except RuntimeError as error:
        raise UserError(
            f"{_here()} has not met the others at {distributed.global_state.coordinator_address} "
            f"within {seconds} s. Start all of them, with the same {COORDINATOR} and {COUNT}, each "
            f"with its own {INDEX}; --join_seconds=N waits longer. ({_gist(error)})"
        ) from error
    except (ValueError, TypeError, KeyError, ImportError, OSError) as error:
        raise UserError(
            f"no cluster is found here ({_gist(error)}). Set {COORDINATOR}, {COUNT} and {INDEX}, "
            "or start it with Slurm, on a TPU pod or on GKE; or leave --distributed out."
        ) from error
    agree(COUNT, str(_count()))


@contextlib.contextmanager
def _caught_losses() -> Iterator[None]:
    """Within it JAX joins a cluster whose losses end this process with one clear line.

    When the cluster is lost, JAX's own threads end the process, whatever Python is doing, with a
    page of addresses. JAX's client takes a function to call instead, for which `initialize` has no
    argument. (As of jaxlib 0.10 that call fails: while joining as RuntimeError, later by SIGABRT.)
    """
    make = distributed._jax.get_distributed_runtime_client
    distributed._jax.get_distributed_runtime_client = functools.partial(
        make, missed_heartbeat_callback=_on_loss
    )
    try:
        yield
    finally:
        distributed._jax.get_distributed_runtime_client = make
    ctypes.CDLL(None).signal(int(signal.SIGABRT), _ON_ABORT)


def _on_loss(*status: object) -> None:
    line = f"error: {_lost()} (Unless an error above tells of another cause.)\n"
    os.write(sys.stderr.fileno(), line.encode())
    os._exit(1)


_ON_ABORT = ctypes.CFUNCTYPE(None, ctypes.c_int)(_on_loss)


def _lost() -> str:
    return (
        f"{_here()} cannot go on: another one died or cannot be reached. Mend that one; the same "
        "command goes on from the last checkpoint."
    )


def _here() -> str:
    return f"process {_index()} of {_count()}"


def _number(name: str) -> int | None:
    value = os.environ.get(name)
    if value is not None and not value.isdigit():
        raise UserError(f"{name}={value!r} is not a number.")
    return None if value is None else int(value)


def _client() -> Any:
    return distributed.global_state.client


def _index() -> int:
    return distributed.global_state.process_id


def _count() -> int:
    return distributed.global_state.num_processes


def _refuse(said: str) -> None:
    if said != _DONE:
        raise UserError(said)


def _gist(error: BaseException) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0].rstrip(".")


def _leave() -> NoReturn:
    """Ends this process, which has said why, once the others have heard as much.

    What JAX's threads say of others that leave sooner is no news any more.
    """
    sys.stderr.flush()
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stderr.fileno())
    if jax.distributed.is_initialized():
        with contextlib.suppress(RuntimeError):  # the others go on, or are gone
            _client().wait_at_barrier("msa_jax/end", _LEAVE_SECONDS * 1000)
    _end()


def _end(line: str = "") -> NoReturn:
    """Ends the process at once: an orderly exit would wait for the others."""
    if line:
        print(line, file=sys.stderr)
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(1)
