"""Peer engines for ``benchmarks/decode.py``: one adapter each, all with the same weights.

An adapter needs its engine and numpy, but not cpm_gen. It gets the weights as ``.npy`` files (:mod:`peers.weights`) and token ids over a
pipe (:mod:`peers.worker`, :mod:`peers.client`).
"""

# name -> (module, class); imported only in the process that runs the engine
ENGINES = {
    "ours": ("peers.ours", "Ours"),
    "hf-eager": ("peers.huggingface", "Eager"),
    "hf-sdpa": ("peers.huggingface", "Sdpa"),
    "llama.cpp": ("peers.llamacpp", "LlamaCpp"),
    "ctranslate2": ("peers.ct2", "CTranslate2"),
    "openvino": ("peers.ov", "OpenVino"),
    "onnxruntime": ("peers.ort", "OnnxRuntime"),
}
