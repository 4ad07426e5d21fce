"""Runs programs by turns and says what they cost. Taken in by the other scripts here."""

import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time

# What `runs` notes of a run.
SECONDS, CPU, USER, SYSTEM, PEAK, BYTES = "seconds", "cpu", "user", "system", "peak", "bytes"


def room():
    """A directory in memory, where there is one: what is measured is the programs, not a disk."""
    shared = "/dev/shm"
    return tempfile.TemporaryDirectory(dir=shared if os.access(shared, os.W_OK) else None)


def calm():
    """The beginning of a command that keeps the processors until it is done, whatever else this machine does; nothing
    where that is not allowed."""
    words = ["chrt", "-f", "1"]
    try:
        return words if subprocess.run([*words, "true"], capture_output=True).returncode == 0 else []
    except FileNotFoundError:
        return []


def peer(tools):
    """makedumpfile as unpacked from its package, under its own C library. When its threads end, they load libgcc_s; but
    by then it has closed descriptor 0, which is not its own, and goes on to, under the feet of whoever has just opened
    a file. So it gets that library early."""
    usr = f"{tools}/usr"
    libraries = f"{usr}/lib/x86_64-linux-gnu"
    loader = f"{usr}/lib64/ld-linux-x86-64.so.2"
    return [loader, "--library-path", libraries, "--preload", "libgcc_s.so.1", f"{usr}/bin/makedumpfile"]


def run(time_program, command, output=None):
    """One run: seconds from start to end, of CPU, user and system, peak of resident memory in bytes, bytes of `output`.
    GNU time stands between, or this script's own memory would count."""
    with tempfile.NamedTemporaryFile("r") as report:
        watched = [time_program, "-q", "-f", "%M", "-o", report.name, *command]
        start, before = time.monotonic(), resource.getrusage(resource.RUSAGE_CHILDREN)
        done = subprocess.run(watched, capture_output=True, text=True, stdin=subprocess.DEVNULL)
        seconds, after = time.monotonic() - start, resource.getrusage(resource.RUSAGE_CHILDREN)
        if done.returncode:
            sys.exit(f"{' '.join(command)}: exit code {done.returncode}\n{done.stdout}{done.stderr}")
        user, system = after.ru_utime - before.ru_utime, after.ru_stime - before.ru_stime
        size = os.path.getsize(output) if output and os.path.exists(output) else 0
        peak = int(report.read()) * 1024
        return {SECONDS: seconds, CPU: user + system, USER: user, SYSTEM: system, PEAK: peak, BYTES: size}


def alternate(runs, measures):
    """Calls each of the named functions by turns, `runs` times; lists of what each returned."""
    results = {name: [] for name in measures}
    for _ in range(runs):
        for name, measure in measures.items():
            results[name].append(measure())
    return results


def median(results, what=None):
    return statistics.median(spread(results, what))


def spread(results, what=None):
    return sorted(result[what] if what else result for result in results)


def shown(results, what, unit=1, digits=2):
    """Median, and smallest and largest where they differ from it as shown."""
    middle, values = median(results, what) / unit, [value / unit for value in spread(results, what)]
    text, low, high = (f"{value:.{digits}f}" for value in (middle, values[0], values[-1]))
    return text if low == high else f"{text} ({low}-{high})"


def instructions(valgrind, room, command):
    """Counted by callgrind, in user space, all threads."""
    environment = {**os.environ, "VALGRIND_LIB": f"{valgrind}/libexec/valgrind"}
    out = os.path.join(room, "callgrind")
    count = [f"{valgrind}/bin/valgrind", "--tool=callgrind", f"--callgrind-out-file={out}", *command]
    said = subprocess.run(count, env=environment, capture_output=True, text=True, stdin=subprocess.DEVNULL).stderr
    for line in said.splitlines():
        if "Collected :" in line:
            return int(line.split()[-1])
    sys.exit(f"{' '.join(count)} counted nothing:\n{said}")
