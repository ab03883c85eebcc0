"""The lines that a training run prints."""

from __future__ import annotations

import sys
import time
from typing import TextIO

import keras

from tfdml.callbacks import RetrievalEarlyStopping

_HEADER = "validation     step      loss    MAP@R      P@1   elapsed   left, at most"
_BAR_SECONDS = 0.2


class ProgressLines(keras.callbacks.Callback):
    """Callback that prints one line of less than 100 characters per validation.

    Keras prints all columns of the logs, and the time left only of the current epoch.

    Args:
        steps: int. Training steps per validation.
        validations: int. Maximum number of validations.
        early_stopping: `RetrievalEarlyStopping`, earlier in the list of callbacks. Its best validation gets a mark.
        stream: text stream. Default: standard output.
    """

    def __init__(
        self, steps: int, validations: int, early_stopping: RetrievalEarlyStopping, stream: TextIO | None = None
    ):
        super().__init__()
        self.steps = steps
        self.validations = validations
        self.early_stopping = early_stopping
        self.stream = stream
        self._began: float | None = None
        self._done = 0

    def on_train_begin(self, logs=None):
        self._began = None
        self._print(f"{_HEADER}   (* the best so far)")

    def on_epoch_begin(self, epoch, logs=None):
        if self._began is None:
            self._began, self._done = time.monotonic(), epoch

    def on_epoch_end(self, epoch, logs=None):
        elapsed = 0.0 if self._began is None else time.monotonic() - self._began
        left = elapsed / (epoch + 1 - self._done) * (self.validations - epoch - 1)
        mark = " * " if self.early_stopping.best_epoch == epoch else "   "
        loss, map_at_r, precision = (
            _number((logs or {}).get(name)) for name in ("loss", "val_map_at_r", "val_precision_at_1")
        )
        numbers = f"{loss}   {map_at_r}{mark}{precision}"
        self._print(f"{self._place(epoch, self.steps)} {numbers}  {_clock(elapsed):>8} {_clock(left):>15}")

    def _place(self, epoch, steps):
        return f"{f'{epoch + 1}/{self.validations}':>10} {epoch * self.steps + steps:8d}"

    def _print(self, line):
        print(line, file=self.stream or sys.stdout, flush=True)


class ProgressBar(ProgressLines):
    """`ProgressLines` for a terminal, with a bar for the steps in the last line.

    Args:
        *args: As for `ProgressLines`.
    """

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
        # Clears the rest of the bar.
        super()._print(f"\r\x1b[K{line}" if (self.stream or sys.stdout).isatty() else f"\r{line:<78}")


def _number(value):
    """A number of eight characters, or a dash for None."""
    if value is None:
        return f"{'–':>8}"
    text = f"{float(value):8.4f}"
    return text if len(text) == 8 else f"{float(value):8.1e}"


def _clock(seconds):
    """Seconds as `m:ss` or `h:mm:ss`."""
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{seconds:02d}" if hours else f"{minutes}:{seconds:02d}"
