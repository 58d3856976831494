"""A text source over HTTP: any server with OpenAI's chat completions (vLLM, SGLang, llama.cpp, Ollama, a hosted one).

A server is never trusted to do what it was asked. Real ones answer with a model that was not asked for, cut a prompt
without a word, or send the page of a proxy with status 200; all of that is refused by name.
"""

from __future__ import annotations

import asyncio
import logging
import os
import random
import re
import time
from collections.abc import Callable, Sequence
from contextlib import asynccontextmanager, suppress
from email.utils import parsedate_to_datetime
from itertools import count
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import msgspec

from expectations.canonical import digest
from expectations.contracts.generator import GeneratorContract
from expectations.rules.secrets import LOOPBACK, travels_unencrypted
from expectations.text.tokens import estimate_tokens
from expectations.violations import Refused, violation
from resources.text_source import (
    BASE,
    PASSING,
    Call,
    ChatMessage,
    GeneratorParams,
    ModelReply,
    NoReply,
    Outcome,
    Sampling,
    call_key,
)

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

    import httpx

KEY = "FT_GENERATOR_API_KEY"
_PASSING_STATUS = {408, 409, 425, 429, 500, 502, 503, 504, 529}
_BUSY_STATUS = {429, 503, 529}
_HOPELESS_STATUS = {401, 402, 403, 404, 405}
_FIRST_WAIT, _LONGEST_WAIT = 0.5, 30.0
_LONGEST_RETRY_AFTER = 300.0
_CONNECT_SECONDS = 10.0
_MAX_BYTES = 8 * 2**20
_SHOWN_CHARS = 300
_SUCCESSES = 20
"""Replies after which one more request may be made at the same time."""
_PROBES = ("What is the capital of France?", "Count from one to ten, in words.", "用中文说出一年的四个季节。")
_PROBE_TOKENS = 12
_WORD, _FEW_WORDS, _MANY_WORDS = " word", 16, 144
_SPARE_TOKENS = 16
_LEAST_SHARE = 0.3
"""A prompt that the server counts as less than this share of our estimate was cut: three digits may be one token."""
_random = random.SystemRandom()


class _Message(msgspec.Struct):
    content: str | None = None


class _Choice(msgspec.Struct):
    message: _Message
    finish_reason: str | None = None


class _Usage(msgspec.Struct):
    prompt_tokens: int
    completion_tokens: int = 0


class _Reply(msgspec.Struct):
    """The part of a chat completion that is read."""

    choices: list[_Choice]
    model: str = ""
    usage: _Usage | None = None


class _Named(msgspec.Struct):
    id: str


class _Models(msgspec.Struct):
    data: list[_Named]


class _Answer(msgspec.Struct, frozen=True):
    """An HTTP response; status 0 and the reason where none came."""

    status: int
    body: bytes = b""
    reason: str = ""
    retry_after: float = 0.0
    """Seconds that the server asks to wait."""

    @property
    def passing(self) -> bool:
        """True if another attempt may have an answer."""
        return self.status == 0 or self.status in _PASSING_STATUS


class EndpointSource:
    """Answers calls with requests, as many at a time as the server bears: the number is halved when it is busy and
    rises by one after every twenty replies."""

    def __init__(self, params: GeneratorParams) -> None:
        """Raises Refused (FT-GEN-008) for a key over plain http."""
        self._params, self._address = params, params.url.rstrip("/")
        self._key = os.environ.get(KEY, "")
        if travels_unencrypted(params.url, self._key):
            raise self._refused("FT-GEN-008", f"The key in {KEY} would travel unencrypted")
        self._contract: GeneratorContract | None = None
        self._limit = _Limit(params.concurrency)
        self._runner = asyncio.Runner()
        self._client: httpx.AsyncClient | None = None
        self._reads_all = False  # not tried yet
        logging.getLogger("httpx").setLevel(logging.WARNING)  # a line for each request

    def contract(self, model: str = BASE) -> GeneratorContract:
        """Return the identity of the model that is served: its name and its greedy answers to fixed prompts.

        Raises Refused as `ask` does.
        """
        if model != BASE:
            raise KeyError(f"{model} is not at the endpoint: it has {self._params.model} alone")
        if self._contract is None:
            self._contract = self._runner.run(self._probe())
        return self._contract

    def ask(self, calls: Sequence[Call], on_outcome: Callable[[int, Outcome], None]) -> None:
        """Answer the calls. What was sent is waited for, also when another reply is refused: it is paid for.

        Raises Refused: FT-GEN-004 not a chat completion, FT-GEN-006 a cut prompt, FT-GEN-007 another model, FT-GEN-009
        the server refuses everything.
        """
        self.check()
        self._runner.run(self._ask_all(calls, self.contract().digest, on_outcome))

    def check(self) -> None:
        """Refuse a server that serves another model, or that does not read a prompt of `context_tokens` (FT-GEN-006).

        It is tried once.
        """
        self.contract()
        if not self._reads_all:
            self._runner.run(self._refuse_short_context())
            self._reads_all = True

    def close(self) -> None:
        """Close the connections."""
        if self._client is not None:
            self._runner.run(self._client.aclose())
            self._client = None
        self._runner.close()

    async def _ask_all(self, calls: Sequence[Call], contract: str, on_outcome: Callable[[int, Outcome], None]) -> None:
        failures: list[Exception] = []

        async def answer(n: int, call: Call) -> None:
            async with self._limit.slot():
                if failures:
                    return
                try:
                    on_outcome(n, await self._answer(call, contract))
                except Exception as failure:  # raised below, when the other requests have their replies
                    failures.append(failure)

        async with asyncio.TaskGroup() as group:
            for n, call in enumerate(calls):
                group.create_task(answer(n, call))
        if failures:
            raise failures[0]

    async def _answer(self, call: Call, contract: str) -> Outcome:
        estimate = sum(estimate_tokens(message["content"]) for message in call.messages)
        least, room = int(estimate * _LEAST_SHARE), self._params.context_tokens - call.sampling.max_new_tokens
        if least > room:
            reason = f"about {estimate} tokens, and the endpoint reads {room} next to the answer"
            return NoReply(code="FT-GEN-005", reason=reason, attempts=0)
        seed = int(call_key(call, contract)[:7], 16)
        answer, attempts = await self._send(call.messages, call.sampling, seed)
        if answer.status != 200:
            return self._without_reply(answer, attempts)
        choice, usage = self._read(answer.body)
        if usage.prompt_tokens < least - _SPARE_TOKENS:
            raise self._cut(usage.prompt_tokens, estimate)
        if usage.prompt_tokens > room:
            reason = f"the server read {usage.prompt_tokens} tokens of a prompt, and {room} are left next to the answer"
            return NoReply(code="FT-GEN-006", reason=reason, attempts=attempts)
        text = choice.message.content
        if text is None or choice.finish_reason not in {"stop", "length"}:
            reason = f"finish_reason is {choice.finish_reason}, content is {self._shown(text or 'null')}"
            return NoReply(code="FT-GEN-004", reason=reason, attempts=attempts)
        return ModelReply(
            text=text.strip(),
            prompt_tokens=usage.prompt_tokens,
            tokens=usage.completion_tokens,
            finish="length" if choice.finish_reason == "length" else "stop",
            attempts=attempts,
        )

    def _without_reply(self, answer: _Answer, attempts: int) -> NoReply:
        """Return the outcome of a call that the server did not answer. Raise what holds for every call."""
        reason = answer.reason or f"HTTP {answer.status}: {self._shown(answer.body.decode(errors='replace'))}"
        if answer.passing:
            return NoReply(code=PASSING, reason=reason, attempts=attempts)
        if answer.status < 400 or answer.status in _HOPELESS_STATUS:
            raise self._refused("FT-GEN-009", reason)
        return NoReply(code="FT-GEN-002", reason=reason, attempts=attempts)

    def _read(self, body: bytes) -> tuple[_Choice, _Usage]:
        """Return the text of a reply and its tokens. Raises Refused if it is none, or one of another model."""
        try:
            reply = msgspec.json.decode(body, type=_Reply)
        except msgspec.DecodeError as error:
            shown = self._shown(body.decode(errors="replace"))
            raise self._refused("FT-GEN-004", f"status 200 with {shown!r} ({error})") from error
        if not reply.choices or reply.usage is None:
            raise self._refused("FT-GEN-004", f"the reply has no {'usage' if reply.choices else 'choices'}")
        if not _is_same(self._params.model, reply.model):
            raise self._refused("FT-GEN-007", f"asked for {self._params.model}, and {reply.model or 'no name'} replied")
        return reply.choices[0], reply.usage

    async def _probe(self) -> GeneratorContract:
        answer = await self._fetch("GET", "models")
        if answer.status == 200:
            self._refuse_unlisted(answer.body)
        choices = [(await self._probe_with(prompt, _PROBE_TOKENS))[0] for prompt in _PROBES]
        probe = digest([choice.message.content for choice in choices])[:16]
        return GeneratorContract(kind="endpoint", name=self._params.model, probe=probe)

    def _refuse_unlisted(self, body: bytes) -> None:
        """Refuse (FT-GEN-007) a model that the server does not list: some answer with another one."""
        try:
            names = [one.id for one in msgspec.json.decode(body, type=_Models).data]
        except msgspec.DecodeError:  # not every server has the list
            return
        wanted = self._params.model
        if names and not any(name in {wanted, f"{wanted}:latest", wanted.partition(":")[0]} for name in names):
            raise self._refused("FT-GEN-007", f"{wanted} is not served here; there is {', '.join(sorted(names)[:20])}")

    async def _probe_with(self, prompt: str, tokens: int) -> tuple[_Choice, int]:
        """Return the greedy answer to a prompt, and the tokens that the server read. Raises Refused for no answer."""
        answer, attempts = await self._send([{"role": "user", "content": prompt}], Sampling(max_new_tokens=tokens), 0)
        if answer.status != 200:
            fault = self._without_reply(answer, attempts)
            raise self._refused("FT-GEN-009", f"{fault.reason} (after {fault.attempts} attempts)")
        choice, usage = self._read(answer.body)
        return choice, usage.prompt_tokens

    async def _refuse_short_context(self) -> None:
        """Refuse (FT-GEN-006) a server that does not read a prompt of `context_tokens`.

        The tokens of a repeated word grow evenly, so two short prompts foretell those of a long one.
        """
        if self._params.context_tokens < 2 * _MANY_WORDS:
            return
        _, few = await self._probe_with(_WORD * _FEW_WORDS, 1)
        _, many = await self._probe_with(_WORD * _MANY_WORDS, 1)
        slope = max((many - few) / (_MANY_WORDS - _FEW_WORDS), 0.1)
        words = _FEW_WORDS + int((self._params.context_tokens - _SPARE_TOKENS - few) / slope)
        expected = round(few + slope * (words - _FEW_WORDS))
        try:
            _, read = await self._probe_with(_WORD * words, 1)
        except Refused as refusal:
            raise self._refused("FT-GEN-006", refusal.violations[0].message) from refusal
        if read < expected - _SPARE_TOKENS:
            raise self._cut(read, expected)

    async def _send(self, messages: Sequence[ChatMessage], sampling: Sampling, seed: int) -> tuple[_Answer, int]:
        """Return the answer to a request, and the number of attempts: a passing reason is waited out."""
        body: dict[str, object] = {
            "model": self._params.model,
            "messages": list(messages),
            "max_tokens": sampling.max_new_tokens,
            "temperature": sampling.temperature,
        }
        if sampling.temperature:
            body |= {"top_p": sampling.top_p, "seed": seed}
        for attempt in count(1):
            started = time.monotonic()
            answer = await self._fetch("POST", "chat/completions", body)
            if answer.status in _BUSY_STATUS:
                self._limit.halve(started)
            elif answer.status == 200:
                self._limit.rise()
            if not answer.passing or attempt > self._params.max_retries or answer.retry_after > _LONGEST_RETRY_AFTER:
                return answer, attempt
            # full jitter: requests that failed together do not come back together
            jitter = _random.uniform(0, min(_LONGEST_WAIT, _FIRST_WAIT * 2**attempt))
            await asyncio.sleep(answer.retry_after + jitter)
        raise AssertionError

    async def _fetch(self, method: str, path: str, body: dict[str, object] | None = None) -> _Answer:
        import httpx

        if self._client is None:
            self._client = httpx.AsyncClient(
                headers={"Authorization": f"Bearer {self._key}"} if self._key else {},
                timeout=httpx.Timeout(self._params.timeout, connect=_CONNECT_SECONDS, pool=None),
                limits=httpx.Limits(max_connections=None),
                follow_redirects=False,  # the key would go wherever the server points
                trust_env=urlsplit(self._address).hostname not in LOOPBACK,  # a proxy does not lead to this machine
            )
        received = bytearray()
        try:
            async with (
                asyncio.timeout(self._params.timeout),
                self._client.stream(method, f"{self._address}/{path}", json=body) as response,
            ):
                async for part in response.aiter_bytes():
                    received += part
                    if len(received) > _MAX_BYTES:
                        raise self._refused("FT-GEN-004", f"the reply has more than {_MAX_BYTES >> 20} MiB")
        except TimeoutError:
            return _Answer(status=0, reason=f"no reply within generator.timeout ({self._params.timeout:g} seconds)")
        except httpx.RequestError as error:
            return _Answer(status=0, reason=f"{type(error).__name__} {error}".strip())
        retry_after = _seconds(response.headers.get("retry-after", ""))
        return _Answer(status=response.status_code, body=bytes(received), retry_after=retry_after)

    def _cut(self, read: int, expected: int) -> Refused:
        return self._refused("FT-GEN-006", f"The server read {read} tokens of a prompt of about {expected}")

    def _refused(self, code: str, message: str) -> Refused:
        return Refused("asking the endpoint", [violation(code, where=self._address, message=message)])

    def _shown(self, text: str) -> str:
        """Return the begin of a server's text in one line; the key is never in it."""
        hidden = text.replace(self._key, "***") if self._key else text
        return " ".join(hidden.split())[:_SHOWN_CHARS]


class _Limit:
    """The number of requests at one time: additive increase, multiplicative decrease, as TCP does it."""

    def __init__(self, most: int) -> None:
        self._most = self.now = most
        self._used = self._successes = 0
        self._halved_at = 0.0
        self._changed = asyncio.Condition()

    @asynccontextmanager
    async def slot(self) -> AsyncGenerator[None]:
        """Wait until one more request may be made, and count it for the length of the block."""
        async with self._changed:
            await self._changed.wait_for(lambda: self._used < self.now)
            self._used += 1
        try:
            yield
        finally:
            async with self._changed:
                self._used -= 1
                self._changed.notify_all()

    def halve(self, started: float) -> None:
        """Lower the number, once for all requests that were under way together."""
        if started >= self._halved_at:
            self.now = max(1, self.now // 2)
            self._halved_at, self._successes = time.monotonic(), 0

    def rise(self) -> None:
        """Count a reply, and raise the number after twenty."""
        self._successes += 1
        if self._successes >= _SUCCESSES and self.now < self._most:
            self.now, self._successes = self.now + 1, 0


def _is_same(wanted: str, named: str) -> bool:
    """Return whether a reply's model is the one asked for; hosted ones add a date to it."""
    return re.fullmatch(rf"{re.escape(wanted)}([-@:]\d[\d-]*)?", named) is not None


def _seconds(retry_after: str) -> float:
    """Return the seconds that a Retry-After header asks to wait: a number or a date."""
    with suppress(ValueError):
        return max(0.0, float(retry_after))
    with suppress(ValueError):
        return max(0.0, parsedate_to_datetime(retry_after).timestamp() - time.time())
    return 0.0
