"""What a training run prints."""

from __future__ import annotations

import sys
import time

import keras

_HEADER = "validation     step      loss    MAP@R      P@1   elapsed   left, at most"
_BAR_SECONDS = 0.2


class ProgressLines(keras.callbacks.Callback):
    """Prints a header, and a line of less than 100 columns for each of `validations` after `steps` steps.

    Keras' own lines have every column of the logs, and the progress of the epoch alone. The best validation so far, of
    the `RetrievalEarlyStopping` before this callback, is marked. The stream is standard output by default.
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
        place = self._place(epoch, self.steps)
        self._print(f"{place} {numbers} {_clock(elapsed):>8} {_clock(left):>15}")

    def _mark(self, epoch):
        return " * " if self.early_stopping.best_epoch == epoch else "   "

    def _place(self, epoch, steps):
        return f"{f'{epoch + 1}/{self.validations}':>10} {epoch * self.steps + steps:8d}"

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
        bar = "=" * (20 * (batch + 1) // self.steps)
        text = f"{self._place(self._epoch, batch + 1)} {_number((logs or {}).get('loss'))}   [{bar:20}]"
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
