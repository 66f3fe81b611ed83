"""Record works.db and expected.json with the code that stored works as HTTP bodies (commit 1eaf9c8).

Write the model with today's code (``python -m tests.tiny_model tiny``), then run this with the Python of a checkout of that commit:
``python record.py tiny OUTPUT_FOLDER``. The service is ended while works are half written; a copy of the database is then finished by
the same code, and its texts are what every later version has to write.
"""

import json
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import httpx

FINISHED = {
    "prompt": "明月几时有",
    "style": "lyric",
    "max_new_tokens": 40,
    "seed": 5,
    "stop_at_eod": False,
    "metadata": {"title": "finished"},
}
PAUSED = {
    "prompt": "话说天下大势，",
    "style": "novel",
    "max_new_tokens": 110,
    "seed": 2**53 - 1,
    "temperature": 0.8,
    "top_k": 50,
    "banned_ids": [10, 12],
    "metadata": {"title": "paused"},
}
HALF = {
    "prompt": ["从前有座山，", "后来呢？"],
    "style": "novel",
    "n": 2,
    "seed": 11,
    "max_new_tokens": 120,
    "temperature": 0.9,
    "top_p": 0.95,
    "repetition_penalty": 1.1,
    "presence_penalty": 0.3,
    "frequency_penalty": 0.1,
    "no_repeat_ngram": 4,
    "window": {"hop": 20, "boundary": "sentence", "keep": 3},
    "metadata": {"title": "half"},
}
RECOMPUTE = {
    "prompt": "春风又绿江南岸",
    "style": "plain",
    "decoder": "recompute",
    "max_new_tokens": 90,
    "temperature": 0,
    "repetition_penalty": 1.3,
    "stop": ["不会出现的停止词"],
    "seed": 3,
    "metadata": {"title": "recompute"},
}
DEFAULTS = {
    "prompt": "长" * 200,
    "style": "novel",
    "truncate_prompt": True,
    "max_new_tokens": 100,
    "stop_at_eod": True,
    "min_new_tokens": 5,
    "min_p": 0.02,
    "seed": 14,
    "metadata": {"title": "defaults"},
}


class Service:
    def __init__(self, model: Path, database: Path) -> None:
        flags = [
            "--port",
            "0",
            "--window-limit",
            "64",
            "--work-places",
            "8",
            "--threads",
            "1",
            "--database",
            str(database),
            "--model",
            str(model),
        ]
        self.process = subprocess.Popen(
            [sys.executable, "-m", "cpm_gen", "serve", *flags],
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONUNBUFFERED": "1", "OMP_NUM_THREADS": "1"},
        )
        url = self.process.stdout.readline().split()[-1]
        self.client = httpx.Client(base_url=url, timeout=60, trust_env=False)

    def create(self, body: dict) -> str:
        response = self.client.post("/works", json=body)
        assert response.status_code == 201, response.text
        return response.json()["id"]

    def look(self, id: str) -> dict:
        return self.client.get(f"/works/{id}", params={"token_ids": True}).json()

    def end(self) -> None:
        self.process.send_signal(signal.SIGTERM)
        assert self.process.wait(60) == 0


def written(work: dict) -> list[int]:
    return [len(c["token_ids"]) for c in work["choices"]]


def attempt(model: Path, folder: Path) -> bool:
    service = Service(model, folder / "works.db")
    finished = service.create(FINISHED)
    while service.look(finished)["state"] != "finished":
        time.sleep(0.02)
    recompute, paused, half = service.create(RECOMPUTE), service.create(PAUSED), service.create(HALF)
    while written(service.look(paused))[0] < 10:
        pass
    response = service.client.post(f"/works/{paused}/pause").json()
    service.create(DEFAULTS)
    while min(written(service.look(half))) < 60:  # their windows have moved
        pass
    service.end()
    with sqlite3.connect(folder / "works.db") as database:
        rows = database.execute(
            "SELECT json_extract(metadata, '$.title'), state, tokens, most FROM works JOIN texts ON work = works.id"
        ).fetchall()
    database.close()
    print(rows)
    half = [row for row in rows if row[0] == "half"]
    paused = [row for row in rows if row[0] == "paused"]
    recompute = [row for row in rows if row[0] == "recompute"]
    return (
        response["state"] == "paused" and 0 < paused[0][2] < 110
        and all(row[1] == "queued" and 0 < row[2] < 120 for row in half)
        and all(row[1] == "queued" and 0 < row[2] < 90 for row in recompute)
    )  # fmt: skip


def main(model: Path, output: Path) -> None:
    for _ in range(40):
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            if not attempt(model, folder):
                continue
            with sqlite3.connect(folder / "works.db") as database:
                database.execute("PRAGMA wal_checkpoint(TRUNCATE)")
            database.close()
            database = sqlite3.connect(folder / "works.db", isolation_level=None)
            database.execute("PRAGMA journal_mode=DELETE")
            database.execute("VACUUM")
            database.close()
            output.mkdir(exist_ok=True)
            shutil.copy(folder / "works.db", output / "works.db")
            service = Service(model, folder / "works.db")
            expected = {}
            for head in service.client.get("/works").json()["works"]:
                if head["state"] == "paused":
                    service.client.post(f"/works/{head['id']}/resume")
            for head in service.client.get("/works").json()["works"]:
                while (work := service.look(head["id"]))["state"] != "finished":
                    assert work["state"] in ("queued", "running"), work
                    time.sleep(0.1)
                expected[work["id"]] = {
                    "title": work["metadata"]["title"],
                    "parameters": work["parameters"],
                    "choices": work["choices"],
                }
            service.end()
            (output / "expected.json").write_text(
                json.dumps(expected, ensure_ascii=False, indent=1) + "\n", encoding="utf-8"
            )
            return
    raise SystemExit("no attempt caught every work half written")


main(Path(sys.argv[1]).absolute(), Path(sys.argv[2]))
