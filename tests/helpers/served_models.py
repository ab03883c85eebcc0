"""What TensorFlow Serving does with a SavedModel and a request, without its server.

The server (tensorflow_serving/servables/tensorflow and util/json_tensor.cc) loads the SavedModel into a session, looks
up the signature, checks the names and types of inputs, and runs the session. Its REST interface converts JSON into the
same inputs and the outputs into JSON.
"""

import base64
import json
import pathlib

import numpy as np
import tensorflow as tf
from tensorflow.core.protobuf import saved_model_pb2


class ServedModel:
    """SavedModel in a session, as the server has it.

    Args:
        path: Folder of one version of the model.
    """

    def __init__(self, path):
        content = saved_model_pb2.SavedModel()
        content.ParseFromString(pathlib.Path(path, "saved_model.pb").read_bytes())
        (graph,) = [graph for graph in content.meta_graphs if "serve" in graph.meta_info_def.tags]
        self.signatures = dict(graph.signature_def)
        self._session = tf.compat.v1.Session(graph=tf.Graph())
        with self._session.graph.as_default():
            tf.compat.v1.saved_model.loader.load(self._session, ["serve"], str(path))

    def run(self, signature_name, inputs):
        """Return the outputs of a signature, a dict of arrays; `inputs` are arrays by name."""
        signature = self.signatures[signature_name or "serving_default"]
        if set(inputs) != set(signature.inputs):
            raise ValueError(f"Inputs {sorted(inputs)} differ from those of the signature, {sorted(signature.inputs)}.")
        feeds = {}
        for name, value in inputs.items():
            information = signature.inputs[name]
            expected, received = tf.as_dtype(information.dtype), tf.as_dtype(value.dtype)
            if received != expected and not (expected == tf.string and value.dtype == object):
                raise ValueError(f"Input {name} has the type {received.name}; the signature has {expected.name}.")
            tf.TensorShape(information.tensor_shape).assert_is_compatible_with(value.shape)
            feeds[information.name] = value
        fetches = {name: information.name for name, information in signature.outputs.items()}
        return self._session.run(fetches, feeds)

    def predict(self, request):
        """Answer a `PredictRequest`; both go through their wire format."""
        from tensorflow_serving.apis import predict_pb2

        request = predict_pb2.PredictRequest.FromString(request.SerializeToString())
        inputs = {name: tf.make_ndarray(value) for name, value in request.inputs.items()}
        response = predict_pb2.PredictResponse()
        response.model_spec.CopyFrom(request.model_spec)
        for name, value in self.run(request.model_spec.signature_name, inputs).items():
            response.outputs[name].CopyFrom(tf.make_tensor_proto(value))
        return predict_pb2.PredictResponse.FromString(response.SerializeToString())

    def rest(self, body):
        """Answer the JSON body of a POST request to `/v1/models/NAME:predict` with JSON."""
        request = json.loads(body)
        name = request.get("signature_name", "serving_default")
        types = {key: tf.as_dtype(info.dtype) for key, info in self.signatures[name].inputs.items()}
        if ("instances" in request) == ("inputs" in request):
            raise ValueError("A request has either instances (rows) or inputs (columns).")
        if "inputs" in request:
            columns = request["inputs"]
            if not _is_named(columns):
                columns = {next(iter(types)): columns}
        else:
            rows = [row if _is_named(row) else {next(iter(types)): row} for row in request["instances"]]
            columns = {key: [row[key] for row in rows] for key in rows[0]}
        outputs = self.run(name, {key: _array(value, types[key]) for key, value in columns.items()})
        outputs = {key: value.tolist() for key, value in outputs.items()}
        if "inputs" in request:
            return json.dumps({"outputs": next(iter(outputs.values())) if len(outputs) == 1 else outputs})
        rows = [dict(zip(outputs, values)) for values in zip(*outputs.values())]
        return json.dumps({"predictions": [next(iter(row.values())) for row in rows] if len(outputs) == 1 else rows})


def _is_named(value):
    return isinstance(value, dict) and set(value) != {"b64"}


def _array(value, dtype):
    """Return JSON as an array; objects of the single key "b64" are bytes."""
    if dtype == tf.string:
        return np.array(_decoded(value), object)
    return np.array(value, dtype.as_numpy_dtype)


def _decoded(value):
    if isinstance(value, list):
        return [_decoded(item) for item in value]
    return base64.b64decode(value["b64"], validate=True) if isinstance(value, dict) else value.encode()
