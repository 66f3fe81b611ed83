"""Peer engines for ``benchmarks/decode.py``: one adapter each, all holding the same weights.

An adapter needs its engine and numpy, nothing of cpm_gen: the weights reach it as plain ``.npy`` files (:mod:`peers.weights`), the
work as token ids over a pipe (:mod:`peers.worker`, :mod:`peers.client`).
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
