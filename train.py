"""Train the emotion network on FER-2013; evaluate or export a trained one.

python train.py --data PATH      PATH: fer2013.csv, a folder with it or with train/ and test/, or Kaggle's .zip
python train.py @recipes/cnn.txt --data PATH        with the options of a recipe
python train.py --resume         continue the latest run after Ctrl-C, a crash or a power cut
python train.py --data PATH --evaluate    score best_model.keras and write a report on it, changing nothing
python train.py --data PATH --export      write best_model.tflite and best_model.int8.tflite, for phones
"""

import io
import logging
import os
import sys

from common.cli import explain_import_error, prepare_streams
from training.options import parse_args, shell_command


def main(argv=None) -> int:
    """Train, evaluate or export, as the options say; return the exit status."""
    args = parse_args(argv)  # before the imports, so that --help and wrong options need not wait for them
    # TensorFlow leaves oneDNN off on many processors, AMD's among them, and trains a third slower there.
    os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "1")
    try:
        from model import UserError, import_keras, load_classifier

        import_keras()  # first: it hides what TensorFlow prints meanwhile
        # Short phases call each network a few times only, which TensorFlow takes for a mistake ("retracing").
        logging.getLogger("tensorflow").setLevel(logging.ERROR)
        from data import load_fer2013
        from training.checkpoints import open_run
        from training.distribution import Share, distribute, leave
        from training.export import export
        from training.finish import evaluate, finish
        from training.loop import OutOfMemory, choose_faces, fit
    except (ImportError, ValueError) as error:
        reason = explain_import_error(error) if isinstance(error, ImportError) else error
        print(f"train.py: {reason}", file=sys.stderr)
        return 2

    run = None
    try:
        if args.evaluate or args.export:
            classifier = load_classifier(args.model)  # an error in it is reported before the data is read
            dataset = load_fer2013(args.options.data, args.options.votes)
            print(dataset.summary())
            if args.evaluate:
                evaluate(args.model, classifier, dataset, args.split)
            else:
                print(f"Converting {args.model} and comparing, about a minute ...", flush=True)
                print(export(classifier, args.model, dataset, args.export))
                print(f"{args.export} is ready: {shell_command('main.py', '--model', args.export)}")
            return 0

        run = open_run(args)
        options = run.options
        share = distribute(options.seed, options.batch_size) if options.distribute else Share()
        if share.process > 0:  # it trains along, but leaves no files and prints nothing
            run, sys.stdout = run.shadow(), io.StringIO()
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
        print(f"train.py: {error}", file=sys.stderr)
        if run and run.folder and isinstance(error, OSError | OutOfMemory):
            print(run.explain_stop())
        return 2
    except KeyboardInterrupt:
        print(f"\n{run.explain_stop()}" if run and run.folder else "\nStopped.")
        return 130


def end_process(status: int) -> None:
    """End Python with an exit status; after Ctrl-C at once, for everything is kept and TensorFlow might not hurry.

    A thread of TensorFlow's that tunes how batches are read ahead sleeps up to a minute and can miss the end.
    """
    if status == 130 and "tensorflow" in sys.modules:
        sys.stdout.flush()
        os._exit(status)
    sys.exit(status)


if __name__ == "__main__":
    prepare_streams()
    end_process(main())
