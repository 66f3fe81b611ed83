"""Models of the Hugging Face Hub: which files of one are needed, and what the Hub says of each. ``huggingface_hub`` looks that up."""

from __future__ import annotations

import fnmatch
from collections.abc import Iterable

from cpm_gen.checkpoints.download_source import Source
from cpm_gen.config.arguments import one_line
from cpm_gen.errors import ConfigError, DownloadError

# What a model is opened with; programs (*.py), weights of other libraries and pictures are left out
_SMALL = (
    "config.json", "generation_config.json", "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json",
    "vocab.txt", "vocab.json", "merges.txt", "*.model", "latest_checkpointed_iteration.txt", "README.md", "LICENSE*",
)  # fmt: skip
_WEIGHTS = (  # the first kind that is there
    ("model.safetensors", "model-*.safetensors", "model.safetensors.index.json"),
    ("pytorch_model.bin", "pytorch_model-*.bin", "pytorch_model.bin.index.json"),
    ("mp_rank_*", "*/mp_rank_*"),
)


def sources(id: str) -> list[Source]:
    """The files of a model, weights first. Raises ConfigError without huggingface_hub, DownloadError."""
    try:
        import huggingface_hub as hub
        from huggingface_hub import errors
        from huggingface_hub.utils import build_hf_headers  # type: ignore[attr-defined]
    except ModuleNotFoundError:
        raise ConfigError(
            f"{id}: models of the Hugging Face Hub need huggingface_hub; in the checkout, pip install -c constraints.txt -e '.[hf]'"
        ) from None
    try:
        info = hub.HfApi().model_info(id, files_metadata=True, timeout=30)
    except errors.GatedRepoError:
        raise DownloadError(
            f"{id}: its owner asks you to accept terms on its page first, and to log in (HF_TOKEN)"
        ) from None
    except errors.RepositoryNotFoundError:
        raise DownloadError(f"{id}: there is no such model on the Hub, or it needs a login (HF_TOKEN)") from None
    except errors.OfflineModeIsEnabled:
        raise DownloadError(f"{id}: HF_HUB_OFFLINE is set") from None
    except Exception as error:  # its HTTP library's errors have changed with its versions
        said = one_line(error, 200) or type(error).__name__
        raise DownloadError(f"{id}: the Hub does not answer: {said}") from None
    keys = tuple((k, v) for k, v in build_hf_headers().items() if k.lower() == "authorization")
    found = {file.rfilename: file for file in info.siblings or ()}

    def checksum(name: str) -> tuple[str, str] | None:
        file = found[name]
        if file.lfs is not None:
            return "sha256", file.lfs.sha256
        return None if file.blob_id is None or file.size is None else ("git", file.blob_id)

    return [
        Source(hub.hf_hub_url(id, name, revision=info.sha), name, found[name].size, checksum(name), keys)
        for name in chosen(id, found)
    ]


def chosen(id: str, names: Iterable[str]) -> list[str]:
    """The files that are needed of all files of a model, weights first and config.json last. Raises DownloadError if it has no weights."""
    names = sorted(names)
    for patterns in _WEIGHTS:
        weights = _matching(names, patterns)
        if any(not name.endswith(".json") for name in weights):
            break
    else:
        other = [name for name in names if name.endswith((".h5", ".msgpack", ".onnx", ".gguf"))]
        has = f"it has {', '.join(other[:3])}, which is not read" if other else "it has no weights"
        raise DownloadError(f"{id}: {has}")
    small = [name for name in _matching(names, _SMALL) if name != "config.json"]
    return [*weights, *small, *(["config.json"] if "config.json" in names else [])]


def _matching(names: Iterable[str], patterns: Iterable[str]) -> list[str]:
    return [name for name in names if any(fnmatch.fnmatchcase(name, pattern) for pattern in patterns)]
