//! The purgatory on real hardware's terms: an image that was overwritten is noticed, said, and the machine is reset.

use std::io::{Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use crate::lab::{Guest, Kernel, Machine, Outcome, SUITE, workdir};

/// Overwrites physical memory through QEMU's debugger port, as a stray DMA would.
fn overwrite(socket: &Path, address: u64, bytes: &[u8]) {
    let mut stream = UnixStream::connect(socket).expect("QEMU listens for a debugger");
    stream.set_read_timeout(Some(Duration::from_secs(20))).expect("a deadline");
    let hex: String = bytes.iter().map(|b| format!("{b:02x}")).collect();
    // The debugger protocol: '$', text, '#', sum of the text's bytes; each packet is answered.
    for text in ["Qqemu.PhyMemMode:1".to_owned(), format!("M{address:x},{:x}:{hex}", bytes.len()), "D".to_owned()] {
        let sum = text.bytes().fold(0u8, u8::wrapping_add);
        write!(stream, "+${text}#{sum:02x}").expect("sent");
        let mut answer = Vec::new();
        while !answer.ends_with(b"OK#9a") {
            let mut byte = [0];
            stream
                .read_exact(&mut byte)
                .unwrap_or_else(|e| panic!("{text}: {e}: {}", String::from_utf8_lossy(&answer)));
            answer.push(byte[0]);
        }
    }
    stream.write_all(b"+").expect("acknowledged");
}

/// Loads a crash kernel with `options`, overwrites four bytes of its kernel, panics.
fn panic_with_damage(name: &str, options: &str) -> Outcome {
    let kernel = Kernel::of(SUITE);
    let work = workdir(name);
    let look = Guest::new(&kernel, &[], "echo LAB-REACHED\n").write_gzip(&work.join("look.img"));
    let script = format!(
        "kexec -d -c -p /boot/vmlinuz --initrd=/boot/look.img --append='console=ttyS0 panic=-1' {options} 2>&1 |
    tee /tmp/plan
echo LAB-LOADED $(cat /sys/kernel/kexec_crash_loaded)
echo LAB-ARMED $(sed -n 's/^segment *initrd *\\(0x[0-9a-f]*\\)-.*/\\1/p' /tmp/plan)
sleep 4
echo c > /proc/sysrq-trigger
"
    );
    let guest = Guest::new(&kernel, &[], &script)
        .product(&["kexec"])
        .file("boot/vmlinuz", &kernel.vmlinuz())
        .file("boot/look.img", &look)
        .write(&work.join("first.cpio"));
    // Short, for the length of a socket's path is bounded.
    let sockets = tempfile::tempdir().expect("a directory");
    let socket = sockets.path().join("gdb");
    let mut damaged = false;
    let outcome = Machine::new(name, &work, &kernel.vmlinuz())
        .initrd(&guest)
        .append("crashkernel=160M")
        .memory(768)
        .argument("-chardev")
        .argument(&format!("socket,id=gdb,path={},server=on,wait=off", socket.display()))
        .argument("-gdb")
        .argument("chardev:gdb")
        .timeout(120)
        .run_watched(|line| {
            if let Some(address) = line.strip_prefix("LAB-ARMED 0x") {
                let address = u64::from_str_radix(address.trim(), 16).expect("an address");
                // The last bytes of the first page: past the magic that the kernel would look at.
                overwrite(&socket, address + 0xff0, b"\xde\xad\xbe\xef");
                damaged = true;
            }
        });
    outcome.ended().expect("LAB-LOADED 1");
    assert!(damaged, "{}", outcome.tail());
    outcome
}

#[test]
fn an_overwritten_crash_image_resets_the_machine_and_says_why() {
    let outcome = panic_with_damage("purgatory-damage", "--console-serial");
    outcome.expect("the loaded image was overwritten (SHA-256 differs); resetting").refuse("LAB-REACHED");
    assert_eq!(outcome.console.matches("Linux version").count(), 1, "no second kernel\n{}", outcome.tail());
}

#[test]
fn without_checks_the_crash_kernel_starts_all_the_same() {
    let outcome = panic_with_damage("purgatory-no-checks", "--no-checks --console-serial");
    outcome.refuse("was overwritten");
    assert_eq!(outcome.console.matches("Linux version").count(), 2, "a second kernel\n{}", outcome.tail());
}
