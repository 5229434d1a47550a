"""What Slurm writes into the logs of jobs."""

# Recorded word for word from Slurm 22.05.8 and 24.11.5 of Debian, on the cluster of slurm_box.py.
NODE_LOST = {
    "22.05": "srun: error: Node failure on node4\n"
    "slurmstepd-node3: error: *** JOB 9566865 ON node3 CANCELLED AT 2026-11-26T04:51:00"
    " DUE TO NODE FAILURE, SEE SLURMCTLD LOG FOR DETAILS ***\n",
    "24.11": "srun: error: Node failure on node4\n"
    "slurmstepd-node3: error: *** JOB 9566796 ON node3 CANCELLED AT 2026-11-26T04:31:05"
    " DUE TO NODE FAILURE, SEE SLURMCTLD LOG FOR DETAILS ***\n",
}
"""The job line names the node of the batch script, which is not the lost one."""
LOST_WITHOUT_NAME = {
    "22.05": "slurmstepd-node5: error: *** STEP 9566639.0 ON node5 CANCELLED AT"
    " 2026-11-26T04:15:19 DUE TO NODE FAILURE, SEE SLURMCTLD LOG FOR DETAILS ***\n"
    "slurmstepd-node5: error: *** JOB 9566639 ON node5 CANCELLED AT 2026-11-26T04:15:19"
    " DUE TO NODE FAILURE, SEE SLURMCTLD LOG FOR DETAILS ***\n",
}
"""Both versions leave out the line of srun at times, for example when a link is cut."""
REQUEUED = {
    "22.05": "slurmstepd-node1: error: *** JOB 9564261 ON node1 CANCELLED AT 2026-11-25T21:36:13"
    " DUE TO JOB REQUEUE ***\n",
    "24.11": "slurmstepd-node2: error: *** JOB 9564335 ON node2 CANCELLED AT 2026-11-25T21:55:10"
    " DUE TO JOB REQUEUE ***\n",
}
OVER_MEMORY = {
    "22.05": "slurmstepd-node1: error: StepId=9564261.0 exceeded memory limit (710979584 >"
    " 321912832), being killed\nsrun: error: node1: task 0: Killed\n",
    "24.11": "slurmstepd-node1: error: StepId=9564341.0 exceeded memory limit (710946792 >"
    " 321912832), being killed\nslurmstepd-node1: error: Exceeded job memory limit\n",
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
