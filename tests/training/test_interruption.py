"""Ctrl-C: the first one is noted, the second one is meant."""

from __future__ import annotations

import os
import signal
import threading

import pytest

from training.interruption import catch_interruption


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_the_first_is_noted_and_the_second_raises(
    number: int, status: int, capsys: pytest.CaptureFixture[str]
) -> None:
    before = signal.getsignal(number)
    with catch_interruption() as asked:
        assert not asked
        os.kill(os.getpid(), number)
        assert asked and asked.exit_status == status
        assert "finishing this update" in capsys.readouterr().err
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), number)
    assert signal.getsignal(number) is before


def test_other_threads_leave_signals_alone() -> None:
    seen = []

    def work() -> None:
        with catch_interruption() as asked:
            seen.append(bool(asked))

    before = signal.getsignal(signal.SIGINT)
    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert seen == [False] and signal.getsignal(signal.SIGINT) is before
