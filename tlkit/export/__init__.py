"""Write a model in formats that other programs read, and verify what was written.

Files:
    weights.py    Exporter, state_dict, full, safetensors and timm (table EXPORTERS)
    graphs.py     ONNX and torch.export
    join_head.py  join the ONNX graph of a backbone and a head
    verify.py     read an export back and compare its logits with the model

May import: model, files, versions, errors.
"""
