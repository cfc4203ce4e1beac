# SPDX-License-Identifier: Apache-2.0
"""Drives a headless Chromium through its DevTools pipe: no driver, no socket.

Messages are JSON that ends with NUL, on file descriptors 3 (to the browser)
and 4 (from it): https://chromedevtools.github.io/devtools-protocol/.
"""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import subprocess
import time
from typing import Any

BINARIES = ("chromium", "chromium-browser", "google-chrome")

KEYS = {"Enter": ("Enter", "\r", 13), "Backspace": ("Backspace", "", 8)}


def find() -> str | None:
  """The browser's path, if this machine has one."""
  return next(filter(None, map(shutil.which, BINARIES)), None)


class Browser:
  """One page. `problems` are exceptions and errors that the page logged."""

  def __init__(self, profile: str):
    to_browser, self._out = os.pipe()
    self._in, from_browser = os.pipe()
    # Out of the way of the numbers that they get; a shell gives them, since a
    # function between fork and exec is not for a process with threads.
    ends = [
      fcntl.fcntl(end, fcntl.F_DUPFD, 10) for end in (to_browser, from_browser)
    ]
    place = f'exec "$0" "$@" 3<&{ends[0]} 4>&{ends[1]}'
    self._process = subprocess.Popen(
      [
        "bash",
        "-c",
        place,
        find(),
        "--headless=new",
        "--no-sandbox",
        "--disable-gpu",
        "--disable-dev-shm-usage",
        "--no-first-run",
        "--remote-debugging-pipe",
        f"--user-data-dir={profile}",
        "about:blank",
      ],
      pass_fds=ends,
      stdout=subprocess.DEVNULL,
      stderr=subprocess.DEVNULL,
    )
    for end in (to_browser, from_browser, *ends):
      os.close(end)
    self._buffer = b""
    self._number = 0
    self._session: dict[str, str] = {}
    self.problems: list[str] = []
    target = self._page()
    attached = self.send("Target.attachToTarget", targetId=target, flatten=True)
    self._session = {"sessionId": attached["sessionId"]}
    for domain in ("Page", "Runtime", "Log"):
      self.send(f"{domain}.enable")

  def _page(self) -> str:
    for _ in range(100):
      for target in self.send("Target.getTargets")["targetInfos"]:
        if target["type"] == "page":
          return target["targetId"]
      time.sleep(0.1)
    raise RuntimeError("the browser opened no page")

  def close(self) -> None:
    self._process.kill()
    self._process.wait()
    os.close(self._out)
    os.close(self._in)

  def send(self, method: str, **parameters: Any) -> dict[str, Any]:
    """The result of one command."""
    self._number += 1
    message = {"id": self._number, "method": method, "params": parameters}
    data = json.dumps({**message, **self._session}).encode()
    os.write(self._out, data + b"\0")
    while True:
      reply = self._read()
      if reply.get("id") == self._number:
        if "error" in reply:
          raise RuntimeError(f"{method}: {reply['error']}")
        return reply["result"]
      self._note(reply)

  def _read(self) -> dict[str, Any]:
    while b"\0" not in self._buffer:
      data = os.read(self._in, 1 << 16)
      if not data:
        raise RuntimeError("the browser has gone")
      self._buffer += data
    line, _, self._buffer = self._buffer.partition(b"\0")
    return json.loads(line)

  def _note(self, event: dict[str, Any]) -> None:
    kind, detail = event.get("method"), event.get("params", {})
    if kind == "Runtime.exceptionThrown":
      self.problems.append(json.dumps(detail["exceptionDetails"]))
    elif kind == "Log.entryAdded" and detail["entry"]["level"] == "error":
      self.problems.append(detail["entry"]["text"])
    elif kind == "Page.javascriptDialogOpening":
      self.problems.append("dialog: " + detail["message"])
      raise RuntimeError("a dialog has opened: " + detail["message"])

  def evaluate(self, script: str) -> Any:
    """The value of an expression in the page."""
    result = self.send(
      "Runtime.evaluate", expression=script, returnByValue=True
    )
    if "exceptionDetails" in result:
      raise RuntimeError(json.dumps(result["exceptionDetails"]))
    return result["result"].get("value")

  def wait(self, script: str, seconds: float = 20.0) -> Any:
    """The value once it is true."""
    until = time.monotonic() + seconds
    while time.monotonic() < until:
      value = self.evaluate(script)
      if value:
        return value
      time.sleep(0.02)
    shown = self.evaluate("document.body.innerText.slice(0, 2000)")
    raise AssertionError(f"never true: {script}\n{shown}")

  def open(self, address: str) -> None:
    self.send("Page.navigate", url=address)
    self.wait("document.readyState === 'complete'")

  def press(self, key: str) -> None:
    """One key, as from a keyboard."""
    name, text, code = KEYS.get(key, (key, key, ord(key[0].upper())))
    pressed = {"key": name, "windowsVirtualKeyCode": code}
    kind = "keyDown" if text else "rawKeyDown"
    self.send("Input.dispatchKeyEvent", type=kind, text=text, **pressed)
    self.send("Input.dispatchKeyEvent", type="keyUp", **pressed)

  def type(self, text: str) -> None:
    self.send("Input.insertText", text=text)

  def click(self, selector: str) -> None:
    """The mouse, in the middle of an element."""
    script = """(() => {
      const element = document.querySelector(SELECTOR);
      element.scrollIntoView({block: "nearest"});
      const box = element.getBoundingClientRect();
      return [box.x + box.width / 2, box.y + Math.min(box.height / 2, 40)];
    })()"""
    x, y = self.evaluate(script.replace("SELECTOR", json.dumps(selector)))
    where = {"x": x, "y": y, "button": "left", "clickCount": 1}
    for kind in ("mousePressed", "mouseReleased"):
      self.send("Input.dispatchMouseEvent", type=kind, **where)
