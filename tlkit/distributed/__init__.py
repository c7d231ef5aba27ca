"""Several processes (ranks) as one job: start them, let them exchange data, report failures once.

Files:
    env.py            rank and world size from the environment
    launch.py         start the ranks of --processes with torch's elastic agent
    join.py           make a process a rank of the job
    world.py          the interface of all ranks; a single process is a world of one
    process_group.py  that interface over torch.distributed
    sharding.py       distribute images over ranks and collect the results in order
    failures.py       decide which rank prints an error, and with which exit code

May import: files, options, terminal, interruption, errors.
"""
