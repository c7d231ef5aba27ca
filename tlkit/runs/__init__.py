"""The life of one training run: set up, prepare batches, train, save, resume.

Files:
    train.py            train a run from its start or from a checkpoint until model.pt is written
    setup.py            build classifier, optimizer and devices from the options
    batches.py          turn images into the batches that the loop trains on: features, or images
    train_loop.py       run the training loop; save and log each epoch; stop on a signal
    auto_batch_size.py  find the batch size of --batch-size auto
    checkpoints.py      write, read and delete checkpoints; find the newest valid one
    record.py           options.json, split.json, about.json and status.json of a run
    val_predictions.py  collect the best epoch's predictions on the validation images
    resume.py           choose checkpoint, options and images to resume with
    reopen.py           open the run folder that resume or a restart continues
    worker.py           the part of training that runs on ranks other than 0
    consistency.py      verify that all ranks have the same options, images and libraries
    policy.py           differences between a run of its own and a trial of a search

May import: monitoring, features, reports, model, training, devices, data, distributed, files, options, terminal,
    versions, interruption, errors.
"""
