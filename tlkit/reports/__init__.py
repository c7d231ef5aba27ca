"""Pages and tables about a run, an evaluation or an image folder. Reads files; runs no model and no torch.

Files:
    gather.py                read a run folder and collect what its report shows
    facts.py                 the plain values that a report shows
    findings.py              problems that the figures show, and the commands that help
    page.py                  the HTML page
    sections.py              the header of the page and its sections (table SECTIONS)
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
