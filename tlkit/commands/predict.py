"""tlkit predict: paths in, one record for each out, in input order, as soon as it is ready."""

from __future__ import annotations

import sys
from contextlib import closing
from itertools import islice

from tlkit.data.decoders import open_decoder, worker_count
from tlkit.data.listing import LeftOut
from tlkit.data.view import View
from tlkit.distributed.env import require_single_process
from tlkit.errors import DONE, SOME_INPUTS_FAILED, UsageError
from tlkit.inference.failure_report import FailureReport
from tlkit.inference.input_paths import LIST, read_inputs, waits_for_input
from tlkit.inference.open import open_predictor
from tlkit.inference.prediction import loader, predict_batch
from tlkit.inference.stream import stream
from tlkit.inference.writers import WRITERS, open_output
from tlkit.options import PredictOptions
from tlkit.terminal import print_error


def predict(options: PredictOptions) -> int:
    """Write a record for each input. Returns the exit status: 3 if some inputs failed."""
    require_single_process("predict")
    if not options.paths and sys.stdin.isatty():
        problem = "is missing; name images or folders, or pipe a list of paths in"
        raise UsageError("PATH", problem, "Try 'tlkit predict --help'.")
    ranked = options.top_k is not None
    writer = WRITERS[options.format]
    left_out = LeftOut()
    report = FailureReport(report_failures=options.format != "jsonl")
    workers = worker_count(options.workers)
    with open_output(options.output) as write, closing(open_decoder(workers)) as decoder:
        decoder.start()  # its processes start while the model is loaded
        model = open_predictor(options)
        view = View(model.preprocessing, options.max_pixels, truncated=options.allow_truncated)
        inputs = enumerate(read_inputs(options.paths or [LIST], options.null, options.crlf, left_out))
        rest = islice(inputs, options.resume_from, None)
        if not options.resume_from:  # the output that is continued has a header
            write(writer.header(ranked))
        full = not waits_for_input(options.paths or [LIST])
        for batch in stream(loader(decoder, view), rest, workers, options.batch_size, full):
            predictions, error = predict_batch(model, batch, options.top_k or 1)
            report.add(predictions)
            write(b"".join(writer.record(prediction, ranked) for prediction in predictions))
            if error:
                raise error
    if str(left_out):
        print_error(f"tlkit predict: left out: {left_out}")
    report.conclude(options.summary)
    return SOME_INPUTS_FAILED if report.errors else DONE
