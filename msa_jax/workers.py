"""Long tasks side by side on a CPU, each in a process of its own with its share of the cores.

A task alternates between what fills all cores and what fills one (to compile, to draw, to write);
two of them, each on half of the cores, keep all of them busy.
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
    """What one process does.

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
class _Running:
    task: Task
    slot: int
    process: Any


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
    running: dict[Connection, _Running] = {}
    context = multiprocessing.get_context("spawn")  # a fork would copy JAX's locks
    try:
        while waiting or running:
            ready = [task for task in waiting if not set(task.after) - ended]
            for task in ready[: side_by_side - len(running)]:
                taken = {each.slot for each in running.values()}
                slot = min(set(range(side_by_side)) - taken)
                here, there = context.Pipe()
                arguments = (there, slot, side_by_side)
                process = context.Process(target=_work, args=arguments, daemon=True)
                tell(f"[{len(tasks) - len(waiting) + 1}/{len(tasks)}] {task.label}")
                process.start()
                there.close()  # so that its end is seen here
                running[here] = _Running(task, slot, process)
                with contextlib.suppress(OSError):  # of a process that is gone: `_result` says so
                    here.send(task)
                waiting.remove(task)
            if not running:
                raise ValueError(f"nothing ends before {[task.name for task in waiting]} may begin")
            for pipe in wait(list(running)):
                assert isinstance(pipe, Connection)
                value, printed = _result(pipe, running[pipe])
                done = running.pop(pipe)
                done.process.join()
                ended.add(done.task.name)
                tell(f"{done.task.label}:\n{printed}".rstrip())
                yield done.task.name, value
    finally:
        for each in running.values():
            each.process.kill()
            each.process.join()


def _result(pipe: Connection, running: _Running) -> tuple[Any, str]:
    label = running.task.label
    try:
        refusal, trace, value, printed = pipe.recv()
    except (EOFError, OSError):
        running.process.join()
        code = running.process.exitcode
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
    """A task's process. The task comes by the pipe: to read it may import JAX, and tqdm."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the terminal sends it to all; the parent acts
    threading.Thread(target=_end_with_parent, daemon=True).start()
    if hasattr(os, "sched_setaffinity"):  # what JAX asks for the number of cores
        cores = sorted(os.sched_getaffinity(0))
        share = max(1, len(cores) // shares)
        first = slot * share % len(cores)
        os.sched_setaffinity(0, cores[first : first + share])
    # Of the progress bar: tqdm reads them as it is imported.
    os.environ.update(TQDM_POSITION=str(slot), TQDM_LEAVE="")
    printed = io.StringIO()
    try:
        task = pipe.recv()
        with contextlib.redirect_stdout(printed):
            value = task.function(*task.arguments)
        pipe.send(("", "", value, printed.getvalue()))
    except (UserError, DivergedError) as error:
        pipe.send((str(error), "", None, ""))
    except Exception:  # whatever it is, the parent raises it
        pipe.send(("", traceback.format_exc(), None, printed.getvalue()))


def _end_with_parent() -> None:
    """Ends this process at once if its parent is gone: by a signal it could not pass on."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)
