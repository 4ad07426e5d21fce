//! From panic to reboot in a VM: how long a crashed machine is away, with our crash initramfs and with dracut's, whose
//! systemd starts the same program. Both save at level 31, uncompressed, to a disk.
//!
//! Times are the host's, of lines on the serial console as they are seen, which is 0.1 s late at most: the panic, the
//! crash kernel's first line, its start of init, the reboot. The processors are emulated: only ratios mean something.

use std::path::Path;
use std::time::Instant;

use crate::lab::{Kernel, SUITE, disk, dracut, say, workdir};
use crate::panic::{Panic, our_image, our_load};

const CONFIG: &str = "ext4 LABEL=target\npath /dump\ncore_collector makedumpfile -d 31\n";
/// Enough for dracut.
const CRASHKERNEL: &str = "256M";
/// What the console shows at the ends of the spans, in this order; the first is the panic.
const MARKS: [&str; 4] =
    ["Kernel panic - not syncing: sysrq", "Linux version", "Run /init as init process", "reboot: Restarting system"];
const SPANS: [&str; 4] = ["to the crash kernel", "to its init", "to the reboot", "in all"];

/// One crash; seconds of each span.
fn crash(name: &str, kernel: &Kernel, image: &Path, load: &str) -> [f64; 4] {
    let work = workdir(&format!("reboot-{name}"));
    let (mut seen, start) = (Vec::new(), Instant::now());
    let panic = Panic { crashkernel: CRASHKERNEL, ..Panic::new(name, kernel, &work, image, load) };
    let (outcome, target) = panic.run_watched(|line| {
        if MARKS.get(seen.len()).is_some_and(|mark| line.contains(mark)) {
            seen.push(start.elapsed().as_secs_f64());
        }
    });
    assert_eq!(seen.len(), MARKS.len(), "{name}: not every mark was seen\n{}", outcome.tail());
    assert!(disk::files(&target).iter().any(|path| path.ends_with("/vmcore")), "{name}: no dump\n{}", outcome.tail());
    [seen[1] - seen[0], seen[2] - seen[1], seen[3] - seen[2], seen[3] - seen[0]]
}

/// Prints the table.
pub fn table(runs: usize) {
    let kernel = Kernel::of(SUITE);
    let ours = our_image(&kernel, &workdir("image-reboot"), CONFIG, &["--drivers", "virtio_blk"]);
    let theirs = dracut::image(&kernel, &workdir("image-dracut"));
    let with_unit = our_load("-s").replace("$APPEND", &format!("$APPEND {}", dracut::UNIT));
    let ways = [
        ("dracut", &theirs, with_unit),
        ("ours", &ours, our_load("-s")),
        ("ours, --lean", &ours, our_load("-s --lean")),
        ("ours, --unpack", &ours, our_load("--unpack")),
        ("ours, --unpack --lean", &ours, our_load("--unpack --lean")),
    ];
    let mut measured = ways.each_ref().map(|_| Vec::new());
    for _ in 0..runs {
        for ((name, image, load), results) in ways.iter().zip(&mut measured) {
            let spans = crash(&name.replace([' ', ','], ""), &kernel, image, load);
            say(&format!("{name}: {spans:.1?}"));
            results.push(spans);
        }
    }
    println!("| s from panic to reboot | {} | of dracut's |\n|---|---|---|---|---|---|", SPANS.join(" | "));
    let whole = median(&measured[0], 3);
    for ((name, ..), results) in ways.iter().zip(&measured) {
        let cells: Vec<String> = (0..SPANS.len()).map(|span| shown(results, span)).collect();
        println!("| {name} | {} | {:.2} |", cells.join(" | "), median(results, 3) / whole);
    }
}

fn sorted(results: &[[f64; 4]], span: usize) -> Vec<f64> {
    let mut values: Vec<f64> = results.iter().map(|spans| spans[span]).collect();
    values.sort_by(f64::total_cmp);
    values
}

fn median(results: &[[f64; 4]], span: usize) -> f64 {
    let values = sorted(results, span);
    (values[values.len() / 2] + values[(values.len() - 1) / 2]) / 2.0
}

/// Median, least and most.
fn shown(results: &[[f64; 4]], span: usize) -> String {
    let values = sorted(results, span);
    format!("{:.1} ({:.1}-{:.1})", median(results, span), values[0], values[values.len() - 1])
}
