"""`train.py --distribute`: one training on all GPUs of a machine, or, on JAX, on all devices of several machines."""

import contextlib
import os
from collections.abc import Callable
from dataclasses import dataclass

import keras

from model import UserError, first_line

SEVERAL_PROCESSES = "KERAS_DISTRIBUTION_JOB_ADDRESSES"  # as keras.distribution.initialize documents it


@dataclass
class Share:
    """The part of this process in a training; by default, all of it on one device."""

    process: int = 0  # number of this process; process 0 alone leaves files
    processes: int = 1
    devices: int = 1  # of all processes together; each takes the same number of faces of a batch
    scope: Callable = contextlib.nullcontext  # in which a model is built
    feed: Callable = lambda make_batches: make_batches()  # from what makes the batches to what `fit` takes

    def of(self, faces, targets) -> tuple:
        """Return this process's slice of faces and targets; a rest that the devices cannot divide is left out."""
        count = len(faces) // self.devices * self.devices // self.processes
        rows = slice(self.process * count, (self.process + 1) * count)
        return faces[rows], keras.tree.map_structure(lambda part: part[rows], targets)

    def of_batches(self, make_batches: Callable):
        """Return, for `fit`, this process's slice of every batch."""
        return self.feed(lambda: (self.of(*batch) for batch in make_batches()))


def distribute(seed: int, batch_size: int) -> Share:
    """Join the other processes, if the environment names any; spread what Keras does from now on over all devices.

    TensorFlow takes the GPUs of this machine (without any, its CPUs), JAX all devices of all processes.
    """
    backend, several = keras.backend.backend(), SEVERAL_PROCESSES in os.environ
    if backend == "jax":
        keras.utils.set_random_seed(seed)  # the same weights in all processes
        share = _distribute_jax(several)
    elif backend == "tensorflow" and not several:
        share = _distribute_tensorflow()
    else:
        what = "with several processes " if several else ""
        raise UserError(
            f"--distribute {what}does not work on {backend}. Set KERAS_BACKEND=jax"
            + (f", or unset {SEVERAL_PROCESSES}." if several else " or tensorflow, or leave --distribute out.")
        )
    if batch_size % share.devices:
        raise UserError(
            f"--batch-size {batch_size} cannot be divided among {share.devices} devices. Use a multiple of that."
        )
    return share


def _distribute_tensorflow() -> Share:
    import tensorflow as tf

    devices = tf.config.list_logical_devices("GPU") or tf.config.list_logical_devices("CPU")
    strategy = tf.distribute.MirroredStrategy([device.name for device in devices])

    def feed(make_batches: Callable):
        # Keras starts reading twice under a strategy; a plain generator would have lost its first batches by then.
        def spec(part):
            return tf.TensorSpec((None, *part.shape[1:]), tf.float32)

        signature = keras.tree.map_structure(spec, next(make_batches()))
        return tf.data.Dataset.from_generator(make_batches, output_signature=signature)

    return Share(devices=len(devices), scope=strategy.scope, feed=feed)


def _distribute_jax(several: bool) -> Share:
    import jax

    if several:
        try:
            keras.distribution.initialize()  # reads the addresses, the number of processes and this one's from there
        except (LookupError, RuntimeError, TypeError, ValueError) as error:
            raise UserError(
                f"The processes that {SEVERAL_PROCESSES} names did not meet ({first_line(error)}). Give every process "
                "the host:port of the first, KERAS_DISTRIBUTION_NUM_PROCESSES and its own "
                "KERAS_DISTRIBUTION_PROCESS_ID."
            ) from error
    # Every process cuts its own share out of each batch; Keras could do it only with TensorFlow's help.
    keras.distribution.set_distribution(keras.distribution.DataParallel(auto_shard_dataset=False))
    return Share(jax.process_index(), jax.process_count(), jax.device_count())


def leave(share: Share) -> None:
    """Leave the other processes after the training: process 0 alone does the rest, on one device."""
    if keras.backend.backend() == "jax":
        import jax

        keras.distribution.set_distribution(None)
        if share.processes > 1:
            jax.distributed.shutdown()
