"""Pages and tables about a run, an evaluation or an image folder. Reads files; runs no model and no torch.

Files:
    gather.py                read a run folder and collect what its report shows
    facts.py                 the plain values that a report shows
    page.py                  the HTML page
    sections.py              the sections of the page (table SECTIONS)
    charts.py                curves and reliability diagram as SVG
    confusion.py             confusion matrix as table or picture
    markup.py                build HTML and SVG with all text escaped
    style.py                 the style sheet
    thumbnails.py            thumbnails of images
    val_predictions_file.py  read and write validation.jsonl
    evaluation.py            the tables and JSON of `tlkit evaluate`
    check.py                 the text and JSON of `tlkit check`

May import: training, data, files, options, terminal, errors.
"""
