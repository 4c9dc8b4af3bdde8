"""The service as its clients see it: OpenAI's own client and raw HTTP against a real server."""

from __future__ import annotations

import contextlib
import json
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import httpx
import openai
import pytest
import torch
from openai import OpenAI

from chatwright.errors import UserError
from chatwright.inference.engine import Engine
from chatwright.inference.prompts import fit
from chatwright.inference.sampling import Sampling
from chatwright.model.decoder import Decoder
from chatwright.model.folder import save_model
from chatwright.model.presets import preset
from chatwright.records import Message
from chatwright.service.app import serve
from chatwright.service.models import LoadedModel, load
from chatwright.service.streams import LARGEST_BODY
from chatwright.tokenizer.bpe import Tokenizer

ModelOf = Callable[..., LoadedModel]
ClientOf = Callable[..., OpenAI]
QUESTION = [{"role": "user", "content": "What is the capital of Japan?"}]
ANSWER = "The capital of Japan is Tokyo."


def wait_until(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + 60  # a busy machine is not a broken service
    while not condition():
        assert time.monotonic() < end, "waited too long"
        time.sleep(0.01)


# ---- answers ----


def test_an_answer_is_whole_and_its_usage_exact(scripted: ModelOf, client_of: ClientOf):
    model = scripted(ANSWER)
    completion = client_of(model).chat.completions.create(model="atlas", messages=QUESTION)
    [choice] = completion.choices
    assert (choice.message.role, choice.message.content, choice.finish_reason) == ("assistant", ANSWER, "stop")
    prompt = fit([Message(role="user", content=QUESTION[0]["content"])], model.tokenizer, model.context).ids
    assert completion.usage.prompt_tokens == len(prompt)
    assert completion.usage.completion_tokens == model.engine.generated == len(model.tokenizer.encode(ANSWER)) + 1
    assert completion.usage.total_tokens == completion.usage.prompt_tokens + completion.usage.completion_tokens
    assert completion.id.startswith("chatcmpl-")
    assert abs(completion.created - time.time()) < 60
    assert (completion.object, completion.model, completion.system_fingerprint) == (
        "chat.completion",
        "atlas",
        "fp_test",
    )


def test_a_stream_joins_to_the_same_answer(scripted: ModelOf, client_of: ClientOf):
    client = client_of(scripted(ANSWER))
    options = {"stream_options": {"include_usage": True}}
    chunks = list(client.chat.completions.create(model="atlas", messages=QUESTION, stream=True, **options))
    *body, usage = chunks
    assert body[0].choices[0].delta.role == "assistant"
    assert "".join(chunk.choices[0].delta.content or "" for chunk in body) == ANSWER
    assert [chunk.choices[0].finish_reason for chunk in body] == [None] * (len(body) - 1) + ["stop"]
    assert len({chunk.id for chunk in chunks}) == 1
    assert usage.choices == []
    whole = client.chat.completions.create(model="atlas", messages=QUESTION)
    assert usage.usage == whole.usage


def test_a_stream_without_usage_ends_with_done(scripted: ModelOf, serving: Callable[..., str]):
    body = {"model": "atlas", "messages": QUESTION, "stream": True}
    response = httpx.post(f"{serving(scripted(ANSWER))}/v1/chat/completions", json=body)
    assert response.headers["content-type"].startswith("text/event-stream")
    *events, done, rest = response.text.split("\n\n")
    assert (done, rest) == ("data: [DONE]", "")
    assert all("usage" not in json.loads(event.removeprefix("data: ")) for event in events)


def test_a_stream_arrives_while_the_model_still_speaks(scripted: ModelOf, client_of: ClientOf):
    model = scripted("word " * 240, delay=0.1)
    with client_of(model).chat.completions.create(model="atlas", messages=QUESTION, stream=True) as stream:
        assert next(chunk for chunk in stream if chunk.choices[0].delta.content)
        assert not model.engine.finished.is_set()


def test_chinese_and_emoji_come_through_whole_across_token_borders(scripted: ModelOf, client_of: ClientOf):
    text = "你好！很高兴见到你。龘 🙂"
    model = scripted(text)
    messages = [{"role": "user", "content": "你好"}]
    stream = client_of(model).chat.completions.create(model="atlas", messages=messages, stream=True)
    pieces = [chunk.choices[0].delta.content or "" for chunk in stream]
    assert "".join(pieces) == text
    assert "�" not in "".join(pieces)
    assert "你好" in model.engine.prompts[0]


def test_the_model_reads_the_whole_conversation_in_its_trained_shape(scripted: ModelOf, client_of: ClientOf):
    model = scripted("Yen.")
    messages = [
        {"role": "developer", "content": "Be brief."},
        *QUESTION,
        {"role": "assistant", "content": ANSWER},
        {"role": "user", "content": [{"type": "text", "text": "And its "}, {"type": "text", "text": "currency?"}]},
    ]
    client_of(model).chat.completions.create(model="atlas", messages=messages)
    expected = [
        "system\nBe brief.",
        "user\nWhat is the capital of Japan?",
        f"assistant\n{ANSWER}",
        "user\nAnd its currency?",
    ]
    assert model.engine.prompts == ["\n".join([*expected, "assistant\n"])]


def test_a_long_conversation_loses_its_oldest_turns_and_says_so(scripted: ModelOf, serving: Callable[..., str]):
    model = scripted(ANSWER)
    turns = [{"role": ("user", "assistant")[i % 2], "content": f"turn {i} " + "word " * 8} for i in range(9)]
    messages = [{"role": "system", "content": "Be brief."}, *turns]
    url = f"{serving(model)}/v1/chat/completions"
    response = httpx.post(url, json={"model": "atlas", "messages": messages})
    dropped = int(response.headers["x-chatwright-dropped-messages"])
    assert 0 < dropped < 9
    [prompt] = model.engine.prompts
    assert "Be brief." in prompt
    assert [f"turn {i} " in prompt for i in range(9)] == [i >= dropped for i in range(9)]
    assert "x-chatwright-dropped-messages" not in httpx.post(url, json={"model": "atlas", "messages": QUESTION}).headers


def test_stop_strings_end_the_answer_and_never_leak(scripted: ModelOf, client_of: ClientOf):
    client = client_of(scripted("One.\nTwo### and three, and much more " + "word " * 50))
    ask = {"model": "atlas", "messages": QUESTION, "stop": ["###", "never"]}
    completion = client.chat.completions.create(**ask)
    assert (completion.choices[0].message.content, completion.choices[0].finish_reason) == ("One.\nTwo", "stop")
    assert completion.usage.completion_tokens < 30
    chunks = list(client.chat.completions.create(**ask, stream=True))
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == "One.\nTwo"
    assert chunks[-1].choices[0].finish_reason == "stop"


def test_an_answer_that_is_cut_says_length(scripted: ModelOf, client_of: ClientOf):
    client = client_of(scripted("word " * 100))
    completion = client.chat.completions.create(model="atlas", messages=QUESTION, max_completion_tokens=5)
    assert (completion.choices[0].finish_reason, completion.usage.completion_tokens) == ("length", 5)
    completion = client.chat.completions.create(model="atlas", messages=QUESTION, max_tokens=1)
    assert completion.usage.completion_tokens == 1


def test_sampling_parameters_reach_the_engine(scripted: ModelOf, client_of: ClientOf):
    model = scripted(ANSWER)
    client = client_of(model)
    client.chat.completions.create(
        model="atlas", messages=QUESTION, temperature=0, top_p=0.5, seed=-3, max_tokens=10**12
    )
    assert model.engine.samplings == [Sampling(max_tokens=256, temperature=0, top_p=0.5, seed=-3, logprobs=None)]
    client.chat.completions.create(model="atlas", messages=QUESTION)
    client.chat.completions.create(model="atlas", messages=QUESTION)
    one, other = model.engine.samplings[1:]
    assert (one.temperature, one.top_p) == (1.0, 1.0)
    assert one.seed != other.seed


def test_penalties_bias_and_format_reach_the_engine(scripted: ModelOf, client_of: ClientOf):
    model = scripted(ANSWER)
    fields = {"presence_penalty": 0.5, "frequency_penalty": -1.0, "logit_bias": {"5": -100}, "stop": ["x"]}
    schema = {"type": "object", "properties": {"a": {"type": "integer"}}}
    wanted = {"type": "json_schema", "json_schema": {"name": "a", "schema": schema, "strict": True}}
    client = client_of(model)
    client.chat.completions.create(
        model="atlas",
        messages=QUESTION,
        response_format=wanted,
        **fields,
        extra_body={"min_p": 0.1, "repetition_penalty": 1.2, "top_k": 4},
    )
    client.chat.completions.create(model="atlas", messages=QUESTION, response_format={"type": "json_object"})
    one, other = model.engine.samplings
    assert (one.presence_penalty, one.frequency_penalty, one.logit_bias) == (0.5, -1.0, {5: -100.0})
    assert (one.min_p, one.repetition_penalty, one.top_k, one.stop) == (0.1, 1.2, 4, ("x",))
    assert (one.schema, other.schema) == (schema, {})


def test_several_choices_differ_by_seed_and_share_one_prompt(scripted: ModelOf, client_of: ClientOf):
    model = scripted(ANSWER)
    client = client_of(model)
    completion = client.chat.completions.create(model="atlas", messages=QUESTION, n=3, seed=7)
    assert [choice.index for choice in completion.choices] == [0, 1, 2]
    assert sorted(sampling.seed for sampling in model.engine.samplings) == [7, 8, 9]
    assert completion.usage.completion_tokens == model.engine.generated
    chunks = client.chat.completions.create(model="atlas", messages=QUESTION, n=2, stream=True)
    texts = ["", ""]
    for chunk in chunks:
        texts[chunk.choices[0].index] += chunk.choices[0].delta.content or ""
    assert texts == [ANSWER, ANSWER]


def test_parameters_that_change_nothing_here_are_accepted(scripted: ModelOf, client_of: ClientOf):
    client = client_of(scripted(ANSWER))
    harmless = {"user": "u", "store": False, "metadata": {"a": "b"}, "service_tier": "auto", "frequency_penalty": 0}
    harmless |= {"response_format": {"type": "text"}, "logprobs": False, "tools": []}
    completion = client.chat.completions.create(model="atlas", messages=QUESTION, **harmless, extra_body={"top_k": 5})
    assert completion.choices[0].message.content == ANSWER


def test_a_random_model_answers_as_its_engine_does(tokenizer: Tokenizer, tmp_path: Path, client_of: ClientOf):
    torch.manual_seed(0)
    sizes = {"vocab_size": tokenizer.vocab_size, "context": 64, "layers": 1, "d_model": 16, "heads": 2, "kv_heads": 1}
    decoder = Decoder(preset("modern", **sizes, d_head=8, d_ff=32))
    save_model(decoder, tmp_path / "tiny", tokenizer)
    client = client_of(load(tmp_path / "tiny"))
    [card] = client.models.list().data
    assert card.id == "tiny"
    sampling = Sampling(max_tokens=20, seed=5)
    prompt = fit([Message(role="user", content="你好")], tokenizer, 64, 20).ids
    [expected] = Engine(decoder, tokenizer).generate([prompt], [sampling])
    ask = {"model": "tiny", "messages": [{"role": "user", "content": "你好"}], "max_tokens": 20, "seed": 5}
    for _ in range(2):  # the same seed gives the same answer
        completion = client.chat.completions.create(**ask)
        assert completion.choices[0].message.content == tokenizer.decode(expected.tokens)
        assert completion.choices[0].finish_reason == expected.finish_reason
        assert completion.usage.completion_tokens == len(expected.tokens)
        assert completion.usage.prompt_tokens == len(prompt)


# ---- refusals ----


@pytest.mark.parametrize(
    ("wrong", "param"),
    [
        ({"temperature": 3}, "temperature"),
        ({"temperature": "hot"}, "temperature"),
        ({"top_p": 0}, "top_p"),
        ({"n": 9}, "n"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"stop": ["a", "b", "c", "d", "e"]}, "stop"),
        ({"stop": ""}, "stop.0"),
        ({"seed": 1.5}, "seed"),
        ({"stream": "yes"}, "stream"),
        ({"messages": []}, "messages"),
        ({"messages": "hello"}, "messages"),
        ({"messages": [{"role": "robot", "content": "hi"}]}, "messages.0.role"),
        ({"messages": [{"role": "user"}]}, "messages.0.content"),
        ({"messages": [{"role": "user", "content": [{"type": "image_url", "text": ""}]}]}, "messages.0.content.0.type"),
        ({"messages": [*QUESTION, {"role": "assistant", "content": "Tokyo."}]}, "messages"),
        ({"tools": [{"type": "function"}]}, "tools"),
        ({"top_logprobs": 3}, "top_logprobs"),
        ({"logprobs": True, "top_logprobs": 21}, "top_logprobs"),
        ({"logit_bias": {"100000": 1}}, "logit_bias"),
        ({"stream_options": {"include_usage": True}}, "stream_options"),
        (
            {"response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": {"type": "bad"}}}},
            "response_format",
        ),
        ({"tool_choice": "required"}, "tool_choice"),
        ({"reasoning_effort": "high"}, "reasoning_effort"),
        ({"store": True}, "store"),
        ({"prediction": {"type": "content", "content": "x"}}, "prediction"),
        ({"modalities": ["audio"]}, "modalities.0"),
        ({"messages": [{"role": "user", "content": "x"}] * 3000}, "messages"),
        ({"response_format": {"type": "grammar"}}, "response_format.type"),
        ({"response_format": {"type": "json_schema"}}, "response_format"),
        ({"logit_bias": {"x": 1}}, "logit_bias.x.[key]"),
        ({"presence_penalty": 3}, "presence_penalty"),
        ({"temprature": 1}, "temprature"),
        ({"model": 5}, "model"),
    ],
)
def test_an_invalid_request_is_refused_in_openais_shape(
    wrong: dict, param: str, scripted: ModelOf, client_of: ClientOf
):
    model = scripted(ANSWER)
    with pytest.raises(openai.BadRequestError) as refused:
        client_of(model).post(
            "/chat/completions", body={"model": "atlas", "messages": QUESTION, **wrong}, cast_to=httpx.Response
        )
    error = refused.value.response.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert (error["type"], error["param"]) == ("invalid_request_error", param)
    assert param in error["message"]
    assert model.engine.prompts == []


def test_a_missing_parameter_is_named(scripted: ModelOf, serving: Callable[..., str]):
    response = httpx.post(f"{serving(scripted(ANSWER))}/v1/chat/completions", json={"model": "atlas"})
    assert response.status_code == 400
    assert response.json()["error"] == {
        "message": "Missing required parameter: 'messages'.",
        "type": "invalid_request_error",
        "param": "messages",
        "code": "missing_required_parameter",
    }


def test_an_unknown_model_is_404_and_names_those_there_are(scripted: ModelOf, client_of: ClientOf):
    client = client_of(scripted(ANSWER))
    with pytest.raises(openai.NotFoundError, match=r"'gpt-5' does not exist here; there is atlas") as refused:
        client.chat.completions.create(model="gpt-5", messages=QUESTION)
    assert refused.value.code == "model_not_found"
    with pytest.raises(openai.NotFoundError):
        client.models.retrieve("gpt-5")


def test_a_question_longer_than_the_context_is_refused(scripted: ModelOf, client_of: ClientOf):
    with pytest.raises(openai.BadRequestError, match="context is 256 tokens") as refused:
        client_of(scripted(ANSWER)).chat.completions.create(
            model="atlas", messages=[{"role": "user", "content": "word " * 500}]
        )
    assert refused.value.code == "context_length_exceeded"


@pytest.mark.parametrize(
    ("content", "kind", "status"),
    [
        (b"{nonsense", "application/json", 400),
        (b'{"model": "atlas", "messages": [{"role": "user", "content": "\\ud800"}]}', "application/json", 400),
        (b"\xff\xfe", "application/json", 400),
        (b"{}", "text/plain", 415),  # what a form on another site can send
        (b" " * (LARGEST_BODY + 1), "application/json", 413),
    ],
)
def test_a_body_that_is_no_request_is_refused(
    content: bytes, kind: str, status: int, scripted: ModelOf, serving: Callable[..., str]
):
    url = f"{serving(scripted(ANSWER))}/v1/chat/completions"
    response = httpx.post(url, content=content, headers={"Content-Type": kind})
    assert response.status_code == status
    assert response.json()["error"]["type"] == "invalid_request_error"


def test_unknown_paths_and_methods_are_refused_in_the_same_shape(scripted: ModelOf, serving: Callable[..., str]):
    url = serving(scripted(ANSWER))
    for response in (httpx.get(f"{url}/nope"), httpx.post(f"{url}/v1/embeddings", json={})):
        assert response.status_code in (404, 405)
        assert response.json()["error"]["type"] == "invalid_request_error"


def test_a_failure_of_ours_is_500_and_keeps_its_secret(scripted: ModelOf, client_of: ClientOf):
    def fail(_: str) -> str:
        raise ZeroDivisionError("planted secret")

    client = client_of(scripted(fail))
    with pytest.raises(openai.InternalServerError) as refused:
        client.chat.completions.create(model="atlas", messages=QUESTION)
    assert refused.value.response.json()["error"]["type"] == "server_error"
    assert "secret" not in refused.value.response.text
    with pytest.raises(openai.APIError, match="failed to answer"):
        list(client.chat.completions.create(model="atlas", messages=QUESTION, stream=True))


def test_a_host_name_that_is_not_ours_is_refused(scripted: ModelOf, serving: Callable[..., str]):
    url = serving(scripted(ANSWER))
    assert httpx.get(f"{url}/v1/models", headers={"Host": "evil.example"}).status_code == 400
    assert httpx.get(f"{url}/v1/models", headers={"Host": "localhost:8000"}).status_code == 200


def test_no_other_site_is_let_in(scripted: ModelOf, serving: Callable[..., str]):
    url = serving(scripted(ANSWER))
    preflight = {"Origin": "http://evil.example", "Access-Control-Request-Method": "POST"}
    response = httpx.options(f"{url}/v1/chat/completions", headers=preflight)
    assert not any(name.startswith("access-control") for name in response.headers)


# ---- many at once ----


def hang_up_while_streaming(url: str, body: dict) -> None:
    with httpx.stream("POST", url, json={**body, "stream": True}, timeout=60) as response:
        next(response.iter_bytes())


def hang_up_while_waiting(url: str, body: dict) -> None:
    with contextlib.suppress(httpx.ReadTimeout):
        httpx.post(url, json=body, timeout=1)


@pytest.mark.parametrize("hang_up", [hang_up_while_streaming, hang_up_while_waiting])
def test_a_client_that_hangs_up_stops_the_model(
    hang_up: Callable[[str, dict], None], scripted: ModelOf, serving: Callable[..., str]
):
    model = scripted("word " * 240, delay=0.1)
    url = serving(model)
    hang_up(f"{url}/v1/chat/completions", {"model": "atlas", "messages": QUESTION})
    wait_until(model.engine.finished.is_set)
    assert model.engine.generated < 256
    wait_until(lambda: httpx.get(f"{url}/health").json()["requests"] == 0)


def test_health_answers_while_the_model_speaks_and_a_full_line_says_when_to_come_back(
    scripted: ModelOf, serving: Callable[..., str]
):
    model = scripted("word " * 240, delay=0.1)
    url = serving(model, waiting_places=0, at_once=1)
    body = {"model": "atlas", "messages": QUESTION, "stream": True}
    with httpx.stream("POST", f"{url}/v1/chat/completions", json=body, timeout=60) as response:
        events = response.iter_lines()
        next(events)
        health = httpx.get(f"{url}/health", timeout=20).json()
        assert (health["status"], health["models"], health["requests"]) == ("ok", ["atlas"], 1)
        refused = httpx.post(f"{url}/v1/chat/completions", json=body)
        assert (refused.status_code, refused.json()["error"]["code"]) == (429, "overloaded")
        assert int(refused.headers["retry-after"]) > 0
        assert not model.engine.finished.is_set()


# ---- the rest ----


def test_the_page_comes_with_its_security_headers(scripted: ModelOf, serving: Callable[..., str]):
    response = httpx.get(serving(scripted(ANSWER)))
    assert response.headers["content-type"].startswith("text/html")
    policy = response.headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "script-src 'self';" in policy
    assert "unsafe" not in policy
    assert response.headers["x-content-type-options"] == "nosniff"


def test_a_taken_port_is_said_in_a_sentence(scripted: ModelOf):
    with socket.create_server(("127.0.0.1", 0)) as taken, pytest.raises(UserError, match="choose another with --port"):
        serve({"atlas": scripted(ANSWER)}, port=taken.getsockname()[1])


SERVE = """
import sys
sys.path.insert(0, sys.argv[1])
from conftest import CONTEXT, TEXTS, ScriptedEngine
from chatwright.service.app import serve
from chatwright.service.models import LoadedModel
from chatwright.tokenizer.bpe import train_bpe
tokenizer = train_bpe(TEXTS, 300)
engine = ScriptedEngine(tokenizer, lambda _: "word " * 50, 0.1)
serve({"atlas": LoadedModel("atlas", engine, tokenizer, CONTEXT, "fp", 1)}, port=int(sys.argv[2]))
"""


def test_ctrl_c_breaks_an_answer_off_and_ends_the_service_quietly():
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    command = [sys.executable, "-c", SERVE, str(Path(__file__).parent), str(port)]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    url = f"http://127.0.0.1:{port}"

    def up() -> bool:
        with contextlib.suppress(httpx.TransportError):
            return httpx.get(f"{url}/health").is_success
        return False

    try:
        wait_until(up)
        body = {"model": "atlas", "messages": QUESTION, "stream": True}
        with httpx.stream("POST", f"{url}/v1/chat/completions", json=body, timeout=60) as response:
            events = response.iter_lines()
            next(events)
            process.send_signal(signal.SIGINT)
            last = [event for event in events if event][-1]
        assert json.loads(last.removeprefix("data: "))["error"]["code"] == "broken_off"
        _, complaints = process.communicate(timeout=60)
        assert (process.returncode, complaints) == (0, "")
    finally:
        process.kill()
