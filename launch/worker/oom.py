"""Evidence that the kernel has killed a process for memory, which that process cannot record itself. Linux only.

Without such evidence, a killed process counts as killed for an unknown reason.
"""

from __future__ import annotations

from pathlib import Path

CGROUPS = Path("/sys/fs/cgroup")


def memory_kills() -> int:
    """How many processes the kernel has killed for memory so far: in this control group, or else on this machine."""
    for path in [*_control_group_files(), Path("/proc/vmstat")]:
        try:
            lines = path.read_text(encoding="utf-8").splitlines()
        except OSError:
            continue  # another version of control groups, or none
        for line in lines:
            name, _, value = line.partition(" ")
            if name == "oom_kill":
                return int(value)
    return 0


def _control_group_files() -> list[Path]:
    try:
        lines = Path("/proc/self/cgroup").read_text(encoding="utf-8").splitlines()
    except OSError:
        return []
    files = []
    for line in lines:
        _, controllers, group = line.split(":", 2)
        if controllers == "":
            files.append(CGROUPS / group.lstrip("/") / "memory.events")
        elif "memory" in controllers.split(","):
            files.append(CGROUPS / "memory" / group.lstrip("/") / "memory.oom_control")
    return files
