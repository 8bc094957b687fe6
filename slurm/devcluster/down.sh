#!/usr/bin/env bash
# Stop the development cluster in $LAB (./.devcluster): its jobs, the daemons in its pid files, and orphaned tasks.
LAB=$(realpath -m "${LAB:-$PWD/.devcluster}")
export SLURM_CONF=$LAB/etc/slurm.conf

stop() { # stop the process in a pid file, by force after ten seconds
  local pid
  pid=$(cat "$1" 2> /dev/null) || return 0
  kill "$pid" 2> /dev/null
  for _ in $(seq 100); do kill -0 "$pid" 2> /dev/null || break; sleep 0.1; done
  kill -9 "$pid" 2> /dev/null
  rm -f "$1"
}

timeout 3 scancel -u "$(id -un)" 2> /dev/null
for file in "$LAB"/run/slurmd.*.pid; do [ -e "$file" ] && stop "$file" & done
wait
stop "$LAB/run/slurmctld.pid"
# Tasks may outlive their slurmd; those of this cluster are recognised by their environment.
for environment in /proc/[0-9]*/environ; do
  pid=${environment#/proc/}
  pid=${pid%/environ}
  [ "$pid" = $$ ] && continue
  tr '\0' '\n' < "$environment" 2> /dev/null | grep -qx "SLURM_CONF=$SLURM_CONF" || continue
  case "$(tr '\0' ' ' < "/proc/$pid/cmdline" 2> /dev/null)" in slurmstepd*) kill -9 "$pid" ;; esac
  tr '\0' '\n' < "$environment" 2> /dev/null | grep -q '^SLURM_JOB_ID=' && kill -9 "$pid"
done 2> /dev/null
stop "$LAB/run/slurmdbd.pid"
stop "$LAB/run/mysqld.pid"
stop "$LAB/run/munged.pid"
exit 0
