"""The training loop and what it computes. It gets a module and batches, and does not know images or files.

Files:
    loop.py        epochs: train, evaluate, choose the best, stop early
    step.py        one optimizer step: forward, loss, backward, update; in smaller parts when memory runs out
    optimizer.py   optimizers, parameter groups, learning-rate schedules
    metrics.py     count correct predictions and sum losses into metrics
    evaluation.py  metrics of a finished set of predictions, in numpy
    batch_norm.py  BatchNorm over parts of a batch and over ranks
    state.py       everything that resume restores

May import: devices, distributed, errors.
"""
