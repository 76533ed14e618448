"""The launchers for the cloud, without one: what they would run, and `keep` against a fake."""

import json
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

from tests.conftest import needs_linux
from tests.fake_tools import JOBSET, LAUNCH, ROOT, SLICE, TRAIN, FakeTools, run

# A TPU slice.


def test_slice_prints_what_it_would_run() -> None:
    done = run("tpu_queued_resource.sh", "keep", *TRAIN, DRY_RUN=1, PROJECT="p", **SLICE)
    lines = done.stdout.splitlines()
    place, ssh = "--zone=us-west4-a --project=p", "gcloud compute tpus tpu-vm ssh slice"
    assert lines[0] == (
        "gcloud compute tpus queued-resources create slice --node-id=slice "
        "--accelerator-type=v5litepod-16 --runtime-version=v2-alpha-tpuv5-lite --spot " + place
    )
    assert lines[-2].startswith(f"{ssh} --worker=all --ssh-flag")
    assert lines[-2].endswith(
        r"launch/tpu_worker.sh\ run\ python\ -m\ msa_jax.main\ --distributed"
        r"\ --workdir=gs://bucket/a\\\ run " + place
    )
    assert lines[-1] == f"gcloud compute tpus queued-resources delete slice --force --quiet {place}"
    kinds = ["create", "describe", "#", "archive", "ssh", "scp", "ssh", "rm", "ssh", "delete"]
    assert [kind in line for kind, line in zip(kinds, lines, strict=True)] == [True] * len(kinds)
    durable = run("tpu_queued_resource.sh", "create", DRY_RUN=1, SPOT=0, **SLICE)
    assert "--spot" not in durable.stdout


# Plays a slice of one worker, whose home directory is $HOME: what shall run there runs.
GCLOUD = """
state=$(cat "$HOME/state")
case "$*" in
  *"queued-resources describe"*)
    [[ $state != ABSENT ]] || { echo "ERROR: NOT_FOUND: no such thing" >&2; exit 1; }
    echo "$state"
    case $state in
      PROVISIONING) echo ACTIVE >"$HOME/state" ;;
      SUSPENDING) echo SUSPENDED >"$HOME/state" ;;
    esac
    ;;
  *"tpu-vm describe"*) cat "$HOME/node" ;;
  *"queued-resources create"*) echo "${CREATED:-PROVISIONING}" >"$HOME/state" ;;
  *"queued-resources delete"*)
    [[ -z ${KEPT:-} ]] || exit 1
    echo ABSENT >"$HOME/state"
    echo READY >"$HOME/node"
    rm -rf "$HOME/msa_jax_launch"
    ;;
  *"tpu-vm scp"*) cp "$5" "$HOME/${6#*:}" ;;
  *"tpu-vm ssh"*)
    for flag in "$@"; do
      [[ $flag != --command=* ]] || { cd "$HOME" && exec bash -c "${flag#--command=}"; }
    done
    ;;
esac
"""
# Takes the next line of `fates`: a status, or a state in which the slice is from then on.
TRAINING = """
echo "$1" >>"$HOME/trained"
fate=$(head -n 1 "$HOME/fates")
sed -i 1d "$HOME/fates"
[[ $fate =~ ^[0-9]+$ ]] && exit "$fate"
if [[ $fate == NODE ]]; then echo PREEMPTED >"$HOME/node"; else echo "$fate" >"$HOME/state"; fi
exit 255
"""


@pytest.fixture
def tools(tmp_path: Path) -> FakeTools:
    return FakeTools(tmp_path, gcloud=GCLOUD, python3="", training=TRAINING)


@pytest.fixture
def keep(tmp_path: Path, tools: FakeTools) -> Callable[..., subprocess.CompletedProcess[str]]:
    """Runs `keep` from a clone of its own with training of certain fates."""
    home, clone = tmp_path / "home", tmp_path / "clone"
    home.mkdir()
    shutil.copytree(LAUNCH, clone / "launch")
    author = ["-c", "user.name=x", "-c", "user.email=x@example.com"]
    for git in (["init", "--quiet"], ["add", "."], [*author, "commit", "--quiet", "-m", "x"]):
        subprocess.run(["git", *git], cwd=clone, check=True)

    def start(*fates: str, state: str = "ABSENT", **variables: Any) -> Any:
        (home / "fates").write_text("".join(f"{fate}\n" for fate in fates))
        (home / "state").write_text(f"{state}\n")
        (home / "node").write_text("READY\n")
        defaults = {"PATH": tools.path, "HOME": home, "TMPDIR": tmp_path, "POLL": 0, **SLICE}
        return run(
            "tpu_queued_resource.sh",
            *("keep", "training", "--workdir=gs://bucket/a  run"),
            where=clone / "launch",
            **{**defaults, **variables},
        )

    return start


@needs_linux
@pytest.mark.parametrize("preempted", ["SUSPENDED", "SUSPENDING", "NODE"])
def test_slice_that_is_preempted_is_requested_again(
    preempted: str, keep: Any, tools: FakeTools, tmp_path: Path
) -> None:
    done = keep(preempted, "75", "0")
    assert done.returncode == 0, done.stderr
    trained = (tmp_path / "home" / "trained").read_text().splitlines()
    assert trained == ["--workdir=gs://bucket/a  run"] * 3
    kinds = [call.split()[4] for call in tools.calls("queued-resources") if "describe" not in call]
    assert kinds == ["create", "delete", "create", "delete"]
    assert len(tools.calls("tpu-vm scp")) == 2  # installed on each of the two slices, once
    installed = [call for call in tools.calls("uv pip install") if call.startswith("python3")]
    assert len(installed) == 2
    assert (tmp_path / "home" / "state").read_text() == "ABSENT\n"


@needs_linux
def test_slice_is_left_where_the_command_fails_by_itself(keep: Any, tools: FakeTools) -> None:
    done = keep("1", "1", "75", "7", "7", "9", "0")
    assert done.returncode == 9, done.stderr
    assert "failed with status 9 (3 of 3)" in done.stderr
    assert "costs" in done.stderr
    assert not tools.calls("delete")


@needs_linux
def test_slice_that_has_run_for_long_had_not_failed_before(keep: Any, tools: FakeTools) -> None:
    done = keep("1", "1", "1", "0", MAX_FAILURES=2, STEADY=0)
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("(1 of 2)") == 3
    assert len(tools.calls("delete")) == 1


@needs_linux
def test_slice_is_requested_only_so_often(keep: Any, tools: FakeTools) -> None:
    done = keep("SUSPENDED", "SUSPENDED", "SUSPENDED", "0", MAX_REQUESTS=2)
    assert done.returncode == 1, done.stderr
    assert "giving up after 2 slices" in done.stderr
    assert len(tools.calls("create")) == len(tools.calls("delete")) == 2


@needs_linux
def test_slice_that_cannot_be_deleted_is_not_tried_without_end(keep: Any, tools: FakeTools) -> None:
    done = keep("SUSPENDED", KEPT="1")
    assert done.returncode == 1, done.stderr
    assert len(tools.calls("delete")) == 2  # after the run, which failed too
    assert keep("75", "75", "0", MAX_REQUESTS=2).returncode == 75


@needs_linux
def test_slice_gives_up_on_a_request_that_fails(keep: Any, tools: FakeTools) -> None:
    done = keep("0", CREATED="FAILED")
    assert done.returncode == 1, done.stderr
    assert "3 of 3" in done.stderr
    assert len(tools.calls("create")) == 3
    assert not tools.calls("tpu-vm ssh")


@needs_linux
def test_slice_that_cannot_be_installed_runs_nothing(
    keep: Any, tools: FakeTools, tmp_path: Path
) -> None:
    (tmp_path / "bin" / "python3").write_text("#!/bin/sh\nexit 6\n")
    done = keep("0")
    assert done.returncode == 6, done.stderr
    assert not tools.calls("training")


@needs_linux
def test_slice_is_not_waited_for_without_end(keep: Any, tools: FakeTools) -> None:
    done = keep("0", state="WAITING_FOR_RESOURCES", WAIT_LIMIT=0)
    assert done.returncode == 1, done.stderr
    assert "no slice within 0 seconds" in done.stderr
    assert not tools.calls("create")
    assert not tools.calls("delete")


@pytest.mark.parametrize(
    ("answer", "status"),
    [("echo ACTIVE", 0), ("echo FAILED", 1), ("echo NOT_FOUND; exit 1", 1), ("exit 1", 1)],
)
def test_slice_is_waited_for(answer: str, status: int, tmp_path: Path) -> None:
    path = FakeTools(tmp_path, gcloud=answer).path
    done = run("tpu_queued_resource.sh", "wait", PATH=path, WAIT_LIMIT=0, POLL=0, **SLICE)
    assert done.returncode == status


# A JobSet.


def jobset(*arguments: str, **variables: Any) -> Any:
    done = run("gke_jobset.sh", *arguments, DRY_RUN=1, **{**JOBSET, "TOPOLOGY": "4x4", **variables})
    assert done.returncode == 0, done.stderr
    manifest = yaml.safe_load(done.stdout)
    schema = json.loads((ROOT / "tests" / "jobset_schema.json").read_text())
    jsonschema.Draft7Validator.check_schema(schema)
    jsonschema.validate(manifest, schema)
    return manifest


@pytest.mark.parametrize(
    ("variables", "hosts"),
    [
        ({}, 4),
        ({"TOPOLOGY": "2x2x4", "SPOT": "0"}, 4),
        ({"TOPOLOGY": "2x4", "CHIPS_PER_HOST": "8"}, 1),
        ({"SERVICE_ACCOUNT": "bucket-user", "PRIVILEGED": "1", "MAX_RESTARTS": "08"}, 4),
    ],
)
def test_jobset_fits_the_schema(variables: dict[str, str], hosts: int) -> None:
    manifest = jobset(*TRAIN, **variables)
    job = manifest["spec"]["replicatedJobs"][0]["template"]["spec"]
    assert job["parallelism"] == job["completions"] == hosts
    pod = job["template"]["spec"]
    container = pod["containers"][0]
    assert container["command"] == TRAIN
    chips = int(variables.get("CHIPS_PER_HOST", 4))
    assert container["resources"]["limits"] == {"google.com/tpu": chips}
    selector = pod["nodeSelector"]
    assert selector["cloud.google.com/gke-tpu-accelerator"] == "tpu-v5-lite-podslice"
    assert selector["cloud.google.com/gke-tpu-topology"] == variables.get("TOPOLOGY", "4x4")
    assert ("cloud.google.com/gke-spot" in selector) == (variables.get("SPOT") != "0")
    assert ("securityContext" in container) == ("PRIVILEGED" in variables)
    assert pod.get("serviceAccountName") == variables.get("SERVICE_ACCOUNT")


def test_jobset_restarts_an_interrupted_run_without_limit() -> None:
    spec = jobset(*TRAIN)["spec"]
    job = spec["replicatedJobs"][0]["template"]["spec"]
    (container,) = job["template"]["spec"]["containers"]
    exits, disruption = job["podFailurePolicy"]["rules"]
    assert exits["action"] == disruption["action"] == "FailJob"
    assert exits["onExitCodes"] == {
        "containerName": container["name"],
        "operator": "In",
        "values": [75],
    }
    assert disruption["onPodConditions"] == [{"type": "DisruptionTarget", "status": "True"}]
    assert job["template"]["spec"]["restartPolicy"] == "Never"  # a podFailurePolicy needs it
    assert job["backoffLimit"] == 0
    (rule,) = spec["failurePolicy"]["rules"]
    assert rule["action"] == "RestartJobSetAndIgnoreMaxRestarts"
    assert rule["onJobFailureReasons"] == ["PodFailurePolicy"]
    assert spec["failurePolicy"]["maxRestarts"] == 10


def test_jobset_keeps_the_command_as_it_is() -> None:
    strange = ['a "b" \\c', "'d'", "e: [f] #g", "tab? no", "é", ""]
    command = jobset(*TRAIN, *strange, "$(HOME) $x")["spec"]["replicatedJobs"][0]["template"][
        "spec"
    ]["template"]["spec"]["containers"][0]["command"]
    assert command == [*TRAIN, *strange, "$$(HOME) $x"]  # Kubernetes reads $$( as $(


def test_the_schema_refuses_a_misspelt_field() -> None:
    schema = json.loads((ROOT / "tests" / "jobset_schema.json").read_text())
    manifest = jobset(*TRAIN)
    job = manifest["spec"]["replicatedJobs"][0]["template"]["spec"]
    job["template"]["spec"]["nodeSelektor"] = {}
    with pytest.raises(jsonschema.ValidationError, match="nodeSelektor"):
        jsonschema.validate(manifest, schema)


def test_jobset_is_created_with_kubectl(tmp_path: Path) -> None:
    tools = FakeTools(tmp_path, kubectl=f"cat >{tmp_path / 'manifest'}")
    variables = {**JOBSET, "TOPOLOGY": "4x4", "NAMESPACE": "team", "PATH": tools.path}
    assert run("gke_jobset.sh", *TRAIN, **variables).returncode == 0
    assert tools.calls("kubectl") == ["kubectl create --namespace=team --filename=-"]
    assert yaml.safe_load((tmp_path / "manifest").read_text()) == jobset(*TRAIN)


def test_the_image_takes_what_there_is_and_is_not_run_by_root() -> None:
    lines = [line.split() for line in (LAUNCH / "Dockerfile").read_text().splitlines() if line]
    copied = [path for line in lines if line[0] == "COPY" for path in line[1:-1]]
    assert {"msa_jax", "configs", "pyproject.toml"} <= set(copied)
    assert all((ROOT / path).exists() for path in copied)
    assert [line for line in lines if line[0] == "USER"] == [["USER", "1000"]]
    assert lines[-1] == ["USER", "1000"]
