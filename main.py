"""Label the facial expressions of everybody in front of a camera, in a video, an image or a folder of images.

python main.py                       webcam 0
python main.py demo                  without a camera
python main.py photos/ --no-window   a line for every photo
"""

import argparse
import os
import signal
from pathlib import Path

from common import signals
from common.cli import HelpFormatter, Parser, end_process, explain_import_error, number, prepare_streams, warn

HERE = Path(__file__).resolve().parent
ENVIRONMENT = {  # of the libraries, unless it is set already
    "TF_CPP_MIN_LOG_LEVEL": "3",
    "OPENCV_LOG_LEVEL": "SILENT",
    "OPENCV_FFMPEG_LOGLEVEL": "-8",
    "OPENCV_IO_MAX_IMAGE_PIXELS": str(2**28),  # a small file may claim to be a huge image
    "OPENCV_FFMPEG_READ_ATTEMPTS": "1000000",  # packets of sound between two frames of a paused screen recording
    "OPENCV_VIDEOIO_MSMF_ENABLE_HW_TRANSFORMS": "0",  # else cameras take long on Windows
}


def parse_args(argv=None) -> argparse.Namespace:
    parser = Parser(
        prog="main.py",
        description="Label the facial expressions of everybody in front of a camera, in videos or in images.",
        epilog="Keys in the window: q or Esc quits, space pauses, n and b go to the next file and back, s saves a "
        "snapshot, p shows probabilities, m mirrors, h lists the keys.",
        formatter_class=HelpFormatter,
    )
    group = parser.add_argument_group("input")
    kinds = "camera number, video, image, folder, pattern in quotes, stream URL, or demo (default: camera 0)"
    group.add_argument("sources", nargs="*", metavar="SOURCE", help=kinds)
    group.add_argument(
        "--source", action="append", metavar="SOURCE", help="the same as SOURCE, opened first; may be repeated"
    )
    mirror = {"action": argparse.BooleanOptionalAction, "default": None}
    group.add_argument("--mirror", **mirror, help="mirror the image (default: only of a camera number)")
    group = parser.add_argument_group("output")
    output = "annotated copy: .webm (survives a crash), .mp4, of one image .png or .jpg; a folder: one of every file"
    group.add_argument("--output", metavar="FILE", help=output)
    log = ".csv or .json with a line for every face in every frame, and one for each image without a face"
    group.add_argument("--log", type=Path, metavar="FILE", help=log)
    timeline = ".png with the probabilities of the four faces seen longest over a video's time"
    group.add_argument("--timeline", type=Path, metavar="FILE", help=timeline)
    group.add_argument("--no-window", action="store_true", help="run without a window, as fast as possible")
    group = parser.add_argument_group("emotions")
    group.add_argument("--model", type=Path, help="network trained by train.py (default: the included one)")
    labels = "which labels to predict: what people see, or FER-2013's (default: ferplus, if the network has it)"
    group.add_argument("--labels", choices=("ferplus", "fer2013"), help=labels)
    group.add_argument(
        "--threshold", type=number(0, 1), default=0.35,
        help="below this probability the label is uncertain; 99.6 %% of PublicTest's faces reach 0.35, and on 86 %% of "
        "them the label is the most frequent of ten people's votes; at 0.5, 97 %% reach it and 88 %% of these agree",
    )  # fmt: skip
    seconds = {"type": number(0, 3600), "default": 0.18, "metavar": "SECONDS"}
    group.add_argument("--smoothing", **seconds, help="time constant of a face's probabilities and label; 0: none")
    group.add_argument("--probabilities", action="store_true", help="show seven bars for each face")
    group = parser.add_argument_group("faces")
    cascade = HERE / "haarcascade_frontalface_default.xml"
    group.add_argument("--cascade", type=Path, default=cascade, help="Haar cascade")
    group = parser.add_argument_group("help")
    group.add_argument("--check", action="store_true", help="check this machine and suggest fixes")
    args = parser.parse_intermixed_args(argv)
    args.sources = [*(args.source or []), *args.sources] or ["0"]
    return args


def main(argv=None) -> int:
    """Return the exit status."""
    args = parse_args(argv)
    for name, value in ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    try:  # not at the top: OpenCV and NumPy take long, and --help needs neither
        from live import app, check
        from model import UserError
    except Exception as error:  # a broken package can raise any kind
        warn(f"main.py: {explain_import_error(error, live=True)}")
        return 2

    try:
        if args.check:
            return 0 if check.check(args.cascade, args.model) else 2
        signals.handle_stops(signals.interrupt_once, instead_of=[signals.leave])  # there will be files to finish
        app.run(args)
        return 0
    except BrokenPipeError:  # the reader has gone, as after `| head`
        return 0
    except (UserError, OSError) as error:  # OSError: no permission, or a name that is too long
        warn(f"main.py: {error}")
    except ImportError as error:
        warn(f"main.py: {explain_import_error(error, live=True)}")
    except KeyboardInterrupt:
        signals.handle_stops(signal.SIG_IGN, instead_of=[signals.interrupt_once])  # more of them change nothing
        return 130
    return 2


if __name__ == "__main__":
    prepare_streams()
    signals.handle_stops(signals.leave)
    end_process(main())
