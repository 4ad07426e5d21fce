"""What drgn, an independent reader, says of a dump: read_dump.py DUMP [VMLINUX], one `key=value` a line.

Without debug symbols: the release from the VMCOREINFO note, and again from the memory of the dumped kernel, through
its page tables. With them (VMLINUX): tasks, the thread that panicked with its stack, and the kernel's log.
"""

import re
import sys

import drgn


def field(text, key):
    found = re.search(rf"^{re.escape(key)}=(.*)$", text, re.M)
    if not found:
        sys.exit(f"the VMCOREINFO note has no {key}")
    return found.group(1)


def main(dump, vmlinux=None):
    program = drgn.Program()
    program.set_core_dump(dump)
    info = program["VMCOREINFO"].string_().decode()
    print(f"note_release={field(info, 'OSRELEASE')}")
    # struct new_utsname: six strings of 65 bytes; the third is the release.
    # Before its offset was exported the names followed a reference count of 4 bytes.
    offset = re.search(r"^OFFSET\(uts_namespace.name\)=(\d+)$", info, re.M)
    names = int(field(info, "SYMBOL(init_uts_ns)"), 16) + (int(offset.group(1)) if offset else 4)
    print(f"memory_release={program.read(names + 2 * 65, 65).split(bytes(1))[0].decode()}")
    if vmlinux is None:
        return
    program.load_debug_info([vmlinux])
    from drgn.helpers.linux.pid import for_each_task
    from drgn.helpers.linux.printk import get_dmesg

    tasks = list(for_each_task(program))
    print(f"tasks={len(tasks)}")
    print(f"first_tasks={' '.join(task.comm.string_().decode() for task in tasks[:2])}")
    thread = program.crashed_thread()
    print(f"crashed={thread.object.comm.string_().decode()}")
    print(f"stack={' '.join(frame.name or '?' for frame in thread.stack_trace())}")
    print(f"unreadable_stacks={unreadable_stacks(program, tasks)}")
    for line in get_dmesg(program).decode(errors="replace").splitlines():
        print(f"dmesg={line}")


def unreadable_stacks(program, tasks):
    """How many tasks have a stack that cannot be walked: every page of a kernel stack must be in a dump."""
    bad = 0
    for task in tasks:
        try:
            list(program.stack_trace(task))
        except (drgn.FaultError, ValueError):
            # A thread that was running on a CPU when it stopped has its registers elsewhere.
            bad += 0 if task.on_cpu.value_() else 1
    return bad


if __name__ == "__main__":
    main(*sys.argv[1:])
