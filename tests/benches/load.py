"""What `kexec -l` costs, ours beside kexec-tools'. Started by tests/benches/run, inside its namespaces and strace.

Columns:
  instructions  in user space, counted by callgrind from the first instruction of the C library's loader to the exit.
                callgrind itself refuses the two system calls with ENOSYS, so the count goes as far as the call, and
                includes saying so. Its CPU has no SHA-NI and no VPCLMULQDQ: ours falls back to code without them.
  peak          of resident memory, by wait4, KiB. The system calls are answered by strace: no kernel copies.
  user, system  CPU time, ms, of the program as a whole.

Rows: -c places segments itself, -s hands descriptors to the kernel. By -s ours reads the kernel's file to compare it
with its CRC, which kexec-tools never does; with --no-checks it doesn't, and both do the same work.
"""

import os
import subprocess
import sys

from measure import PEAK, SYSTEM, USER, alternate, instructions, median, run

MODES = [["-c"], ["-s"], ["-s", "--no-checks"]]
# A machine of 4 GiB, so that every machine places the same: /proc/iomem shows zeros in a user namespace.
RAM = [(0x1000, 0x9FBFF), (0x100000, 0xBFFDFFFF), (0x100000000, 0x13FFFFFFF)]


def machine(room):
    """Puts the machine's memory over this namespace's own."""
    iomem = os.path.join(room, "iomem")
    with open(iomem, "w") as file:
        file.writelines(f"{first:08x}-{last:08x} : System RAM\n" for first, last in RAM)
    memmap = os.path.join(room, "memmap")
    for i, (first, last) in enumerate(RAM):
        os.makedirs(f"{memmap}/{i}")
        for name, value in [("start", hex(first)), ("end", hex(last)), ("type", "System RAM")]:
            with open(f"{memmap}/{i}/{name}", "w") as file:
                file.write(value + "\n")
    subprocess.run(["mount", "--bind", iomem, "/proc/iomem"], check=True)
    if os.path.isdir("/sys/firmware/memmap"):
        subprocess.run(["mount", "--bind", memmap, "/sys/firmware/memmap"], check=True)


def peer(directory):
    """kexec-tools as fetched, under its own C library, without the shell script that usually starts it."""
    root = os.path.join(directory, "root")
    loader = first(f"{root}/lib64/ld-linux-x86-64.so.2", f"{root}/usr/lib64/ld-linux-x86-64.so.2")
    libraries = f"{root}/lib/x86_64-linux-gnu:{root}/usr/lib/x86_64-linux-gnu"
    return [loader, "--library-path", libraries, first(f"{root}/sbin/kexec", f"{root}/usr/sbin/kexec")]


def first(*paths):
    """The one that is there: suites differ in what they have merged into /usr."""
    return next(path for path in paths if os.path.exists(path))


room, runs, valgrind, time = sys.argv[1], int(sys.argv[2]), sys.argv[3], sys.argv[4]
programs = {}
for word in sys.argv[5:]:
    name, path = word.split("=", 1)
    programs[name] = [path, "kexec"] if name == "ours" else peer(path)
machine(room)
names = [f"{room}/vmlinuz", f"--initrd={room}/initrd", "--append=console=ttyS0"]
print(f"{'':24}{'instructions':>16}{'peak KiB':>10}{'user ms':>10}{'system ms':>11}")
for mode in MODES:
    commands = {name: [*program, *mode, "-l", *names] for name, program in programs.items()}
    measured = alternate(runs, {name: lambda command=command: run(time, command) for name, command in commands.items()})
    for name, command in commands.items():
        peak, user, system = (median(measured[name], what) for what in [PEAK, USER, SYSTEM])
        row = f"{' '.join(mode)} -l  {name}"
        count = instructions(valgrind, room, command)
        print(f"{row:24}{count:16,}{peak / 1024:10,.0f}{user * 1000:10.1f}{system * 1000:11.1f}", flush=True)
