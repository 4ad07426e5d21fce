//! Xen as the holder of images: the kexec hypercall of Xen 4.4 and later, asked from a paravirtualised dom0.
//!
//! Two habits of Xen shape this file.
//!
//! * Its status is no more than a bit that every load and every unload flips. So a load is preceded by an unload where
//!   the bit is set, and by none where it is not: both ways the bit is set afterwards, whatever other tools did before.
//! * It maps an image's segments and nothing else for the image's first instructions. So memory below 1 MiB, which
//!   purgatory and Linux touch before they have page tables of their own, goes along as segments without bytes.

use std::fs::File;

use rustix::io::Errno;
use zerocopy::{FromBytes, FromZeros, IntoBytes};

use super::{Backend, Slot};
use crate::abi::bootparam::{boot_e820_entry, boot_params};
use crate::abi::xen::{
    EM_X86_64, HYPERVISOR_KEXEC_OP, HYPERVISOR_MEMORY_OP, HYPERVISOR_XEN_VERSION, KEXEC_CMD_GET_RANGE, KEXEC_CMD_KEXEC,
    KEXEC_CMD_LOAD, KEXEC_CMD_STATUS, KEXEC_CMD_UNLOAD, KEXEC_RANGE_MA_CPU, KEXEC_RANGE_MA_CRASH,
    KEXEC_RANGE_MA_VMCOREINFO, KEXEC_TYPE_CRASH, KEXEC_TYPE_DEFAULT, LOAD_SEGMENTS_AT, MAP_BUFFER_AT,
    XEN_COMMANDLINE_LEN, XEN_SEGMENTS, XENMEM_MACHINE_MEMORY_MAP, XENVER_COMMANDLINE, xen_kexec_exec, xen_kexec_load,
    xen_kexec_range, xen_kexec_segment, xen_memory_map,
};
use crate::error::{Error, Kind, Result};
use crate::host::notes::{self, CpuNotes};
use crate::host::{Host, Machine, efi, parse_number};
use crate::mem::{Bytes, Image, MIB, MemoryMap, MemoryType, Range, Ranges, Segment};
use crate::sys::privcmd::{Behind, Hypercall, Privcmd};

/// Where Linux has hypercalls: its own device, else the one of xenfs.
const DEVICES: [&str; 2] = ["dev/xen/privcmd", "proc/xen/privcmd"];
/// More entries than Xen keeps; it wants one more than there are.
const MAP_ENTRIES: usize = 2048;
/// More CPUs than Xen can be built for.
const MAX_CPUS: i32 = 16384;
/// Start of the direct map that readers expect of a crash header made on Xen; they translate by other means.
const PAGE_OFFSET: u64 = 0xffff_8880_0000_0000;

/// The hypervisor below this dom0.
pub struct Xen {
    host: Host,
    calls: Box<dyn Hypercall>,
}

/// The error for a crash kernel without memory on Xen.
pub fn no_reservation() -> Error {
    Error::new(
        Kind::NoReservation,
        "no memory is reserved for a crash kernel; put crashkernel=SIZE on Xen's own command line (on dom0's it has no \
         effect) and boot again",
    )
}

impl Xen {
    /// Opens the way to the hypervisor.
    ///
    /// # Errors
    /// [`Kind::Missing`] where the kernel has none, naming the module that makes it.
    pub fn open(host: &Host) -> Result<Self> {
        let mut last = None;
        for name in DEVICES {
            match File::options().read(true).write(true).open(host.path(name)) {
                Ok(file) => {
                    let memory = File::options().read(true).write(true).open(host.path("dev/xen/hypercall")).ok();
                    return Ok(Self::on(host, Box::new(Privcmd::new(file, memory))));
                }
                Err(e) if e.kind() == std::io::ErrorKind::NotFound => {}
                Err(e) => last = Some(Error::io(&e, format!("open /{name} to talk to Xen"))),
            }
        }
        Err(match last {
            Some(e) if e.kind() == Kind::Denied => e.with_hint("run as root"),
            Some(e) => e,
            None => {
                let text = "Xen can't be reached: there is neither /dev/xen/privcmd nor /proc/xen/privcmd; load the \
                            module that makes them (modprobe xen-privcmd)";
                Error::new(Kind::Missing, text)
            }
        })
    }

    fn on(host: &Host, calls: Box<dyn Hypercall>) -> Self {
        Self { host: host.clone(), calls }
    }

    /// The memory reserved for crash kernels.
    ///
    /// # Errors
    /// Xen's errno, with its cause.
    pub fn crash_area(&self) -> Result<Option<Range>> {
        let asked = self.range(KEXEC_RANGE_MA_CRASH, 0);
        asked.map_err(|e| failed("asking Xen for the memory reserved for crash kernels failed", e))
    }

    /// Bytes of memory that Xen found in the machine.
    ///
    /// # Errors
    /// Xen's errno, with its cause.
    pub fn ram(&self) -> Result<u64> {
        Ok(self.memory_map()?.ram().total())
    }

    /// Xen's own command line.
    ///
    /// # Errors
    /// Xen's errno, with its cause.
    pub fn command_line(&self) -> Result<String> {
        let mut line = [0; XEN_COMMANDLINE_LEN];
        let asked = self.calls.call(HYPERVISOR_XEN_VERSION, XENVER_COMMANDLINE, &mut line, None);
        asked.map_err(|e| failed("asking Xen for its command line failed", e))?;
        let text = line.split(|b| *b == 0).next().unwrap_or_default();
        Ok(String::from_utf8_lossy(text).into_owned())
    }

    /// A range of machine memory; `None` for one of no bytes, by which Xen says that there is none.
    fn range(&self, range: i32, nr: i32) -> Result<Option<Range>, Errno> {
        let mut asked = xen_kexec_range { range: range.into(), nr: nr.into(), size: 0.into(), start: 0.into() };
        self.calls.call(HYPERVISOR_KEXEC_OP, KEXEC_CMD_GET_RANGE, asked.as_mut_bytes(), None)?;
        Ok(Range::with_len(asked.start.get(), asked.size.get()).filter(|r| !r.is_empty()))
    }

    fn memory_map(&self) -> Result<MemoryMap> {
        let mut array = vec![0; MAP_ENTRIES.saturating_mul(size_of::<boot_e820_entry>())];
        let entries = u32::try_from(MAP_ENTRIES).unwrap_or(0).into();
        let mut asked = xen_memory_map { nr_entries: entries, _pad: 0.into(), buffer: 0.into() };
        let behind = Behind { at: MAP_BUFFER_AT, array: &mut array, data: &[] };
        self.calls
            .call(HYPERVISOR_MEMORY_OP, XENMEM_MACHINE_MEMORY_MAP, asked.as_mut_bytes(), Some(behind))
            .map_err(|e| failed("asking Xen for the memory map failed", e))?;
        let count = usize::try_from(asked.nr_entries.get()).unwrap_or(usize::MAX);
        let records = array.chunks_exact(size_of::<boot_e820_entry>()).take(count);
        let entries = records.filter_map(|record| boot_e820_entry::read_from_bytes(record).ok());
        let ranges = entries.filter_map(|e| {
            let range = Range::with_len(e.addr.get(), e.size.get())?;
            Some((range, MemoryType::from_wire(e.r#type.get())))
        });
        Ok(ranges.collect())
    }

    /// Buffers for the registers of every CPU: numbers may have gaps, and the one past the last is out of range.
    fn cpu_notes(&self) -> Result<Vec<CpuNotes>> {
        let mut found = Vec::new();
        for nr in 0..MAX_CPUS {
            match self.range(KEXEC_RANGE_MA_CPU, nr) {
                Ok(Some(range)) => found.push(CpuNotes { cpu: u64::try_from(nr).unwrap_or(0), range }),
                Ok(None) | Err(Errno::INVAL) => {}
                Err(Errno::RANGE) => break,
                Err(e) => return Err(failed(&format!("asking Xen for the notes of CPU {nr} failed"), e)),
            }
        }
        Ok(found)
    }

    fn status(&self, slot: Slot) -> Result<Option<bool>, Errno> {
        match self.calls.call(HYPERVISOR_KEXEC_OP, KEXEC_CMD_STATUS, &mut [kind(slot)], None) {
            Ok(bit) => Ok(Some(bit != 0)),
            // Before Xen 4.9.
            Err(Errno::OPNOTSUPP) => Ok(None),
            Err(e) => Err(e),
        }
    }

    fn drop_image(&self, slot: Slot) -> Result<()> {
        let done = self.calls.call(HYPERVISOR_KEXEC_OP, KEXEC_CMD_UNLOAD, &mut [kind(slot)], None);
        done.map(drop).map_err(|e| failed("unloading from Xen failed", e))
    }

    fn give(&self, slot: Slot, image: &Image) -> Result<()> {
        let segments = segments(image)?;
        let mut array = Vec::with_capacity(segments.len().saturating_mul(size_of::<xen_kexec_segment>()));
        let mut data: Vec<(usize, &[u8])> = Vec::new();
        for s in &segments {
            if !s.data.is_empty() {
                data.push((array.len(), &s.data));
            }
            let wire = xen_kexec_segment {
                buf: 0.into(),
                buf_size: u64::try_from(s.data.len()).unwrap_or(u64::MAX).into(),
                dest_maddr: s.range.start().into(),
                dest_size: s.range.len().into(),
            };
            array.extend(wire.as_bytes());
        }
        let mut asked = xen_kexec_load {
            r#type: kind(slot),
            _pad: 0,
            arch: EM_X86_64.into(),
            nr_segments: u32::try_from(segments.len()).unwrap_or(u32::MAX).into(),
            segments: 0.into(),
            entry_maddr: image.entry.into(),
        };
        let behind = Behind { at: LOAD_SEGMENTS_AT, array: &mut array, data: &data };
        self.calls
            .call(HYPERVISOR_KEXEC_OP, KEXEC_CMD_LOAD, asked.as_mut_bytes(), Some(behind))
            .map(drop)
            .map_err(|e| failed("loading into Xen failed", e))
    }
}

/// The same machine with no memory for an image but the area reserved for crash kernels, which is overwritten only when
/// the image is started; `None` if none is reserved.
///
/// Xen keeps a next kernel's image in its heap until then. Where a page of the heap is also one that the image will be
/// moved to, `kimage_alloc_page` (`xen/common/kimage.c`, seen in 4.17.7, unchanged in 2026) loses track of its source: the image
/// is corrupt, and dropping it stops the hypervisor. The reserved area is never in the heap.
pub fn inside_crash_area(machine: &Machine) -> Option<Machine> {
    if machine.crash.is_empty() {
        return None;
    }
    Some(Machine { system_ram: machine.crash.clone(), crash: Ranges::new(), upwards: true, ..machine.clone() })
}

/// What is left to say of an image outside of it. Xen's heap is served from the top, so the lowest memory is the least
/// likely to be hit.
pub fn unsafe_place(machine: &Machine) -> String {
    let why = match machine.crash_area() {
        Some(area) => format!("does not fit the {} MiB reserved for a crash kernel", area.len() / MIB),
        None => "has no area reserved for a crash kernel to go to".into(),
    };
    format!(
        "the image {why}, so it goes to the lowest memory: a bug of Xen may still corrupt it there, which its purgatory \
         notices, and stop the machine when it is unloaded; boot Xen with a larger crashkernel=SIZE to be safe"
    )
}

const fn kind(slot: Slot) -> u8 {
    match slot {
        Slot::Next => KEXEC_TYPE_DEFAULT,
        Slot::Crash => KEXEC_TYPE_CRASH,
    }
}

/// The errno of a hypercall with what it means there.
fn failed(what: &str, errno: Errno) -> Error {
    let error = Error::errno(errno, what);
    let hint = match errno {
        Errno::NOSYS => "this Xen was built without kexec (CONFIG_KEXEC); use another build",
        Errno::OPNOTSUPP => "this Xen is older than 4.4, whose way to load images is another",
        Errno::PERM | Errno::ACCESS => {
            "Xen's security policy (XSM) grants kexec to another domain, or this is not dom0"
        }
        Errno::ADDRNOTAVAIL => "a segment lies outside the memory that Xen allows for it",
        Errno::NOMEM => "neither dom0 nor Xen has enough free memory for the image",
        Errno::BUSY => "Xen is starting an image just now",
        Errno::NOENT => "nothing is loaded; load a kernel with 'kexec -l' first",
        Errno::FAULT => "Xen could not read dom0's memory; try again",
        Errno::NOTTY => "the device takes no hypercalls",
        _ => return error.with_kind(Kind::System),
    };
    let kind = if errno == Errno::NOENT { Kind::NotLoaded } else { Kind::System };
    error.with_hint(hint).with_kind(kind)
}

/// What Xen is given: `image` with the rest of the first MiB as segments without bytes, in no more than
/// [`XEN_SEGMENTS`], neighbours joined where there are more.
fn segments(image: &Image) -> Result<Vec<Segment>> {
    let mut all: Vec<Segment> = image.segments.clone();
    // Xen fills a segment without bytes with nothing at all: where zeros count, the first one is given.
    for s in all.iter_mut().filter(|s| s.data.is_empty() && s.name != "backup") {
        s.data = vec![0].into();
    }
    let mut low: Ranges = Range::new(0, MIB).into_iter().collect();
    all.iter().for_each(|s| low.remove(s.range));
    all.extend(low.iter().map(|range| Segment { name: "mapped", data: Bytes::default(), range }));
    all.sort_by_key(|s| s.range);
    while all.len() > XEN_SEGMENTS {
        let joint = all.windows(2).enumerate().filter_map(|(i, pair)| match pair {
            // A segment without bytes keeps what is in memory, so it joins its like only.
            [a, b] if a.range.end() == b.range.start() && a.data.is_empty() == b.data.is_empty() => {
                Some((a.range.len().saturating_add(b.range.len()), i))
            }
            _ => None,
        });
        let Some((_, at)) = joint.min() else {
            let text = format!(
                "the image has {} segments with gaps between them, and Xen takes {XEN_SEGMENTS}; name fewer modules",
                all.len()
            );
            return Err(Error::new(Kind::Invalid, text));
        };
        let second = all.remove(at.saturating_add(1));
        if let Some(first) = all.get_mut(at) {
            join(first, &second);
        }
    }
    Ok(all)
}

fn join(first: &mut Segment, second: &Segment) {
    if !first.data.is_empty() {
        let mut data = first.data.to_vec();
        data.resize(usize::try_from(first.range.len()).unwrap_or(usize::MAX), 0);
        data.extend_from_slice(&second.data);
        first.data = data.into();
    }
    first.range = Range::new(first.range.start(), second.range.end()).unwrap_or(first.range);
}

impl Backend for Xen {
    fn machine(&self, slot: Slot) -> Result<Machine> {
        let map = self.memory_map()?;
        // Of dom0's own parameters only the screen is the machine's; it runs without EFI's services, and so will what
        // comes behind, but knows EFI's tables.
        let mut params = boot_params::new_zeroed();
        let running = self.host.read("sys/kernel/boot_params/data")?;
        if let Some(running) = running.and_then(|p| boot_params::read_from_bytes(&p).ok()) {
            params.screen_info = running.screen_info;
            params.acpi_rsdp_addr = running.acpi_rsdp_addr;
        }
        // A Xen that was itself started by kexec has no EFI tables, but told dom0 in words.
        let line = self.host.text("proc/cmdline")?.unwrap_or_default();
        let told =
            line.split_whitespace().filter_map(|word| parse_number(word.strip_prefix("acpi_rsdp=")?)).next_back();
        if let Some(rsdp) = efi::read(&self.host)?.and_then(|efi| efi.acpi_rsdp).or(told) {
            params.acpi_rsdp_addr = rsdp.into();
        }
        let mut machine = Machine {
            system_ram: map.ram(),
            map,
            crash: self.crash_area()?.into_iter().collect(),
            bios: !self.host.path("sys/firmware/efi").exists() && told.is_none(),
            boot_params: Some(Box::new(params)),
            upwards: true,
            ..Machine::default()
        };
        if slot == Slot::Crash {
            if machine.crash.is_empty() {
                return Err(no_reservation());
            }
            machine.upwards = false;
            machine.layout.page_offset = Some(PAGE_OFFSET);
            machine.cpu_notes = self.cpu_notes()?;
            let note = self.range(KEXEC_RANGE_MA_VMCOREINFO, 0);
            machine.xen_vmcoreinfo = note.map_err(|e| failed("asking Xen for its vmcoreinfo failed", e))?;
            // A machine address where dom0 is paravirtualised.
            machine.vmcoreinfo = notes::vmcoreinfo(&self.host)?;
        }
        Ok(machine)
    }

    fn load(&mut self, slot: Slot, image: &Image) -> Result<()> {
        segments(image)?;
        let status = self.status(slot).map_err(|e| failed("asking Xen what is loaded failed", e))?;
        if status == Some(true) {
            self.drop_image(slot)?;
        }
        self.give(slot, image)
    }

    fn unload(&mut self, slot: Slot) -> Result<()> {
        let status = self.status(slot).map_err(|e| failed("asking Xen what is loaded failed", e))?;
        if status == Some(false) {
            // Either nothing is loaded, or another tool has loaded twice. One unload is right for the second case and
            // leaves the bit wrong in both; one more rights it.
            self.drop_image(slot)?;
        }
        self.drop_image(slot)
    }

    fn loaded(&self, slot: Slot) -> Result<Option<bool>> {
        self.status(slot).map_err(|e| failed("asking Xen what is loaded failed", e))
    }

    fn exec(&mut self) -> Result<()> {
        let mut asked = xen_kexec_exec { r#type: i32::from(KEXEC_TYPE_DEFAULT).into() };
        self.calls
            .call(HYPERVISOR_KEXEC_OP, KEXEC_CMD_KEXEC, asked.as_mut_bytes(), None)
            .map(drop)
            .map_err(|e| failed("starting the loaded kernel by Xen failed", e))
    }
}

#[cfg(test)]
#[path = "xen_tests.rs"]
mod tests;
