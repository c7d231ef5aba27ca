"""From MODEL on a command line to predictions: open a predictor, stream images through it, write records.

Files:
    open.py             open a model as a predictor, run by torch or onnxruntime
    predictor.py        the interface of a predictor
    torch_predictor.py  predictor that runs torch
    onnx_predictor.py   predictor that runs an .onnx file with onnxruntime, without torch
    onnx_handover.py    switch from torch to onnxruntime in a long command
    onnx_prepare.py     separate process that exports the model for that switch
    inputs.py           the paths to predict: arguments, folders, lists on stdin
    stream.py           load inputs in threads and yield batches in input order
    writers.py          prediction formats: tsv, csv, jsonl (table WRITERS)

May import: features, export, model, devices, data, files, options, versions, errors.
"""
