"""Triton's own schema of `config.pbtxt`: what it does not know, it refuses."""

import warnings
from pathlib import Path

_SCHEMA = Path(__file__).parent / "api" / "triton_model_config.binpb"


def parse(text):
    """Return a model configuration as Triton reads it."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of protobuf's own C types
        from google.protobuf import descriptor_pb2, message_factory, text_format

        files = descriptor_pb2.FileDescriptorSet.FromString(_SCHEMA.read_bytes()).file
        kinds = message_factory.GetMessages(files)
        return text_format.Parse(text, kinds["inference.ModelConfig"]())
