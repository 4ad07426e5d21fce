"""What a dump costs, ours beside makedumpfile's. Started by tests/benches/run.

Columns, medians of alternating runs from a warm page cache into $TMPDIR, each synced:
  s, 1 thread   from start to exit, with one worker (makedumpfile then is its own writer)
  s, threads    the same with a worker for each CPU; makedumpfile gets --num-threads, and none of it where there is one CPU
  CPU s         user and system time of the run with one thread
  MiB           of the dump

The last rows are CPU seconds of --dry-run at level 31, which filters, reads and counts but writes nothing, and what
that makes of a TiB of memory.
"""

import os
import statistics
import subprocess
import sys
import tempfile
import time

ours, core, runs = sys.argv[1], sys.argv[3], int(sys.argv[4])
# Unpacked packages of a suite whose files are all below usr.
tools = os.path.join(sys.argv[2], "usr")
CODECS = {"none": [], "zlib": ["-c"], "lzo": ["-l"], "snappy": ["-p"], "zstd": ["-z"]}
# Under its own C library. When its threads end, they load libgcc_s; but by then it has closed descriptor 0, which is
# not its own, and closes it again and again, under the feet of whoever has just opened a file. So it gets it early.
loader = [f"{tools}/lib64/ld-linux-x86-64.so.2", "--library-path", f"{tools}/lib/x86_64-linux-gnu", "--preload", "libgcc_s.so.1"]
PROGRAMS = {"ours": [ours, "makedumpfile"], "makedumpfile": [*loader, f"{tools}/bin/makedumpfile"]}
cpus = len(os.sched_getaffinity(0))


def measure(command, dump):
    """Seconds, CPU seconds, bytes."""
    before, start = os.times(), time.monotonic()
    done = subprocess.run([*command, core, dump], capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"{' '.join(command)}: exit code {done.returncode}\n{done.stdout}{done.stderr}")
    if os.path.exists(dump):
        with open(dump, "rb") as file:
            os.fsync(file)
    seconds, after = time.monotonic() - start, os.times()
    cpu = after.children_user + after.children_system - before.children_user - before.children_system
    return seconds, cpu, os.path.getsize(dump) if os.path.exists(dump) else 0


def medians(options, dump):
    """One row for each program, from runs that alternate."""
    rows = {name: [] for name in PROGRAMS}
    for _ in range(runs):
        for name, program in PROGRAMS.items():
            one = [*program, "-f", "--message-level", "4", *options]
            mine = ["--num-threads", "1"] if name == "ours" else []
            many = ["--num-threads", str(cpus)] if cpus > 1 else mine
            single = measure([*one, *mine], dump)
            rows[name].append((single[0], measure([*one, *many], dump)[0], *single[1:]))
    return {name: [statistics.median(column) for column in zip(*row)] for name, row in rows.items()}


memory = os.path.getsize(core) / 2**40
with tempfile.TemporaryDirectory() as room:
    print(f"{core}, {cpus} CPUs\n{'':32}{'s, 1 thread':>12}{'s, threads':>12}{'CPU s':>9}{'MiB':>9}")
    for level in ["0", "31"]:
        for codec, option in CODECS.items():
            for name, row in medians(["-d", level, *option], f"{room}/dump").items():
                print(f"level {level:3}{codec:8}{name:15}{row[0]:12.2f}{row[1]:12.2f}{row[2]:9.2f}{row[3] / 2**20:9.1f}", flush=True)
    for name, program in PROGRAMS.items():
        options = ["-f", "--message-level", "4", "--dry-run", "-d31"]
        cpu = statistics.median(measure([*program, *options], f"{room}/none")[1] for _ in range(runs))
        print(f"dry run {name:24}{cpu:33.2f}   {cpu / memory:.0f} s a TiB")
