import io
import sys

from napari_medseg import progress_display
from napari_medseg.progress_display import shown_progress


def work(progress):
    progress.begin(3, "counting")
    for _ in range(3):
        progress.advance()
    progress.begin(1, "finishing")


def test_quiet_says_nothing(capsys):
    with shown_progress(True) as progress:
        work(progress)
    assert capsys.readouterr() == ("", "")


def test_lines_where_nobody_watches(capsys, monkeypatch):
    clock = [0.0]
    monkeypatch.setattr(progress_display.time, "monotonic", lambda: clock[0])
    with shown_progress(False) as progress:
        progress.begin(4, "counting")
        for _ in range(4):
            clock[0] += 3.0
            progress.advance()
        progress.begin(1, "finishing")
    # steps pass three seconds apart and a line comes every five: every second step is told
    assert capsys.readouterr().err.splitlines() == [
        "counting: 0 of 4",
        "counting: 2 of 4, about 6 s left",
        "counting: 4 of 4, about 0 s left",
        "finishing: 0 of 1",
    ]


def test_a_bar_on_a_terminal(monkeypatch):
    class Terminal(io.StringIO):
        def isatty(self):
            return True

    screen = Terminal()
    monkeypatch.setattr(sys, "stderr", screen)
    monkeypatch.setenv("TERM", "xterm")
    with shown_progress(False) as progress:
        work(progress)
    assert "finishing" in screen.getvalue()
