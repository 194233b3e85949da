"""What a bundle costs: code sizes, stack and instructions, with the compilers that are here."""

from __future__ import annotations

import re
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from export.microcontroller.network import BundleError
from export.microcontroller.source import template

STRICT = ("-std=c99", "-Wall", "-Wextra", "-Wconversion", "-pedantic")
_TIMEOUT_S = 600
_SELFTEST = ("net.c", "net_head.c", "selftest/selftest.c", "port/port_host.c")
_INSTRUCTIONS_PER_TICK = 40
BOARD = (
    *("qemu-system-arm", "-M", "mps2-an386", "-display", "none", "-serial", "none"),
    *("-monitor", "none", "-chardev", "stdio,id=out"),
    *("-semihosting-config", "enable=on,target=native,chardev=out"),
)
"""QEMU with a Cortex-M4 whose programs print by semihosting."""


@dataclass(frozen=True)
class Compiler:
    """One way to compile: a label for people, the command, and the tool that tells sizes."""

    label: str
    command: tuple[str, ...]
    size: str


COMPILERS = (
    Compiler("this machine, -O2", ("cc", "-O2"), "size"),
    Compiler(
        "Cortex-M4, -O2",
        ("arm-none-eabi-gcc", "-O2", "-mcpu=cortex-m4", "-mthumb", "-mfloat-abi=soft"),
        "arm-none-eabi-size",
    ),
    Compiler(
        "Cortex-M4, -Os",
        ("arm-none-eabi-gcc", "-Os", "-mcpu=cortex-m4", "-mthumb", "-mfloat-abi=soft"),
        "arm-none-eabi-size",
    ),
    Compiler("RISC-V 64, -O2", ("riscv64-linux-gnu-gcc", "-O2"), "riscv64-linux-gnu-size"),
)


@dataclass(frozen=True)
class CodeSize:
    """Bytes of net.c and net_head.c: code, constants in flash, RAM; largest frame on the stack."""

    label: str
    code: int
    constants: int
    ram: int
    stack: int


@dataclass(frozen=True)
class Figures:
    """What was found out.

    code: one entry per compiler found. instructions: per step on this machine, or None without
    valgrind. board_instructions: on a Cortex-M4, or None without its compiler and QEMU, or where
    the network does not fit the board.
    """

    code: tuple[CodeSize, ...]
    instructions: int | None
    board_instructions: int | None

    def to_dict(self) -> dict[str, Any]:
        """As JSON values."""
        return {
            "code": [asdict(entry) for entry in self.code],
            "instructions": self.instructions,
            "board_instructions": self.board_instructions,
        }

    def lines(self) -> list[str]:
        """For people."""
        found = [
            f"{entry.label}: code {entry.code}, constants {entry.constants}, RAM {entry.ram}, "
            f"largest stack frame {entry.stack} bytes"
            for entry in self.code
        ]
        for where, count in (
            ("this machine, -O2, counted by valgrind", self.instructions),
            ("Cortex-M4, -O2, counted by QEMU", self.board_instructions),
        ):
            found.append(
                f"instructions per step, {where}: {'not counted' if count is None else count}"
            )
        return found


def measure(folder: Path, steps: int) -> Figures:
    """Compile a bundle and count what it costs; ``steps`` of its self-test.

    Raises:
        BundleError: no C compiler, or the bundle does not compile or run.
    """
    found = [entry for entry in COMPILERS if shutil.which(entry.command[0])]
    if not found:
        raise BundleError("--measure needs a C compiler (cc); on Debian: apt install gcc")
    with tempfile.TemporaryDirectory() as scratch:
        code = tuple(_code_size(folder, Path(scratch), entry) for entry in found)
        return Figures(
            code,
            _instructions(folder, Path(scratch), steps),
            _board_instructions(folder, Path(scratch)),
        )


def _code_size(folder: Path, scratch: Path, compiler: Compiler) -> CodeSize:
    objects = []
    for name in ("net", "net_head"):
        target = scratch / f"{name}.o"
        run([*compiler.command, *STRICT, "-fstack-usage", "-c", f"{folder}/{name}.c", "-o", target])
        objects.append(target)
    sections = {"code": 0, "constants": 0, "ram": 0}
    for line in run([compiler.size, "-A", *objects]).splitlines():
        parts = line.split()
        if len(parts) == 3 and parts[1].isdigit():
            kind = _kind_of(parts[0])
            if kind is not None:
                sections[kind] += int(parts[1])
    return CodeSize(compiler.label, **sections, stack=_largest_frame(scratch))


def _kind_of(section: str) -> str | None:
    for start, kind in (
        (".text", "code"),
        (".rodata", "constants"),
        (".srodata", "constants"),
        (".data.rel.ro", "constants"),
        (".data", "ram"),
        (".bss", "ram"),
    ):
        if section.startswith(start):
            return kind
    return None


def _largest_frame(scratch: Path) -> int:
    """From the files that -fstack-usage leaves beside the objects."""
    frames = [
        int(line.split("\t")[1])
        for path in scratch.glob("*.su")
        for line in path.read_text().splitlines()
    ]
    return max(frames, default=0)


def _instructions(folder: Path, scratch: Path, steps: int) -> int | None:
    if not (shutil.which("valgrind") and shutil.which("cc")):
        return None
    program = scratch / "selftest"
    files = [folder / name for name in _SELFTEST]
    run(["cc", "-O2", f"-I{folder}", f"-I{folder}/port", "-o", program, *files, "-lm"])
    report = run(
        [
            "valgrind",
            "--tool=callgrind",
            "--toggle-collect=net_step_rows",
            f"--callgrind-out-file={scratch}/callgrind.out",
            program,
        ]
    )
    found = re.search(r"Collected : (\d+)", report)
    return int(found[1]) // steps if found else None


def _board_instructions(folder: Path, scratch: Path) -> int | None:
    """The mean over the steps of the self-test in QEMU."""
    compiler = COMPILERS[1].command
    if not (shutil.which(compiler[0]) and shutil.which(BOARD[0])):
        return None
    counter, program = scratch / "count.c", scratch / "count"
    counter.write_text(template("mps2_count.c"))
    files = [folder / name for name in (*_SELFTEST[:3], "port/mps2/startup.c")]
    try:
        includes = (f"-I{folder}", f"-I{folder}/port")
        linking = ("-nostartfiles", f"-T{folder}/port/mps2/mps2.ld", "-Wl,--wrap=net_step_rows")
        run([*compiler, "-std=c99", *includes, *linking, "-o", program, counter, *files, "-lm"])
    except BundleError:  # the board's memory is too small
        return None
    report = run([*BOARD, "-icount", "shift=0", "-kernel", program])
    ticks = [int(text, 16) for text in re.findall(r"^ticks (\w+)", report, re.MULTILINE)]
    if not ticks or "too many ticks" in report:
        return None
    return _INSTRUCTIONS_PER_TICK * sum(ticks) // len(ticks)


def run(command: Sequence[str | Path]) -> str:
    """Run a tool; returns what it printed.

    Raises:
        BundleError: it failed, with the last line of what it said.
    """
    arguments = [str(entry) for entry in command]
    try:
        done = subprocess.run(
            arguments,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            timeout=_TIMEOUT_S,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise BundleError(f"{arguments[0]}: {error}") from error
    if done.returncode != 0:
        last = (done.stdout.strip().splitlines() or ["no output"])[-1]
        raise BundleError(f"{arguments[0]} failed with status {done.returncode}: {last}")
    return done.stdout
