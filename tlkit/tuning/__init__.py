"""Hyper-parameter search: many runs of finetune, compared with each other, driven by Ray Tune.

A trial is an ordinary run folder. The search keeps its own state on disk, so that it can resume without Ray's.

Files:
    start.py          check a new search, or reopen one that resumes
    run.py            the search from computing features to writing the best model
    driver.py         the process in which Ray runs the trials
    prepare.py        compute the features of each backbone once, and measure its speed
    samplers.py       the values of each trial: random, grid or Bayesian
    state.py          which trial is next, and how each trial ended
    trial.py          one trial in a Ray process, and its cross-validation folds
    ray_tune.py       adapter to Ray Tune's scheduler and search interface
    cluster.py        start Ray on this machine or connect to a cluster; resources of each trial
    reaper.py         separate process that stops what a killed search has started
    results.py        results.jsonl and results.csv
    leaderboard.py    the table of trials on the terminal
    search_folder.py  files of a search folder

May import: runs, features, reports, model, training, devices, data, distributed, files, options, terminal,
    interruption, errors.
"""
