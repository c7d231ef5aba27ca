"""The training loop and what it computes. It gets a module and batches, and does not know images or files.

Files:
    loop.py         epochs: train, evaluate, choose the best, stop early
    step.py         one optimizer step: forward, loss, backward, update; in smaller parts when memory runs out
    optimizer.py    optimizers, parameter groups, learning-rate schedules
    objective.py    loss, probabilities and labels: the only file that knows softmax and cross-entropy
    metrics.py      METRICS, the table of metrics, and which figures are better
    accumulator.py  sums the loss and counts of a pass, over batches and ranks
    predictions.py  logits into predictions and figures
    evaluation.py   per-class figures and calibration, in numpy
    class_pairs.py  the confusion matrix as pairs of classes that occur
    batch_norm.py   BatchNorm over parts of a batch and over ranks
    history.py      EpochRow, the figures of an epoch as a line of history.jsonl
    state.py        everything that resume restores

May import: devices, distributed, options, errors.
"""
