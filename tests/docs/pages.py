"""The pages whose commands are run, and the commands that are not, each with its reason."""

from fnmatch import fnmatchcase

TUTORIALS = (
    "docs/tutorials/five-minutes.md",
    "docs/tutorials/a-song.md",
    "docs/tutorials/a-novel.md",
    "docs/tutorials/your-own-model.md",
    "docs/tutorials/the-service.md",
)
FOLLOWED = (*TUTORIALS, "docs/batch.md")  # read from the first line to the last, in a folder with nothing else
PAGES = ("README.md", *FOLLOWED)
TRANSLATED = (*PAGES, "docs/coming-from.md")  # the same commands in Chinese pages: one run is for both

_INSTALLS = "CI installs from a clean checkout with the README's first command"
_DOWNLOADS = "downloads; tests/cli/test_download.py runs it against a server of its own"

NOT_RUN: dict[str, dict[str, str]] = {  # by page; * stands for any characters
    "README.md": {
        "cpm-gen download gpt2-chinese-lyric": _DOWNLOADS,
        "cpm-gen lyric": "a session in a terminal; tests/cli/test_interactive.py has one",
        "pip install *": _INSTALLS,
        "deepspeed *": "needs GPUs; tests marked deepspeed run the launcher on CPUs",
        "bash scripts/generate_novel.sh *": "a synopsis; tests/process/test_readme.py runs the four scripts",
    },
    "docs/tutorials/five-minutes.md": {
        "python3 -m venv *": _INSTALLS,
        ".venv/bin/pip install *": _INSTALLS,
        "source .venv/bin/activate": "the tests' environment is active already",
    },
    "docs/tutorials/your-own-model.md": {
        "pip install *": _INSTALLS,
        "cpm-gen download gpt2-chinese-lyric": _DOWNLOADS,
        'cpm-gen lyric "最美的不是下雨天" --model gpt2-chinese-lyric': "needs that download",
    },
    "docs/batch.md": {
        "python3 -m venv *": _INSTALLS,
        "* --replicas 8 *": "needs eight GPUs; the line above it starts two processes on a CPU",
        "* --ray": "needs the extra ray and a cluster's nodes; tests/batch/test_ray_data.py starts one on this machine",
    },
}


def reason(page: str, words: str) -> str | None:
    """Why a command of a page is not run; None for one that is."""
    return next((why for pattern, why in NOT_RUN.get(page, {}).items() if fnmatchcase(words, pattern)), None)
