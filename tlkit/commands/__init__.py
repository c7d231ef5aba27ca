"""The commands of tlkit, one file each, written as a story that is read from top to bottom.

A command checks its options and inputs, calls the rooms below, and prints the result. No command imports another.

Files:
    finetune.py   train a new head on a pretrained backbone
    resume.py     continue an interrupted run, extend a finished one, or continue a search
    tune.py       search for good options of finetune
    predict.py    label images, one record for each input
    evaluate.py   measure a model on labeled images
    report.py     write the HTML page about a run
    check.py      find problems of an image folder before training
    export.py     write a model in another format and verify it
    backbones.py  list the backbones that can be loaded
    fetch.py      pack pretrained weights for a machine without network
    summary.py    show layers, parameters and multiply-adds of a network
    cache.py      list or clear the feature cache
    doctor.py     show versions, devices and caches

May import: tuning, runs, inference, monitoring, features, reports, export, model, training, devices, data,
    distributed, files, options, terminal, versions, interruption, errors.
"""
