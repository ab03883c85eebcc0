"""What a training run prints."""

from __future__ import annotations

import sys
import time

import keras

_HEADER = "validation     step      loss    MAP@R      P@1   elapsed   left, at most"
_BAR_SECONDS = 0.2


class ProgressLines(keras.callbacks.Callback):
    """Prints a header, and a line of less than 100 columns for each validation.

    Keras' own lines have every column of the logs and the progress of the epoch alone.

    Args:
        steps: Training steps between two validations.
        validations: The largest number of validations.
        early_stopping: The `RetrievalEarlyStopping` of the training, before this one among the callbacks; the best
            validation so far is marked.
        stream: Where to; standard output by default.
    """

    def __init__(self, steps, validations, early_stopping, stream=None):
        super().__init__()
        self.steps = steps
        self.validations = validations
        self.early_stopping = early_stopping
        self.stream = stream
        self._began = self._done = None

    def on_train_begin(self, logs=None):
        self._began = None
        self._print(f"{_HEADER}   (* the best so far)")

    def on_epoch_begin(self, epoch, logs=None):
        if self._began is None:
            self._began, self._done = time.monotonic(), epoch

    def on_epoch_end(self, epoch, logs=None):
        elapsed = time.monotonic() - self._began
        left = elapsed / (epoch + 1 - self._done) * (self.validations - epoch - 1)
        numbers = "".join(
            f"{_number((logs or {}).get(name))}{mark}"
            for name, mark in (("loss", "   "), ("val_map_at_r", self._mark(epoch)), ("val_precision_at_1", " "))
        )
        place = f"{epoch + 1:d}/{self.validations:d}"
        self._print(f"{place:>10} {(epoch + 1) * self.steps:8d} {numbers} {_clock(elapsed):>8} {_clock(left):>15}")

    def _mark(self, epoch):
        return " * " if self.early_stopping.best_epoch == epoch else "   "

    def _print(self, line):
        print(line, file=self.stream or sys.stdout, flush=True)


class ProgressBar(ProgressLines):
    """The same for a terminal, with the step in a last line that is written over."""

    def on_epoch_begin(self, epoch, logs=None):
        super().on_epoch_begin(epoch, logs)
        self._epoch, self._shown = epoch, 0.0

    def on_train_batch_end(self, batch, logs=None):
        now = time.monotonic()
        if now - self._shown < _BAR_SECONDS and batch + 1 < self.steps:
            return
        self._shown = now
        share = (batch + 1) / self.steps
        full = int(20 * share)
        loss = _number((logs or {}).get("loss"))
        place = f"{self._epoch + 1:d}/{self.validations:d}"
        text = f"{place:>10} {self._epoch * self.steps + batch + 1:8d} {loss}   [{'=' * full}{' ' * (20 - full)}]"
        print(f"\r{text}", end="", file=self.stream or sys.stdout, flush=True)

    def _print(self, line):
        # Clears what the bar has left.
        super()._print(f"\r\x1b[K{line}" if (self.stream or sys.stdout).isatty() else f"\r{line:<78}")


def _number(value):
    """A number of eight columns; a dash if there is none."""
    if value is None:
        return f"{'–':>8}"
    value = float(value)
    text = f"{value:8.4f}"
    return text if len(text) == 8 else f"{value:8.1e}"


def _clock(seconds):
    """Seconds as `m:ss` or `h:mm:ss`."""
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{seconds:02d}" if hours else f"{minutes}:{seconds:02d}"
