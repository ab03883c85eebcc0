"""Profile of TensorFlow's operations."""

import pathlib
import tempfile

import tensorflow as tf
from tensorflow.tsl.profiler.protobuf import xplane_pb2


def operations(function):
    """Run a function once; returns (name, kind of operation, milliseconds) of every operation call."""
    with tempfile.TemporaryDirectory() as folder:
        options = tf.profiler.experimental.ProfilerOptions(host_tracer_level=3)
        with tf.profiler.experimental.Profile(folder, options):
            function()
        (path,) = pathlib.Path(folder).rglob("*.xplane.pb")
        space = xplane_pb2.XSpace.FromString(path.read_bytes())
    found = []
    for plane in space.planes:
        for line in plane.lines:
            for event in line.events:
                described = plane.event_metadata[event.metadata_id]
                # Other events, such as those of the executor, have no display name.
                if described.display_name:
                    name = described.name.removeprefix("StatefulPartitionedCall/")
                    found.append((name, described.display_name, event.duration_ps / 1e9))
    return found
