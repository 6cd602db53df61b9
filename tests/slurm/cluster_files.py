"""The configuration files of the virtual cluster, and why they say what they say."""

import string

SLURM_CONF = """\
ClusterName=test
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={ctl_port}
SlurmdPort={node_port}
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
CredType=cred/munge
# cred_expire also sets how long a requeued job waits before it starts again (default 120 s; least 5)
AuthInfo=socket={d}/munge/socket,cred_expire=5
# not NoInAddrAny: an srun inside a job would listen at 127.0.1.K but be called back at 127.0.0.1
CommunicationParameters=NoCtldInAddrAny
StateSaveLocation={d}/ctld
SlurmctldPidFile={d}/slurmctld.pid
SlurmctldLogFile={d}/log/slurmctld.log
SlurmctldDebug=debug
SlurmdSpoolDir={d}/spool/%n
SlurmdPidFile={d}/slurmd-%n.pid
SlurmdLogFile={d}/log/slurmd-%n.log
SlurmdDebug=verbose
MpiDefault=none
SwitchType=switch/none
TaskPlugin=task/none
# cgroup (production's choice): signals but KILL reach only the task itself; linuxproc: every descendant;
# pgid: the task's process group, and KILL leaves torchrun's workers (own sessions) behind
ProctrackType=proctrack/{proctrack}
JobAcctGatherType=jobacct_gather/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU_Memory
DefMemPerCPU=100
SlurmdParameters=config_overrides
ReturnToService=2
SlurmctldParameters={ctl_parameters}
SchedulerParameters=sched_interval=2,bf_interval=2,batch_sched_delay=0
PriorityType=priority/basic
SlurmctldTimeout=30
SlurmdTimeout={slurmd_timeout}
KillWait={kill_wait}
UnkillableStepTimeout=30
MinJobAge=600
InactiveLimit=0
Waittime=0
JobRequeue=1
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
{accounting}
GresTypes=gpu
{nodes}
PartitionName=low Nodes=ALL Default=YES PriorityTier=1 GraceTime={grace} PreemptMode=REQUEUE DefaultTime=10
PartitionName=high Nodes=ALL PriorityTier=10 PreemptMode=OFF DefaultTime=10
"""

ACCOUNTING = """\
AccountingStorageType=accounting_storage/slurmdbd
AccountingStorageHost=127.0.0.1
AccountingStoragePort={dbd_port}
# a third place that must name the munge socket: messages to slurmdbd do not use AuthInfo
AccountingStoragePass={d}/munge/socket
AccountingStorageTRES=gres/gpu
JobCompType=jobcomp/none"""

NO_ACCOUNTING = """\
AccountingStorageType=accounting_storage/none
JobCompType=jobcomp/filetxt
JobCompLoc={d}/log/jobcomp"""

SLURMDBD_CONF = """\
AuthType=auth/munge
AuthInfo=socket={d}/munge/socket
DbdAddr=127.0.0.1
DbdHost=localhost
DbdPort={dbd_port}
SlurmUser=root
PidFile={d}/slurmdbd.pid
LogFile={d}/log/slurmdbd.log
DebugLevel=verbose
StorageType=accounting_storage/mysql
StorageHost=localhost
StorageUser=slurm
StoragePass=slurm
StorageLoc=slurm_acct_db
CommitDelay=1
"""

INIT_SQL = """\
CREATE DATABASE IF NOT EXISTS slurm_acct_db;
GRANT ALL ON slurm_acct_db.* TO 'slurm'@'localhost' IDENTIFIED BY 'slurm';
"""

# throw-away data: no fsync
NO_SYNC = (
    "--innodb-log-file-size=8M", "--innodb-flush-log-at-trx-commit=0", "--innodb-flush-method=nosync",
    "--innodb-doublewrite=0", "--skip-sync-frm",
)  # fmt: skip

# cgroup/v2 of SLURM 22.05 wants systemd
CGROUP_CONF = "CgroupPlugin=cgroup/v1\nCgroupAutomount=no\n"

# PID 1 of a node: starts slurmd (again at USR1), then only reaps orphans, so the node outlives a killed slurmd
NODE_INIT = """\
hostname "$1" && mount --bind "$2/hosts" /etc/hosts || exit 1
run() { slurmd -D -N "$1" -f "$2/slurm.conf" </dev/null >>"$2/log/slurmd-$1.out" 2>&1 & }
trap 'run "$@"' USR1
run "$@"
while :; do sleep 1000 & wait; done
"""


def node_line(name: str, port: int, cpus: int, mem_mb: int, gpus: int) -> str:
    """A node's line in slurm.conf."""
    gres = f" Gres=gpu:{gpus}" if gpus else ""
    return (
        f"NodeName={name} NodeHostname={name} NodeAddr={node_ip(name)} Port={port} CPUs={cpus} Sockets=1 "
        f"CoresPerSocket={cpus} ThreadsPerCore=1 RealMemory={mem_mb}{gres} State=UNKNOWN"
    )


def hosts(controller: str, nodes: list[str]) -> str:
    """Every node's /etc/hosts."""
    lines = ["127.0.0.1 localhost", "::1 ip6-localhost", f"127.0.0.1 {controller}"]
    return "\n".join([*lines, *(f"{node_ip(name)} {name}" for name in nodes)]) + "\n"


def node_ip(name: str) -> str:
    """An address of its own, so that getfqdn() on a node gives its name, not localhost."""
    return f"127.0.1.{name.lstrip(string.ascii_letters)}"
