//! Faults of the capture that take their time: a disk that stops answering in the middle of the dump.

use crate::lab::disk;
use crate::synthetic::Crash;

#[test]
fn a_saver_that_hangs_is_ended_and_so_is_the_machine_though_the_disk_never_answers() {
    let crash = Crash::new("capture-hangs");
    let target = disk::ext4(&crash.work.join("target.img"), 64, "target", None);
    let words = "rootfstype=ramfs kdump.level=0 kdump.codec=none kdump.stall_timeout=5";
    let machine = crash.machine(&crash.header(), &crash.image(&[]), words).disk(&target);
    let outcome = machine.monitor("(ext4) mounted", "block_set_io_throttle lab0 0 0 1 0 0 0").run();
    outcome.ended().refuse("Attempted to kill init");
    outcome.expect("stage 'save' was ended: it made no progress for 5 s").expect("kdump: reboot");
    outcome.expect("stage 'finish' was ended").expect("hangs in the kernel and is left behind");
}
