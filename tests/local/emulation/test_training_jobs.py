"""Training jobs as processes: what their containers find, and how they end."""

from __future__ import annotations

import io
import json
import sys
import tarfile
from pathlib import Path
from typing import Any

import pytest
from botocore.exceptions import ClientError

from horovod_local import Faults, LocalCloud, Refusal
from horovod_local.instances import opt_ml
from horovod_local.instances.processes import CLOUD_VARIABLE, processes_with
from horovod_node import contract
from support.local_cloud import without_namespaces
from support.local_cloud.emulated_resources import make_role, started, user_data
from support.local_cloud.training_jobs import BUCKET, Jobs, log, processes_of, statuses
from support.waiting import eventually

pytestmark = pytest.mark.skipif(bool(opt_ml.unavailable_reason()), reason="this machine permits no mount namespaces")


def objects(cloud: Any, job: Any) -> list[str]:
    """List the objects that a job has uploaded, below its prefix."""
    prefix = f"out/{job.name}/"
    found = cloud.client("s3").list_objects_v2(Bucket=BUCKET, Prefix=prefix).get("Contents", [])
    return [each["Key"].removeprefix(prefix) for each in found]


def archive(cloud: Any, job: Any, name: str) -> dict[str, str]:
    """Read an archive that a job has uploaded."""
    body = cloud.client("s3").get_object(Bucket=BUCKET, Key=f"out/{job.name}/output/{name}")["Body"].read()
    with tarfile.open(fileobj=io.BytesIO(body)) as tar:
        files = {member.name: tar.extractfile(member) for member in tar if member.isfile()}
        return {name: file.read().decode() for name, file in files.items() if file}


def test_training_jobs_live(jobs: Any) -> None:
    """A job starts, trains and completes, and says when: it has instances from the beginning of its download."""
    # GIVEN, WHEN
    job = jobs.create("true", hosts=2)
    ended = job.ended()

    # THEN
    assert (ended["TrainingJobStatus"], ended["SecondaryStatus"]) == ("Completed", "Completed")
    assert statuses(ended) == ["Starting", "Pending", "Downloading", "Training", "Uploading", "Completed"]
    steps = ended["SecondaryStatusTransitions"]
    assert [step["EndTime"] for step in steps[:-1]] == [step["StartTime"] for step in steps[1:]]
    assert (steps[0]["StartTime"], steps[2]["StartTime"]) == (ended["CreationTime"], ended["TrainingStartTime"])
    assert steps[-1]["StartTime"] == steps[-1]["EndTime"] == ended["TrainingEndTime"]
    assert ended["BillableTimeInSeconds"] == ended["TrainingTimeInSeconds"] >= 1
    assert "FailureReason" not in ended
    assert job.hosts() == []


def test_jobs_without_instances_have_no_start(faults: LocalCloud, jobs: Any) -> None:
    """A job whose instances take long is pending, and has no time of its training."""
    # GIVEN
    faults.set_faults(Faults(job_start_seconds=600))

    # WHEN
    job = jobs.create()
    pending = job.waiting_in("Pending")

    # THEN
    assert pending["TrainingJobStatus"] == "InProgress"
    times = {"TrainingStartTime", "TrainingEndTime", "TrainingTimeInSeconds", "BillableTimeInSeconds"}
    assert times & pending.keys() == set()
    assert job.hosts() == []

    # WHEN
    faults.set_faults(Faults())

    # THEN
    assert len(job.running()) == 1
    assert times & job.describe().keys() == {"TrainingStartTime"}


def test_containers_know_their_job(cloud: Any, jobs: Any) -> None:
    """A container finds its arguments, its job's variables and files, and the cloud alone."""
    # GIVEN
    show = 'echo "arguments $*"; env; sleep 600'

    # WHEN
    job = jobs.create(show, hosts=2, HyperParameters={"epochs": "3"}, Environment={"TEST_COMMAND": show, "MINE": "1"})
    hosts = job.running(2)

    # THEN
    printed = eventually(lambda: log(hosts[1]), lambda text: "SHLVL" in text).splitlines()
    environment = dict(line.split("=", 1) for line in printed[1:] if "=" in line)
    assert printed[0] == "arguments -m horovod_node train"
    arn = f"arn:aws:sagemaker:eu-west-1:123456789012:training-job/{job.name}"
    expected = {
        "MINE": "1",
        "TRAINING_JOB_NAME": job.name,
        "TRAINING_JOB_ARN": arn,
        "AWS_REGION": "eu-west-1",
        "AWS_ENDPOINT_URL": cloud.endpoint,
        contract.ENV_NODE_GPUS: "1",
    }
    assert {name: environment[name] for name in expected} == expected
    assert environment["AWS_ACCESS_KEY_ID"].startswith(f"node-algo-2-{job.name}.")
    config = {
        name: json.loads(job.file("algo-2", f"input/config/{name}.json").read_text())
        for name in ("resourceconfig", "hyperparameters", "inputdataconfig")
    }
    names = ["algo-1", "algo-2"]
    group = {"instance_group_name": "homogeneousCluster", "instance_type": "ml.g5.xlarge", "hosts": names}
    assert config == {
        "resourceconfig": {
            "current_host": "algo-2",
            "current_instance_type": "ml.g5.xlarge",
            "current_group_name": "homogeneousCluster",
            "hosts": names,
            "instance_groups": [group],
            "network_interface_name": "lo",
        },
        "hyperparameters": {"epochs": "3"},
        "inputdataconfig": {},
    }
    assert [(host.host, host.instance_type, host.gpus, host.market) for host in hosts] == [
        (name, "ml.g5.xlarge", 1, "on-demand") for name in names
    ]


def test_hosts_are_sorted_as_text(jobs: Any) -> None:
    """The hosts of a job are in the order of their names: algo-10 comes before algo-2."""
    # GIVEN, WHEN
    job = jobs.create("true", hosts=11)
    job.ended()

    # THEN
    config = json.loads(job.file("algo-11", "input/config/resourceconfig.json").read_text())
    assert config["hosts"] == ["algo-1", "algo-10", "algo-11", *(f"algo-{number}" for number in range(2, 10))]


def test_containers_have_their_own_opt_ml(jobs: Any) -> None:
    """What one container writes below /opt/ml, no other one sees; the folders that SageMaker makes are there."""
    # GIVEN
    write = "ls -R /opt/ml; touch /opt/ml/model/$AWS_ACCESS_KEY_ID; sleep 1; ls /opt/ml/model | wc -l; sleep 600"

    # WHEN
    hosts = jobs.create(write, hosts=2).running(2)

    # THEN
    for host in hosts:
        lines = eventually(lambda host=host: log(host).splitlines(), lambda found: found[-1] == "1")
        folders = {"/opt/ml/input/config:", "/opt/ml/input/data:", "/opt/ml/model:", "/opt/ml/output/data:"}
        assert folders <= set(lines)
        assert lines[-1] == "1"


def test_names_of_hosts_resolve(jobs: Any) -> None:
    """Each host has an address of its own, to which its name resolves on all hosts of the job, and nowhere else."""
    # GIVEN
    look = "getent hosts algo-1 algo-2; sleep 600"

    # WHEN
    one, other = jobs.create(look, hosts=2), jobs.create(look, hosts=2)
    found = [*one.running(2), *other.running(2)]

    # THEN
    assert len({host.address for host in found}) == 4
    for pair in (found[:2], found[2:]):
        expected = [[host.address, host.host] for host in pair]
        for host in pair:
            lines = eventually(lambda host=host: log(host).splitlines(), lambda lines: len(lines) == 2)
            assert [line.split() for line in lines] == expected


def test_hosts_and_instances_share_no_address(cloud: Any, jobs: Any, fleets: Any) -> None:
    """Instances and hosts of jobs can listen on the same port, because none has another one's address."""
    # GIVEN
    fleet = fleets.create(user_data=user_data("sleep 600"))

    # WHEN
    fleet.scale(2)
    found = [*started(cloud, fleet, 2), *jobs.create(hosts=2).running(2)]

    # THEN
    assert len({each.address for each in found}) == 4


def test_names_may_resolve_late(faults: LocalCloud, jobs: Any) -> None:
    """The guide asks for retries, because a host's name may not resolve yet when its container starts."""
    # GIVEN
    faults.set_faults(Faults(host_name_seconds=1))

    # WHEN
    job = jobs.create("getent hosts algo-1 || echo none; until getent hosts algo-1; do sleep 0.1; done; sleep 600")
    (host,) = job.running()

    # THEN
    lines = eventually(lambda: log(host).split(), lambda words: len(words) == 3)
    assert lines == ["none", host.address, "algo-1"]


def test_a_failing_container_fails_the_job(jobs: Any) -> None:
    """The job fails with what the container wrote and its exit code, and the others are told to stop."""
    # GIVEN
    tell = "trap 'echo bye; exit 0' TERM; echo ready; "
    fail = (
        "case $AWS_ACCESS_KEY_ID in *algo-2-*) until [ -e go ]; do sleep 0.1; done; echo no luck > $F; exit 3; esac; "
    )
    variables = {"TEST_COMMAND": f"{tell}{fail}sleep 600 & wait", "F": "/opt/ml/output/failure"}
    job = jobs.create(hosts=2, Environment=variables)
    first, second = job.running(2)

    # WHEN
    (Path(second.log).parent / "go").touch()
    ended = job.ended()

    # THEN
    assert (ended["TrainingJobStatus"], ended["SecondaryStatus"]) == ("Failed", "Failed")
    assert ended["FailureReason"] == "AlgorithmError: no luck\n, exit code: 3"
    assert statuses(ended)[-2:] == ["Training", "Failed"]
    assert log(first) == "ready\nbye\n"
    assert ended["BillableTimeInSeconds"] >= 1


@pytest.mark.parametrize(
    ("command", "reason"),
    [
        ("exit 1", "AlgorithmError: , exit code: 1"),
        ("kill -9 $$", "AlgorithmError: , exit code: 137"),
        (
            "printf 'x%.0s' {1..2000} > /opt/ml/output/failure; exit 1",
            f"AlgorithmError: {'x' * (1024 - len('AlgorithmError: , exit code: 1'))}, exit code: 1",
        ),
    ],
)
def test_reasons_of_failures(jobs: Any, command: str, reason: str) -> None:
    """The reason has what there is of the failure file, at most 1,024 characters, and Docker's exit code."""
    # GIVEN, WHEN
    ended = jobs.create(command).ended()

    # THEN
    assert ended["FailureReason"] == reason


def test_jobs_complete_with_their_last_container(jobs: Any) -> None:
    """A container that ends with 0 ends nothing but itself."""
    # GIVEN
    job = jobs.create("echo ready; case $AWS_ACCESS_KEY_ID in *algo-1-*) exit 0; esac; sleep 600", hosts=2)

    # WHEN
    hosts = eventually(job.hosts, lambda found: [host.pid is None for host in found] == [True, False])

    # THEN
    assert [host.host for host in hosts] == ["algo-1", "algo-2"]
    assert job.describe()["SecondaryStatus"] == "Training"


def test_containers_may_end_in_peace(jobs: Any) -> None:
    """A stopped job's containers get SIGTERM; the job is stopping, then stopped, whatever their exit code is."""
    # GIVEN
    job = jobs.create("trap 'echo bye; exit 7' TERM; echo ready; sleep 600 & wait")
    (host,) = job.running()

    # WHEN
    job.stop()

    # THEN
    ended = job.ended()
    assert log(host) == "ready\nbye\n"
    assert (ended["TrainingJobStatus"], ended["SecondaryStatus"]) == ("Stopped", "Stopped")
    assert statuses(ended)[-3:] == ["Stopping", "Uploading", "Stopped"]
    assert "FailureReason" not in ended
    assert ended["BillableTimeInSeconds"] == ended["TrainingTimeInSeconds"]
    with pytest.raises(ClientError, match=r"ValidationException.*because the training job is in status Stopped"):
        job.stop()


def test_containers_are_killed_in_the_end(faults: LocalCloud, jobs: Any) -> None:
    """A container that ignores SIGTERM is killed when its time is over, with all that it has started."""
    # GIVEN
    faults.set_faults(Faults(job_stop_seconds=0.5))
    job = jobs.create("trap '' TERM; setsid sleep 600 & echo ready; while true; do sleep 1; done")
    job.running()

    # WHEN
    job.stop()
    with pytest.raises(ClientError, match=r"ValidationException.*because the training job is in status Stopping"):
        job.stop()

    # THEN
    assert job.ended()["TrainingJobStatus"] == "Stopped"
    assert processes_of(job) == []


def test_a_container_ends_with_its_first_process(jobs: Any) -> None:
    """What the first process of a container leaves ends with it."""
    # GIVEN, WHEN
    job = jobs.create("setsid sleep 600 & exit 0")

    # THEN
    assert job.ended()["TrainingJobStatus"] == "Completed"
    assert processes_of(job) == []


def test_jobs_stop_before_they_have_instances(faults: LocalCloud, jobs: Any) -> None:
    """A job that is stopped while it waits costs nothing."""
    # GIVEN
    faults.set_faults(Faults(job_start_seconds=600))
    job = jobs.create()
    job.waiting_in("Pending")

    # WHEN
    job.stop()

    # THEN
    ended = job.ended()
    assert statuses(ended) == ["Starting", "Pending", "Stopping", "Stopped"]
    assert {"TrainingStartTime", "TrainingEndTime", "BillableTimeInSeconds"} & ended.keys() == set()


def test_the_maximum_runtime_ends_a_job(jobs: Any) -> None:
    """MaxRuntimeInSeconds is enforced by the clock."""
    # GIVEN, WHEN
    ended = jobs.create(StoppingCondition={"MaxRuntimeInSeconds": 1}).ended()

    # THEN
    assert (ended["TrainingJobStatus"], ended["SecondaryStatus"]) == ("Stopped", "MaxRuntimeExceeded")
    assert statuses(ended)[-4:] == ["Training", "Stopping", "Uploading", "MaxRuntimeExceeded"]


@pytest.mark.parametrize("has_run", [False, True])
def test_the_maximum_wait_ends_a_spot_job(faults: LocalCloud, jobs: Any, has_run: bool) -> None:
    """MaxWaitTimeInSeconds is the time of waiting and running together; a job that only waited costs nothing."""
    # GIVEN a job that waits for most of its time, or for all of it
    faults.set_faults(Faults(refused=(Refusal(market="spot"),)))
    seconds = 8 if has_run else 1
    limits = {"MaxRuntimeInSeconds": seconds, "MaxWaitTimeInSeconds": seconds}
    job = jobs.create(spot=True, StoppingCondition=limits)
    job.waiting_in("Pending")

    # WHEN
    if has_run:
        faults.set_faults(Faults())
        job.running()
    ended = job.ended()

    # THEN
    assert (ended["TrainingJobStatus"], ended["SecondaryStatus"]) == ("Stopped", "MaxWaitTimeExceeded")
    assert ("TrainingStartTime" in ended, "BillableTimeInSeconds" in ended) == (has_run, has_run)


def test_spot_jobs_are_billed_for_less(jobs: Any) -> None:
    """The billable time of managed Spot training is a share of its training time."""
    # GIVEN
    job = jobs.create("sleep 4", spot=True)

    # WHEN
    ended = job.ended()

    # THEN
    assert ended["EnableManagedSpotTraining"] is True
    assert 1 <= ended["BillableTimeInSeconds"] < ended["TrainingTimeInSeconds"]


@pytest.mark.parametrize("stopped", [False, True])
def test_output_is_uploaded(cloud: Any, jobs: Any, stopped: bool) -> None:
    """The model's folders of all hosts are one archive, and so are those of other output; of stopped jobs, too."""
    # GIVEN
    write = "f=${AWS_ACCESS_KEY_ID#node-}; f=${f%%-job*}; echo $f > /opt/ml/model/$f; echo 1 > /opt/ml/output/data/$f"
    end = "echo ready; sleep 600" if stopped else "true"
    job = jobs.create(f"{write}; {end}", hosts=2)

    # WHEN
    if stopped:
        job.running(2)
        job.stop()
    ended = job.ended()

    # THEN
    assert ended["TrainingJobStatus"] == ("Stopped" if stopped else "Completed")
    place = ended["ModelArtifacts"]["S3ModelArtifacts"]
    assert place == f"s3://{BUCKET}/out/{job.name}/output/model.tar.gz"
    assert archive(cloud, job, "model.tar.gz") == {"algo-1": "algo-1\n", "algo-2": "algo-2\n"}
    assert archive(cloud, job, "output.tar.gz") == {"algo-1": "1\n", "algo-2": "1\n"}


@pytest.mark.parametrize(
    "command",
    [
        "true",
        "rmdir /opt/ml/model; mkdir there; echo 1 > there/model; ln -s $PWD/there /opt/ml/model",
        "echo 1 > /opt/ml/model/m; exit 1",
    ],
)
def test_nothing_is_uploaded(cloud: Any, jobs: Any, command: str) -> None:
    """An empty folder, a link into the container, and the model of a failed job are not uploaded."""
    # GIVEN, WHEN
    job = jobs.create(command)
    job.ended()

    # THEN
    assert objects(cloud, job) == []


def test_output_that_cannot_be_uploaded_fails_the_job(jobs: Any) -> None:
    """A job whose output cannot be written has failed, and says why."""
    # GIVEN, WHEN
    ended = jobs.create("echo 1 > /opt/ml/model/m", OutputDataConfig={"S3OutputPath": "s3://there-is-none/x"}).ended()

    # THEN
    assert ended["TrainingJobStatus"] == "Failed"
    assert ended["FailureReason"].startswith("ClientError: Artifact upload failed: ")
    assert "NoSuchBucket" in ended["FailureReason"]


def test_no_process_outlives_the_cloud(tmp_path: Path) -> None:
    """A cloud that stops leaves no process of a job, also not of one that ignores SIGTERM."""
    # GIVEN
    node = tmp_path / "node"
    node.write_text('#!/bin/bash\neval "$TEST_COMMAND"\n')
    node.chmod(0o755)
    with LocalCloud(home=tmp_path / "home", node_python=str(node)) as cloud:
        make_role(cloud)
        Jobs(cloud).create("trap '' TERM; setsid sleep 600 & echo ready; while true; do sleep 1; done").running()
        endpoint = cloud.endpoint
        assert len(list(processes_with(CLOUD_VARIABLE, endpoint))) >= 2

    # WHEN it has stopped, THEN
    assert list(processes_with(CLOUD_VARIABLE, endpoint)) == []


def test_machines_without_namespaces_fail_jobs(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Where containers can have neither folders nor names of their own, a job fails and says so."""
    # GIVEN a machine whose kernel refuses
    python = tmp_path / "python"
    wrapped = " ".join([sys.executable, without_namespaces.__file__, sys.executable])
    python.write_text(f'#!/bin/sh\nexec {wrapped} "$@"\n')
    python.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(python))
    with LocalCloud(home=tmp_path / "home", node_python="/bin/true") as cloud:
        make_role(cloud)
        # WHEN
        ended = Jobs(cloud).create().ended()
    # THEN
    assert ended["FailureReason"].endswith("neither their own /opt/ml nor host names: unshare: Operation not permitted")
