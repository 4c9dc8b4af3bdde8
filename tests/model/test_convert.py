"""The way in and out as a user goes it: `chatwright import` and `chatwright export`."""

from __future__ import annotations

import json
import pickle
import random
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer, GPT2Model, OpenAIGPTLMHeadModel

from chatwright.errors import UserError
from chatwright.model.convert import export_model, import_model
from chatwright.model.decoder import Decoder
from chatwright.model.folder import load_model, save_model
from chatwright.model.gguf import read_gguf, write_gguf
from chatwright.model.presets import preset
from chatwright.tokenizer.bpe import Tokenizer
from tests.model.conftest import SIZES
from tests.model.test_folder import CLOSE, THEIRS, their_model

Build = Callable[..., Decoder]


@pytest.fixture
def small(build: Build) -> Decoder:
    return build(preset("modern", **SIZES | {"kv_heads": 2, "d_head": 16}))


@pytest.fixture
def folder(tmp_path: Path, small: Decoder, tokenizer: Tokenizer) -> Path:
    save_model(small, tmp_path / "small", tokenizer)
    return tmp_path / "small"


@pytest.mark.parametrize("name", THEIRS)
def test_a_folder_of_transformers_comes_in_and_leaves_with_the_same_logits(
    name: str, tokens_BT: torch.Tensor, tokenizer: Tokenizer, tmp_path: Path
) -> None:
    theirs = their_model(name)
    theirs.save_pretrained(tmp_path / "theirs", max_shard_size="60KB")
    tokenizer.save(tmp_path / "theirs")
    came = import_model(str(tmp_path / "theirs"), tmp_path / "ours")
    assert came.parameters == theirs.num_parameters()
    assert came.stops == ["<|im_end|>"]
    export_model(tmp_path / "ours", tmp_path / "back", "hf")
    back = AutoModelForCausalLM.from_pretrained(tmp_path / "back")
    assert type(back) is type(theirs)
    torch.testing.assert_close(back(tokens_BT).logits, theirs(tokens_BT).logits, **CLOSE)


def test_a_gguf_file_comes_in_and_leaves(
    small: Decoder, tokenizer: Tokenizer, tmp_path: Path, tokens_BT: torch.Tensor
) -> None:
    write_gguf(small, tmp_path / "in.gguf", tokenizer, "small")
    import_model(str(tmp_path / "in.gguf"), tmp_path / "ours")
    theirs = AutoModelForCausalLM.from_pretrained(tmp_path / "ours")
    torch.testing.assert_close(theirs(tokens_BT).logits, small(tokens_BT), **CLOSE)
    export_model(tmp_path / "ours", tmp_path / "out.gguf", "gguf")
    assert (tmp_path / "out.gguf").stat().st_size == (tmp_path / "in.gguf").stat().st_size
    assert torch.equal(read_gguf(tmp_path / "out.gguf")[0](tokens_BT), small(tokens_BT))


def mixed_lines(count: int) -> list[str]:
    """English, Chinese, code, emoji and bytes that are no text, alone and together."""
    chosen = random.Random(7)
    words = ["the", "capital", "of", "France", "is", "Paris", "don't", "I'll", "2024", "3.14", "naïve", "Ünï"]
    code = ["def f(x):", "\treturn x**2", "for (i = 0; i < n; ++i) {", "    if a != b:", "<html>", "\\n", "#!/bin/sh"]
    chinese = "你好世界我们今天去北京大学吃饭，。！？"
    emoji = "🙂👩‍👩‍👧🇫🇷❤️🔥"

    def part() -> str:
        match chosen.randrange(6):
            case 0:
                return " ".join(chosen.choices(words, k=chosen.randint(1, 8)))
            case 1:
                return "".join(chosen.choices(chinese, k=chosen.randint(1, 12)))
            case 2:
                return chosen.choice(code)
            case 3:
                return "".join(chosen.choices(emoji, k=chosen.randint(1, 4)))
            case 4:
                return chosen.randbytes(chosen.randint(1, 12)).decode("utf-8", "replace")
            case _:
                return chosen.choice([" ", "  ", "\t", "\u3000", "\n\n", "   \n"])

    return ["".join(part() for _ in range(chosen.randint(1, 6))) for _ in range(count)]


def test_an_exported_folder_gives_equal_ids_on_ten_thousand_mixed_lines(folder: Path, tmp_path: Path) -> None:
    export_model(folder, tmp_path / "out", "hf")
    theirs = AutoTokenizer.from_pretrained(tmp_path / "out")
    _, ours = load_model(folder)
    lines = mixed_lines(10_000)
    assert theirs(lines)["input_ids"] == ours.encode_batch(lines) == [ours.encode(line) for line in lines]
    talk = [{"role": "user", "content": lines[0]}, {"role": "assistant", "content": "Hi."}]
    assert theirs.apply_chat_template(talk, tokenize=False).startswith("<|im_start|>user\n")


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_weights_keep_their_type_unless_another_is_asked_for(folder: Path, tmp_path: Path, dtype: str) -> None:
    export_model(folder, tmp_path / "half", "hf", dtype)
    import_model(str(tmp_path / "half"), tmp_path / "as-is")
    import_model(str(tmp_path / "half"), tmp_path / "wide", "float32")
    for name, expected in (("as-is", getattr(torch, dtype)), ("wide", torch.float32)):
        assert {tensor.dtype for tensor in load_file(tmp_path / name / "model.safetensors").values()} == {expected}
        assert json.loads((tmp_path / name / "config.json").read_text())["dtype"] == str(expected)[6:]
    exact, halved = load_file(folder / "model.safetensors"), load_file(tmp_path / "half" / "model.safetensors")
    assert all(torch.equal(tensor.to(halved[name].dtype), halved[name]) for name, tensor in exact.items())


def test_what_the_makers_recommend_for_sampling_stays(folder: Path, tmp_path: Path) -> None:
    path = folder / "generation_config.json"
    path.write_text(json.dumps({"eos_token_id": [3, 288], "temperature": 0.6, "top_p": 0.95, "top_k": 20}))
    assert import_model(str(folder), tmp_path / "ours").stops == ["3", "<|im_end|>"]
    written = json.loads((tmp_path / "ours" / "generation_config.json").read_text())
    assert {key: written[key] for key in ("temperature", "top_p", "top_k")} == {
        "temperature": 0.6,
        "top_p": 0.95,
        "top_k": 20,
    }
    assert sorted(written["eos_token_id"]) == [3, 288]


@pytest.mark.parametrize("kind", [GPT2Model, OpenAIGPTLMHeadModel])
def test_a_bare_model_or_one_that_names_no_class_is_read(
    kind: Any, tokenizer: Tokenizer, tmp_path: Path, tokens_BT: torch.Tensor
) -> None:
    theirs = kind(THEIRS["gpt2" if kind is GPT2Model else "gpt1"][1])
    theirs.save_pretrained(tmp_path / "theirs")
    tokenizer.save(tmp_path / "theirs")
    if kind is OpenAIGPTLMHeadModel:
        path = tmp_path / "theirs" / "config.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | {"architectures": None}))
    import_model(str(tmp_path / "theirs"), tmp_path / "ours")
    full = AutoModelForCausalLM.from_pretrained(tmp_path / "theirs")
    ours, _ = load_model(tmp_path / "ours")
    torch.testing.assert_close(ours.eval()(tokens_BT), full.eval()(tokens_BT).logits, **CLOSE)


class Planted:
    """Leaves a file behind when it is unpickled."""

    def __init__(self, trace: Path) -> None:
        self.trace = trace

    def __reduce__(self) -> tuple[Any, ...]:
        return (Path.touch, (self.trace,))


@pytest.mark.parametrize("name", ["pytorch_model.bin", "model.safetensors", "model.pt", "model.gguf"])
def test_a_planted_pickle_is_refused_and_never_run(folder: Path, tmp_path: Path, name: str) -> None:
    (folder / "model.safetensors").unlink()
    (folder / name).write_bytes(pickle.dumps(Planted(tmp_path / "trace")))
    source = folder / name if name.endswith(".gguf") else folder
    with pytest.raises(UserError, match=r"pickle, which can run any code|truncated or not a (safetensors|GGUF) file"):
        import_model(str(source), tmp_path / "ours")
    assert not (tmp_path / "trace").exists()
    assert not (tmp_path / "ours").exists()


def test_a_name_on_the_hub_is_downloaded(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Any] = []
    monkeypatch.setattr(
        huggingface_hub, "snapshot_download", lambda name, **options: asked.append((name, options)) or str(folder)
    )
    import_model("owner/name", tmp_path / "ours", revision="v2")
    assert asked == [
        ("owner/name", {"revision": "v2", "allow_patterns": ["*.json", "*.safetensors", "*.jinja"]}),
    ]


def refused(*arguments: str | Path) -> str:
    """What the command line says on standard error when it refuses."""
    done = subprocess.run(
        [sys.executable, "-m", "chatwright.cli", *map(str, arguments)], capture_output=True, text=True
    )
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.count("\n") == 1
    return done.stderr


def test_a_users_mistake_is_one_sentence(folder: Path, tmp_path: Path, tokenizer: Tokenizer, build: Build) -> None:
    ours = tmp_path / "ours"
    assert "does not exist here" in refused("import", "nowhere", ours)
    assert "exists already" in refused("import", folder, folder)
    assert "no dtype 'int4'" in refused("import", folder, ours, "--dtype", "int4")
    assert "no format 'onnx'" in refused("export", folder, ours, "--format", "onnx")
    assert "not q8_0; use --format gguf" in refused("export", folder, ours, "--dtype", "q8_0")
    assert "can be written as float32" in refused("export", folder, ours, "--format", "gguf", "--dtype", "q4_k")
    save_model(build(preset("gpt3", **SIZES)), tmp_path / "gpt3", tokenizer)
    assert "no class for GPT-3" in refused("export", tmp_path / "gpt3", ours)
    assert not ours.exists()
    assert {path.name for path in tmp_path.iterdir()} == {"small", "gpt3"}


def test_the_hub_out_of_reach_is_one_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def unreachable(*_: Any, **__: Any) -> str:
        raise OSError("Name or service not known\nand a long story")

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", unreachable)
    with pytest.raises(UserError, match=r"cannot be downloaded from the hub \(Name or service not known\)\.$"):
        import_model("owner/name/model.Q4_K_M.gguf", tmp_path / "ours")


def test_the_commands_tell_what_they_wrote(folder: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "chatwright.cli", "export", folder, tmp_path / "x.gguf", "--format", "gguf"]
    done = subprocess.run([*command, "--dtype", "q8_0", "--json"], capture_output=True, text=True, check=True)
    told = json.loads(done.stdout)
    assert (told["layout"], told["dtype"], told["chat_template"]) == ("qwen3", "q8_0", True)
    command = [sys.executable, "-m", "chatwright.cli", "import", tmp_path / "x.gguf", tmp_path / "ours"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert "qwen3" in done.stdout
    assert "answers end at <|im_end|>" in done.stdout


def test_quantised_weights_of_hugging_face_are_refused(folder: Path, tmp_path: Path) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"quantization_config": {"quant_method": "gptq"}}))
    with pytest.raises(UserError, match="its weights are quantised"):
        import_model(str(folder), tmp_path / "ours")
