"""What Slurm writes into the logs of jobs, recorded word for word."""

# From Debian's Slurm 22.05.8 and 24.11.5 on the cluster of slurm_box.py.
NODE_LOST = {
    "22.05": "srun: error: Node failure on node4\n",
    "24.11": "slurmstepd: error: *** JOB 9544171 ON node3 CANCELLED AT 2026-11-25T14:01:07"
    " DUE TO NODE FAILURE, SEE SLURMCTLD LOG FOR DETAILS ***\n",
}
# From https://github.com/hafs-community/HAFS/issues/101, the pages of osc.edu, and
# https://github.com/chrisknewman/tusas/issues/149: clusters with control groups.
OUT_OF_MEMORY = {
    "20.02": "slurmstepd: error: Detected 1 oom-kill event(s) in step 3495064.0 cgroup. Some of"
    " your processes may have been killed by the cgroup out-of-memory handler.\n"
    "srun: error: Orion-01-01: task 4: Out Of Memory\n",
    "22.05": "slurmstepd: error: Detected 1 oom-kill event(s) in StepId=14604003.0 cgroup. Some of"
    " your processes may have been killed by the cgroup out-of-memory handler.\n",
    "24.11": "slurmstepd: error: Detected 1 oom_kill event in StepId=440575.0. Some of the step"
    " tasks have been OOM Killed.\nsrun: error: nid001277: tasks 1-3: Out Of Memory\n",
}
