"""tlkit predict: paths in, one record for each out, in input order, as soon as it is ready."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import closing
from itertools import islice

from tlkit.data.decoders import open_decoder, worker_count
from tlkit.data.listing import LeftOut
from tlkit.data.view import View
from tlkit.distributed.env import require_single_process
from tlkit.errors import UsageError
from tlkit.inference.failure_report import FailureReport
from tlkit.inference.input_paths import LIST, no_inputs, read_inputs, read_table_paths, waits_for_input
from tlkit.inference.open import open_predictor
from tlkit.inference.prediction import loader, predict_batch
from tlkit.inference.stream import stream
from tlkit.inference.writers import WRITERS, CsvWriter, open_output
from tlkit.options import PredictOptions
from tlkit.options.data import is_table
from tlkit.terminal import print_error


def predict(options: PredictOptions) -> int:
    """Write a record for each input. Returns the exit status: 3 if some inputs failed, 4 if all failed.

    Raises MissingInputError if there is no input, unless --allow-empty is given.
    """
    require_single_process("predict")
    paths = options.paths or [LIST]
    if not options.paths and sys.stdin.isatty():
        problem = "is missing; there are 0 inputs: name images or folders, or pipe a list of paths in"
        raise UsageError("PATH", problem, "Try 'tlkit predict --help'.")
    ranked = options.top_k is not None
    writer = CsvWriter(safe=True) if options.csv_safe else WRITERS[options.format]
    left_out = LeftOut()
    report = FailureReport(report_failures=options.format != "jsonl")
    workers = worker_count(options.workers)
    if is_table(paths[0]):
        columns, named = read_table_paths(paths[0], options)
        inputs: Iterator[str] = iter(named)
    else:
        columns, inputs = [], read_inputs(paths, options.null, options.crlf, left_out)
    rest = islice(enumerate(inputs), options.resume_from, None)
    with open_output(options.output) as write, closing(open_decoder(workers)) as decoder:
        decoder.start()  # its processes start while the model is loaded
        model = open_predictor(options)
        view = View(model.preprocessing, options.max_pixels, truncated=options.allow_truncated)
        if not options.resume_from:  # the output that is continued has a header
            write(writer.header(ranked, columns))
        full = not waits_for_input(paths)
        for batch in stream(loader(decoder, view), rest, workers, options.batch_size, full):
            predictions, error = predict_batch(model, batch, options.top_k or 1)
            report.add(predictions)
            write(b"".join(writer.record(prediction, ranked) for prediction in predictions))
            if error:
                raise error
        if str(left_out):
            print_error(f"tlkit predict: left out: {left_out}")
        # With --resume-from, nothing left is the end of a job that is done.
        if not (report.inputs or options.resume_from or options.allow_empty):
            raise no_inputs(paths)
    report.conclude(options.summary, options.output)
    return report.exit_status
