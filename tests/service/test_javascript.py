"""OpenAI's client for JavaScript against the service."""

from __future__ import annotations

import json
import shutil
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from openai import OpenAI

from chatwright.service.models import LoadedModel

HERE = Path(__file__).parent / "javascript"


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the client that the lockfile names. Skips where there is no Node or no registry."""
    if shutil.which("node") is None or shutil.which("npm") is None:
        pytest.skip("there is no Node here")
    folder = tmp_path_factory.mktemp("javascript")
    for name in ("package.json", "package-lock.json", "client.mjs"):
        shutil.copy(HERE / name, folder)
    command = ["npm", "ci", "--prefer-offline", "--no-audit", "--no-fund", "--ignore-scripts", "--fetch-retries=0"]
    try:
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=60)
    except subprocess.TimeoutExpired:
        pytest.skip("npm's registry does not answer")
    if done.returncode:
        pytest.skip(f"npm cannot install OpenAI's client: {done.stderr[-200:]}")
    return folder


def test_the_javascript_client_gets_what_the_python_client_gets(
    installed: Path, tiny: LoadedModel, serving: Callable[..., str]
):
    url = f"{serving(tiny)}/v1"
    done = subprocess.run(
        ["node", "client.mjs", url, "none"], cwd=installed, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    got = json.loads(done.stdout)
    client = OpenAI(base_url=url, api_key="none", max_retries=0)
    ask = {"model": "tiny", "messages": [{"role": "user", "content": "你好 Tokyo"}], "seed": 3, "max_tokens": 12}
    whole = client.chat.completions.create(**ask, n=2)
    assert got["texts"] == [choice.message.content for choice in whole.choices]
    assert got["streamed"] == got["texts"][0]
    assert got["logprobs"] > 0
    assert got["wholeUsage"]["completion_tokens"] == whole.usage.completion_tokens
    assert got["usage"]["prompt_tokens"] == whole.usage.prompt_tokens
    assert (
        got["completion"]
        == client.completions.create(model="tiny", prompt="Tokyo", seed=1, max_tokens=5).choices[0].text
    )
    assert got["flagged"]
    assert got["models"] == ["tiny"]
    assert got["refused"] == {"tools": ["BadRequestError", 400, "tools"], "model": ["NotFoundError", 404, "model"]}
    end = time.monotonic() + 30
    while tiny.engine.load.running and time.monotonic() < end:  # the stream that was left
        time.sleep(0.01)
    assert tiny.engine.load.running == 0
