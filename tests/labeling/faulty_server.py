# SPDX-License-Identifier: Apache-2.0
"""An OpenAI-compatible server on this machine that misbehaves as told.

Its answers are a function of the prompt, its faults one of (prompt, attempt),
so that a run with faults has a fault-free twin. As a program it labels pairs
with and without faults and compares:

    python -m tests.labeling.faulty_server --labels 10000
"""

from __future__ import annotations

import argparse
import asyncio
import collections
import contextlib
import hashlib
import json
import math
import threading
import time
from typing import Any, Callable, Mapping, NamedTuple, Sequence

from rlaif_jax.core import jsonl
from rlaif_jax.core import records
from rlaif_jax.labeling import endpoint
from rlaif_jax.labeling import endpoint_config
from rlaif_jax.labeling import pairwise_judge

# What may go wrong with one request, and what the client says if it always
# does; a number is an HTTP status.
FAULTS = {
  "429": "Error code: 429",
  "429 wait": "Error code: 429",  # with the headers of `wait_headers`
  "500": "Error code: 500",
  "503": "Error code: 503",
  "slow": "no response in",  # sends a bit at a time for `slow_seconds`
  "cut": "the connection was lost",  # in the middle of the body
  "garbled": "the response is not JSON",
  "bare": "without log-probs",
  "empty": "without choices",
  "double": "",  # a second choice that says something else
  "twice": "",  # the body is there twice
}
# Faults of which the client has the answer all the same.
HARMLESS = tuple(fault for fault, said in FAULTS.items() if not said)

Plan = Callable[[str, int], str]


class Answer(NamedTuple):
  """The output tokens, each with its probabilities."""

  tokens: Sequence[str]
  probabilities: Sequence[Mapping[str, float]]


def one_token(**probabilities: float) -> Answer:
  """An answer of the likeliest of these tokens; _1 stands for " 1"."""
  table = {name.replace("_", " "): p for name, p in probabilities.items()}
  return Answer([max(table, key=table.get)], [table])


def number(*parts: Any) -> float:
  """A number in [0, 1) that is drawn by the parts."""
  digest = hashlib.sha256(repr(parts).encode()).digest()
  return int.from_bytes(digest[:6], "big") / 2**48


def hashed_answer(prompt: str) -> Answer:
  """ "1" or "2", with probabilities drawn by the prompt."""
  p = 0.02 + 0.9 * number("answer", prompt)
  return Answer(
    ["1" if p > 0.48 else "2"],
    [{"1": p, "2": 0.96 - p, " 1": 0.02, "The": 0.01, "10": 0.005}],
  )


def random_plan(rate: float) -> Plan:
  """Faults in that share of the requests."""
  faults = list(FAULTS)

  def plan(prompt: str, attempt: int) -> str:
    if number("fault", prompt, attempt) >= rate:
      return ""
    return faults[int(len(faults) * number("which", prompt, attempt))]

  return plan


def no_faults(prompt: str, attempt: int) -> str:
  return ""


def once(fault: str, *prompts: str) -> Plan:
  """That fault at the first attempt of these prompts."""
  return lambda prompt, attempt: (
    fault if prompt in prompts and not attempt else ""
  )


def always(fault: str, *prompts: str) -> Plan:
  return lambda prompt, attempt: fault if prompt in prompts else ""


class FaultyServer:
  """Serves on 127.0.0.1 while it is entered; counts what it sees.

  Args:
    answer: of a prompt.
    plan: (prompt, how often it was asked before) -> fault, or "" for none.
    seconds: that each request takes.
    slow_seconds: that a slow one takes.
    wait_headers: of a "429 wait".
    usage: the cost that replies report: True for the truth, False for none.
    reply: (prompt, headers) -> HTTP message in place of an answer, or b"".

  `received` and `served` count requests and sound answers by prompt;
  `worked` counts what a real server would bill; `asked` has the requests'
  bodies, `times` when each prompt's came.
  """

  def __init__(
    self,
    answer: Callable[[str], Answer] = hashed_answer,
    plan: Plan = no_faults,
    *,
    seconds: float = 0.0,
    slow_seconds: float = 1.0,
    wait_headers: Mapping[str, str] | None = None,
    usage: Any = True,
    reply: Callable[[str, Mapping[str, str]], bytes] = lambda *_: b"",
  ):
    self._answer = answer
    self._plan = plan
    self._seconds = seconds
    self._slow_seconds = slow_seconds
    self._wait_headers = wait_headers or {"retry-after-ms": "20"}
    self._usage = usage
    self._reply = reply
    self.received: collections.Counter[str] = collections.Counter()
    self.served: collections.Counter[str] = collections.Counter()
    self.worked: collections.Counter[str] = collections.Counter()
    self.faults: collections.Counter[str] = collections.Counter()
    self.times: dict[str, list[float]] = collections.defaultdict(list)
    self.asked: list[dict[str, Any]] = []
    self.in_flight = self.most_in_flight = self.connections = 0
    self._ready = threading.Event()

  def __enter__(self) -> "FaultyServer":
    self._thread = threading.Thread(target=lambda: asyncio.run(self._run()))
    self._thread.start()
    self._ready.wait()
    return self

  def __exit__(self, *error: Any) -> None:
    self._loop.call_soon_threadsafe(self._stop.set)
    self._thread.join()

  async def _run(self) -> None:
    self._loop, self._stop = asyncio.get_running_loop(), asyncio.Event()
    server = await asyncio.start_server(self._connected, "127.0.0.1", 0)
    self.port = server.sockets[0].getsockname()[1]
    self.url = f"http://127.0.0.1:{self.port}/v1"
    self._ready.set()
    await self._stop.wait()
    server.close()

  async def _connected(self, reader, writer) -> None:
    """Answers the requests of one connection, one after the other."""
    self.connections += 1
    try:
      while True:
        head = await reader.readuntil(b"\r\n\r\n")
        path, headers = _head(head)
        body = await reader.readexactly(int(headers["content-length"]))
        self.in_flight += 1
        self.most_in_flight = max(self.most_in_flight, self.in_flight)
        try:
          whole = await self._respond(path, headers, json.loads(body), writer)
        finally:
          self.in_flight -= 1
        if not whole:
          return
    except (asyncio.IncompleteReadError, ConnectionError):
      pass  # The client has gone.
    except asyncio.CancelledError:
      pass  # The server is being left.
    finally:
      writer.close()

  async def _respond(self, path, headers, request, writer) -> bool:
    """Sends a reply or a fault; False if the connection is done with."""
    chat = path.endswith("/chat/completions")
    prompt = request["messages"][0]["content"] if chat else request["prompt"]
    fault = self._plan(prompt, self.received[prompt])
    self.received[prompt] += 1
    self.times[prompt].append(time.monotonic())
    self.asked.append(request)
    if fault:
      self.faults[fault] += 1
    if self._seconds:
      await asyncio.sleep(self._seconds)
    if fault[:1].isdigit():
      status = int(fault[:3])
      extra = self._wait_headers if fault.endswith("wait") else {}
      # Some servers repeat the key that they refuse.
      said = f"told to say {fault} to {headers.get('authorization')}"
      error = {"message": said, "type": "told", "code": fault[4:] or None}
      writer.write(http_message(_dump({"error": error}), status, extra))
      await writer.drain()
      return True
    self.worked[prompt] += 1
    if reply := self._reply(prompt, headers):
      writer.write(reply)
      return True
    body = _dump(self._body(prompt, request, fault, chat=chat))
    if fault == "garbled":
      body = body[: len(body) // 2]
    message = http_message(body * 2 if fault == "twice" else body)
    if fault == "cut":
      message = message[: len(message) - len(body) // 2]
    if fault in ("", *HARMLESS):
      self.served[prompt] += 1
    if fault == "slow":
      for i in range(8):
        writer.write(message[i : i + 1])
        await writer.drain()
        await asyncio.sleep(self._slow_seconds / 8)
      message = message[8:]
    writer.write(message)
    await writer.drain()
    return fault != "cut"

  def _body(self, prompt, request, fault, *, chat) -> dict[str, Any]:
    answer = self._answer(prompt)
    choices = [_choice(answer, request, chat=chat)]
    if fault == "double":
      lists = [{token: 1.0} for token in answer.tokens]
      other = Answer(["other", *answer.tokens], [{"other": 1.0}, *lists])
      choices.append(_choice(other, request, chat=chat))
    if fault == "bare":
      del choices[0]["logprobs"]
    result = {"object": "chat.completion", "choices": choices}
    if fault == "empty":
      result["choices"] = []
    if self._usage is not True:
      result["usage"] = self._usage or None
    else:
      written = min(len(answer.tokens), _limit(request))
      details = {"cached_tokens": len(prompt) // 2}
      counts = {"prompt_tokens": len(prompt), "completion_tokens": written}
      result["usage"] = {**counts, "prompt_tokens_details": details}
    return result


def _limit(request: dict[str, Any]) -> int:
  """Tokens of an answer, by either of the names that servers know."""
  return request.get("max_completion_tokens") or request["max_tokens"]


def _choice(answer: Answer, request, *, chat: bool) -> dict[str, Any]:
  """One choice, in the layout of the API that is asked."""
  tokens = list(answer.tokens)[: _limit(request)]
  text = "".join(tokens)
  for stop in request.get("stop") or ():
    text = text.split(stop)[0]
  said = {"message": {"content": text}} if chat else {"text": text}
  if not request.get("logprobs"):
    return {**said, "logprobs": None, "finish_reason": "stop"}
  most = request["top_logprobs"] if chat else request["logprobs"]
  columns = []
  for token, table in zip(tokens, answer.probabilities):
    best = sorted(table.items(), key=lambda item: -item[1])[:most]
    top = {name: math.log(p) if p else -9999.0 for name, p in best}
    columns.append((token, math.log(table[token]), top))
  if chat:
    content = [
      {
        "token": token,
        "logprob": own,
        "top_logprobs": [{"token": t, "logprob": v} for t, v in top.items()],
      }
      for token, own, top in columns
    ]
    return {**said, "logprobs": {"content": content}}
  names = ("tokens", "token_logprobs", "top_logprobs")
  return {**said, "logprobs": dict(zip(names, map(list, zip(*columns))))}


def _head(head: bytes) -> tuple[str, dict[str, str]]:
  first, *lines = head.decode("latin-1").strip().split("\r\n")
  pairs = (line.split(":", 1) for line in lines)
  return first.split()[1], {k.lower(): v.strip() for k, v in pairs}


def _dump(value: Any) -> bytes:
  return json.dumps(value).encode()


def http_message(
  body: bytes, status: int = 200, extra: Mapping[str, str] | None = None
) -> bytes:
  lines = [f"HTTP/1.1 {status} told", "content-type: application/json"]
  lines += [f"content-length: {len(body)}"]
  lines += [f"{name}: {value}" for name, value in (extra or {}).items()]
  return "\r\n".join([*lines, "", ""]).encode() + body


@contextlib.contextmanager
def serving(plan: Plan = no_faults, *, progress: Any = None, **settings: Any):
  """(server, backend); settings are the server's and the endpoint's."""
  answer = settings.pop("answer", hashed_answer)
  names = ("seconds", "slow_seconds", "wait_headers", "usage", "reply")
  own = {name: settings.pop(name) for name in names if name in settings}
  with FaultyServer(answer, plan, **own) as server:
    defaults = dict(
      model="m",
      base_url=server.url,
      timeout_seconds=20.0,
      first_backoff_seconds=0.002,
      max_backoff_seconds=0.5,
      max_retries=2,
    )
    config = endpoint_config.EndpointConfig(**{**defaults, **settings})
    backend = endpoint.EndpointBackend(config, progress=progress)
    try:
      yield server, backend
    finally:
      backend.close()


def make_pairs(count: int) -> list[records.Pair]:
  return [
    records.Pair(
      id=f"p{i}", context=f"Text {i}.", first=f"A {i}.", second=f"B {i}."
    )
    for i in range(count)
  ]


def label(
  server: FaultyServer, count: int, *, orders: str = "both"
) -> tuple[list[records.Preference], records.Usage, jsonl.Quarantine]:
  """Labels `make_pairs` at a server, with short waits."""
  config = endpoint_config.EndpointConfig(
    model="m",
    base_url=server.url,
    max_concurrency=32,
    timeout_seconds=1.0,
    first_backoff_seconds=0.02,
    max_backoff_seconds=0.2,
    max_retries=10,
  )
  backend = endpoint.EndpointBackend(config)
  # Two servers have two ports, and a label names its labeler.
  backend.name = "endpoint"
  quarantine = jsonl.Quarantine()
  try:
    labels, usage = pairwise_judge.judge_pairs(
      make_pairs(count),
      backend,
      pairwise_judge.PairwiseJudgeConfig(orders=orders),
      quarantine=quarantine,
    )
  finally:
    backend.close()
  return labels, usage, quarantine


def main() -> None:
  """Prints the figures of a run with faults and of its twin without."""
  parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
  parser.add_argument("--labels", type=int, default=10_000)
  parser.add_argument("--rate", type=float, default=0.1)
  flags = parser.parse_args()
  results = {}
  for name, rate in (("no faults", 0.0), ("faults", flags.rate)):
    plan = random_plan(rate)
    with FaultyServer(plan=plan, slow_seconds=1.5) as server:
      begin = time.monotonic()
      labels, usage, quarantine = label(server, flags.labels)
      seconds = time.monotonic() - begin
    results[name] = labels
    received = server.received.total()
    print(
      f"{name}: {len(labels)} labels, {len(quarantine.rows)} set aside, "
      f"{received} requests, {usage.retries} retries, {seconds:.1f} s, "
      f"{received / seconds:.0f} requests/s, {server.connections} connections"
    )
    print(f"  faults: {dict(server.faults)}")
    print(f"  a prompt was served at most {max(server.served.values())} times")
  print(f"labels are equal: {results['faults'] == results['no faults']}")


if __name__ == "__main__":
  main()
