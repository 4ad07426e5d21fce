"""What a dump costs, ours beside makedumpfile's: one table, in Markdown. Started by tests/benches/run.

All dumps are of level 31, from a vmcore in the page cache into a directory in memory, by turns; a cell has the median
and, in brackets, the least and the most. Threads are asked for (--num-threads; none for makedumpfile's one). Root's
runs go before everything else on the machine (chrt), all but makedumpfile's with two threads.

  CPU            user and system time of the program with one thread
  size           of the dump
  two threads    wall time with one thread, divided by wall time with two: the least of each
  of the codec   CPU time of our codec alone, for the same pages, divided by the whole program's with one thread
  peak           of resident memory with two threads; the largest of all codecs
  dry run        --dry-run filters, reads and counts, and writes nothing; `reading` is one pread of every struct page
  instructions   in user space with one thread, by callgrind, whose CPU has fewer vector units than most
"""

import os
import subprocess
import sys

from measure import BYTES, CPU, PEAK, SECONDS, alternate, calm, instructions, median, peer, room, run, shown, spread

ours, tools, time_program, valgrind, bench, runs = sys.argv[1:6] + [int(sys.argv[6])]
CORES = dict(word.split("=", 1) for word in sys.argv[7:])
PROGRAMS = {"ours": [ours, "makedumpfile"], "theirs": peer(tools)}
# Option, and by how much of makedumpfile's CPU time ours is to do. Debian builds no snappy.
CODECS = {"zlib": ("-c", 0.5), "zstd": ("-z", 0.75), "lzo": ("-l", 1.0), "snappy": ("-p", None)}
NOT_BUILT = "not built"
CALM = calm()
MB, TIB = 1e6, 2**40


def command(who, threads, core, options, output):
    # makedumpfile with one thread is its own writer and takes no option for it.
    number = ["--num-threads", str(threads)] if who == "ours" or threads > 1 else []
    return [*PROGRAMS[who], "-f", "--message-level", "4", "-d31", *number, *options, core, output]


def dump(who, threads, core, options, output):
    # Its threads spin: with the processors to themselves they would let nobody else have them.
    first = CALM if who == "ours" or threads == 1 else []
    return lambda: run(time_program, [*first, *command(who, threads, core, options, output)], output)


def alone(*words):
    """The part of a dump that the bench program measures by itself, in seconds."""
    return lambda: float(subprocess.run([*CALM, bench, *words], capture_output=True, text=True, check=True).stdout.split()[0])


def line(*cells):
    print(f"| {' | '.join(cells)} |", flush=True)


def verdict(met, goal):
    return goal if met else f"{goal}: missed"


def compare(what, mine, other, key, unit, digits, most):
    """A row about one figure of both programs; `most` is the largest ratio that was asked for."""
    if not other:
        return line(what, shown(mine, key, unit, digits), NOT_BUILT, "", "")
    ratio = median(mine, key) / median(other, key)
    cells = [shown(results, key, unit, digits) for results in (mine, other)]
    line(what, *cells, f"{ratio:.2f}", verdict(ratio <= most, f"≤ {most}"))


def full(where, core, codec, most, output):
    """The rows of one codec; the peaks of both programs."""
    measures = {"alone": alone("codec", core, codec)}
    built = [who for who in PROGRAMS if who == "ours" or codec != "snappy"]
    for who, threads in [("ours", 1), ("theirs", 1), ("ours", 2)]:
        if who in built:
            measures[who, threads] = dump(who, threads, core, [CODECS[codec][0]], output)
    got = alternate(runs, measures)
    if "theirs" in built:
        # Its threads spin, for minutes where others want the processors: twice must do.
        got |= alternate(min(runs, 2), {("theirs", 2): dump("theirs", 2, core, [CODECS[codec][0]], output)})
    one, other = (got.get((who, 1)) for who in PROGRAMS)
    name = f"{where}, {codec}"
    compare(f"{name}: CPU, s", one, other, CPU, 1, 3, most)
    compare(f"{name}: size, MB", one, other, BYTES, MB, 2, 1.02)
    gain = {who: spread(got[who, 1], SECONDS)[0] / spread(got[who, 2], SECONDS)[0] for who in built}
    theirs = f"{gain['theirs']:.2f}" if "theirs" in gain else NOT_BUILT
    line(f"{name}: two threads", f"{gain['ours']:.2f}", theirs, "", verdict(gain["ours"] >= 1.8, "≥ 1.8"))
    efficiency = median(got["alone"]) / median(one, CPU)
    line(f"{name}: of the codec", f"{efficiency:.2f}", "", "", verdict(efficiency >= 0.9, "≥ 0.9"))
    return {who: max(result[PEAK] for result in got[who, 2]) for who in built}


def peaks(where, found, most):
    """The largest of all dumps in `found`."""
    mine, other = (max((peak.get(who, 0) for peak in found)) / MB for who in PROGRAMS)
    cells = [f"{other:.1f}", f"{mine / other:.2f}"] if other else ["", ""]
    line(f"{where}: peak memory, MB", f"{mine:.1f}", *cells, verdict(mine <= most, f"≤ {most} MB"))


def dry(where, core, output):
    """The filter alone."""
    tib = os.path.getsize(core) / TIB
    measures = {who: dump(who, 1, core, ["--dry-run"], output) for who in PROGRAMS}
    got = alternate(runs, {**measures, "read": alone("read", core)})
    name = f"{where}, dry run"
    compare(f"{name}: CPU, s a TiB", got["ours"], got["theirs"], CPU, tib, 1, 0.33)
    ratio = median(got["ours"], CPU) / median(got["read"])
    cells = [shown(got["ours"], CPU, tib, 1), shown(got["read"], None, tib, 1)]
    line(f"{name} against reading", *cells, f"{ratio:.2f}", verdict(ratio <= 1.5, "≤ 1.5"))


def count(where, core, codec, output):
    """Instructions of both programs."""
    option = [CODECS[codec][0]]
    built = [who for who in PROGRAMS if who == "ours" or codec != "snappy"]
    counts = [instructions(valgrind, directory, command(who, 1, core, option, output)) / MB for who in built]
    cells = [f"{counts[1]:,.0f}", f"{counts[0] / counts[1]:.2f}"] if len(counts) > 1 else [NOT_BUILT, ""]
    line(f"{where}, {codec}: instructions, millions", f"{counts[0]:,.0f}", *cells, "")


with room() as directory:
    output = f"{directory}/dump"
    line("level 31", "kdumpbox", "makedumpfile", "ratio", "goal")
    line("---", "---", "---", "---", "---")
    if core := CORES.get("small"):
        peaks("1 GiB", [full("1 GiB", core, codec, most, output) for codec, (_, most) in CODECS.items()], 12)
    if core := CORES.get("large"):
        peaks("64 GiB", [full("64 GiB", core, "zstd", 0.5, output)], 16)
        dry("64 GiB", core, output)
    if core := CORES.get("sparse"):
        peaks("16 TiB", [{"ours": dump("ours", 2, core, ["-z"], output)()[PEAK]} for _ in range(2)], 64)
    if core := CORES.get("small"):
        for codec in CODECS:
            count("1 GiB", core, codec, output)
