//! `makedumpfile --mem-usage /proc/kcore` on a running kernel: our figures beside upstream's.

use crate::lab::core::{FILL, fill_disk};
use crate::lab::{Guest, Kernel, Machine, SUITE, say, workdir};

const ROWS: [&str; 6] = ["ZERO", "NON_PRI_CACHE", "PRI_CACHE", "USER", "FREE", "KERN_DATA"];

#[test]
fn the_memory_of_a_running_kernel_is_counted_as_upstream_counts_it() {
    let kernel = Kernel::of(SUITE);
    let work = workdir("usage");
    let script = format!(
        "{FILL}
usage() {{
    $2 --mem-usage /proc/kcore > /tmp/said 2>&1
    echo LAB-$1-CODE $?
    while read kind pages rest; do echo LAB-$1-$kind $pages; done < /tmp/said
    sed -n 's/^Total pages on system:\\s*/LAB-'$1'-TOTAL /p' /tmp/said
}}
usage ours '/bin/kdumpbox makedumpfile'
usage theirs /bin/makedumpfile
usage again '/bin/kdumpbox makedumpfile'
grep -E 'System RAM|Crash kernel|Kernel code|Kernel bss' /proc/iomem | while read line; do echo LAB-IOMEM $line; done
"
    );
    let guest = Guest::new(&kernel, &["virtio_pci", "virtio_blk", "ext4"], &script).product(&[]).tool("makedumpfile");
    let outcome = Machine::new("usage", &work, &kernel.vmlinuz())
        .initrd(&guest.write_gzip(&work.join("initrd")))
        .append("crashkernel=64M")
        .memory(512)
        .disk(&fill_disk(&work.join("fill.img")))
        .run();
    outcome.ended();
    let number = |who: &str, row: &str| -> i64 {
        let value = outcome.value(&format!("LAB-{who}-{row} ")).and_then(|v| v.trim().parse().ok());
        value.unwrap_or_else(|| panic!("no {row} of {who}: {}\n{}", outcome.tail(), outcome.console))
    };
    assert_eq!(["ours", "theirs", "again"].map(|who| number(who, "CODE")), [0; 3], "{}", outcome.console);
    let pair = |row: &&str| format!("{row} {}/{}", number("ours", row), number("theirs", row));
    say(&format!("usage: {}", ROWS.iter().chain(&["TOTAL"]).map(pair).collect::<Vec<_>>().join(", ")));
    // Memory is what the kernel calls so, less what it reserved.
    let pages_of = |name: &str| -> Vec<(i64, i64)> {
        let lines = outcome.console.lines().filter_map(|line| line.trim().strip_prefix("LAB-IOMEM "));
        let ranges =
            lines.filter_map(|line| line.trim().strip_suffix(name)?.trim().strip_suffix(" :")?.split_once('-'));
        let address = |text: &str| i64::from_str_radix(text.trim(), 16).expect("an address");
        ranges.map(|(start, end)| (address(start).div_euclid(4096), (address(end) + 1).div_euclid(4096))).collect()
    };
    let ranges = |name: &str| -> i64 { pages_of(name).into_iter().map(|(start, end)| end - start).sum() };
    let (memory, reserved) = (ranges("System RAM"), ranges("Crash kernel"));
    assert_eq!(reserved, 64 << 8, "{}", outcome.console);
    assert!((number("ours", "TOTAL") - (memory - reserved)).abs() < 8, "{memory} pages, {reserved} reserved");
    // Upstream's total has the kernel's image twice: /proc/kcore shows it at its own addresses too. Behind its bss it ends
    // with a little that boots it.
    let image = pages_of("Kernel bss")[0].1 - pages_of("Kernel code")[0].0;
    let more = number("theirs", "TOTAL") - number("ours", "TOTAL");
    assert!((image..image + 256).contains(&more), "theirs has {more} pages more, the image has {image}");
    for who in ["ours", "again"] {
        let sum: i64 = ROWS.iter().map(|row| number(who, row)).sum();
        assert!(number(who, "TOTAL") - sum < 64, "{who}: all but broken and offline pages are of a class");
        for row in ROWS.into_iter().filter(|row| *row != "KERN_DATA") {
            // The machine lives: programs start and end, the kernel caches.
            let (mine, other) = (number(who, row), number("theirs", row));
            let slack = 1024 + other / 50;
            assert!((mine - other).abs() <= slack, "{row}: {mine} {who}, {other} theirs\n{}", outcome.console);
        }
    }
}
