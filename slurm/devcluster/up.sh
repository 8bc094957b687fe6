#!/usr/bin/env bash
# Start a real Slurm cluster on one machine: munge, MariaDB, slurmdbd, slurmctld and a slurmd for each virtual node. Needs
# root but no systemd, takes seconds, and keeps all state in one folder. Run it again to start daemons that have stopped.
#
#   slurm/devcluster/up.sh [--fresh]     --fresh: delete all jobs and accounting first
#   slurm/devcluster/down.sh
#
# Settings, from the environment:
#   LAB         the state folder                             ./.devcluster
#   NODES CPUS MEM GPUS   number of nodes, and the cores, MB and fake GPUs of each   4 4 4000 2
#   PORT        the first port (uses PORT to PORT+3, and PORT+100+node)   16817
#   PREEMPT_SIGNAL   1: signal a preempted job first, as requested by --signal; 0: do not, as at most sites    1
set -euo pipefail
trap 'echo "up.sh: line $LINENO failed: $BASH_COMMAND" >&2' ERR
LAB=$(realpath -m "${LAB:-$PWD/.devcluster}")
NODES=${NODES:-4} CPUS=${CPUS:-4} MEM=${MEM:-4000} GPUS=${GPUS:-2} PORT=${PORT:-16817} PREEMPT_SIGNAL=${PREEMPT_SIGNAL:-1}
HOST=$(hostname -s)
DATABASE_PORT=$((PORT + 3))
export SLURM_CONF=$LAB/etc/slurm.conf

for program in munged mariadbd mariadb-install-db slurmdbd slurmctld slurmd; do
  command -v $program > /dev/null || PATH=$PATH:/usr/sbin:/usr/local/sbin command -v $program > /dev/null || {
    echo "$program is not installed: apt-get install -y --no-install-recommends slurm-wlm slurmdbd munge mariadb-server" >&2
    exit 2
  }
done
PATH=$PATH:/usr/sbin
[ "$(id -u)" = 0 ] || { echo "the development cluster needs root, because its nodes have their own host names" >&2; exit 2; }

[ "${1:-}" = --fresh ] && rm -rf "$LAB"/{etc,run,log,state,spool,mysql,dev}
mkdir -p "$LAB"/{etc,run,log,state,spool,dev}
chmod 755 "$LAB" "$LAB"/{etc,run,log,spool,dev}

alive() { [ -s "$1" ] && kill -0 "$(cat "$1")" 2> /dev/null; }
wait_for() { # a name, then a command that succeeds once it is ready
  local what=$1 tries=0
  shift
  until timeout 5 "$@" > /dev/null 2>&1; do
    sleep 0.1
    tries=$((tries + 1))
    if [ $tries -ge 300 ]; then
      echo "$what did not become ready; the ends of all logs:" >&2
      tail -n 5 "$LAB"/log/*.log >&2
      exit 1
    fi
  done
}

# ---- configuration
[ -s "$LAB/etc/munge.key" ] || (umask 077 && head -c 128 /dev/urandom > "$LAB/etc/munge.key")
{
  cat << CONF
ClusterName=devcluster
SlurmctldHost=$HOST(127.0.0.1)
SlurmctldPort=$PORT
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
CredType=cred/munge
AuthInfo=socket=$LAB/run/munge.socket,cred_expire=5
StateSaveLocation=$LAB/state
SlurmctldPidFile=$LAB/run/slurmctld.pid
SlurmctldLogFile=$LAB/log/slurmctld.log
SlurmdSpoolDir=$LAB/spool/%n
SlurmdPidFile=$LAB/run/slurmd.%n.pid
SlurmdLogFile=$LAB/log/slurmd.%n.log
MpiDefault=none
SwitchType=switch/none
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
# enforces memory limits, since there are no control groups
JobAcctGatherType=jobacct_gather/linux
JobAcctGatherFrequency=task=1
JobAcctGatherParams=OverMemoryKill
PropagateResourceLimits=NONE
# the nodes together claim more than the machine has
SlurmdParameters=config_overrides
# a node that was away returns by itself; one that was set down stays down
ReturnToService=1
SlurmdTimeout=10
SlurmctldTimeout=10
MessageTimeout=10
BatchStartTimeout=10
TCPTimeout=2
KillWait=2
UnkillableStepTimeout=120
CompleteWait=0
InactiveLimit=0
MinJobAge=10
JobRequeue=1
MaxArraySize=2001
MaxJobCount=10000
# a fresh cluster must not reuse the job ids of the previous one
FirstJobId=$(($(date +%s) / 60 * 1000 % 60000000 + 1))
SchedulerType=sched/backfill
SchedulerParameters=bf_interval=1,bf_continue,sched_interval=1,sched_min_interval=0,batch_sched_delay=0,bf_resolution=1,max_rpc_cnt=0
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU_Memory
DefMemPerCPU=100
PriorityType=priority/multifactor
PriorityWeightPartition=1000
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
AccountingStorageType=accounting_storage/slurmdbd
AccountingStorageHost=127.0.0.1
AccountingStoragePort=$((PORT + 2))
AccountingStoragePass=$LAB/run/munge.socket
AccountingStorageTRES=gres/gpu
JobCompType=jobcomp/none
GresTypes=gpu
PartitionName=low  Nodes=ALL Default=YES MaxTime=INFINITE DefaultTime=10 State=UP PriorityTier=1  PreemptMode=REQUEUE GraceTime=5
PartitionName=high Nodes=ALL Default=NO  MaxTime=INFINITE DefaultTime=10 State=UP PriorityTier=10 PreemptMode=OFF
CONF
  [ "$PREEMPT_SIGNAL" = 0 ] || echo "SlurmctldParameters=preempt_send_user_signal"
  for i in $(seq 1 "$NODES"); do
    echo "NodeName=n$i NodeHostname=$HOST NodeAddr=127.0.0.1 Port=$((PORT + 100 + i)) CPUs=$CPUS RealMemory=$MEM Gres=gpu:$GPUS State=UNKNOWN"
  done
} > "$LAB/etc/slurm.conf"
{
  echo "AutoDetect=off"
  for i in $(seq 1 "$NODES"); do echo "NodeName=n$i Name=gpu File=$LAB/dev/gpu[0-$((GPUS - 1))]"; done
} > "$LAB/etc/gres.conf"
for i in $(seq 0 $((GPUS - 1))); do # a GPU must be a character device; these are /dev/null under other names
  [ -c "$LAB/dev/gpu$i" ] || mknod -m 666 "$LAB/dev/gpu$i" c 1 3
done
(
  umask 077
  cat > "$LAB/etc/slurmdbd.conf" << CONF
AuthType=auth/munge
AuthInfo=socket=$LAB/run/munge.socket
DbdHost=localhost
DbdAddr=127.0.0.1
DbdPort=$((PORT + 2))
SlurmUser=root
LogFile=$LAB/log/slurmdbd.log
PidFile=$LAB/run/slurmdbd.pid
CommitDelay=0
StorageType=accounting_storage/mysql
StorageHost=127.0.0.1
StoragePort=$DATABASE_PORT
StorageUser=slurm
StoragePass=devcluster
StorageLoc=slurm_acct_db
CONF
)
chmod 600 "$LAB/etc/slurmdbd.conf"
# Every node has its own namespaces, with its own host name and an /etc/hosts that lists all nodes.
{ cat /etc/hosts; for i in $(seq 1 "$NODES"); do echo "127.0.0.1 n$i"; done; } > "$LAB/etc/hosts"

# ---- the daemons, in the order of their dependencies
if ! alive "$LAB/run/munged.pid"; then
  rm -f "$LAB"/run/munge*
  munged --force --key-file "$LAB/etc/munge.key" --socket "$LAB/run/munge.socket" --pid-file "$LAB/run/munged.pid" \
    --log-file "$LAB/log/munged.log" --seed-file "$LAB/run/munged.seed" --num-threads 4
fi
wait_for munged sh -c "munge -S $LAB/run/munge.socket -n | unmunge -S $LAB/run/munge.socket"

SOCKET=$LAB/run/mysql/mysqld.sock
if ! alive "$LAB/run/mysqld.pid"; then
  # A separate folder for temporary tables, because a starting server deletes those of others from a shared one.
  mkdir -p "$LAB/mysql" "$LAB/run/mysql" "$LAB/run/mysql-temporary"
  chown mysql: "$LAB/mysql" "$LAB/run/mysql" "$LAB/run/mysql-temporary"
  if [ ! -d "$LAB/mysql/mysql" ]; then
    TMPDIR="$LAB/run/mysql-temporary" mariadb-install-db --no-defaults --user=mysql --datadir="$LAB/mysql" \
      --auth-root-authentication-method=socket --skip-test-db > "$LAB/log/mariadb-install.log" 2>&1
  fi
  TMPDIR="$LAB/run/mysql-temporary" setsid mariadbd --no-defaults --user=mysql --datadir="$LAB/mysql" \
    --socket="$SOCKET" --pid-file="$LAB/run/mysql/pid" \
    --bind-address=127.0.0.1 --port=$DATABASE_PORT --innodb-buffer-pool-size=64M --innodb-lock-wait-timeout=900 \
    --innodb-flush-log-at-trx-commit=0 --innodb-log-file-size=32M --skip-name-resolve > "$LAB/log/mariadb.log" 2>&1 < /dev/null &
  echo $! > "$LAB/run/mysqld.pid"
fi
wait_for mariadbd mariadb-admin --no-defaults -S "$SOCKET" ping
mariadb --no-defaults -S "$SOCKET" -e "create database if not exists slurm_acct_db;
  create user if not exists 'slurm'@'127.0.0.1' identified by 'devcluster';
  grant all on slurm_acct_db.* to 'slurm'@'127.0.0.1'; flush privileges"

alive "$LAB/run/slurmdbd.pid" || slurmdbd
wait_for slurmdbd sh -c 'sacctmgr -n show cluster'
sacctmgr -n show cluster format=cluster | grep -qw devcluster || sacctmgr -i add cluster devcluster > /dev/null
alive "$LAB/run/slurmctld.pid" || slurmctld
wait_for slurmctld scontrol ping
for i in $(seq 1 "$NODES"); do
  alive "$LAB/run/slurmd.n$i.pid" && continue
  mkdir -p "$LAB/spool/n$i"
  setsid unshare --mount --uts --propagation private sh -c \
    "mount --bind $LAB/etc/hosts /etc/hosts && hostname n$i && exec slurmd -N n$i" > "$LAB/log/slurmd.n$i.out" 2>&1 < /dev/null
done
for i in $(seq 1 "$NODES"); do # a node set down by hand refuses this and stays down
  timeout 5 scontrol update nodename="n$i" state=resume > /dev/null 2>&1 || true
done
wait_for "every node" sh -c "[ \$(sinfo -h -N -p low -t idle,mix,alloc | wc -l) -eq $NODES ]"
echo "export SLURM_CONF=$SLURM_CONF"
