"""Calls in order, from the cache or the source, within the budget, in flat memory."""

from __future__ import annotations

import tracemalloc
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import msgspec
import pytest

from expectations.contracts.generator import GeneratorContract
from expectations.violations import Refused
from resources.asker import Asker
from resources.call_cache import CallCache
from resources.telemetry import METRICS_FILE, Metrics, describe_step, read_metrics
from resources.text_source import BASE, Call, ModelReply, NoReply, Outcome, Sampling


class Echo:
    """A source that repeats the prompt, the last call first, and counts what it is asked."""

    def __init__(self, *, faults: dict[str, NoReply] | None = None, weights: str = "w1") -> None:
        self.asked: list[str] = []
        self.faults, self.weights = faults or {}, weights

    def contract(self, model: str = BASE) -> GeneratorContract:
        return GeneratorContract(kind="local", name="echo", weights=self.weights, adapter=model)

    def ask(self, calls: Sequence[Call], on_outcome: Callable[[int, Outcome], None]) -> None:
        for n in reversed(range(len(calls))):
            text = calls[n].messages[0]["content"]
            self.asked.append(text)
            reply = ModelReply(text=f"re: {text} {calls[n].sample}", prompt_tokens=8, tokens=2, finish="stop")
            on_outcome(n, self.faults.get(text, reply))

    def close(self) -> None:
        pass


def call(text: str, *, sample: int = 0, temperature: float = 1.0, **sampling: Any) -> Call:
    parameters = Sampling(max_new_tokens=8, temperature=temperature, **sampling)
    return Call(messages=[{"role": "user", "content": text}], sampling=parameters, sample=sample)


def ask(source: Echo, state: Path, calls: Sequence[Call], **options: Any) -> list[Outcome]:
    with Asker(source, CallCache(state), **options) as asker:
        return list(asker.ask(calls, total=len(calls)))


def texts(outcomes: Sequence[Outcome]) -> list[str]:
    return [one.text if isinstance(one, ModelReply) else one.code for one in outcomes]


def test_outcomes_come_in_order_and_each_call_is_asked_once(tmp_path: Path) -> None:
    calls, source = [call(f"q{n % 400}") for n in range(700)], Echo()
    wanted = [f"re: q{n % 400} 0" for n in range(700)]
    assert texts(ask(source, tmp_path, calls)) == wanted and len(source.asked) == 400
    assert texts(ask(source, tmp_path, calls)) == wanted and len(source.asked) == 400


def test_what_decides_the_text_is_asked_again_and_nothing_else(tmp_path: Path) -> None:
    source = Echo()
    ask(source, tmp_path, [call("q")])
    changes: list[dict[str, Any]] = [{"sample": 1}, {"seed": 1}, {"top_p": 0.5}, {"temperature": 0.5}]
    others = [call("q", **change) for change in [*changes, {"temperature": 0.0}]]
    ask(source, tmp_path, others)
    assert len(source.asked) == 6
    ask(source, tmp_path, [call("q"), *others])
    ask(source, tmp_path, [call("q", temperature=0.0, seed=9, sample=3)])
    assert len(source.asked) == 6, "a greedy text has no seed"
    other = Echo(weights="w2")
    ask(other, tmp_path, [call("q")])
    assert len(other.asked) == 1


def test_an_equal_adapter_under_another_name_is_the_same_model(tmp_path: Path) -> None:
    class Released(Echo):
        def contract(self, model: str = BASE) -> GeneratorContract:
            return super().contract("sft" if model == "released" else model)

    source = Released()
    named = [msgspec.structs.replace(call("q"), model=model) for model in ("sft", "released", "dpo")]
    ask(source, tmp_path, named)
    assert len(source.asked) == 2


def test_a_call_without_a_reply_is_never_kept(tmp_path: Path) -> None:
    long = Echo(faults={"b": NoReply(code="FT-GEN-005", reason="too long")})
    assert texts(ask(long, tmp_path, [call("a"), call("b")])) == ["re: a 0", "FT-GEN-005"]
    down = Echo(faults={"b": NoReply(code="FT-GEN-001", reason="HTTP 503", attempts=6)})
    with pytest.raises(Refused, match=r"FT-GEN-001.*1 of 2 calls.*after 6 attempts: HTTP 503"):
        ask(down, tmp_path, [call("a"), call("b"), call("c")])
    assert sorted(down.asked) == ["b", "c"]
    healthy = Echo()
    assert texts(ask(healthy, tmp_path, [call("a"), call("b"), call("c")])) == ["re: a 0", "re: b 0", "re: c 0"]
    assert healthy.asked == ["b"]


def test_the_budget_stops_a_run_and_the_next_one_continues(tmp_path: Path) -> None:
    source, calls = Echo(), [call(f"q{n}") for n in range(250)]
    stops = 0
    while True:
        before = len(source.asked)
        try:
            outcomes = ask(source, tmp_path, calls, max_tokens_total=1000)
            break
        except Refused as refused:
            stops += 1
            text = str(refused)
            assert "FT-GEN-010" in text and f"{stops * 100} of 250 calls" in text
            assert f"the rest needs about {10 * (250 - stops * 100):,} tokens" in text
            assert len(source.asked) - before == 100, "10 tokens a call"
    assert stops == 2 and len(source.asked) == 250
    assert texts(outcomes) == [f"re: q{n} 0" for n in range(250)]


def test_a_budget_asks_few_calls_before_it_knows_how_long_they_are(tmp_path: Path) -> None:
    class Sized(Echo):
        def ask(self, calls: Sequence[Call], on_outcome: Callable[[int, Outcome], None]) -> None:
            sizes.append(len(calls))
            super().ask(calls, on_outcome)

    sizes: list[int] = []
    calls = [call(f"q{n}") for n in range(2000)]
    ask(Sized(), tmp_path / "budget", calls, window=2048, max_tokens_total=10**6)
    ask(Sized(), tmp_path / "none", calls, window=2048)
    assert sizes == [256, 1744, 2000]


def test_cached_calls_cost_no_budget(tmp_path: Path) -> None:
    calls = [call(f"q{n}") for n in range(50)]
    ask(Echo(), tmp_path, calls)
    assert len(ask(Echo(), tmp_path, [*calls, call("new")], max_tokens_total=1)) == 51


def test_progress_has_rates_of_new_calls_and_cache_hits(tmp_path: Path) -> None:
    ask(Echo(), tmp_path, [call(f"q{n}") for n in range(100)])
    metrics = Metrics(tmp_path / "run")
    with Asker(Echo(), CallCache(tmp_path), metrics=metrics) as asker:
        list(asker.ask([call(f"q{n}") for n in range(300)], phase="candidates", total=300))
        assert (asker.usage.calls, asker.usage.cached, asker.usage.total_tokens) == (200, 100, 2000)
    last = list(read_metrics(tmp_path / "run" / METRICS_FILE))[-1]
    assert (last["phase"], last["step"], last["total"], last["cached"]) == ("candidates", 300, 300, 100)
    assert last["tokens_per_second"] > 0 and last["seconds_per_step"] >= 0
    assert "candidates" in describe_step(last)[0]


@pytest.mark.slow
def test_fifty_thousand_calls_take_no_more_memory_than_a_few_thousand(tmp_path: Path) -> None:
    def peak(number: int) -> int:
        def calls() -> Iterator[Call]:
            for n in range(number):
                yield call(f"question {n} about a passage " * 4)

        class Silent(Echo):
            def ask(self, calls: Sequence[Call], on_outcome: Callable[[int, Outcome], None]) -> None:
                for n in range(len(calls)):
                    on_outcome(n, ModelReply(text="an answer " * 4, prompt_tokens=8, tokens=2, finish="stop"))

        tracemalloc.start()
        with Asker(Silent(), CallCache(tmp_path / str(number))) as asker:
            count = sum(1 for _ in asker.ask(calls(), total=number))
        _, most = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert count == number == asker.usage.calls
        return most

    few, many = peak(2_000), peak(50_000)
    assert many < few * 1.2 and many < 4_000_000, (few, many)
