"""Launching on a cluster, as the command `launch --profile` does it: what would be submitted, and what was."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from pathlib import Path

from rich.console import Console

from launch.planning.plan import BROKEN, CLAIMED_ELSEWHERE, HELD, Plan, write_manifest
from launch.planning.sharing import sharing
from launch.records.origin import Hints, Origin
from launch.records.policy import Growth
from launch.slurm import client
from launch.slurm.arrays import Array, arrays
from launch.slurm.durations import Durations, kind
from launch.slurm.environment import completed, environment_notes
from launch.slurm.profile import Options, Profile, load_profile
from launch.slurm.pruning import prune
from launch.slurm.submit import submit
from launch.worker.signals import interrupt_on_termination
from tensloradist.errors import UserError
from tensloradist.files import make_folder
from tensloradist.spec import RunSpec
from tensloradist.terminal import terminal
from tensloradist.wording import counted


def launch_on_cluster(
    plan: Plan,
    root: Path,
    profile_name: str,
    option_sets: list[str] | None = None,
    runs_per_task: int | None = None,
    dry_run: bool = False,
    snapshot: bool = False,
    results: Path | None = None,
) -> None:
    """Submit what has no result and is not alive or held, say what was left out, and return.

    Args:
        results: the results folder where the user gave it, for the commands that are printed.

    Raises:
        UserError: an unknown profile or option set, a site that refuses, a results folder that cannot be used.
    """
    usable_folder(root)
    console, profile = terminal(), load_profile(profile_name)
    sets = profile.chosen(option_sets)
    for run in plan.sweep.runs:
        for options in sets.values():
            options.layout(run.spec.compute.processes, run.spec.compute.nodes)
    runs = plan.to_run() + plan.to_watch()
    origin = Origin.of(plan.sweep.path, root, profile_name)
    hints = Hints(plan.sweep.name, origin, results)
    _say_left_out(console, plan, hints)
    manifest: Path | None = None
    if not dry_run:
        make_folder(root)
        manifest = write_manifest(plan.sweep, root)  # where others have trained it all, tables are made from it, too
        prune(plan.sweep.name, root)
    if not runs:
        console.print("Nothing to submit.")
        return
    finished = [run.run_id for run in plan.sweep.runs if plan.states[run.run_id] == "finished"]
    wanted = _within_site(console, profile, sets, arrays(runs, sets, root, runs_per_task, finished))
    if not wanted:
        return
    for array in wanted:
        console.print(
            _described(array, completed(sets[array.options].grown(array.growth)), profile),
            highlight=False,
            soft_wrap=True,
        )
    for warning in [*site_warnings(profile, sets), *variable_notes(sets)]:
        console.print(f"warning: {warning}", markup=False, highlight=False, soft_wrap=True)
    for note in _sharing_notes(profile, sets, [run.spec for run in runs], Durations(root, finished)):
        console.print(f"note: {note}", markup=False, highlight=False, soft_wrap=True)
    if manifest is None:
        console.print("A dry run: nothing was written or submitted.")
        return
    interrupt_on_termination()
    plugins = plan.sweep.runs[0].spec.plugins  # a sweep's: all runs have the same
    done, folder = submit(plan.sweep.name, manifest, root, profile.name, sets, wanted, snapshot, origin, plugins)
    jobs = ", ".join(done.job_ids)
    console.print(f"Submitted: jobs {jobs}; their files are in {folder}", highlight=False, soft_wrap=True)
    console.print(f"Follow with: {hints.status()}", markup=False, highlight=False, soft_wrap=True)


def _within_site(console: Console, profile: Profile, sets: dict[str, Options], wanted: list[Array]) -> list[Array]:
    """Those arrays that the site can give what their runs have grown to need; the others are named and left out."""
    kept = []
    for array in wanted:
        try:
            if array.growth != Growth():
                site_warnings(profile, {array.options: sets[array.options].grown(array.growth)})
            kept.append(array)
        except UserError as error:
            text = f"left out: {counted(len(array.run_ids), 'run')} that earlier jobs were too small for: {error}"
            console.print(text, markup=False, highlight=False, soft_wrap=True)
    return kept


def _described(array: Array, options: Options, profile: Profile) -> str:
    nodes, each = options.layout(array.processes, array.nodes)
    share = f"up to {array.runs_per_task} each" if array.runs_per_task else "until none is left"
    what = f"{counted(array.tasks, 'task')} for {counted(len(array.run_ids), 'run')} ({share})"
    asked = [f"{options.time_minutes} min"]
    if array.growth != Growth():  # earlier jobs were too small for these runs
        asked.append(f"{array.growth.memory or 1} × the profile's memory and {array.growth.time} × its time")
    if array.processes > 1:
        asked.append(f"{counted(nodes, 'node')} × {counted(each, 'process', 'processes')}")
    elif options.workers > 1:
        asked.append(f"{options.workers} workers")
    if options.gpus_per_node:
        asked.append(f"{counted(options.gpus_per_node, 'GPU')} a node")
    parallel = f"at most {min(array.tasks, array.parallel)} at once"
    names = ", ".join(named(options.partition))
    partition = f"partition{'s' * (',' in names)} {names}" if names else "the default partition"
    return f"{profile.name}/{array.options}: {what}, {parallel}, on {partition}; a task: {', '.join(asked)}"


def _sharing_notes(profile: Profile, sets: dict[str, Options], specs: list[RunSpec], known: Durations) -> list[str]:
    """For option sets whose runs have GPUs for themselves: what runs like them, on record, propose."""
    alone = [name for name, options in sets.items() if options.gpus_per_node and options.sharing_gpu == 1]
    kinds = {kind(spec): spec for spec in specs if spec.compute.processes == 1}
    if not alone or not kinds:
        return []
    found = sharing(result for spec in kinds.values() for result in known.results(spec))
    return [f"{profile.name}/{name}: {found}" for name in alone] if found is not None else []


def _say_left_out(console: Console, plan: Plan, hints: Hints) -> None:
    states = plan.counts()
    wanted = sum(states.pop(state, 0) for state in ("planned", BROKEN, CLAIMED_ELSEWHERE))
    left = ", ".join(f"{number} {state}" for state, number in sorted(states.items())) or "none"
    console.print(
        f"{plan.sweep.name}: {counted(wanted, 'run')} to train; left out: {left}", highlight=False, soft_wrap=True
    )
    for problem in plan.problems:
        console.print(f"  {problem}", markup=False, highlight=False, soft_wrap=True)
    if states.get(HELD):
        console.print(f"  held runs go on after: {hints.release()}", markup=False, highlight=False, soft_wrap=True)


def site_warnings(profile: Profile, sets: dict[str, Options]) -> list[str]:
    """Where the site's own limits, as far as it tells them, are below what the profile asks for.

    Raises:
        UserError: a partition, account or QOS that the site does not have, or more than a node or the time limit give.
    """
    found, warnings = client.limits(), []
    if found is None:
        return [f"profile {profile.name} could not be checked: Slurm does not answer here"]
    accounts, qualities = client.accounts(), client.qualities()
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
    """Warnings for names that accounting does not know, in whatever case; where it enforces them, a UserError."""
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


def _check_partitions(where: str, options: Options, found: client.SiteLimits, lifted: bool) -> list[str]:
    """Warnings for those of several partitions that can give no job what it asks for.

    Args:
        lifted: whether the job's QOS lifts the partitions' time limits.

    Raises:
        UserError: a partition that the site does not have, or none of those named can give it.
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


def _too_much(options: Options, name: str, partition: client.Partition, lifted: bool) -> str | None:
    """What a job asks for and the partition cannot give, a node having at most what its largest node has."""
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
    """The names in a list as sbatch takes it: 'a,b'."""
    return [name for name in (text or "").split(",") if name]


def usable_folder(folder: Path) -> None:
    """Raises UserError where Slurm would read the path of a job's output as something else than it is."""
    for text in dict.fromkeys(re.findall(r"[%\\\x00-\x1f\x7f]", str(folder.absolute()))):
        raise UserError(
            f"results folder {str(folder.absolute())!r}: Slurm reads {text!r} in the paths of a job's output as a "
            "pattern; choose a path without it with --results"
        )
