"""From MODEL on a command line to predictions: open a predictor, stream images through it, write records.

Files:
    open.py             open a model as a predictor, run by torch or onnxruntime
    predictor.py        the interface of a predictor
    torch_predictor.py  predictor that runs torch
    onnx_predictor.py   predictor that runs an .onnx file with onnxruntime, without torch
    input_paths.py      the paths to predict: arguments, folders, lists on stdin
    stream.py           load inputs in threads and yield batches in input order
    prediction.py       from decoded pixels to labels and probabilities
    writers.py          prediction formats: tsv, csv, jsonl (table WRITERS), and where records go
    failure_report.py   report and count inputs that failed

May import: features, export, model, training, devices, data, files, options, terminal, versions, errors.
"""
