"""How CPU time and size of a dump grow with memory, ours beside makedumpfile's: level 31, zstd, one thread; and of the
filter alone (--dry-run, which writes nothing). Started by tests/benches/run.

The last rows are the straight line that fits the medians best: what a TiB adds, what remains where there is no memory.
"""

import sys

from measure import BYTES, CPU, PEAK, alternate, calm, median, peer, room, run, shown

ours, tools, time_program, runs = sys.argv[1:4] + [int(sys.argv[4])]
CORES = [word.split("=", 1) for word in sys.argv[5:]]
# Root's runs go before everything else on the machine.
PROGRAMS = {"kdumpbox": [*calm(), ours, "makedumpfile", "--num-threads", "1"], "makedumpfile": [*calm(), *peer(tools)]}
MB, TIB = 1e6, 2**40


def line(*cells):
    print(f"| {' | '.join(cells)} |", flush=True)


def fit(points):
    """Slope and rest of the line of least squares."""
    middle_x, middle_y = (sum(column) / len(points) for column in zip(*points))
    slope = sum((x - middle_x) * (y - middle_y) for x, y in points) / sum((x - middle_x) ** 2 for x, _ in points)
    return slope, middle_y - slope * middle_x


with room() as directory:
    output = f"{directory}/dump"
    line("GiB", *(f"{who}: {what}" for who in PROGRAMS for what in ["CPU, s", "dry run, s", "size, MB", "peak, MB"]))
    line(*["---"] * (1 + 4 * len(PROGRAMS)))
    points = {}
    for gib, core in CORES:
        measures = {}
        for who, program in PROGRAMS.items():
            for dry in [False, True]:
                command = [*program, "-f", "--message-level", "4", "-d31", "--dry-run" if dry else "-z", core, output]
                measures[who, dry] = lambda command=command: run(time_program, command, output)
        got = alternate(runs, measures)
        cells = []
        for who in PROGRAMS:
            whole, filtering = got[who, False], got[who, True]
            for results, key, unit, digits in [(whole, CPU, 1, 2), (filtering, CPU, 1, 3), (whole, BYTES, MB, 1), (whole, PEAK, MB, 1)]:
                cells.append(shown(results, key, unit, digits))
                points.setdefault(len(cells) - 1, []).append((int(gib) / 1024, median(results, key) / unit))
        line(gib, *cells)
    fits = [fit(points[column]) for column in sorted(points)]
    line("a TiB", *(f"{slope:.1f}" for slope, _ in fits))
    line("none", *(f"{rest:.2f}" for _, rest in fits))
