"""Log a run to TensorBoard and Weights & Biases while it trains. A failing tool never stops a run.

Files:
    monitor.py           feed each tool from a thread of its own (table SINKS)
    run_monitor.py       connect a run with its tools; pictures and report at its end
    tensorboard_sink.py  write TensorBoard event files
    wandb_sink.py        log to Weights & Biases through a separate process
    wandb_process.py     that process

May import: reports, files, options, terminal, errors.
"""
