"""Compute features (image embeddings) with the frozen backbone once per image, and cache them on disk.

Files:
    extract.py       features of many images: cached ones from disk, the others through the backbone
    extractor.py     run the backbone over batches; mean and standard deviation of features
    backend.py       the rule that chooses torch or onnxruntime for the features of a run
    store.py         the feature cache: read and write the features of one feature set
    segments.py      files of features
    cache.py         folder of the cache, its size limit, and `tlkit cache`
    cache_files.py   open and delete files of the cache, which other users may share
    onnx_graphs.py   ONNX graphs kept in the cache
    run_model.py     model.onnx of a finished run
    memory_cache.py  features kept in memory between the trials of a search

May import: export, model, devices, data, distributed, files, options, terminal, versions, errors.
"""
