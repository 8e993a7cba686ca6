"""From a PyTorch module to ONNX files: trace and fold, calibrate, plan, emit."""
