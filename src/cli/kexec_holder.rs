//! Who takes images on this machine: Linux itself, or the hypervisor below it.

use super::kexec_mode::{Action, Mode};
use crate::error::{Error, Kind, Result};
use crate::host::xen::{Domain, domain};
use crate::host::{Host, state};
use crate::load::Backend;
use crate::load::linux::{Linux, Syscall};
use crate::load::xen::Xen;

/// The one of the backends that this machine has.
pub(super) enum Holder {
    /// The running kernel.
    Linux(Linux),
    /// The hypervisor below this dom0.
    Xen(Xen),
}

impl Holder {
    /// The holder of `host`'s images. Below Xen it leaves no choice of system call in `mode`.
    ///
    /// # Errors
    /// Where nobody takes images, with the reason and the way out.
    pub(super) fn of(host: &Host, mode: &mut Mode) -> Result<Self> {
        let nobody = |text: &str| Err(Error::new(Kind::Invalid, text));
        match domain(host)? {
            None | Some(Domain::GuestHvm) => Ok(Self::Linux(Linux::new(host.clone(), mode.syscall))),
            Some(Domain::Dom0Other) => nobody(
                "this dom0 is not paravirtualised (PVH), and Xen takes kexec images from a PV dom0 only; boot Xen \
                 with dom0=pv",
            ),
            Some(Domain::GuestPv) => nobody(
                "this is a paravirtualised Xen guest, which can't leave its kernel, and Xen takes kexec images from \
                 dom0 only; run kexec in dom0, or make the guest HVM or PVH",
            ),
            Some(Domain::Dom0Pv) if !host.is_live() => nobody(
                "the recorded machine is a Xen dom0, whose memory only its running hypervisor knows; leave --root out",
            ),
            Some(Domain::Dom0Pv) => {
                if mode.syscall == Syscall::File && matches!(mode.action, Action::Load(_)) {
                    return nobody(
                        "this is a Xen dom0, whose own kexec_file_load would crash it; leave -s out: Xen takes the image",
                    );
                }
                mode.syscall = Syscall::Segments;
                Ok(Self::Xen(Xen::open(host)?))
            }
        }
    }

    /// The holder as a backend.
    pub(super) fn backend(&mut self) -> &mut dyn Backend {
        match self {
            Self::Linux(linux) => linux,
            Self::Xen(xen) => xen,
        }
    }

    /// Whether it is the hypervisor.
    pub(super) fn is_xen(&self) -> bool {
        matches!(self, Self::Xen(_))
    }

    /// What to say where it can't tell what is loaded.
    pub(super) fn no_status(&self) -> Error {
        let text = match self {
            Self::Xen(_) => "Xen tells what is loaded from 4.9 on, and this one is older",
            Self::Linux(_) => {
                "what is loaded can't be known: /sys/kernel/kexec/loaded and /sys/kernel/kexec_loaded are missing; \
                 mount /sys, or run a kernel with kexec"
            }
        };
        Error::new(Kind::System, text)
    }
}

/// Bytes reserved for a crash kernel: below Xen, by Xen.
pub(super) fn crash_size(host: &Host) -> Result<u64> {
    if domain(host)? == Some(Domain::Dom0Pv) && host.is_live() {
        return Ok(Xen::open(host)?.crash_area()?.map_or(0, |area| area.len()));
    }
    Ok(state::crash_size(host)?.unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn where_nobody_takes_images_the_reason_is_said() {
        let dir = tempfile::tempdir().expect("a directory");
        let host = Host::new(dir.path());
        let write = |name: &str, text: &str| {
            let path = dir.path().join("sys/hypervisor").join(name);
            std::fs::create_dir_all(path.parent().expect("has a parent")).expect("made");
            std::fs::write(path, text).expect("written");
        };
        let said = || {
            let mut mode = Mode::from_given(["load"].into_iter(), true);
            Holder::of(&host, &mut mode).err().map(|e| e.to_string()).unwrap_or_default()
        };
        assert_eq!(said(), "");
        write("type", "xen\n");
        for (kind, features, text) in [
            ("HVM", "000020f0", ""),
            ("PVH", "00000800", "boot Xen with dom0=pv"),
            ("PV", "000020f0", "run kexec in dom0"),
            ("PV", "000228f0", "leave --root out"),
        ] {
            write("guest_type", kind);
            write("properties/features", features);
            let said = said();
            assert!(said.contains(text) && said.is_empty() == text.is_empty(), "{kind} {features}: {said}");
        }
    }
}
