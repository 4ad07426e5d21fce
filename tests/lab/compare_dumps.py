"""Compares dumps of one panic page by page, read by drgn (libkdumpfile): compare_dumps.py RAW OURS THEIRS.

RAW holds every page. Prints how many pages OURS and THEIRS keep, how many only one of them keeps, and how many kept
pages of OURS differ from RAW; the last must be none whatever the dump level.
"""

import sys

import drgn

PAGE = 4096


def opened(path):
    program = drgn.Program()
    program.set_core_dump(path)
    return program


def page(program, number):
    try:
        return program.read(number * PAGE, PAGE, physical=True)
    except drgn.FaultError:
        return None


def main(raw_path, ours_path, theirs_path, pages):
    raw, ours, theirs = opened(raw_path), opened(ours_path), opened(theirs_path)
    kept = {"ours": 0, "theirs": 0, "both": 0, "only_ours": [], "only_theirs": [], "different": []}
    for number in range(int(pages)):
        mine, other = page(ours, number), page(theirs, number)
        kept["ours"] += mine is not None
        kept["theirs"] += other is not None
        kept["both"] += mine is not None and other is not None
        if mine is not None and other is None:
            kept["only_ours"].append(number)
        if other is not None and mine is None:
            kept["only_theirs"].append(number)
        if mine is not None and mine != page(raw, number):
            kept["different"].append(number)
    for key, value in kept.items():
        if isinstance(value, list):
            print(f"{key}={len(value)}")
            if value:
                print(f"{key}_first={' '.join(hex(number) for number in value[:8])}")
        else:
            print(f"{key}={value}")


if __name__ == "__main__":
    main(*sys.argv[1:])
