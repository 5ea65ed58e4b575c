"""A chat model behind an OpenAI-compatible endpoint, hosted or local (llama.cpp's server, vLLM, Ollama), asked with
patience: waits that grow, an allowance that is never overdrawn, and an end where asking on is of no use.
"""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import openai

from edge_emotion.errors import EdgeEmotionError, LabellingError
from edge_emotion_train.labelling.workers import StopRun

Message = Mapping[str, str]
T = TypeVar("T")

FIRST_WAIT_S, LONGEST_WAIT_S = 1.0, 60.0
# A text in any language has fewer tokens than this many a character, so an estimate never falls short.
TOKENS_PER_CHARACTER = 1.0
# Answers that are of no use cost as much as good ones: further ones are not asked for.
MOST_UNUSABLE = 2
# After as many records in a row without any answer, the others are not tried.
GIVE_UP_AFTER = 10
_ASK_AGAIN_STATUS = (408, 409, 425, 429)


class NoAnswerError(EdgeEmotionError):
    """A request that got no usable answer, however often it was repeated."""


@dataclass(frozen=True)
class Usage:
    """What has been spent.

    Attributes:
        requests: Requests sent, repeated ones included.
        prompt_tokens: As the endpoint counts them, estimated where it does not say.
        completion_tokens: The same of the answers.
        cost: In the currency of the prices.
    """

    requests: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    cost: float = 0.0


class Allowance:
    """What may be spent; threads share it. What a request could cost at most is set aside before it is sent.

    Args:
        requests: Most requests; None for any number.
        tokens: Most tokens of prompts and answers together.
        cost: Highest cost.
        prompt_price: Of a million tokens of prompts.
        completion_price: Of a million tokens of answers.

    Raises:
        LabellingError: A limit is negative, or a cost is limited and no price given.
    """

    def __init__(
        self,
        requests: int | None = None,
        tokens: int | None = None,
        cost: float | None = None,
        prompt_price: float = 0.0,
        completion_price: float = 0.0,
    ) -> None:
        if min(requests or 0, tokens or 0, cost or 0.0, prompt_price, completion_price) < 0:
            raise LabellingError("limits and prices must not be negative")
        if cost is not None and not prompt_price and not completion_price:
            raise LabellingError("a limit of cost needs the prices of a million tokens of prompts and of answers")
        self._limits = {"requests": requests, "tokens": tokens, "cost": cost}
        self._prices = prompt_price / 1e6, completion_price / 1e6
        self._lock = threading.Lock()
        self._requests, self._tokens = 0, [0, 0]
        self._aside = [0, 0]

    @property
    def spent(self) -> Usage:
        """What has been spent so far."""
        prompt, completion = self._tokens
        return Usage(self._requests, prompt, completion, self._cost(self._tokens))

    def set_aside(self, prompt_tokens: int, completion_tokens: int) -> tuple[int, int]:
        """Take what a request may cost at most.

        Raises:
            StopRun: It could go beyond a limit.
        """
        with self._lock:
            tokens = [
                self._tokens[0] + self._aside[0] + prompt_tokens,
                self._tokens[1] + self._aside[1] + completion_tokens,
            ]
            wanted = {"requests": self._requests + 1, "tokens": sum(tokens), "cost": self._cost(tokens)}
            for name, limit in self._limits.items():
                if limit is not None and wanted[name] > limit:
                    raise StopRun(
                        f"the allowance of {name} ({limit:g}) is used up after {self._requests} requests and "
                        f"{sum(self._tokens)} tokens; allow more to go on"
                    )
            self._requests += 1
            self._aside = [self._aside[0] + prompt_tokens, self._aside[1] + completion_tokens]
        return prompt_tokens, completion_tokens

    def settle(self, aside: tuple[int, int], prompt_tokens: int, completion_tokens: int) -> None:
        """Give back what was set aside, and book what was used."""
        with self._lock:
            self._aside = [self._aside[0] - aside[0], self._aside[1] - aside[1]]
            self._tokens = [self._tokens[0] + prompt_tokens, self._tokens[1] + completion_tokens]

    def _cost(self, tokens: Sequence[int]) -> float:
        return tokens[0] * self._prices[0] + tokens[1] * self._prices[1]


class ChatEndpoint:
    """Asks a chat model; threads may share it.

    Args:
        base_url: Such as `http://127.0.0.1:8080/v1`.
        model: Name of the model at the endpoint.
        api_key: Key, where the endpoint wants one.
        timeout_s: Longest wait for an answer.
        retries: Further attempts after a failed one.
        temperature: Of sampling; None leaves it to the endpoint.
        max_tokens: Longest answer.
        allowance: What may be spent.
        sleep: Waits so many seconds; for tests.
    """

    def __init__(
        self,
        base_url: str,
        model: str,
        api_key: str | None = None,
        *,
        timeout_s: float = 120.0,
        retries: int = 5,
        temperature: float | None = 0.8,
        max_tokens: int = 600,
        allowance: Allowance | None = None,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        if not base_url.startswith(("http://", "https://")):
            raise LabellingError(f"endpoint {base_url!r} given; it is a URL such as http://127.0.0.1:8080/v1")
        self.model = model
        self.allowance = allowance or Allowance()
        self._client = openai.OpenAI(
            base_url=base_url, api_key=api_key or "none", timeout=timeout_s, max_retries=0, organization="", project=""
        )
        self._base_url, self._timeout_s, self._retries, self._sleep = base_url, timeout_s, retries, sleep
        self._options: dict[str, Any] = {"max_tokens": max_tokens}
        if temperature is not None:
            self._options["temperature"] = temperature
        self._max_tokens = max_tokens
        self._lock = threading.Lock()
        self._without_answer = 0

    def ask(self, messages: Sequence[Message], read: Callable[[str], T], seed: int | None = None) -> T:
        """Ask until an answer can be read.

        Args:
            messages: The conversation, each with `role` and `content`.
            read: What to make of the answer's text; it raises `ValueError` where the text is of no use.
            seed: Of the endpoint's sampling, where it has one.

        Raises:
            NoAnswerError: No attempt gave a usable answer.
            StopRun: The allowance is used up, or the endpoint will answer no request: the key, the model's name or the
                address is wrong, or nobody has answered for long.
        """
        attempt, unusable, causes = 0, 0, dict[str, None]()
        while True:
            wait_s = answered = None
            try:
                answered = self._request(messages, None if seed is None else seed + attempt)
                self._without_answer = 0
                return read(answered)
            except openai.APIStatusError as error:
                if self._adapt(error):
                    continue
                cause, wait_s = self._judge(error), _asked_wait_s(error)
            except openai.APITimeoutError:
                cause = f"no answer within {self._timeout_s:g} s"
            except openai.APIConnectionError as error:
                cause = f"no connection: {error.__cause__ or error}"
            except openai.OpenAIError as error:
                cause = f"{type(error).__name__}: {error}"
            except (ValueError, TypeError, AttributeError, IndexError) as error:
                cause, unusable = f"no usable answer: {error}", unusable + 1
            causes[cause[:300]] = None
            if attempt >= self._retries or unusable >= MOST_UNUSABLE:
                raise self._failure(attempt + 1, list(causes), reached=answered is not None)
            # The same pseudo-random share of the wait for nobody: threads must not come back all at once.
            growing_s = min(LONGEST_WAIT_S, FIRST_WAIT_S * 2.0**attempt) * random.uniform(0.5, 1.0)
            self._sleep(growing_s if wait_s is None else min(wait_s, LONGEST_WAIT_S))
            attempt += 1

    def _request(self, messages: Sequence[Message], seed: int | None) -> str:
        expected = int(TOKENS_PER_CHARACTER * sum(len(message["content"]) for message in messages)) + 64
        aside = self.allowance.set_aside(expected, self._max_tokens)
        used = (0, 0)
        try:
            conversation: Any = list(messages)
            answer: Any = self._client.chat.completions.create(
                model=self.model,
                messages=conversation,
                seed=openai.omit if seed is None else seed,
                **self._options,
            )
            if isinstance(answer, str):
                raise ValueError(f"not JSON but {answer[:80]!r}")
            usage = getattr(answer, "usage", None)
            choice = answer.choices[0]
            text = choice.message.content or ""
            used = (
                getattr(usage, "prompt_tokens", None) or expected // 4,
                getattr(usage, "completion_tokens", None) or len(text) // 4,
            )
        finally:
            self.allowance.settle(aside, *used)
        if choice.finish_reason == "length":
            raise ValueError(f"cut off after {self._max_tokens} tokens; allow longer answers")
        if not text.strip():
            raise ValueError("an empty text")
        return text

    def _adapt(self, error: openai.APIStatusError) -> bool:
        """Leave out or rename an option that the endpoint's error names; whether there was one."""
        if error.status_code not in (400, 422):
            return False
        said = str(error)
        with self._lock:
            if "max_completion_tokens" in said and "max_tokens" in self._options:
                self._options["max_completion_tokens"] = self._options.pop("max_tokens")
                return True
            if "temperature" in said and "temperature" in self._options:
                del self._options["temperature"]
                return True
        return False

    def _judge(self, error: openai.APIStatusError) -> str:
        """The cause in words.

        Raises:
            NoAnswerError: The endpoint will never answer this request.
            StopRun: It will answer none.
        """
        cause = f"status {error.status_code}: {_said(error)}"
        if error.status_code in (401, 403, 404) or error.code == "insufficient_quota":
            raise StopRun(f"{self._base_url} with model {self.model!r} answers no request ({cause}); mend that")
        if error.status_code < 500 and error.status_code not in _ASK_AGAIN_STATUS:
            raise NoAnswerError(f"the endpoint refused the request ({cause})")
        return cause

    def _failure(self, attempts: int, causes: Sequence[str], reached: bool) -> EdgeEmotionError:
        """What ends the asking; where nobody has answered for long, it ends the run."""
        told = f"no usable answer from {self.model} in {attempts} attempts ({'; '.join(causes)})"
        with self._lock:
            self._without_answer = 0 if reached else self._without_answer + 1
            if self._without_answer < GIVE_UP_AFTER:
                return NoAnswerError(told)
        others = GIVE_UP_AFTER - 1
        return StopRun(f"{told}, nor for {others} other clips in a row; see whether the endpoint works")


def _asked_wait_s(error: openai.APIStatusError) -> float | None:
    """How long the endpoint asks to wait."""
    try:
        return max(0.0, float(error.response.headers.get("retry-after", "")))
    except ValueError:
        return None


def _said(error: openai.APIStatusError) -> str:
    body = error.body
    message = body.get("message") if isinstance(body, dict) else None
    return str(message or error.message)[:200]
