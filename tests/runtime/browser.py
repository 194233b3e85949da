"""A page in headless Chromium: what it asks for, and what it complains about."""

from __future__ import annotations

import functools
import http.server
import json
import shutil
import subprocess
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import Any

NAMES = ("chromium", "chromium-browser", "google-chrome", "chrome", "headless_shell")
_SECONDS = 60
_FLAGS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-extensions",
    "--disable-background-networking", "--disable-component-update", "--disable-sync",
    "--disable-dev-shm-usage", "--enable-logging=stderr",
    "--host-resolver-rules=MAP * ~NOTFOUND , EXCLUDE 127.0.0.1",
)  # fmt: skip


@dataclass(frozen=True)
class Visit:
    """served: paths the page's own host was asked for. requests: addresses that the page itself
    asked for besides. complaints: lines on the console. dom: the document as it ended up."""

    served: list[str]
    requests: list[str]
    complaints: list[str]
    dom: str


def find() -> str | None:
    """The browser's path, None where none is installed."""
    return next(filter(None, map(shutil.which, NAMES)), None)


def visit(browser: str, path: Path, work: Path) -> Visit:
    """Open a file through a server on this machine; ``work`` is an empty folder for the browser."""
    served: list[str] = []

    class Handler(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *_: Any) -> None:
            pass

        def do_GET(self) -> None:
            served.append(self.path)
            super().do_GET()

    handler = functools.partial(Handler, directory=str(path.parent))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        origin = f"http://127.0.0.1:{server.server_port}"
        log = work / "network.json"
        done = subprocess.run(
            [browser, *_FLAGS, f"--user-data-dir={work / 'profile'}", f"--log-net-log={log}",
             "--dump-dom", f"{origin}/{path.name}"],
            capture_output=True, text=True, timeout=_SECONDS,
        )  # fmt: skip
        server.shutdown()
    complaints = [line for line in done.stderr.splitlines() if "CONSOLE" in line]
    return Visit(served, _requests(log, origin), complaints, done.stdout)


def _requests(log: Path, origin: str) -> list[str]:
    """Requests in Chromium's network log that the page started, not the browser for itself."""
    record = json.loads(log.read_text())
    start = record["constants"]["logEventTypes"]["URL_REQUEST_START_JOB"]
    events = [event.get("params", {}) for event in record["events"] if event["type"] == start]
    return [params["url"] for params in events if params.get("initiator") == origin]
