"""Tasks side by side: their order, their cores, and what ends when one of them fails."""

import multiprocessing
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from msa_jax import predictions, reproduce, workers
from msa_jax import tasks as tasks_lib
from msa_jax.errors import UserError
from msa_jax.workers import Task
from tests import tasks_with_bars
from tests.conftest import features, tiny_config

ROOT = Path(__file__).parents[1]


def note(folder: str, name: str) -> str:
    """Prints, and leaves a file that says which were there before."""
    print(f"{name} was here")
    before = sorted(path.name for path in Path(folder).iterdir())
    Path(folder, name).write_text(" ".join(before))
    return name.upper()


def cores(_: str) -> set[int]:
    return os.sched_getaffinity(0)


def process(_: str) -> int:
    return os.getpid()


def refuse(message: str) -> None:
    raise UserError(message)


def fail(message: str) -> None:
    raise ZeroDivisionError(message)


def be_killed(_: str) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def wait_for_ever(path: str) -> None:
    Path(path).write_text(str(os.getpid()))
    time.sleep(600)


def _gone(pid: int) -> bool:
    for _ in range(100):
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            return True
        time.sleep(0.1)
    return False


def _pid(path: Path) -> int:
    for _ in range(600):
        if path.exists() and path.read_text():
            return int(path.read_text())
        time.sleep(0.1)
    raise AssertionError("the task did not begin")


def test_tasks_wait_for_those_they_need(tmp_path: Path) -> None:
    def task(name: str, *after: str) -> Task:
        arguments = (str(tmp_path), name)
        return Task(name=name, label=name, function=note, arguments=arguments, after=after)

    told: list[str] = []
    tasks = [task("last", "first", "second"), task("second", "first"), task("first")]
    results = dict(workers.run(tasks, 2, told.append))
    assert results == {"first": "FIRST", "second": "SECOND", "last": "LAST"}
    assert (tmp_path / "second").read_text() == "first"
    assert (tmp_path / "last").read_text() == "first second"
    assert told[:3] == ["[1/3] first", "first:\nfirst was here", "[2/3] second"]


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="cores cannot be chosen here")
def test_each_has_its_share_of_the_cores() -> None:
    whole = os.sched_getaffinity(0)
    if len(whole) < 2:
        pytest.skip("one core cannot be shared")
    tasks = [Task(name=n, label=n, function=cores, arguments=(n,)) for n in ("a", "b")]
    tasks.append(Task(name="c", label="c", function=cores, arguments=("c",), after=("a", "b")))
    found = dict(workers.run(tasks, 2, lambda _: None))
    assert len(found["a"]) == len(found["b"]) == len(whole) // 2
    assert not found["a"] & found["b"]
    assert len(found["c"]) == len(whole) // 2  # though nothing else is left to run beside it


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="cores cannot be chosen here")
def test_shares_are_equal_where_tasks_are_more_than_cores() -> None:
    count = len(os.sched_getaffinity(0)) + 1
    tasks = [Task(name=str(n), label=str(n), function=cores, arguments=("",)) for n in range(count)]
    assert {len(each) for _, each in workers.run(tasks, count, lambda _: None)} == {1}


def test_progress_bars_stand_in_lines_of_their_own(tmp_path: Path) -> None:
    # The library is imported where a task is read: by then it must have been told.
    def task(name: str) -> Task:
        arguments = (str(tmp_path), name)
        return Task(name=name, label=name, function=tasks_with_bars.line, arguments=arguments)

    found = dict(workers.run([task("a"), task("b")], 2, lambda _: None))
    assert found == {"a": 0, "b": 1}


def test_a_process_does_one_task_after_another() -> None:
    tasks = [Task(name=str(n), label=str(n), function=process, arguments=("",)) for n in range(4)]
    found = {pid for _, pid in workers.run(tasks, 2, lambda _: None)}
    assert os.getpid() not in found
    assert len(found) <= 2


def test_an_idle_process_that_was_killed_is_replaced() -> None:
    def task(name: str, *after: str) -> Task:
        return Task(name=name, label=name, function=process, arguments=("",), after=after)

    running = workers.run([task("a"), task("b", "a")], 1, lambda _: None)
    _, first = next(running)
    os.kill(first, signal.SIGKILL)
    while first in {child.pid for child in multiprocessing.active_children()}:
        time.sleep(0.1)
    ((name, second),) = running
    assert name == "b"
    assert second not in (first, os.getpid())


def test_tasks_that_wait_for_one_another_are_refused() -> None:
    tasks = [
        Task(name="a", label="a", function=cores, arguments=("",)),
        Task(name="b", label="b", function=cores, arguments=("",), after=["c"]),
    ]
    with pytest.raises(ValueError, match=r"\['b'\]"):
        list(workers.run(tasks, 2, lambda _: None))


@pytest.mark.parametrize(
    ("function", "kind", "words"),
    [
        (refuse, UserError, "^Bad: what is wrong$"),
        (fail, RuntimeError, "(?s)Bad: Traceback.*ZeroDivisionError: what is wrong"),
        (
            be_killed,
            UserError,
            r"^Bad: its process was ended \(exit code -9\), .*--jobs=1.*run it again",
        ),
    ],
)
def test_one_that_fails_ends_the_others(
    function: Any, kind: type[Exception], words: str, tmp_path: Path
) -> None:
    other = tmp_path / "pid"
    tasks = [
        Task(name="long", label="Long", function=wait_for_ever, arguments=(str(other),)),
        Task(name="start", label="Start", function=_pid, arguments=(other,)),
        Task(
            name="bad",
            label="Bad",
            function=function,
            arguments=("what is wrong",),
            after=["start"],
        ),
    ]
    with pytest.raises(kind, match=words):
        list(workers.run(tasks, 2, lambda _: None))
    assert _gone(_pid(other))


def test_none_outlives_a_parent_that_is_killed(tmp_path: Path) -> None:
    script = tmp_path / "parent.py"
    script.write_text(
        "import sys\n"
        "from tests.test_workers import Task, wait_for_ever, workers\n"
        "if __name__ == '__main__':\n"
        "    task = Task(name='a', label='a', function=wait_for_ever, arguments=(sys.argv[1],))\n"
        "    list(workers.run([task], 1, print))\n"
    )
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, str(script), str(tmp_path / "pid")]
    with subprocess.Popen(command, cwd=ROOT, env=environment) as parent:
        child = _pid(tmp_path / "pid")
        parent.kill()
        parent.wait()
    assert _gone(child)


@pytest.mark.slow
def test_systems_side_by_side_are_those_one_after_the_other(tmp_path: Path) -> None:
    path = str(tmp_path / "features.npz")
    np.savez(path, **features(60))

    def load(name: str) -> Any:
        return tiny_config(name, path, num_seeds=2)

    found = {}
    for jobs in (1, 2):
        workdir = tmp_path / f"jobs_{jobs}"
        systems = reproduce.systems(load, ("text",), {"training.epochs": 1}, str(workdir))
        few = [each for each in systems if each.name in ("text", "attention_pretrained")]
        assert set(reproduce._train(few, str(workdir), lambda _: None, jobs)) == {
            "text",
            "attention_pretrained",
        }
        found[jobs] = {
            str(file.relative_to(workdir)): predictions.read(
                file, tasks_lib.Task(kind="three_class")
            ).outputs
            for file in sorted(workdir.rglob("predictions_*.csv"))
        }
    assert len(found[1]) == 2 * 2 * 2
    for name, outputs in found[1].items():
        np.testing.assert_allclose(found[2][name], outputs, rtol=1e-4, atol=1e-6, err_msg=name)
