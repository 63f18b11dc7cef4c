"""`runlane agent`: deploys the task code of a queue from git on this machine, and works for the queue with it.

The agent is a worker whose handler's process is a bridge to the task's own process:

    agent ── registers, clones, installs, renews the leases ──▶ bridge ── takes jobs, delivers ──▶ task (startup_cmd)

The bridge lives as long as one process of a task that stays; when the task crashes so does the bridge, and the worker
supervises both by the rules that it has for handlers.
"""
