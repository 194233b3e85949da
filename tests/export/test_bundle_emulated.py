"""Bundles on other processors, in QEMU: the self-test prints what the integer graph gave here.

Run by ``make test-emulated``; a processor whose compiler or emulator is missing is skipped.
"""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from bundle_tools import SELFTEST, STRICT, TRACE, Written, assert_step, run, trace

from export.microcontroller.vectors import run_reference
from runtime.artifact import load_model

pytestmark = pytest.mark.emulated

CASES = ("short-4-8", "uint8-4-8", "words")


@dataclass(frozen=True)
class Processor:
    """compiler: with its options. emulator: to which the program's name is added."""

    compiler: tuple[str, ...]
    emulator: tuple[str, ...]


def linux(triple: str, emulator: str, *options: str) -> Processor:
    return Processor((f"{triple}-gcc", "-static", *options), (emulator,))


def board(name: str, cpu: str, *options: str) -> Processor:
    compiler = ("arm-none-eabi-gcc", f"-mcpu={cpu}", "-mthumb", *options, "-nostartfiles")
    screen = ("-display", "none", "-serial", "none", "-monitor", "none")
    output = ("-chardev", "stdio,id=out")
    semihosting = ("-semihosting-config", "enable=on,target=native,chardev=out")
    machine = ("qemu-system-arm", "-M", name)
    return Processor(compiler, (*machine, *screen, *output, *semihosting, "-kernel"))


PROCESSORS = {
    "aarch64": linux("aarch64-linux-gnu", "qemu-aarch64"),
    "armv7": linux("arm-linux-gnueabihf", "qemu-arm"),
    "riscv64": linux("riscv64-linux-gnu", "qemu-riscv64"),
    "cortex-m4": board("mps2-an386", "cortex-m4", "-mfloat-abi=soft"),
    "cortex-m7": board("mps2-an500", "cortex-m7", "-mfloat-abi=hard", "-mfpu=fpv5-sp-d16"),
}


@cache
def missing(processor: Processor) -> str | None:
    """The tool that is missing, or cannot be used."""
    compiler, emulator = processor.compiler[0], processor.emulator[0]
    for tool in (compiler, emulator):
        if shutil.which(tool) is None:
            return tool
    probe = b"#include <math.h>\n#include <string.h>\n"
    try:
        run([*processor.compiler, "-E", "-x", "c", "-"], probe)
    except AssertionError:
        return f"the C library of {compiler}"
    return None


@pytest.fixture(params=PROCESSORS)
def processor(request: pytest.FixtureRequest) -> Processor:
    found = PROCESSORS[request.param]
    if missing(found) is not None:
        pytest.skip(f"{request.param}: {missing(found)} is missing")
    return found


def build(
    written: Written, processor: Processor, program: Path, *sources: str | Path, level: str = "-O2"
) -> Path:
    options = [*processor.compiler, "-std=c99", level, *STRICT]
    if processor.emulator[0] == "qemu-system-arm":
        startup = ["port/mps2/startup.c", f"-T{written.folder}/port/mps2/mps2.ld"]
        return written.compile(program, [*options, startup[1]], *sources, startup[0])
    return written.compile(program, options, *sources)


@pytest.mark.parametrize("case", CASES)
def test_selftest(case: str, processor: Processor, bundles: Any, tmp_path: Path) -> None:
    written = bundles(case)
    sources = SELFTEST[:1] if processor.emulator[0] == "qemu-system-arm" else SELFTEST
    level = "-Os" if case == "words" else "-O2"
    program = build(written, processor, tmp_path / "selftest", *sources, level=level)
    expected = (written.folder / "selftest/expected.txt").read_text()
    assert run([*processor.emulator, program]).decode() == expected


@pytest.mark.parametrize("cpu", ["cortex-m4", "cortex-m7"])
def test_builds_with_cmake_for_a_board(cpu: str, bundles: Any, tmp_path: Path) -> None:
    """By the commands of the bundle's README."""
    if missing(PROCESSORS[cpu]) is not None:
        pytest.skip(f"{missing(PROCESSORS[cpu])} is missing")
    folder, build = bundles("flow-short").folder, tmp_path / "build"
    toolchain = ["--toolchain", folder / "port/mps2/toolchain.cmake", f"-DNET_CPU={cpu}"]
    run(["cmake", "-S", folder, "-B", build, *toolchain])
    run(["cmake", "--build", build])
    assert b"100% tests passed" in run(["ctest", "--test-dir", build])


def test_kernels_for_the_dsp_instructions(
    processor: Processor, bundles: Any, tmp_path: Path
) -> None:
    if processor.emulator[0] != "qemu-system-arm":
        pytest.skip("instructions of Cortex-M")
    written = bundles("short-4-8")
    define = '-DNET_TARGET_KERNELS="port/cortex_m_dsp.h"'
    board = Processor((*processor.compiler, define), processor.emulator)
    program = build(written, board, tmp_path / "selftest", SELFTEST[0])
    assert b"uxtab16" in run(["arm-none-eabi-objdump", "-d", program])
    expected = (written.folder / "selftest/expected.txt").read_text()
    assert run([*processor.emulator, program]).decode() == expected


def test_steps(processor: Processor, bundles: Any, moving_counts: Any, tmp_path: Path) -> None:
    """Every value of every state, where a program can read and write files."""
    if processor.emulator[0] == "qemu-system-arm":
        pytest.skip("no files on a bare board")
    written = bundles("LIFFireNet")
    program = build(written, processor, tmp_path / "trace", TRACE)
    windows = moving_counts(50, written.bundle.network.resolution, seed=9)
    expected = run_reference(load_model(written.model), written.bundle.network, windows)
    found = trace([*processor.emulator, program], written.bundle, windows)
    for (step, _), seen in zip(expected, found, strict=True):
        assert_step(written.bundle, seen, step)


def test_integers_need_nothing_of_the_compiler(
    processor: Processor, bundles: Any, tmp_path: Path
) -> None:
    """No symbol of the library that emulates floating-point numbers, or of any other."""
    written = bundles("uint8")
    nm = processor.compiler[0].removesuffix("gcc") + "nm"
    target = tmp_path / "net.o"
    source = written.folder / "net.c"
    options = [option for option in processor.compiler if option != "-nostartfiles"]
    run([*options, "-std=c99", "-O2", f"-I{written.folder}", "-c", source, "-o", target])
    undefined = {line.split()[-1] for line in run([nm, "-u", target]).decode().splitlines()}
    # Cores without a division have it, of integers, in the compiler's own library.
    division = {"__aeabi_idivmod", "__aeabi_uidivmod"} if "gnueabihf" in nm else set()
    assert undefined <= {"memcpy", "memset", "net_flow_of", "__stack_chk_fail"} | division
    assert "net_flow_of" in undefined
