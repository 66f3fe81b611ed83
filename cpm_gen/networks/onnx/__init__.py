"""The network as an ONNX file: export, and a backend that runs such a file in onnxruntime."""
