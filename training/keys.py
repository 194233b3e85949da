"""The table of configuration keys: ``python -m training.fit --keys`` and docs/training.md."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pydantic import BaseModel

from training.config import describe_keys


def keys_table() -> str:
    """Every key, its default as in YAML, and its meaning, as a Markdown table."""
    lines = ["| key | default | meaning |", "| --- | --- | --- |"]
    for key, default, meaning in describe_keys():
        shown = "" if isinstance(default, BaseModel) else f"`{_yaml(default)}`"
        lines.append(f"| `{key}` | {shown} | {meaning} |")
    return "\n".join(lines)


def _yaml(value: Any) -> str:
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, tuple):
        return f"[{', '.join(_yaml(item) for item in value)}]"
    return value.as_posix() if isinstance(value, Path) else str(value)
