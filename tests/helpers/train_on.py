"""Run `train.py` with the backbone "tiny" on two virtual devices: python train_on.py ARGUMENT."""

import os
import sys

os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"

import tensorflow as tf  # noqa: E402
import tiny_backbone  # noqa: E402

from tfdml.experiments import train_main  # noqa: E402

if __name__ == "__main__":
    if "mirrored" in sys.argv:
        device = tf.config.LogicalDeviceConfiguration()
        tf.config.set_logical_device_configuration(tf.config.list_physical_devices("CPU")[0], [device] * 2)
    with tiny_backbone.registered():
        sys.exit(train_main(sys.argv[1:]))
