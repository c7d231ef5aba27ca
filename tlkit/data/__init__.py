"""From an image folder to samples, from a file to pixels; problems of a folder.

Files:
    folder.py           samples, and data sets of them in training and validation
    class_folders.py    read a folder with a folder of images for each class
    parts.py            recognize the folders of training, validation and test images by their names
    class_names.py      class names that nearly equal each other
    sources.py          DATASET_SOURCES, the table of what DATA can name
    splitting.py        divide a data set: a share for validation, or folds; groups stay together
    table.py            read a table of paths and labels as a data set
    table_rows.py       check the rows of a table, and find their files
    table_file.py       read a CSV, TSV, JSON lines or Parquet file into columns
    listing.py          list the image files of a folder; count what is left out
    formats.py          accepted image formats; the kind of a file by its first bytes
    jpeg.py             the header of a JPEG: kinds that cannot be decoded
    tiff.py             the tags of a TIFF: layouts that cannot be decoded, camera raw, pages
    header.py           open an image by its header: limits, formats, pixels that are decoded correctly
    image_file.py       open an image file, or report why it cannot be used
    decode.py           decode an open file to RGB pixels: the only place where images are decoded
    depth.py            pixels with more than 8 bits -> 8 bits
    dark_images.py      warn of 16-bit images that look almost black
    decoders.py         decode in separate processes with limits on time and memory
    decoder_process.py  one of those processes
    preprocessing.py    resize and crop as the backbone expects
    normalize.py        uint8 pixels -> normalized float tensors
    view.py             augmentation: a view of an image as a function of seed, epoch and content
    batches.py          indices -> batches in a reproducible order
    ordered_map.py      map a function over items in threads, results in order
    scan.py             read every image of a folder once before training
    bad_images.py       report unreadable images, or leave them out (--skip-bad)
    digests.py          the content digests of images
    duplicates.py       find files with the same content

May import: distributed, files, options, terminal, errors.
"""
