"""Launching on a cluster, for the command `launch --profile`: what would be submitted, and what was."""

from __future__ import annotations

from pathlib import Path

from rich.console import Console

from launch.planning.plan import BROKEN, CLAIMED_ELSEWHERE, HELD, Plan, write_manifest
from launch.planning.sharing import sharing
from launch.records.origin import Hints, Origin
from launch.records.policy import Growth
from launch.slurm.arrays import Array, arrays
from launch.slurm.durations import Durations, kind
from launch.slurm.environment import completed
from launch.slurm.profile import Options, Profile, load_profile
from launch.slurm.pruning import prune
from launch.slurm.site_check import named, site_warnings, usable_folder, variable_notes
from launch.slurm.submit import submit
from launch.slurm.task import run_task
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
    """Submit the runs that have no result and are neither alive nor held, and say what was left out.

    Args:
        results: the results folder if the user gave it, for the commands that are printed.

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
        manifest = write_manifest(plan.sweep, root)  # tables need it, also if others have trained all runs
        prune(plan.sweep.name, root)
    if not runs:
        console.print("Nothing to submit.")
        return
    finished = [run.run_id for run in plan.sweep.runs if plan.states[run.run_id] == "finished"]
    wanted = _within_site(console, profile, sets, arrays(runs, sets, root, runs_per_task, finished))
    if not wanted:
        return
    _say_wanted(console, profile, sets, wanted)
    for note in _sharing_notes(profile, sets, [run.spec for run in runs], Durations(root, finished)):
        console.print(f"note: {note}", markup=False, highlight=False, soft_wrap=True)
    if manifest is None:
        console.print("A dry run: nothing was written or submitted.")
        return
    interrupt_on_termination()
    plugins = plan.sweep.runs[0].spec.plugins  # a sweep's: all runs have the same
    done, folder = submit(
        plan.sweep.name, manifest, root, profile.name, sets, wanted, snapshot, origin, plugins, run_task=run_task
    )
    jobs = ", ".join(done.job_ids)
    console.print(f"Submitted: jobs {jobs}; their files are in {folder}", highlight=False, soft_wrap=True)
    console.print(f"Follow with: {hints.status()}", markup=False, highlight=False, soft_wrap=True)


def _within_site(console: Console, profile: Profile, sets: dict[str, Options], wanted: list[Array]) -> list[Array]:
    """The arrays that fit the site's limits with the memory and time that their runs need; prints the others."""
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


def _say_wanted(console: Console, profile: Profile, sets: dict[str, Options], wanted: list[Array]) -> None:
    """Print what would be submitted, and what the site or the caller's variables change of it."""
    for array in wanted:
        text = _described(array, completed(sets[array.options].grown(array.growth)), profile)
        console.print(text, highlight=False, soft_wrap=True)
    for warning in [*site_warnings(profile, sets), *variable_notes(sets)]:
        console.print(f"warning: {warning}", markup=False, highlight=False, soft_wrap=True)


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
    """What finished runs like these suggest for option sets whose runs do not share GPUs."""
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
