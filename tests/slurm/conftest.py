"""A real Slurm cluster for these tests: brought up once, in a folder of its own, and taken down at the end."""

import getpass
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest
from slurm_sweeps import OTHER_USER, Sweep, reference

SMALL_DISK_MIB = 24
DEVCLUSTER = Path(__file__).parents[2] / "slurm" / "devcluster"
APT = "apt-get install -y --no-install-recommends slurm-wlm slurmdbd munge mariadb-server"


class Cluster:
    """The running development cluster, and what tests do to it."""

    def __init__(self, lab: Path, port: int) -> None:
        self.lab, self.port, self.small_disk = lab, port, lab / "small-disk"
        self.tensloradist = [sys.executable, "-m", "tensloradist.cli"]
        self._signalled = True

    def up(self, *options: str) -> None:
        environment = {
            **os.environ,
            "LAB": str(self.lab),
            "PORT": str(self.port),
            "CPUS": "4",
            "PREEMPT_SIGNAL": str(int(self._signalled)),
        }
        done = subprocess.run([DEVCLUSTER / "up.sh", *options], env=environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr

    def down(self) -> None:
        subprocess.run([DEVCLUSTER / "down.sh"], env={**os.environ, "LAB": str(self.lab)}, timeout=120)

    def idle(self) -> None:
        """No job and every node in service: how each test finds the cluster, and leaves it."""
        self.up()
        subprocess.run(["scancel", "-u", getpass.getuser()], timeout=20)
        subprocess.run(["scancel", "-u", OTHER_USER], timeout=20, stderr=subprocess.DEVNULL)
        deadline = time.monotonic() + 60
        while self._said("squeue", "-h") or self._said("sinfo", "-h", "-N", "-p", "low", "-t", "idle").count("\n") < 4:
            assert time.monotonic() < deadline, self._said("squeue") + self._said("sinfo", "-N", "-l")
            time.sleep(0.2)

    def _said(self, *command: str) -> str:
        return subprocess.run(command, capture_output=True, text=True, timeout=20).stdout

    def set_preempt_signal(self, signalled: bool) -> None:
        """Whether a preempted job is signalled before its grace time, which most sites do not do."""
        if signalled != self._signalled:
            self._signalled = signalled
            self.up()
            self.kill("slurmctld")
            self.up()

    def pid(self, daemon: str) -> int:
        return int((self.lab / "run" / f"{daemon}.pid").read_text())

    def kill(self, daemon: str) -> None:
        """kill -9 of slurmctld, slurmdbd or slurmd.nK; `up` starts it again."""
        os.kill(self.pid(daemon), 9)
        (self.lab / "run" / f"{daemon}.pid").unlink()

    def occupy(self, partition: str, seconds: int) -> str:
        """A job that takes every node for so long; its id."""
        said = self._said(
            "sbatch", "--parsable", "-p", partition, "-N", "4", "--exclusive", "-o", "/dev/null", "--wrap",
            f"sleep {seconds}",
        )  # fmt: skip
        return said.strip()

    def share(self, folder: Path) -> None:
        """Make a folder the group's: writable by its members, who can get there; new files belong to the group."""
        for parent in folder.parents:
            if parent.is_relative_to("/tmp") and parent != Path("/tmp"):
                parent.chmod(parent.stat().st_mode | 0o011)
        for path in (folder, *folder.rglob("*")):
            path.chmod(path.stat().st_mode | (0o2075 if path.is_dir() else 0o064))

    def as_other_user(self, command: list[str], home: Path) -> "subprocess.Popen[str]":
        """The command as another member of the group, with the group's umask."""
        import grp
        import pwd

        if OTHER_USER not in {entry.pw_name for entry in pwd.getpwall()}:
            subprocess.run(["useradd", "-M", "-N", "-g", grp.getgrgid(os.getgid()).gr_name, OTHER_USER], check=True)
        entry = pwd.getpwnam(OTHER_USER)
        return subprocess.Popen(
            command,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            user=entry.pw_uid,
            group=os.getgid(),
            umask=0o002,
            cwd=home,
            env={
                **os.environ,
                "HOME": str(home),
                "USER": OTHER_USER,
                "LOGNAME": OTHER_USER,
                "TENSLORADIST_CACHE": str(home / "cache"),
            },
        )


@pytest.fixture
def another_user():
    """Whoever may be another user can get at this Python and this checkout: a root's home often keeps others out."""
    changed = []
    for place in (Path(sys.executable).resolve(), Path(sys.prefix), Path(__file__)):
        for folder in place.parents:
            mode = folder.stat().st_mode
            if mode & 0o011 != 0o011:
                folder.chmod(mode | 0o011)
                changed.append((folder, mode))
    yield OTHER_USER
    for folder, mode in changed:
        folder.chmod(mode)


@pytest.fixture(scope="session")
def uninterrupted(tmp_path_factory):
    """The results folder of one run of `att`, as `Sweep` has it by default, trained without any interruption."""
    folder = tmp_path_factory.mktemp("reference")
    return reference(Sweep(folder), folder / "uninterrupted")


@pytest.fixture(scope="session")
def running_cluster(tmp_path_factory):
    missing = [
        name
        for name in ("sbatch", "mariadbd", "munged")
        if not (shutil.which(name) or Path("/usr/sbin", name).exists())
    ]
    if missing or os.getuid() != 0:
        reason = f"no development cluster here: {'not root' if not missing else f'{missing} missing; {APT}'}"
        pytest.fail(reason) if os.environ.get("CI") == "true" else pytest.skip(reason)
    lab = tmp_path_factory.mktemp("cluster")
    worker = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw"))
    cluster = Cluster(lab, 18817 + 1000 * worker)  # each process of the test runner has a cluster of its own
    before = os.environ.get("SLURM_CONF")
    os.environ["SLURM_CONF"] = str(lab / "etc" / "slurm.conf")
    for folder in (lab, *lab.parents):  # slurmd's nodes and the other user must be able to look in
        if folder.is_relative_to("/tmp") and folder != Path("/tmp"):
            folder.chmod(folder.stat().st_mode | 0o055)
    # A small disk, mounted before the nodes get namespaces of their own, so that all of them see it.
    cluster.small_disk.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={SMALL_DISK_MIB}m", "tmpfs", cluster.small_disk], check=True)
    try:
        cluster.up("--fresh")
        yield cluster
    finally:
        cluster.down()
        subprocess.run(["umount", "--lazy", cluster.small_disk], check=True)
        if before is None:
            del os.environ["SLURM_CONF"]
        else:
            os.environ["SLURM_CONF"] = before


@pytest.fixture
def cluster(running_cluster):
    """The cluster, idle."""
    running_cluster.set_preempt_signal(True)
    running_cluster.idle()
    yield running_cluster
    running_cluster.idle()
