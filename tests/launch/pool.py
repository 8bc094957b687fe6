"""A second scheduler, for the tests alone: a pool of processes on this machine, with a queue, cancellation and limits.

`python pool.py FOLDER SLOTS SECONDS` serves a folder: it runs at most SLOTS jobs at the same time, each for at most
SECONDS. `Pool(FOLDER)` is its client. All state is files: `requests/ID.json`, `jobs/KEY.json` with a record of each
restart, and `cancelled/KEY`.
"""

import importlib
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

from launch.records.job_arrays import keys_of
from launch.records.worker_status import last_line
from launch.scheduler import Ended, Job, JobRefused, Limits, Scheduler, Usage
from tensloradist.files import write_once, write_replacing
from tensloradist.results.jobs import JobRef

REQUEUE_CODE = 75
GRACE_SECONDS = 20.0  # between SIGTERM and SIGKILL
MOST_TASKS = 100  # of an array
IN_QUEUE = ("PENDING", "RUNNING")
POLL_SECONDS = 0.02


class Pool(Scheduler):
    """The client of the pool that serves a folder."""

    name = "The pool"

    def __init__(self, folder):
        self.folder = Path(folder)

    def cluster(self):
        return self.folder.name if self._is_served() else None

    def current_job(self):
        if "POOL_KEY" not in os.environ:
            return None
        key, cluster = os.environ["POOL_KEY"], Path(os.environ["POOL_FOLDER"]).name
        return JobRef(key=key, restart=int(os.environ["POOL_RESTART"]), cluster=cluster, id=key)

    def seconds_left(self):
        return max(float(os.environ["POOL_END"]) - time.time(), 0.0) if "POOL_END" in os.environ else None

    def submit(self, request):
        if not self._is_served() or request.tasks > MOST_TASKS:
            raise JobRefused(f"at most {MOST_TASKS} tasks" if self._is_served() else "nobody serves the pool")
        number = 1
        while not write_once(self.folder / "ids" / str(number), ""):
            number += 1
        request.logs.mkdir(parents=True)
        for key in keys_of(str(number), request.tasks):
            write_replacing(self.folder / "jobs" / f"{key}.json", json.dumps([{"state": "PENDING"}]))
        data = {
            "run": [request.run.__module__, request.run.__name__],
            "submission": str(request.submission),
            "keys": keys_of(str(number), request.tasks),
            "parallel": request.parallel,
            "logs": str(request.logs),
        }
        write_replacing(self.folder / "requests" / f"{number}.json", json.dumps(data))
        return str(number)

    def alive(self):
        if not self._is_served():
            return None
        jobs = {path.stem: json.loads(path.read_text()) for path in (self.folder / "jobs").glob("*.json")}
        return {
            key: Job(key, restarts[-1]["state"], len(restarts) - 1)
            for key, restarts in jobs.items()
            if restarts[-1]["state"] in IN_QUEUE
        }

    def ended(self, keys):
        if not self._is_served():
            return None
        return {
            key: Job(key, restarts[-1]["state"], len(restarts) - 1, restarts[-1].get("end"))
            for key, restarts in self._records(keys)
            if restarts[-1]["state"] not in IN_QUEUE
        }

    def end_of(self, key, restart):
        path = self.folder / "jobs" / f"{key}.json"
        restarts = json.loads(path.read_text()) if self._is_served() and path.exists() else []
        over = restart < len(restarts) and restarts[restart]["state"] not in IN_QUEUE
        return Ended(restarts[restart]["state"]) if over else None

    def usage(self, keys):
        if not self._is_served():
            return None
        return [
            Usage(key=key, state=record["state"], **record["used"])
            for key, restarts in self._records(keys)
            for record in restarts
            if "used" in record
        ]

    def cancel(self, keys):
        if not self._is_served():
            return "nobody serves the pool"
        for key, _ in self._records(keys):
            write_once(self.folder / "cancelled" / key, "")
        return None

    def limits(self):
        return Limits(max_array_size=MOST_TASKS) if self._is_served() else None

    def adopt(self, name, root):
        from pooled_sweeps import adopt

        return adopt(self, name, root)

    def request_of(self, submission):
        """(id, keys) of the job that was submitted for a file; None if there is none."""
        for request in (self.folder / "requests").glob("*.json"):
            data = json.loads(request.read_text())
            if data["submission"] == str(submission):
                return request.stem, data["keys"]
        return None

    def last_words(self, folder, key):
        path = next(iter(sorted(folder.glob(f"*/{key}.err"))), folder / "pool" / f"{key}.err")
        return last_line(path), path

    def _records(self, keys):
        """(key, restarts) of the named jobs and elements, and of the elements of named arrays."""
        for wanted in keys:
            paths = (self.folder / "jobs").glob(f"{wanted}*.json")
            for path in sorted(path for path in paths if path.stem == wanted or path.stem.startswith(f"{wanted}_")):
                yield path.stem, json.loads(path.read_text())

    def _is_served(self):
        try:
            os.kill(int((self.folder / "served_by").read_text()), 0)
        except (FileNotFoundError, ProcessLookupError):
            return False
        return True


def contract_job(submission):
    """The task of the tests of every scheduler's contract."""
    from scheduler_contract import work_until_told

    work_until_told(Pool(os.environ["POOL_FOLDER"]), submission)


class Server:
    """Runs the jobs of a folder's queue, in the order of their submission."""

    def __init__(self, folder, slots, seconds):
        self.folder, self.slots, self.seconds = folder, slots, seconds
        self.running = {}  # key -> (process, when it began, its stop: 'CANCELLED', 'TIMEOUT' or None, when)

    def serve(self):
        write_replacing(self.folder / "served_by", str(os.getpid()))
        while True:
            self._reap()
            self._stop()
            self._begin()
            time.sleep(POLL_SECONDS)

    def _restarts(self, key):
        return json.loads((self.folder / "jobs" / f"{key}.json").read_text())

    def _write(self, key, restarts):
        write_replacing(self.folder / "jobs" / f"{key}.json", json.dumps(restarts))

    def _begin(self):
        for path in sorted((self.folder / "requests").glob("*.json"), key=lambda path: int(path.stem)):
            request = json.loads(path.read_text())
            for key in request["keys"]:
                restarts = self._restarts(key)
                at_once = sum(other in self.running for other in request["keys"])
                if restarts[-1]["state"] != "PENDING" or at_once >= request["parallel"]:
                    continue
                if (self.folder / "cancelled" / key).exists():
                    self._write(key, [*restarts[:-1], {"state": "CANCELLED"}])
                elif len(self.running) < self.slots:
                    self._start(key, restarts, request)

    def _start(self, key, restarts, request):
        variables = {
            "POOL_FOLDER": str(self.folder),
            "POOL_KEY": key,
            "POOL_RESTART": str(len(restarts) - 1),
            "POOL_END": str(time.time() + self.seconds),
        }
        command = [sys.executable, __file__, "--task", *request["run"], request["submission"]]
        with (Path(request["logs"]) / f"{key}.err").open("ab") as log:
            process = subprocess.Popen(
                command, env={**os.environ, **variables}, stdout=log, stderr=log, start_new_session=True
            )
        self.running[key] = [process, time.monotonic(), None, 0.0]
        self._write(key, [*restarts[:-1], {"state": "RUNNING", "pid": process.pid}])

    def _stop(self):
        for key, job in self.running.items():
            process, began, stop, when = job
            cancelled, late = (self.folder / "cancelled" / key).exists(), time.monotonic() - began > self.seconds
            if stop is None and (cancelled or late):
                job[2:] = ["CANCELLED" if cancelled else "TIMEOUT", time.monotonic()]
                process.terminate()
            elif stop is not None and time.monotonic() - when > GRACE_SECONDS:
                os.killpg(process.pid, signal.SIGKILL)

    def _reap(self):
        for key, (process, began, stop, _) in list(self.running.items()):
            pid, status, resources = os.wait4(process.pid, os.WNOHANG)
            if not pid:
                continue
            code = process.returncode = os.waitstatus_to_exitcode(status)
            end = f"signal {-code}" if code < 0 else f"exit code {code}"
            state = stop or ("COMPLETED" if code == 0 else "REQUEUED" if code == REQUEUE_CODE else "FAILED")
            used = {
                "elapsed_seconds": time.monotonic() - began,
                "cpu_seconds": resources.ru_utime + resources.ru_stime,
                "allocated_cpus": 1,
                "peak_memory_bytes": 1024.0 * resources.ru_maxrss,
            }
            restarts = [*self._restarts(key)[:-1], {"state": state, "end": end, "used": used}]
            self._write(key, [*restarts, {"state": "PENDING"}] if state == "REQUEUED" else restarts)
            del self.running[key]


def main():
    if sys.argv[1] == "--task":
        module, name, submission = sys.argv[2:]
        getattr(importlib.import_module(module), name)(submission)
        return
    folder, slots, seconds = sys.argv[1:]
    Server(Path(folder), int(slots), float(seconds)).serve()


if __name__ == "__main__":
    main()
