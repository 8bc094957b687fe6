"""Stand-ins for Slurm's commands, for what a real cluster cannot show: how often it is asked, and how it misbehaves.

They log each call and answer from files. What Slurm itself does is tested on a real one, in tests/slurm.
"""

import os
from collections import Counter

from launch.monitor.jobs import Jobs
from launch.monitor.status import collect
from launch.slurm.client import Slurm
from launch.slurm.commands import QUEUE_FIELDS

SCRIPT = """#!/bin/sh
echo "{name} $*" >> {folder}/calls
[ -e {folder}/{name}.fails ] && {{ cat {folder}/{name}.fails >&2; exit 1; }}
{more}
[ -e {folder}/{name}.says ] && cat {folder}/{name}.says
exit 0
"""
# Accepts what it is asked as many times as a file says, then refuses; from the second time it waits while another file
# is there. Job ids count from 101.
SBATCH = """
env -0 > {folder}/sbatch.environment
number=$(grep -c '^sbatch' {folder}/calls)
accepts=$(cat {folder}/sbatch.accepts 2> /dev/null || echo 1000)
[ $number -gt $accepts ] && {{ echo 'sbatch: error: Job violates a limit' >&2; exit 1; }}
while [ $number -gt 1 ] && [ -e {folder}/sbatch.waits ]; do sleep 0.1; done
for script; do :; done
[ -e {folder}/sbatch.hides ] || comment=$(sed -n 's/^#SBATCH --comment=//p' "$script")
echo "$((100 + number))|$comment|$script" >> {folder}/accepted
[ -e {folder}/sbatch.banner ] && cat {folder}/sbatch.banner
echo "Submitted batch job $((100 + number))"
"""
# Which jobs' scripts lie where: what sbatch was given.
SQUEUE = """
case "$*" in *%o*) [ -e {folder}/accepted ] && cat {folder}/accepted; exit 0;; esac
"""


def status_of(name, root):
    """A launched sweep's state, of whose jobs Slurm is asked."""
    return collect(name, root, Jobs(name, root, Slurm()))


class FakeSlurm:
    """A folder of commands; put it on the PATH with `install`."""

    def __init__(self, folder):
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        for name in ("squeue", "sacct", "scancel", "scontrol", "sinfo", "sacctmgr", "sbatch"):
            more = {"sbatch": SBATCH, "squeue": SQUEUE}.get(name, "").format(folder=folder)
            path = folder / name
            path.write_text(SCRIPT.format(name=name, folder=folder, more=more))
            path.chmod(0o755)
        self.says("scontrol", "ClusterName = here\n")

    def install(self, monkeypatch):
        monkeypatch.setenv("PATH", f"{self.folder}{os.pathsep}{os.environ['PATH']}")
        for name in list(os.environ):
            if name.startswith(("SLURM_", "SBATCH_")):
                monkeypatch.delenv(name)
        return self

    def says(self, command, text):
        (self.folder / f"{command}.says").write_text(text)

    def fails(self, command, text="slurm_load_jobs error: Unable to contact slurm controller\n"):
        (self.folder / f"{command}.fails").write_text(text)

    def mend(self, command):
        (self.folder / f"{command}.fails").unlink()

    def queue(self, *jobs):
        """squeue's answer: (key, state, restart) of each job."""
        lines = []
        for key, state, restart in jobs:
            fields = {"JobArrayID": key, "State": state, "RestartCnt": restart}
            lines.append("".join(str(fields[name]).ljust(width) for name, width in QUEUE_FIELDS.items()))
        self.says("squeue", "".join(line + "\n" for line in lines))

    def calls(self):
        """How often each command was called."""
        path = self.folder / "calls"
        return Counter(line.split()[0] for line in path.read_text().splitlines()) if path.exists() else Counter()

    def environment(self):
        """The variables that sbatch had when it was called last."""
        text = (self.folder / "sbatch.environment").read_text()
        return dict(entry.split("=", 1) for entry in text.split("\0") if entry)

    def asked(self, command):
        """The arguments of each call of a command."""
        lines = (self.folder / "calls").read_text().splitlines() if (self.folder / "calls").exists() else []
        return [line.partition(" ")[2] for line in lines if line.split()[0] == command]
