"""Long tasks side by side on a CPU, in processes that each have their share of the cores.

A task alternates between what fills all cores and what fills one (to compile, to draw, to write);
two of them, each on half of the cores, keep all of them busy. A process does one task after
another: what takes seconds to import is imported once.
"""

import contextlib
import dataclasses
import io
import multiprocessing
import os
import signal
import threading
import traceback
from collections.abc import Callable, Collection, Iterator, Sequence
from multiprocessing.connection import Connection, wait
from typing import Any

from msa_jax.errors import DivergedError, UserError


@dataclasses.dataclass(frozen=True, kw_only=True)
class Task:
    """What a process does before it is asked for more.

    Attributes:
      name: by which others wait for it.
      label: for people.
      function: that is called; a module's own, since it is sent to the process.
      arguments: that it is called with.
      after: names of the tasks that must have ended before.
    """

    name: str
    label: str
    function: Callable[..., Any]
    arguments: tuple[Any, ...] = ()
    after: Collection[str] = ()


@dataclasses.dataclass(frozen=True)
class _Worker:
    slot: int
    process: Any
    pipe: Connection


def run(
    tasks: Sequence[Task], side_by_side: int, tell: Callable[[str], None]
) -> Iterator[tuple[str, Any]]:
    """Does all tasks, the first of those that need not wait first.

    A task has the same number of cores whatever else runs: the bits of what JAX computes on a CPU
    can depend on it. What a task prints is told when it ends; its progress bar stands in a line of
    its own. All that still run are killed if one fails, or if what is yielded is not asked for to
    the end.

    Args:
      tasks: each is `after` none but others of them.
      side_by_side: how many at once.
      tell: is told what begins, and what a task that has ended has printed.

    Yields:
      The name of a task that has ended, and what its function returned.

    Raises:
      UserError: if a task raises one or a DivergedError, or its process is killed.
      RuntimeError: if a task raises anything else; it holds the traceback, and what was printed.
      ValueError: if tasks wait for one another, or for one that is not there.
    """
    waiting, ended = list(tasks), set[str]()
    workers: dict[int, _Worker] = {}  # by slot
    running: dict[Connection, tuple[_Worker, Task]] = {}
    try:
        while waiting or running:
            ready = [task for task in waiting if not set(task.after) - ended]
            for task in ready[: side_by_side - len(running)]:
                tell(f"[{len(tasks) - len(waiting) + 1}/{len(tasks)}] {task.label}")
                taken = {worker.slot for worker, _ in running.values()}
                slot = min(set(range(side_by_side)) - taken)
                if slot not in workers or not workers[slot].process.is_alive():
                    workers[slot] = _start(slot, side_by_side)
                running[workers[slot].pipe] = workers[slot], task
                with contextlib.suppress(OSError):  # of a process that is gone: `_result` says so
                    workers[slot].pipe.send(task)
                waiting.remove(task)
            if not running:
                raise ValueError(f"nothing ends before {[task.name for task in waiting]} may begin")
            for pipe in wait(list(running)):
                assert isinstance(pipe, Connection)
                worker, task = running[pipe]
                value, printed = _result(worker, task.label)
                del running[pipe]
                ended.add(task.name)
                tell(f"{task.label}:\n{printed}".rstrip())
                yield task.name, value
        for worker in workers.values():
            with contextlib.suppress(OSError):
                worker.pipe.send(None)
        for worker in workers.values():
            worker.process.join()
    finally:
        for worker in workers.values():
            worker.process.kill()
            worker.process.join()


def _start(slot: int, shares: int) -> _Worker:
    context = multiprocessing.get_context("spawn")  # a fork would copy JAX's locks
    here, there = context.Pipe()
    process = context.Process(target=_work, args=(there, slot, shares), daemon=True)
    process.start()
    there.close()  # so that its end is seen here
    return _Worker(slot, process, here)


def _result(worker: _Worker, label: str) -> tuple[Any, str]:
    try:
        refusal, trace, value, printed = worker.pipe.recv()
    except (EOFError, OSError):
        worker.process.join()
        code = worker.process.exitcode
        why = ", perhaps for want of memory: --jobs=1 takes less" if code == -signal.SIGKILL else ""
        raise UserError(
            f"{label}: its process was ended (exit code {code}){why}. What it had saved is kept: "
            "run it again."
        ) from None
    if refusal:
        raise UserError(f"{label}: {refusal}")
    if trace:
        raise RuntimeError(f"{label}: {trace}{printed}")
    return value, printed


def _work(pipe: Connection, slot: int, shares: int) -> None:
    """A process. Tasks come by the pipe: to read one may import JAX, and tqdm."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the terminal sends it to all; the parent acts
    threading.Thread(target=_end_with_parent, daemon=True).start()
    if hasattr(os, "sched_setaffinity"):  # what JAX asks for the number of cores
        cores = sorted(os.sched_getaffinity(0))
        share = max(1, len(cores) // shares)
        first = slot * share % len(cores)
        os.sched_setaffinity(0, cores[first : first + share])
    # Of the progress bar: tqdm reads them as it is imported.
    os.environ.update(TQDM_POSITION=str(slot), TQDM_LEAVE="")
    while _do_next(pipe):
        pass


def _do_next(pipe: Connection) -> bool:
    """Does the task that comes; returns whether there was one."""
    printed = io.StringIO()
    try:
        task = pipe.recv()
    except EOFError:  # the parent is gone
        return False
    except Exception:  # such as a module that cannot be imported
        pipe.send(("", traceback.format_exc(), None, ""))
        return True
    if task is None:
        return False
    try:
        with contextlib.redirect_stdout(printed):
            value = task.function(*task.arguments)
        pipe.send(("", "", value, printed.getvalue()))
    except (UserError, DivergedError) as error:
        pipe.send((str(error), "", None, ""))
    except Exception:  # whatever it is, the parent raises it
        pipe.send(("", traceback.format_exc(), None, printed.getvalue()))
    return True


def _end_with_parent() -> None:
    """Ends this process at once if its parent is gone: by a signal it could not pass on."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)
