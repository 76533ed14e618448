"""The launchers: what they would run, and those for one machine and for Slurm."""

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.conftest import needs_linux
from tests.fake_tools import JOBSET, LAUNCH, ROOT, SLICE, TRAIN, FakeTools, run

SCRIPTS = sorted(LAUNCH.glob("*.sh"))


def until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_shellcheck_finds_nothing() -> None:
    beside = Path(sys.executable).parent / "shellcheck"  # where pip puts it
    shellcheck = str(beside) if beside.exists() else shutil.which("shellcheck")
    assert shellcheck, "shellcheck is missing: install the extra test"
    files = [str(path.relative_to(ROOT)) for path in [*SCRIPTS, ROOT / ".ci" / "run"]]
    done = subprocess.run(
        [shellcheck, "--external-sources", *files], cwd=ROOT, capture_output=True, text=True
    )
    assert (done.returncode, done.stdout) == (0, "")


@pytest.mark.parametrize(
    ("script", "arguments", "variables", "words"),
    [
        ("local.sh", [], {}, "the number of processes"),
        ("local.sh", ["two", "true"], {}, "the number of processes"),
        ("local.sh", ["2"], {}, "which command?"),
        ("local.sh", ["2", "true"], {"DEVICES": "0"}, "DEVICES=0 is not a whole number of 1"),
        ("slurm_gpu.sh", [], {}, "which config"),
        ("slurm_gpu.sh", ["--config=x"], {"SLURM_NTASKS": 2, "SLURM_GPUS_ON_NODE": 4}, "2 tasks"),
        ("tpu_worker.sh", [], {}, "what is ''?"),
        ("tpu_worker.sh", ["run"], {}, "which command?"),
        ("tpu_queued_resource.sh", [], SLICE, "what is ''?"),
        ("tpu_queued_resource.sh", ["make"], SLICE, "what is 'make'?"),
        ("tpu_queued_resource.sh", ["create", "now"], SLICE, "create takes nothing more"),
        ("tpu_queued_resource.sh", ["run"], SLICE, "which command?"),
        ("tpu_queued_resource.sh", ["keep", *TRAIN[:-1]], SLICE, "--workdir=gs://"),
        ("tpu_queued_resource.sh", ["wait"], {**SLICE, "POLL": "soon"}, "POLL=soon"),
        *(
            ("tpu_queued_resource.sh", ["create"], {**SLICE, name: ""}, f"{name} is not set")
            for name in SLICE
        ),
        *(
            ("gke_jobset.sh", TRAIN, {**JOBSET, "TOPOLOGY": "4x4", name: ""}, f"{name} is not set")
            for name in [*JOBSET, "TOPOLOGY"]
        ),
        ("gke_jobset.sh", [], {**JOBSET, "TOPOLOGY": "4x4"}, "which command?"),
        ("gke_jobset.sh", TRAIN, {**JOBSET, "TOPOLOGY": "4by4"}, "TOPOLOGY=4by4"),
        ("gke_jobset.sh", TRAIN, {**JOBSET, "TOPOLOGY": "1x2"}, "hosts of 4 chips"),
        ("gke_jobset.sh", TRAIN, {**JOBSET, "TOPOLOGY": "4x4", "NAME": "A_b"}, "NAME=A_b"),
        ("gke_jobset.sh", [*TRAIN, "a\nb"], {**JOBSET, "TOPOLOGY": "4x4"}, "line break"),
        ("gke_jobset.sh", TRAIN[:-1], {**JOBSET, "TOPOLOGY": "4x4"}, "--workdir=gs://"),
    ],
)
def test_wrong_input_ends_with_the_usage(
    script: str, arguments: list[str], variables: dict[str, str], words: str
) -> None:
    done = run(script, *arguments, DRY_RUN=1, **variables)
    assert done.returncode == 2
    assert done.stdout == ""
    assert words in done.stderr.splitlines()[0]
    assert f"launch/{script}" in done.stderr


# Several local processes.


def test_local_prints_what_it_would_run() -> None:
    done = run("local.sh", "2", "--", "echo", "a b", DRY_RUN=1, PORT=1234, DEVICES=4, XLA_FLAGS="x")
    expected = (
        "env JAX_COORDINATOR_ADDRESS=127.0.0.1:1234 JAX_NUM_PROCESSES=2 JAX_PLATFORMS=cpu "
        r"XLA_FLAGS=x\ --xla_force_host_platform_device_count=4 JAX_PROCESS_ID={} echo a\ b"
    )
    assert done.stdout.splitlines() == [expected.format(0), expected.format(1)]


def test_local_gives_each_process_its_number(tmp_path: Path) -> None:
    code = (
        'echo "$JAX_COORDINATOR_ADDRESS $JAX_NUM_PROCESSES $JAX_PROCESS_ID $JAX_PLATFORMS '
        '$XLA_FLAGS|$1"'
    )
    logs = tmp_path / "logs"
    done = run("local.sh", "3", "bash", "-c", code, "x", "a  b", DEVICES=2, LOGS=logs)
    assert (done.returncode, done.stderr) == (0, "")
    shown = [done.stdout, *((logs / f"process_{i}.log").read_text() for i in (1, 2))]
    addresses = {line.split()[0] for line in shown}
    assert len(addresses) == 1
    assert addresses.pop().startswith("127.0.0.1:")
    for i, line in enumerate(shown):
        flags = "--xla_force_host_platform_device_count=2"
        assert line.split(" ", 1)[1] == f"3 {i} cpu {flags}|a  b\n"


@pytest.mark.parametrize(
    ("code", "status"),
    [
        ("exit 0", 0),
        ("exit 75", 75),
        ('[[ "$JAX_PROCESS_ID" == 0 ]] || exit 75', 75),
        ('[[ "$JAX_PROCESS_ID" == 1 ]] || exec sleep 60; echo lost; exit 3', 3),
        ('[[ "$JAX_PROCESS_ID" == 1 ]] && { sleep 0.3; exit 4; }; exit 75', 4),
        ('[[ "$JAX_PROCESS_ID" == 1 ]] && kill -KILL "$$"; sleep 60', 137),
        ("no_such_command", 127),
    ],
)
def test_local_ends_with_the_status_of_the_first_that_failed(code: str, status: int) -> None:
    start = time.monotonic()
    done = run("local.sh", "3", "bash", "-c", code)
    assert done.returncode == status
    assert time.monotonic() - start < 20
    assert ("lost\n" in done.stderr) == ("lost" in code)
    assert ("ended with" in done.stderr) == (status not in (0, 75))


def test_numbers_may_start_with_zeros() -> None:
    done = run("local.sh", "2", "bash", "-c", "exit 3", GRACE="09")
    assert (done.returncode, "value too great" in done.stderr) == (3, False)
    assert "count=10 " in run("local.sh", "1", "true", DEVICES="010", DRY_RUN=1).stdout


def test_local_kills_what_does_not_end(tmp_path: Path) -> None:
    code = '[[ "$JAX_PROCESS_ID" == 1 ]] && { sleep 0.2; exit 5; }; trap "" TERM; sleep 60 & wait'
    start = time.monotonic()
    assert run("local.sh", "2", "bash", "-c", code, GRACE="00").returncode == 5
    assert time.monotonic() - start < 20


@pytest.mark.parametrize("whole_group", [False, True])
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_local_passes_signals_to_all(
    number: signal.Signals, whole_group: bool, tmp_path: Path
) -> None:
    code = (
        f'trap "touch {tmp_path}/saved_$JAX_PROCESS_ID; exit 75" {number.name[3:]}; '
        f"touch {tmp_path}/ready_$JAX_PROCESS_ID; for _ in {{1..400}}; do sleep 0.05; done"
    )
    command = [LAUNCH / "local.sh", "2", "bash", "-c", code]
    # What runs in a shell's background ignores SIGINT, and so would its children; a handler is not
    # handed on to them.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        process = subprocess.Popen(command, start_new_session=True)
    finally:
        signal.signal(signal.SIGINT, before)
    until(lambda: len(list(tmp_path.glob("ready_*"))) == 2)
    if whole_group:  # as a terminal does
        os.killpg(process.pid, number)
    else:
        process.send_signal(number)
    assert process.wait(timeout=20) == 75
    assert len(list(tmp_path.glob("saved_*"))) == 2


# Slurm.


def test_slurm_prints_what_it_would_run() -> None:
    flags = ["--config=configs/late.py", "--workdir=a b"]
    one = run("slurm_gpu.sh", *flags, DRY_RUN=1)
    command = (
        "srun --kill-on-bad-exit=0 --wait=600 --cpus-per-task=1 "
        r"python -m msa_jax.main --config=configs/late.py --workdir=a\ b"
    )
    assert one.stdout == f"{command}\n"
    job = {"SLURM_NTASKS": 8, "SLURM_GPUS_ON_NODE": 4, "SLURM_JOB_NUM_NODES": 2}
    many = run("slurm_gpu.sh", *flags, DRY_RUN=1, SLURM_CPUS_PER_TASK=6, **job)
    assert many.stdout == f"{command.replace('task=1', 'task=6')} --distributed\n"


@pytest.mark.parametrize(
    ("status", "restarts", "squeue", "queued"),
    [
        (0, 0, "echo RUNNING None", False),
        (1, 0, "echo RUNNING None", False),
        (75, 1, "echo RUNNING None", True),
        (75, 2, "echo RUNNING None", False),
        (75, 0, "echo COMPLETING None", False),  # cancelled, or queued again by Slurm
        (75, 0, "echo COMPLETING TimeLimit", True),
        (75, 0, "", False),
        (75, 0, "exit 1", True),
    ],
)
def test_slurm_queues_an_interrupted_job_again(
    status: int, restarts: int, squeue: str, queued: bool, tmp_path: Path
) -> None:
    srun = f"kill -TERM $PPID; exit {status}"
    tools = FakeTools(tmp_path, srun=srun, squeue=squeue, scontrol="")
    copied = tmp_path / "spool" / "slurm_script"  # Slurm runs a copy
    copied.parent.mkdir()
    shutil.copy(LAUNCH / "slurm_gpu.sh", copied)
    job = {"SLURM_JOB_ID": 7, "SLURM_RESTART_COUNT": restarts, "SLURM_SUBMIT_DIR": ROOT}
    done = run("slurm_script", "--x", where=copied.parent, PATH=tools.path, MAX_RESTARTS=2, **job)
    assert done.returncode == status
    assert tools.calls("scontrol") == (["scontrol requeue 7"] if queued else [])
    asked = ["squeue --noheader --jobs=7 --format=%T %r"] if status == 75 else []
    assert tools.calls("squeue") == asked


def test_slurm_keeps_the_status_where_it_cannot_queue(tmp_path: Path) -> None:
    tools = FakeTools(tmp_path, srun="exit 75", squeue="echo RUNNING None", scontrol="exit 1")
    done = run("slurm_gpu.sh", "--x", PATH=tools.path, SLURM_SUBMIT_DIR=ROOT, SLURM_JOB_ID=7)
    assert (done.returncode, "could not" in done.stderr) == (75, True)


def test_slurm_queues_the_task_of_an_array(tmp_path: Path) -> None:
    tools = FakeTools(tmp_path, srun="exit 75", squeue="echo RUNNING None", scontrol="")
    job = {"SLURM_JOB_ID": 7, "SLURM_ARRAY_JOB_ID": 7, "SLURM_ARRAY_TASK_ID": 3}
    assert (
        run("slurm_gpu.sh", "--x", PATH=tools.path, SLURM_SUBMIT_DIR=ROOT, **job).returncode == 75
    )
    assert tools.calls("scontrol") == ["scontrol requeue 7_3"]
    assert tools.calls("squeue")[0].startswith("squeue --noheader --jobs=7_3 ")


# A worker of a TPU slice.


@needs_linux
def test_worker_follows_stops_and_tells_the_status(tmp_path: Path) -> None:
    code = 'trap "echo saved; exit 75" TERM; echo "$1"; for _ in {1..400}; do sleep 0.05; done'
    command = ["run", "bash", "-c", code, "x", "a  b"]
    first = subprocess.Popen(
        [LAUNCH / "tpu_worker.sh", *command],
        env={"PATH": os.environ["PATH"], "RUN": str(tmp_path)},
        stdout=subprocess.DEVNULL,
    )
    log = tmp_path / "log"
    until(lambda: log.exists() and "a  b" in log.read_text())
    first.kill()  # the connection is lost
    first.wait(timeout=20)
    other = run("tpu_worker.sh", "run", "true", RUN=tmp_path)
    assert (other.returncode, "another command runs" in other.stderr) == (1, True)
    stopped = subprocess.Popen(
        ["bash", "-c", f"sleep 0.5; RUN={tmp_path} {LAUNCH / 'tpu_worker.sh'} stop"]
    )
    followed = run("tpu_worker.sh", *command, RUN=tmp_path)
    assert stopped.wait(timeout=20) == 0
    assert followed.returncode == 75
    assert [line for line in followed.stdout.splitlines() if line != "Terminated"] == [
        "a  b",
        "saved",
    ]
    again = run("tpu_worker.sh", "run", "bash", "-c", "echo new; exit 3", RUN=tmp_path)
    assert (again.returncode, again.stdout) == (3, "new\n")
    assert "nothing runs" in run("tpu_worker.sh", "stop", RUN=tmp_path).stderr
