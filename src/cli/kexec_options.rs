//! The options of `kexec`, their values' rules, and the groups `--help` shows them in.

use argh::{ArgsInfo, FromArgs};

use super::getopt::Grammar;
use crate::boot::purgatory::COM1;
use crate::host::parse_number;

/// kexec-tools' spellings. A prefix means what it means to its releases, so it never selects an option of our own, nor
/// one that 2.0.32 lacks: `--no-c` and `--f` stay what they are.
pub(super) const GRAMMAR: Grammar = Grammar {
    aliases: &[("append", "command-line"), ("ramdisk", "initrd")],
    exact: &["dry-run", "dry-run-json", "root", "vmm", "no-cma", "force-dtb", "unpack", "lean"],
    last: &["help", "version", "print-ckr-size"],
};

/// Every option in one group, for [`super::kexec_help`].
pub(super) const GROUPS: &[(&str, &str)] = &[
    (
        "Modes (the last one given counts)",
        "load load-panic exec force unload status load-preserve-context load-jump-back-helper",
    ),
    ("System call", "kexec-syscall-auto kexec-file-syscall kexec-syscall no-cma force-dtb"),
    (
        "Kernel and its arguments",
        "command-line reuse-cmdline initrd type dtb real-mode entry-32bit args-linux args-elf args-none",
    ),
    ("Xen and multiboot", "vmm module"),
    ("Placement", "mem-min mem-max entry"),
    ("Crash kernel", "unpack lean hotplug pass-memmap-cmdline"),
    ("Purgatory, the code between the kernels", "no-checks console-serial serial serial-baud console-vga reset-vga"),
    ("Machine", "no-ifdown no-sync noefi"),
    ("Dry run and information", "dry-run dry-run-json root debug print-ckr-size version help"),
    (
        "Compatibility",
        "elf64-core-headers elf32-core-headers reuse-video-type reuseinitrd load-live-update exec-live-update",
    ),
];

/// Without a mode, KERNEL is loaded and the machine shut down into it.
#[derive(FromArgs, ArgsInfo)]
#[argh(help_triggers("-h", "--help"))]
#[expect(dead_code, reason = "modes count in the order given, which argh does not keep")]
pub(super) struct Options {
    /// load KERNEL, to be started by --exec
    #[argh(switch, short = 'l')]
    pub(super) load: bool,
    /// load KERNEL as the crash kernel, to be started by a panic
    #[argh(switch, short = 'p')]
    pub(super) load_panic: bool,
    /// start the loaded kernel at once, without shutting services down
    #[argh(switch, short = 'e')]
    pub(super) exec: bool,
    /// load KERNEL and start it at once, without shutting services down
    #[argh(switch, short = 'f')]
    pub(super) force: bool,
    /// drop the loaded kernel; with --load-panic the crash kernel
    #[argh(switch, short = 'u')]
    pub(super) unload: bool,
    /// say by the exit code whether a crash kernel, or with --load the next kernel, is loaded: 1 loaded, 0 not
    #[argh(switch, short = 'S')]
    pub(super) status: bool,
    /// use kexec_file_load(2) only: the kernel checks signatures
    #[argh(switch, short = 's')]
    pub(super) kexec_file_syscall: bool,
    /// use kexec_load(2) only
    #[argh(switch, short = 'c')]
    pub(super) kexec_syscall: bool,
    /// try kexec_file_load(2), then kexec_load(2) if the kernel lacks it or does not know the image (default)
    #[argh(switch, short = 'a')]
    pub(super) kexec_syscall_auto: bool,
    /// the next kernel's command line (also --append); of several the last counts
    #[argh(option, arg_name = "TEXT")]
    pub(super) command_line: Option<String>,
    /// begin with the running kernel's command line
    #[argh(switch)]
    pub(super) reuse_cmdline: bool,
    /// initial ramdisk (also --ramdisk); several are joined in order
    #[argh(option, arg_name = "FILE")]
    pub(super) initrd: Vec<String>,
    /// lowest physical address to use
    #[argh(option, arg_name = "ADDR", from_str_fn(address))]
    pub(super) mem_min: Option<u64>,
    /// highest physical address to use
    #[argh(option, arg_name = "ADDR", from_str_fn(address))]
    pub(super) mem_max: Option<u64>,
    /// verify neither the kernel's own CRC when it is loaded nor the image when it is started
    #[argh(switch, short = 'i')]
    pub(super) no_checks: bool,
    /// do not take network interfaces down
    #[argh(switch, short = 'x')]
    pub(super) no_ifdown: bool,
    /// do not sync file systems
    #[argh(switch, short = 'y')]
    pub(super) no_sync: bool,
    /// refuse KERNEL unless its file is of this type: bzImage64, bzImage, elf-x86_64, elf-x86, multiboot2-x86, multiboot-x86, uki
    #[argh(option, short = 't', arg_name = "TYPE")]
    pub(super) r#type: Option<String>,
    /// let the purgatory speak on the serial port
    #[argh(switch)]
    pub(super) console_serial: bool,
    /// serial port for that: ttyS0, ttyS1 or an I/O port, 0x3e8 (default ttyS0)
    #[argh(option, arg_name = "PORT", default = "COM1", from_str_fn(port))]
    pub(super) serial: u16,
    /// set the serial port's speed, 9600 to 115200 (default: leave it)
    #[argh(option, arg_name = "BAUD", default = "0", from_str_fn(divisor))]
    pub(super) serial_baud: u16,
    /// describe a crash kernel's memory on its command line too
    #[argh(switch)]
    pub(super) pass_memmap_cmdline: bool,
    /// do not hand EFI's runtime services over
    #[argh(switch)]
    pub(super) noefi: bool,
    /// print the bytes reserved for a crash kernel
    #[argh(switch)]
    pub(super) print_ckr_size: bool,
    /// no effect: a crash kernel's header is always ELF64
    #[argh(switch)]
    pub(super) elf64_core_headers: bool,
    /// no effect, for the same reason
    #[argh(switch)]
    pub(super) elf32_core_headers: bool,
    /// no effect: the screen is always handed over as the running kernel has it
    #[argh(switch)]
    pub(super) reuse_video_type: bool,
    /// treat an ELF kernel as Linux (vmlinux): boot_params, initrd
    #[argh(switch)]
    pub(super) args_linux: bool,
    /// treat an ELF kernel as a program that takes ELF boot notes (default unless it is Linux)
    #[argh(switch)]
    pub(super) args_elf: bool,
    /// give an ELF kernel no arguments
    #[argh(switch)]
    pub(super) args_none: bool,
    /// enter a bzImage by its 16-bit setup code, which asks the BIOS
    #[argh(switch)]
    pub(super) real_mode: bool,
    /// enter a bzImage by its 32-bit entry point
    #[argh(switch, long = "entry-32bit")]
    pub(super) entry_32bit: bool,
    /// device tree handed to a bzImage
    #[argh(option, arg_name = "FILE")]
    pub(super) dtb: Option<String>,
    /// multiboot module: a file and its arguments (repeatable, in order)
    #[argh(option, arg_name = "\"FILE ARGS\"")]
    pub(super) module: Vec<String>,
    /// load this hypervisor, with KERNEL as its dom0; the command line is "XEN_ARGS -- DOM0_ARGS"
    #[argh(option, arg_name = "XEN")]
    pub(super) vmm: Option<String>,
    /// reset the VGA to text mode before the next kernel
    #[argh(switch)]
    pub(super) reset_vga: bool,
    /// let the purgatory speak on the VGA screen
    #[argh(switch)]
    pub(super) console_vga: bool,
    /// unpack a crash kernel's bzImage now, not after the panic: less memory, less time; falls back to the bzImage
    #[argh(switch)]
    pub(super) unpack: bool,
    /// add parameters that save a crash kernel memory: no tracing files, no accounting, small tables; yours come first
    #[argh(switch)]
    pub(super) lean: bool,
    /// let the kernel keep a crash kernel's elfcorehdr up to date by itself (done anyway where it can)
    #[argh(switch)]
    pub(super) hotplug: bool,
    /// with kexec_file_load: do not use CMA for segments
    #[argh(switch)]
    pub(super) no_cma: bool,
    /// with kexec_file_load: hand the running kernel's device tree on
    #[argh(switch)]
    pub(super) force_dtb: bool,
    /// load an image that can jump back to this kernel; needs --mem-max and kexec_load
    #[argh(switch)]
    pub(super) load_preserve_context: bool,
    /// load the helper that jumps back; needs --entry
    #[argh(switch)]
    pub(super) load_jump_back_helper: bool,
    /// address to jump to, for --load-jump-back-helper
    #[argh(option, arg_name = "ADDR", from_str_fn(address))]
    pub(super) entry: Option<u64>,
    /// refused: no x86 kernel keeps its initrd; name the file with --initrd
    #[argh(switch)]
    pub(super) reuseinitrd: bool,
    /// refused: no released Xen has live update
    #[argh(switch)]
    pub(super) load_live_update: bool,
    /// refused: no released Xen has live update
    #[argh(switch)]
    pub(super) exec_live_update: bool,
    /// print what would be loaded and where; change nothing
    #[argh(switch)]
    pub(super) dry_run: bool,
    /// the same as JSON (also --dry-run=json)
    #[argh(switch)]
    pub(super) dry_run_json: bool,
    /// read the machine's /proc and /sys below DIR, with --dry-run
    #[argh(option, arg_name = "DIR", default = "String::from(\"/\")")]
    pub(super) root: String,
    /// print what is loaded and where
    #[argh(switch, short = 'd')]
    pub(super) debug: bool,
    /// print the version
    #[argh(switch, short = 'v')]
    pub(super) version: bool,
    #[argh(positional, hidden_help)]
    pub(super) kernel: Vec<String>,
}

fn address(text: &str) -> std::result::Result<u64, String> {
    parse_number(text).ok_or_else(|| format!("'{text}' is no address"))
}

fn port(text: &str) -> std::result::Result<u16, String> {
    match text {
        "ttyS0" => Ok(COM1),
        "ttyS1" => Ok(0x2f8),
        _ => {
            let hex = text.strip_prefix("0x").and_then(|t| u16::from_str_radix(t, 16).ok()).filter(|p| *p != 0);
            hex.ok_or_else(|| format!("'{text}' is neither ttyS0, ttyS1 nor an I/O port below 0x10000 (0x3e8)"))
        }
    }
}

fn divisor(text: &str) -> std::result::Result<u16, String> {
    let baud = parse_number(text).filter(|b| (9600..=115_200).contains(b) && 115_200 % b == 0);
    let baud = baud.ok_or_else(|| format!("'{text}' is not 115200 divided by a whole number up to 12"))?;
    Ok((115_200 / baud) as u16)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_checked_by_their_rules() {
        assert_eq!((address("0x100"), address("4096")), (Ok(256), Ok(4096)));
        assert_eq!((port("ttyS1"), port("0x3e8"), port("ttyS0")), (Ok(0x2f8), Ok(0x3e8), Ok(0x3f8)));
        assert_eq!((divisor("115200"), divisor("9600")), (Ok(1), Ok(12)));
        for bad in ["1234", "300", "0", "230400", "fast", ""] {
            assert!(divisor(bad).expect_err(bad).contains("115200"));
        }
        for bad in ["ttyS9", "3f8", "0x10000", "0x", "0x0", ""] {
            assert!(port(bad).expect_err(bad).contains("neither"));
        }
        for bad in ["zz", "", "0x", "-1", "1M"] {
            assert!(address(bad).is_err(), "{bad}");
        }
    }
}
