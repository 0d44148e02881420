"""How a process ends: by a second signal whatever hangs, and otherwise with all that is registered for the exit."""

import signal
import subprocess
import sys

SECONDS = 60  # only a failure waits that long
# The main thread is stopped by the first signal, and stays in a call that never returns.
HANGS = {
    "an exit function": "import atexit; atexit.register(forever); signals.stop_by(lambda: end(0))",
    "the log": (
        "import logging; handler = logging.StreamHandler(); logging.getLogger().addHandler(handler);"
        " threading.Thread(target=lambda: handler.acquire() and None or forever(), daemon=True).start();"
        " signals.stop_by(lambda: end(0))"
    ),
    "a write to a pipe that nobody reads": "signals.stop_by(lambda: os.write(full, b' ' * 65536 * 2))",
    "the stop itself": "signals.stop_by(forever)",
    "nothing": "signals.stop_by(lambda: None)",
}
CODE = """
import os, sys, threading, time
from lookonce_server import signals as module
from lookonce_server.signals import Signals, end
module._EXIT_SECONDS = 600  # so that only the second signal ends it
_, full = os.pipe()
def forever():
    threading.Event().wait()
with Signals() as signals:
    {hang}
    stop = signals._stop
    # Not by print: the signal may come before that of "ready" has returned, and a buffer is not entered twice.
    signals.stop_by(lambda: (os.write(1, b"stopping\\n"), stop()))
    os.write(1, b"ready\\n")
    threading.Event().wait()
"""


def started(code: str, *more: str) -> subprocess.Popen[str]:
    return subprocess.Popen([sys.executable, "-c", code, *more], stdout=subprocess.PIPE, text=True)


def test_a_second_signal_ends_the_process_whatever_hangs():
    for what, hang in HANGS.items():
        for number in (signal.SIGTERM, signal.SIGINT):
            with started(CODE.format(hang=hang)) as process:
                try:
                    assert process.stdout is not None
                    assert process.stdout.readline() == "ready\n"
                    process.send_signal(signal.SIGTERM)
                    assert process.stdout.readline() == "stopping\n"
                    process.send_signal(number)
                    assert process.wait(SECONDS) == -number, what
                finally:
                    process.kill()


ENDING = """
import atexit, logging, logging.handlers, os, sys, threading
atexit.register(lambda: print("registered before"))
from lookonce_server.signals import end
atexit.register(lambda: print("registered after"))
handler = logging.handlers.MemoryHandler(1000, target=logging.StreamHandler(sys.stdout))
logging.getLogger().addHandler(handler)
logging.getLogger().warning("logged")
threading.Thread(target=threading.Event().wait).start()  # Python itself would wait for it
sys.stdout.write("written\\n")
end(3)
"""


def test_what_is_registered_for_the_exit_is_run_and_what_was_written_is_there():
    run = subprocess.run([sys.executable, "-c", ENDING], capture_output=True, text=True, timeout=SECONDS)
    assert (run.returncode, run.stderr) == (3, "")
    assert sorted(run.stdout.split("\n")) == ["", "logged", "registered after", "registered before", "written"]


def test_an_exit_function_that_hangs_does_not_keep_the_process():
    code = (
        "import atexit, threading; from lookonce_server import signals;"
        "signals._EXIT_SECONDS = 0.1; atexit.register(threading.Event().wait); signals.end(4)"
    )
    assert subprocess.run([sys.executable, "-c", code], timeout=SECONDS).returncode == 4
