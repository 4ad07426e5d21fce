//! What VMCOREINFO lacks, out of the dump itself: symbols from kallsyms, types from BTF, or the whole text, which the
//! kernel keeps in a page of its own.

use std::fmt::Write;

use super::btf;
use super::elf::KERNEL_IMAGE;
use super::image::Image;
use super::kallsyms::Kallsyms;
use super::le::{index, u32_at, wide};
use super::pages::PageLayout;
use super::sections::Sections;
use super::vmcoreinfo::VmcoreInfo;
use super::{AddressSpace, PhysMem, Vmcore};
use crate::mem::{PAGE_SIZE, PhysAddr, VirtAddr};

/// Largest BTF that is read; kernels have 4 to 8 MiB.
const MAX_BTF: u64 = 32 << 20;
/// Symbols the filter and the log ask for.
const SYMBOLS: [&str; 8] =
    ["__start_BTF", "vmemmap_base", "mem_section", "node_data", "init_uts_ns", "prb", "clear_seq", "log_buf"];

/// What the filter needs and `info` does not say, in a few words.
pub fn lacking(info: &VmcoreInfo) -> Option<String> {
    match PageLayout::new(info) {
        Err(e) => Some(e.to_string()),
        Ok(layout) => layout.lacks().or_else(|| Sections::lacks(info)).map(|key| format!("VMCOREINFO lacks {key}")),
    }
}

/// `info` with what kallsyms and BTF in the kernel's memory add to it; `None` if they add nothing.
pub fn supplement(info: &VmcoreInfo, space: &AddressSpace, mem: &dyn PhysMem) -> Option<VmcoreInfo> {
    let image = Image { space, mem };
    let start = info.symbol("_stext").unwrap_or(KERNEL_IMAGE.wrapping_add(16 << 20));
    let table = Kallsyms::told(&image, info).or_else(|| Kallsyms::found(&image, start));
    let symbols = table.map(|table| table.symbols(&image, &SYMBOLS, info)).unwrap_or_default();
    let mut text = info.text().to_vec();
    text.push(b'\n');
    let mut more = String::new();
    for (name, va) in &symbols {
        // The variable holds what later kernels export by this name.
        let line = match name.as_str() {
            "vmemmap_base" => image.u64(*va).map(|base| ("vmemmap", base)),
            name => Some((name, *va)),
        };
        if let Some((name, value)) = line {
            let _ = writeln!(more, "SYMBOL({name})={value:x}");
        }
    }
    let told = symbols.iter().find(|(name, _)| name == "__start_BTF").and_then(|(_, va)| types(&image, *va));
    more.push_str(&told.or_else(|| search_types(&image, start)).unwrap_or_default());
    text.extend_from_slice(more.as_bytes());
    (!more.is_empty()).then(|| VmcoreInfo::parse(&text))
}

/// The lines that follow from the BTF at `va`.
fn types(image: &Image<'_>, va: u64) -> Option<String> {
    let head = image.bytes(va, 24);
    if !head.starts_with(b"\x9f\xeb\x01\0") {
        return None;
    }
    let field = |at| u32_at(&head, at).map(u64::from);
    let (header, strings, length) = (field(4)?, field(16)?, field(20)?);
    let size = header.checked_add(strings)?.checked_add(length).filter(|n| *n <= MAX_BTF)?;
    // A structure of another name is not the kernel's: so is the BTF of a module.
    btf::types(&image.bytes(va, size)).ok().filter(|text| text.contains("SIZE(page)="))
}

/// The same for BTF that no symbol tells the place of: its header begins with a magic number and its own length.
fn search_types(image: &Image<'_>, start: u64) -> Option<String> {
    const HEAD: &[u8] = b"\x9f\xeb\x01\0\x18\0\0\0\0\0\0\0";
    image.search(start & !3, &mut |va, bytes| {
        let is_head = |part: &[u8]| part.starts_with(HEAD);
        let places = bytes.windows(HEAD.len()).step_by(4).enumerate().filter(|(_, part)| is_head(part));
        places.filter_map(|(i, _)| types(image, va.checked_add(wide(i).checked_mul(4)?)?)).next()
    })
}

/// Searches memory for the page that VMCOREINFO's text is kept in: a text that names the kernel it is found in.
pub fn vmcoreinfo(core: &Vmcore) -> Option<VmcoreInfo> {
    const BEGIN: &[u8] = b"OSRELEASE=";
    let mem = core.reader();
    for segment in core.segments().iter().filter(|segment| segment.is_held()) {
        let mut at = segment.phys.start().checked_next_multiple_of(PAGE_SIZE)?;
        while at < segment.phys.end() {
            // Holes of a sparse file hold no text.
            let offset = segment.offset.saturating_add(at.saturating_sub(segment.phys.start()));
            let skip = core.input().data_at(offset).saturating_sub(offset) & !PAGE_SIZE.wrapping_sub(1);
            at = at.saturating_add(skip);
            let mut head = [0; BEGIN.len()];
            if mem.read(PhysAddr(at), &mut head).is_ok() && head == BEGIN {
                let mut page = vec![0; index(PAGE_SIZE)];
                if mem.read(PhysAddr(at), &mut page).is_ok() {
                    let info = VmcoreInfo::parse(&page);
                    if names_itself(core, &info) {
                        return Some(info);
                    }
                }
            }
            at = at.saturating_add(PAGE_SIZE);
        }
    }
    None
}

/// Whether the kernel that `info` describes is the one in memory: `init_uts_ns` says the same release.
fn names_itself(core: &Vmcore, info: &VmcoreInfo) -> bool {
    let release = || {
        let at = info.symbol("init_uts_ns")?.checked_add(wide(info.offset("uts_namespace.name").unwrap_or(4)))?;
        let mut names = [0; 3 * 65];
        let phys_base = info.number("phys_base").or(core.phys_base());
        AddressSpace::new(info, core.loads(), phys_base).read(&core.reader(), VirtAddr(at), &mut names).ok()?;
        let release = names.get(130..)?.split(|b| *b == 0).next()?;
        Some(names.starts_with(b"Linux\0") && info.get("OSRELEASE").map(str::as_bytes) == Some(release))
    };
    release().unwrap_or(false)
}
