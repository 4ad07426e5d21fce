//! Whether this kernel runs on Xen, as what, and so who holds images: Linux, Xen, or nobody.
//!
//! `/sys/hypervisor` (`Documentation/ABI/stable/sysfs-hypervisor-xen`) is there without any module; `/proc/xen` only
//! where xenfs is mounted.

use super::Host;
use crate::error::Result;

/// `XENFEAT_dom0`, the bit in `/sys/hypervisor/properties/features`.
const FEATURE_DOM0: u32 = 1 << 11;

/// A kernel on Xen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Domain {
    /// dom0, paravirtualised: Xen takes images from it, and Linux's own calls would crash it.
    Dom0Pv,
    /// dom0 in hardware virtualisation: Xen offers it no kexec.
    Dom0Other,
    /// A guest, paravirtualised: Linux can't leave it, and Xen takes images from dom0 only.
    GuestPv,
    /// A guest in hardware virtualisation, which is a machine to Linux like any other.
    GuestHvm,
}

/// What the kernel is; `None` off Xen.
///
/// # Errors
/// Files that are there but can't be read.
pub fn domain(host: &Host) -> Result<Option<Domain>> {
    let on_xen = host.text("sys/hypervisor/type")?.as_deref() == Some("xen");
    // Readable only where xenfs is mounted: never more than a second witness.
    let control = host.text("proc/xen/capabilities").ok().flatten().is_some_and(|text| text.contains("control_d"));
    if !on_xen && !control {
        return Ok(None);
    }
    let features = host.text("sys/hypervisor/properties/features").ok().flatten().unwrap_or_default();
    let features = features.get(features.len().saturating_sub(8)..).map(|low| u32::from_str_radix(low, 16));
    let dom0 = control || matches!(features, Some(Ok(bits)) if bits & FEATURE_DOM0 != 0);
    // The file is of Linux 4.13; a dom0 before that was paravirtualised.
    let pv = host.text("sys/hypervisor/guest_type")?.is_none_or(|kind| kind == "PV");
    Ok(Some(match (dom0, pv) {
        (true, true) => Domain::Dom0Pv,
        (true, false) => Domain::Dom0Other,
        (false, true) => Domain::GuestPv,
        (false, false) => Domain::GuestHvm,
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(files: &[(&str, &str)]) -> Option<Domain> {
        let dir = tempfile::tempdir().expect("a directory");
        for (name, text) in files {
            let path = dir.path().join(name);
            std::fs::create_dir_all(path.parent().expect("has a parent")).expect("made");
            std::fs::write(path, format!("{text}\n")).expect("written");
        }
        domain(&Host::new(dir.path())).expect("reads")
    }

    #[test]
    fn each_kind_of_domain_is_told_from_the_others() {
        let xen = ("sys/hypervisor/type", "xen");
        let kind = |name| ("sys/hypervisor/guest_type", name);
        let features = |bits| ("sys/hypervisor/properties/features", bits);
        let control = ("proc/xen/capabilities", "control_d");
        for (files, expected) in [
            (&[][..], None),
            (&[("sys/hypervisor/type", "kvm")], None),
            (&[xen, kind("PV"), features("000228f0")], Some(Domain::Dom0Pv)),
            (&[xen, kind("PV"), features("00000000000228f0")], Some(Domain::Dom0Pv)),
            (&[xen, kind("PVH"), features("00000800")], Some(Domain::Dom0Other)),
            (&[xen, kind("PV"), features("000020f0")], Some(Domain::GuestPv)),
            (&[xen, kind("HVM"), features("000020f0")], Some(Domain::GuestHvm)),
            (&[xen, kind("PVH")], Some(Domain::GuestHvm)),
            (&[xen, control], Some(Domain::Dom0Pv)),
            (&[control], Some(Domain::Dom0Pv)),
            (&[xen, ("proc/xen/capabilities", "")], Some(Domain::GuestPv)),
        ] {
            assert_eq!(of(files), expected, "{files:?}");
        }
    }
}
