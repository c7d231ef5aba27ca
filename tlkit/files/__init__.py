"""Everything on disk: atomic writes, run folders, and checked reading of files from outside.

Files:
    atomic.py            write a file so that readers see the old content or the new, never a part
    storage.py           errors of the disk as tlkit errors
    run_folder.py        the files of a run folder, and its lock
    new_run.py           create a run folder, and remove it if the run never starts
    inputs.py            open a file named by the user; regular files only
    checksum.py          the SHA-256 checksum inside a file
    artifact.py          checkpoints and model.pt: tensors and plain values in one checked file
    archive.py           check a zip archive (.pt, .pt2) before opening it
    other_formats.py     name files that are not weights for PyTorch (table OTHER_FORMATS)
    inert.py             read tensors beside Python objects without running anything
    pickles.py           list what a pickle would import, without unpickling it
    trusted.py           the only place that may run code from a file (--trust-pickle)
    json_file.py         read JSON files
    python_path.py       start Python processes that import modules from the same files
    safetensors_file.py  read and write .safetensors files
    onnx_file.py         read .onnx files
    pt2_file.py          read .pt2 files without running them
    timm_folder.py       read folders exported for timm
    description.py       the description of a model as metadata text

May import: options, errors.
"""
