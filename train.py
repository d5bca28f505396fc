"""Train the emotion network on FER-2013; evaluate or export a trained one.

python train.py --data PATH      PATH: fer2013.csv, a folder with it or with train/ and test/, or Kaggle's .zip
python train.py "@recipes/cnn.txt" --data PATH --output cnn.keras      with the options of a recipe
python train.py --resume         continue the latest run after Ctrl-C, a crash or a power cut
python train.py --data PATH --evaluate    score best_model.keras and write a report on it, changing nothing
python train.py --data PATH --export      write best_model.tflite and best_model.int8.tflite, for phones
"""

import contextlib
import errno
import io
import logging
import os
import signal
import sys

from common import signals
from common.cli import end_process, explain_import_error, prepare_streams, warn
from training.options import parse_args


def main(argv=None) -> int:
    """Train, evaluate or export, as the options say; return the exit status."""
    args = parse_args(argv)  # before the imports, so that --help and wrong options need not wait for them
    # TensorFlow leaves oneDNN off on many processors, AMD's among them, and trains a third slower there.
    os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "1")
    os.environ.setdefault("OPENCV_IO_MAX_IMAGE_PIXELS", str(2**26))  # a small file may claim to be a huge image
    try:
        from model import UserError, import_keras

        import_keras()  # first: it hides what TensorFlow prints meanwhile
        # Short phases call each network a few times only, which TensorFlow takes for a mistake ("retracing").
        logging.getLogger("tensorflow").setLevel(logging.ERROR)
        from data import load_fer2013
        from training.checkpoints import open_run
        from training.distribution import Share, distribute, leave
        from training.finish import evaluate_or_export, finish
        from training.loop import OutOfMemory, choose_faces, fit
    except Exception as error:  # a broken package can raise any kind
        reason = error if type(error).__module__ == "model" else explain_import_error(error)
        warn(f"train.py: {reason}")
        return 2

    run = None
    try:
        signals.handle_stops(signals.interrupt, instead_of=[signals.leave])  # from here on, there is something to keep
        if args.evaluate or args.export:
            evaluate_or_export(args)
            return 0

        run = open_run(args)
        options = run.options
        share = distribute(options.seed, options.batch_size) if options.distribute else Share()
        if share.process > 0:  # it trains along, but leaves no files and prints nothing
            run, sys.stdout = run.shadow(), io.StringIO()
        elif run.folder:
            run.lock()
        dataset = load_fer2013(options.data, options.votes)
        print(dataset.summary())
        training = choose_faces(dataset, options)
        fit(run, training, dataset, share)
        if options.distribute:
            leave(share)
        if share.process == 0:
            finish(run, dataset, training)
        return 0
    except (OSError, UserError) as error:  # what the user can fix: a file, an option, a full disk or memory
        warn(f"train.py: {explain(error)}")
        if run and run.folder and (not run.state or isinstance(error, OSError | OutOfMemory)):
            with contextlib.suppress(OSError):  # stdout may be what failed
                print(run.explain_stop())
        return 2
    except KeyboardInterrupt:
        signals.handle_stops(signal.SIG_IGN, instead_of=[signals.interrupt])  # a third and fourth one change nothing
        with contextlib.suppress(OSError):  # the terminal may be closed
            print(f"\n{run.explain_stop()}" if run and run.folder else "\nStopped.", flush=True)
        return 130
    finally:
        if run:
            run.unlock()


def explain(error: Exception) -> str:
    """Return a sentence about what stopped a training; a full disk has several errors, and libraries wrap them."""
    full = {errno.ENOSPC, errno.EFBIG, getattr(errno, "EDQUOT", errno.ENOSPC)}
    if isinstance(error, OSError) and (error.errno in full or "errno = 28" in str(error)):
        place, reason = error.filename or "the folder of the training", str(error).partition("\n")[0]
        return f"The disk with {place} is full, or your share of it ({reason}). Free some space, then go on."
    return str(error)


if __name__ == "__main__":
    prepare_streams()
    signals.handle_stops(signals.leave)
    end_process(main())
