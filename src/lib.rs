//! kdumpbox: the whole life of a kernel crash dump in one static binary.
//!
//! # Glossary
//! * **segment**: bytes and the physical range they go to when a loaded kernel is started (`kexec_load(2)`).
//! * **purgatory**: the code that runs between two kernels; ours checks a SHA-256 digest of every segment.
//! * **crash kernel**: a kernel loaded into reserved memory (`crashkernel=`) that is started when another one panics.
//! * **elfcorehdr**: the ELF header, made when the crash kernel is loaded, that tells it where the old memory is.
//! * **vmcore**: `/proc/vmcore`, the crashed machine's memory as an ELF core file.
//! * **vmcoreinfo**: text in a note of the vmcore: addresses, sizes and offsets of the crashed kernel's structures.
//! * **PFN**: page frame number. **dump level**: bits that say which classes of pages are left out.
//! * **ladder**: what the capture does, in order, when something fails: dmesg, asked level, wider level, raw memory.
//!
//! # Flow
//! ```text
//! kernel file -> image -> boot -> load -> running kernel            kexec
//!                          ^
//! /proc, /sys -> host -----+
//!
//! /proc/vmcore -> vmcore -> dump -> target -> reboot                kdump-save
//! kdump.conf -> capture (what, in which order)   init -> capture
//! ```

use std::ffi::OsString;
use std::path::Path;
use std::process::ExitCode;

#[macro_use]
mod print;

pub mod abi;
pub mod boot;
pub mod capture;
pub mod cli;
pub mod codec;
pub mod crashkernel;
pub mod dump;
pub mod error;
pub mod host;
pub mod image;
pub mod init;
pub mod initramfs;
pub mod load;
pub mod mem;
pub mod sys;
pub mod target;
pub mod vmcore;

/// One name the binary can be called by.
pub struct Applet {
    /// File name of argv[0], or argv[1] of `kdumpbox`.
    pub name: &'static str,
    /// What it does, in a few words.
    pub about: &'static str,
    /// Runs it with the arguments behind its name.
    pub run: fn(&[OsString]) -> ExitCode,
}

/// Every applet; `kdumpbox --list` prints this table.
pub const APPLETS: &[Applet] = &[
    Applet { name: "kexec", about: "load and start another kernel, or a crash kernel", run: cli::kexec::run },
    Applet {
        name: "kdump-save",
        about: "save a crashed kernel's memory, filtered and compressed",
        run: cli::kdump_save::run,
    },
    Applet {
        name: "makedumpfile",
        about: "the same by makedumpfile's options, messages and exit codes",
        run: cli::makedumpfile::run,
    },
    Applet {
        name: "vmcore-dmesg",
        about: "print the log of a crashed kernel, as kexec-tools' does",
        run: cli::vmcore_dmesg::run,
    },
    Applet {
        name: "crashkernel-check",
        about: "say whether a crash would leave a dump",
        run: cli::crashkernel_check::run,
    },
    Applet {
        name: "kdump-initramfs",
        about: "build the minimal crash initramfs for a kernel and a target",
        run: cli::kdump_initramfs::run,
    },
    Applet { name: "init", about: "PID 1 of the crash kernel: save the dump, end the machine", run: cli::init::run },
    Applet { name: "modprobe", about: "load a module of the crash initramfs, for the kernel", run: cli::modprobe::run },
];

/// Runs the applet that argv[0] names; called as `kdumpbox`, or under an unknown name, the one that argv[1] names.
pub fn main(argv: Vec<OsString>) -> ExitCode {
    let (called, rest) = match argv.split_first() {
        Some((name, rest)) => (name.clone(), rest),
        None => (OsString::new(), &[][..]),
    };
    match find(&called) {
        Some(applet) => (applet.run)(rest),
        None => cli::kdumpbox::run(rest),
    }
}

/// The applet with the file name of `name`.
pub fn find(name: &std::ffi::OsStr) -> Option<&'static Applet> {
    let name = Path::new(name).file_name()?;
    APPLETS.iter().find(|a| name == a.name)
}
