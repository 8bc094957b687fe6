"""A site's limits and refusals, its doctor, and what its jobs used."""

import os
import shutil
import subprocess

import pytest
from slurm_sweeps import Sweep, tensloradist

pytestmark = pytest.mark.slurm


def refusal(sweep, **environment):
    done = tensloradist(
        "launch", sweep.file, "--profile", sweep.profile, "--results", sweep.root, check=False, **environment
    )
    assert done.returncode == 2 and "Traceback" not in done.stderr, done.stderr
    assert not list(sweep.root.glob("sweeps/*/launches/*/slurm.json")), "nothing may be recorded as submitted"
    return done.stderr


def test_what_a_site_refuses_is_said_in_its_words(cluster, tmp_path):
    sweep = Sweep(tmp_path)
    text = sweep.profile.read_text()
    sweep.profile.write_text(text.replace("partition: low", "partition: lo"))
    assert "partition 'lo'; the site has high, low" in refusal(sweep)
    for field, says in (
        ("gpus_per_node: 3", "gpus_per_node: 3 GPUs a node, but the largest node of partition low has 2"),
        ("cpus_per_worker: 5", "5 CPUs a node, but the largest node of partition low has 4"),
    ):
        sweep.profile.write_text(text.replace("cpus_per_worker: 1\n", "") + field + "\n")
        assert says in refusal(sweep)
    sweep.profile.write_text(text + "constraint: infiniband\n")
    assert "Slurm refused the job (Batch job submission failed: Invalid feature specification)" in refusal(sweep)
    sweep.profile.write_text(text + "account: nobody\n")
    assert subprocess.run(["squeue", "-h"], capture_output=True, text=True, timeout=20).stdout == ""
    sweep.profile.write_text(text)
    nowhere = os.pathsep.join(p for p in os.environ["PATH"].split(os.pathsep) if not os.path.exists(f"{p}/sbatch"))
    assert "no Slurm on this machine" in refusal(sweep, PATH=nowhere)


@pytest.mark.xdist_group("another user")
def test_a_results_folder_that_is_not_writable(cluster, another_user, tmp_path_factory):
    folder = tmp_path_factory.mktemp("mine")
    sweep = Sweep(folder, task="digits")
    home = folder / "home"
    for path in (sweep.root, home):
        path.mkdir()
    cluster.share(folder)
    sweep.root.chmod(0o755)
    command = ["launch", str(sweep.file), "--profile", str(sweep.profile), "--results", str(sweep.root)]
    process = cluster.as_other_user([*cluster.tensloradist, *command], home)
    out, _ = process.communicate(timeout=120)
    assert process.returncode == 2 and "not writable" in out and "Traceback" not in out, out


@pytest.fixture
def without_hard_links(tmp_path):
    """A folder on a real exFAT, which has no hard links."""
    if missing := [name for name in ("mkfs.exfat", "mount.exfat-fuse") if shutil.which(name) is None]:
        reason = f"{missing} missing; apt-get install -y --no-install-recommends exfat-fuse exfatprogs"
        pytest.fail(reason) if os.environ.get("CI") == "true" else pytest.skip(reason)
    image, folder = tmp_path / "exfat.image", tmp_path / "exfat"
    folder.mkdir()
    with image.open("wb") as file:
        file.truncate(16 * 2**20)
    subprocess.run(["mkfs.exfat", image], check=True, capture_output=True)
    attached = subprocess.run(["losetup", "--find", "--show", image], check=True, capture_output=True, text=True)
    device = attached.stdout.strip()
    subprocess.run(["mount.exfat-fuse", device, folder], check=True, capture_output=True)
    yield folder
    subprocess.run(["umount", folder], check=True)
    subprocess.run(["losetup", "--detach", device], check=True)


def test_a_file_system_without_hard_links_is_refused(cluster, tmp_path, without_hard_links):
    sweep = Sweep(tmp_path)
    sweep.root = without_hard_links / "results"
    said = refusal(sweep)
    assert "this file system has no hard links" in said and "--results" in said, said
    assert subprocess.run(["squeue", "-h"], capture_output=True, text=True, timeout=20).stdout == ""


def test_a_results_folder_copied_from_elsewhere_goes_on_here(cluster, tmp_path):
    """Its finished runs are left out; one that was in progress there is taken over, from its checkpoint."""
    sweep = Sweep(tmp_path / "there", seeds=2, parallel=1)
    sweep.launch("--runs-per-task", "2")
    sweep.wait_step(20, index=1)
    shutil.copytree(sweep.root, tmp_path / "results")
    tensloradist("cancel", sweep.file, "--results", sweep.root)
    sweep.root = tmp_path / "results"
    assert "1 run to train; left out: 1 finished" in sweep.launch()
    sweep.wait_finished()
    assert sweep.resumed_from(index=1)[-1] >= 20 and len(sweep.attempt_files("result.json")) == 2


def test_the_plan_says_what_a_site_would_be_asked_for(cluster, tmp_path):
    sweep = Sweep(tmp_path, seeds=3)
    shown = tensloradist("plan", sweep.file, "--profile", sweep.profile, "--results", sweep.root).stdout
    assert "3 tasks for 3 runs" in shown and "on partition low" in shown and "nothing was written" in shown


def test_the_doctor_looks_at_two_nodes(cluster, tmp_path):
    shown = tensloradist("doctor", "--profile", "devcluster", "--results", tmp_path / "results").stdout
    for word in ("of 2 links to one name at the same moment, 1 succeeded", "clocks differ by", "versions: python"):
        assert word in shown, shown
    assert "all-reduce over 2 nodes: gloo, 2 processes" in shown
    assert "n1: file system" in shown and "n2: file system" in shown
    assert not list((tmp_path / "results").glob(".doctor-*")), "nothing stays behind"


def test_the_doctor_takes_a_gpu_of_each_node_and_says_that_it_does_not_compute(cluster, tmp_path):
    """The cluster's GPUs are made of /dev/null."""
    sweep = Sweep(tmp_path)
    sweep.profile.write_text(sweep.profile.read_text() + "gpus_per_node: 2\n")
    done = tensloradist("doctor", "--profile", sweep.profile, "--results", sweep.root, check=False)
    assert done.returncode == 1 and "Traceback" not in done.stderr, done.stdout + done.stderr
    assert "Slurm would take a job as site/low asks for it" in done.stdout
    for node in ("n1", "n2"):
        (gpu,) = (line for line in done.stdout.splitlines() if f"{node}: GPU" in line)
        assert gpu.startswith(f"FAILED  {node}: GPU 0: compute.device: 'auto', and") and "no GPU here" in gpu
        assert f"FAILED  {node}: all_reduce: RuntimeError: not tried" in done.stdout, done.stdout
    script = next(sweep.root.glob(".doctor-*/submitit/*submission*.sh"))
    assert "#SBATCH --gpus-per-node=1\n" in script.read_text()


def test_a_job_of_several_workers_and_what_it_used(cluster, tmp_path):
    sweep = Sweep(tmp_path, seeds=4, epochs=4)
    sweep.profile.write_text(sweep.profile.read_text() + "workers_per_node: 2\ngpus_per_node: 2\n")
    assert "2 workers" in sweep.launch("--runs-per-task", "4", "--snapshot")
    sweep.wait_finished()
    assert len(sweep.attempt_files("attempt.json")) == 4, "no run may be trained twice"
    assert len(list(sweep.root.glob("sweeps/*/launches/*/worker-*.json"))) == 2
    shown = tensloradist("efficiency", sweep.file, "--results", sweep.root).stdout
    assert "4 finished runs: start-up" in shown and "site/low" in shown, shown
