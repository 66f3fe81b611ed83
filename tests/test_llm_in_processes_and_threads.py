"""A loaded model in a forked child, and in several threads: right, or an error at once."""

import multiprocessing
import os
import sys
import threading
import warnings

import pytest

import cpm_gen
from cpm_gen.errors import CpmGenError
from tests.waiting import PATIENCE


@pytest.mark.skipif(sys.platform == "win32", reason="no fork")
@pytest.mark.parametrize("kernels", ["auto", "torch"])
def test_a_model_loaded_before_a_fork_is_an_error_in_the_child_and_works_in_the_parent(kernels: str) -> None:
    with cpm_gen.load(kernels=kernels, threads=2) as llm:
        expected = llm.generate("从前", max_new_tokens=3, seed=1).text
        reader, writer = multiprocessing.Pipe(duplex=False)

        def work() -> None:
            said = []
            for call in (lambda: llm.generate("从前", max_new_tokens=3, seed=1), lambda: llm.score([1, 2])):
                try:
                    call()
                    said.append("written")
                except CpmGenError as error:
                    said.append(str(error))
            llm.close()
            writer.send(said)

        child = multiprocessing.get_context("fork").Process(target=work)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Python 3.12 warns of a fork beside threads
            child.start()
        assert reader.poll(PATIENCE)
        said = reader.recv()
        child.join(PATIENCE)
        assert child.exitcode == 0
        assert len(said) == 2
        assert all("load it after forking" in one for one in said), said
        assert llm.generate("从前", max_new_tokens=3, seed=1).text == expected


@pytest.mark.skipif(sys.platform == "win32", reason="no fork")
def test_a_forked_child_ends_without_waiting_for_the_parents_threads() -> None:
    with cpm_gen.load(threads=2) as llm:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            child = os.fork()
        if child == 0:
            code = 1
            try:
                llm.engine.loaded.close()
                llm.engine.loaded.runner.network.release()  # what Python's exit calls
                code = 0
            finally:
                os._exit(code)
        assert os.waitpid(child, 0)[1] == 0
        assert llm.generate("从前", max_new_tokens=2, seed=1).text


def test_several_threads_get_the_right_text_or_an_error_at_once() -> None:
    with cpm_gen.load() as llm:
        options = {"max_new_tokens": 40, "temperature": 0}
        prompts = ["从前", "话说", "明月", "春江", "天下", "红楼"]
        expected = [c.text for c in llm.generate_many(prompts, **options)]
        results: dict[int, object] = {}
        begin = threading.Barrier(len(prompts))

        def write(at: int) -> None:
            begin.wait()
            try:
                results[at] = llm.generate(prompts[at], **options).text
            except CpmGenError as error:
                results[at] = error

        threads = [threading.Thread(target=write, args=[at]) for at in range(len(prompts))]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(PATIENCE)
        assert len(results) == len(prompts)
        for at, result in results.items():
            if isinstance(result, CpmGenError):
                assert "one thread at a time" in str(result)
            else:
                assert result == expected[at]
        assert any(isinstance(result, CpmGenError) for result in results.values())
        assert not llm.engine.token_engine.busy
        assert llm.generate(prompts[0], **options).text == expected[0]


def test_a_stream_may_be_read_by_one_thread_after_another() -> None:
    with cpm_gen.load() as llm:
        expected = llm.generate("从前", max_new_tokens=6, temperature=0).text
        stream, pieces = llm.stream("从前", max_new_tokens=6, temperature=0), []
        for _ in range(6):
            thread = threading.Thread(target=lambda: pieces.append(next(stream).text))
            thread.start()
            thread.join(PATIENCE)
        assert "".join(pieces) == expected
        assert list(stream) == []
