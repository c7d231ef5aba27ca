"""The life of one training run: set up, prepare batches, train, save, resume.

Files:
    train.py            train a run on rank 0, from its start or from a checkpoint, until model.pt is written
    worker.py           train on the other ranks, which write no files
    plan.py             options, images and checkpoint of a run, as rank 0 sends them to the other ranks
    session.py          prepared(): from a plan to a training session, the same steps on every rank
    setup.py            build classifier, optimizer and devices from a plan
    batches.py          turn images into the batches that the loop trains on: features, or images
    standardization.py  standardize the features that the head of a new run trains on
    train_loop.py       run the training loop; save and log each epoch; stop on a signal
    auto_batch_size.py  find the batch size of --batch-size auto
    checkpoints.py      write, read and delete checkpoints; find the newest undamaged one
    record.py           options.json, split.json, about.json and status.json of a run
    environment.py      versions, device and threads of a run; warnings where they differ from a checkpoint's
    out_of_fold.py      the stored result of a cross-validated run on its own images
    val_predictions.py  collect the best epoch's predictions on the validation images
    resume.py           resume a run in its folder, or from a checkpoint in a new folder
    resume_options.py   the recorded options of a run, and the options that resume overrides
    machine.py          recorded numbers of processes, limited to this machine
    reopen.py           lock the run folder that resume or a restart continues
    consistency.py      verify that all ranks have the same options, images and libraries

May import: monitoring, features, reports, model, training, devices, data, distributed, files, options, terminal,
    versions, interruption, errors.
"""
