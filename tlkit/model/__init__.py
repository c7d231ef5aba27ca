"""Backbone and head: build networks, load their weights, read and write model files.

Files:
    backbones.py     look up a backbone by name; build it; find its classifier layers
    sources.py       timm, torchvision and installed packages behind one interface (table SOURCES)
    packages.py      weights in Python packages, for machines that reach no hub (table PACKAGES)
    conversions.py   names of other projects to the names of timm
    weights.py       read a file of weights, and load those of the backbone
    copies.py        find the backbone's weights in a file, whatever their prefix
    state_dict.py    compare, load and hash state dicts
    weights_folder.py  a folder of weights with its preprocessing and digests
    backbone.py      a network as a source of features: images [B, 3, H, W] -> features [B, D]
    head.py          the new classifier on features: [B, D] -> logits [B, C]
    classifier.py    backbone and head together; freezing; conversion to a plain network
    build.py         build a classifier from options
    files.py         model.pt and the description of a model
    open.py          open MODEL: run folder, checkpoint, model.pt or export (table OPENERS)
    optimize.py      make a frozen network faster: fold BatchNorm, channels last, lower precision
    onnx_session.py  start onnxruntime sessions
    pipeline/        split a network over several devices

May import: devices, data, files, options, terminal, interruption, errors.
"""
