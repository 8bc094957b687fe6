"""A profile against the site: its limits, partitions, accounts and QOS, and the caller's variables."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from pathlib import Path

from launch.slurm import commands
from launch.slurm.environment import completed, environment_notes
from launch.slurm.profile import Options, Profile
from tensloradist.errors import UserError


def site_warnings(profile: Profile, sets: dict[str, Options]) -> list[str]:
    """A sentence for each known limit of the site that is below what the profile asks for.

    Raises:
        UserError: a partition, account or QOS that the site does not have, or more than a node or the limits allow.
    """
    found, warnings = commands.limits(), []
    if found is None:
        return [f"profile {profile.name} could not be checked: Slurm does not answer here"]
    accounts, qualities = commands.accounts(), commands.qualities()
    for name, given in sets.items():
        where, options = f"profile {profile.name}, option set {name}", completed(given)
        for field, known, enforced in (
            ("account", accounts, found.enforces_accounts),
            ("qos", qualities, found.enforces_qualities),
        ):
            warnings += _unknown(where, field, named(getattr(options, field)), known, enforced)
        lifted = any((qualities or {}).get(quality.lower(), False) for quality in named(options.qos))
        warnings += _check_partitions(where, options, found, lifted)
        if found.max_array_size and options.max_array_size > found.max_array_size:
            warnings.append(
                f"{where}: arrays are split at the site's {found.max_array_size}, not {options.max_array_size}"
            )
    return warnings


def variable_notes(sets: Mapping[str, Options]) -> list[str]:
    """A sentence for each of the caller's SBATCH_… variables and option set: whether it is used, and why not."""
    return [
        f"option set {name}: {note}" if len(sets) > 1 else note
        for name, options in sets.items()
        for note in environment_notes(options)
    ]


def _unknown(where: str, field: str, names: list[str], known: Collection[str] | None, enforced: bool) -> list[str]:
    """Warnings for names that accounting does not know, upper and lower case alike; a UserError if it enforces them."""
    if known is None:
        return []
    texts = [
        f"{where}: {field} {name!r}; the site has {', '.join(sorted(known))}"
        for name in names
        if name.lower() not in {one.lower() for one in known}
    ]
    if texts and enforced:
        raise UserError(texts[0])
    return texts


def _check_partitions(where: str, options: Options, found: commands.SiteLimits, lifted: bool) -> list[str]:
    """Warnings for those of several partitions that cannot run the job.

    Args:
        lifted: whether the job's QOS lifts the partitions' time limits.

    Raises:
        UserError: a partition that the site does not have, or none of the named partitions can run the job.
    """
    names, reasons = named(options.partition), []
    for name in names:
        if name not in found.partitions:
            raise UserError(f"{where}: partition {name!r}; the site has {', '.join(sorted(found.partitions))}")
    for name in names:
        if reason := _too_much(options, name, found.partitions[name], lifted):
            reasons.append((name, reason))
    if reasons and len(reasons) == len(names):
        raise UserError(f"{where}: {reasons[0][1]}")
    return [f"{where}: no job will start in partition {name}: {reason}" for name, reason in reasons]


def _too_much(options: Options, name: str, partition: commands.Partition, lifted: bool) -> str | None:
    """What a job asks for and no node of the partition has; None if one could run it."""
    limit = partition.max_time_minutes
    if limit is not None and options.time_minutes > limit and not lifted:
        return f"time_minutes: {options.time_minutes} exceeds the partition's {limit:g}"
    cpus = options.cpus_per_worker * options.workers
    memory = 1024 * options.memory_gb if options.memory_gb else 0
    for field, asked, has, unit in (
        ("cpus_per_worker × workers", cpus, partition.node_cpus, "CPUs"),
        ("memory_gb", memory, partition.node_memory_mb, "MB"),
        ("gpus_per_node", options.gpus_per_node, partition.node_gpus, "GPUs"),
    ):
        if has is not None and asked > has:
            return f"{field}: {asked:g} {unit} a node, but the largest node of partition {name} has {has}; ask for less"
    return None


def named(text: str | None) -> list[str]:
    """The names in a list such as 'a,b', which sbatch takes."""
    return [name for name in (text or "").split(",") if name]


def usable_folder(folder: Path) -> None:
    """Raises UserError if Slurm would read the path of a job's output as a pattern."""
    for text in dict.fromkeys(re.findall(r"[%\\\x00-\x1f\x7f]", str(folder.absolute()))):
        raise UserError(
            f"results folder {str(folder.absolute())!r}: Slurm reads {text!r} in the paths of a job's output as a "
            "pattern; choose a path without it with --results"
        )
