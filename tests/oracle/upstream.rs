//! What the newest makedumpfile gets wrong, on the same made-up vmcores that we get right.

use std::process::Command;

use crate::lab::{tool_of, workdir};
use crate::support::kdump::Kdump;
use crate::support::kernel::*;
use crate::support::machine::{Core, PAGE, note};

/// Lines that makedumpfile wants and we don't need.
const WANTED: &str = "SIZE(list_head)=16\nOFFSET(list_head.next)=0\nOFFSET(list_head.prev)=8\nSIZE(pglist_data)=2048\n\
    SIZE(zone)=1664\nSIZE(free_area)=104\nSIZE(nodemask_t)=8\nOFFSET(pglist_data.node_zones)=0\n\
    OFFSET(pglist_data.nr_zones)=1700\nOFFSET(pglist_data.node_start_pfn)=1708\n\
    OFFSET(pglist_data.node_spanned_pages)=1716\nOFFSET(pglist_data.node_id)=1724\nOFFSET(zone.free_area)=0\n\
    OFFSET(zone.vm_stat)=640\nOFFSET(zone.spanned_pages)=700\nOFFSET(free_area.free_list)=0\n\
    LENGTH(free_area.free_list)=6\nNUMBER(NR_FREE_PAGES)=0\nNUMBER(MAX_PHYSMEM_BITS)=46\n";

/// A kernel as makedumpfile wants it.
fn kernel(generation: Generation) -> Kernel {
    let mut kernel = Kernel::new(generation, 4);
    if !kernel.symbols.contains_key("mem_section") {
        kernel.mem_section();
    }
    let text = kernel.alloc(64);
    kernel.symbol("_stext", text);
    let root = kernel.symbols["swapper_pg_dir"];
    kernel.symbol("init_top_pgt", root);
    kernel.info = kernel.info.replace("LENGTH(mem_section)=2048", "LENGTH(mem_section)=4096") + WANTED;
    kernel
}

/// What one of the two made of a core.
struct Outcome {
    code: Option<i32>,
    said: String,
    dump: Option<Kdump>,
}

impl Outcome {
    fn keeps(&self, pfn: u64) -> bool {
        self.dump.as_ref().unwrap_or_else(|| panic!("no dump: {}", self.said)).is_kept(pfn)
    }

    /// No dump, by a program that says so.
    fn failed(&self, said: &str) {
        assert!(
            self.code != Some(0) && self.dump.is_none() && self.said.contains(said),
            "{:?} {}",
            self.code,
            self.said
        );
    }
}

/// Ours and theirs on `core`.
fn both(name: &str, core: &Core, level: u8) -> [Outcome; 2] {
    let work = workdir(&format!("upstream-{name}"));
    let input = work.join("core");
    core.save(&input);
    let level = format!("-d{level}");
    let mut ours = Command::new(env!("CARGO_BIN_EXE_kdumpbox"));
    ours.args(["kdump-save", &level]);
    let mut theirs = tool_of("sid", "makedumpfile");
    theirs.args([&level, "--message-level", "6"]);
    [("ours", ours), ("theirs", theirs)].map(|(file, mut command)| {
        let dump = work.join(file);
        let out = command.arg(&input).arg(&dump).output().unwrap_or_else(|e| panic!("start {command:?}: {e}"));
        let said = [out.stdout, out.stderr].map(|o| String::from_utf8_lossy(&o).into_owned()).concat();
        let dump = dump.is_file().then(|| Kdump::open(&dump)).filter(|dump| dump.status & 8 == 0);
        Outcome { code: out.status.code(), said, dump }
    })
}

/// Ours keeps exactly what `level` does not drop, but for `odd`.
fn right(ours: &Outcome, kernel: &Kernel, level: u8, odd: &[(u64, bool)]) {
    for pfn in Kernel::pfns() {
        let known = odd.iter().find(|(p, _)| *p == pfn).map(|(_, keep)| *keep);
        let keep = known.unwrap_or(!kernel.use_of(pfn).droppable(level));
        assert_eq!(ours.keeps(pfn), keep, "{pfn:#x}, a page of {:?}: {}", kernel.use_of(pfn), ours.said);
    }
}

/// Where the pages of every use begin.
const START: u64 = RAM[1].0 / PAGE;

/// Both agree on machines with nothing odd about them: what differs below is the oddity's doing.
pub fn agree() {
    for generation in [V5_10, V6_1] {
        let kernel = kernel(generation);
        for level in [0, 1, 2, 4, 8, 16, 31] {
            let [ours, theirs] = both(&format!("plain-{generation:?}-{level}"), &kernel.core(), level);
            right(&ours, &kernel, level, &[]);
            right(&theirs, &kernel, level, &[]);
        }
    }
}

/// One page of struct pages that is missing loses upstream the whole dump.
pub fn one_struct_page() {
    let kernel = kernel(V6_1);
    let core = kernel.core().without_page(kernel.struct_page(START + 700));
    let [ours, theirs] = both("struct-page", &core, 31);
    assert_eq!(ours.code, Some(8), "{}", ours.said);
    assert!((START..START + 0x800).all(|pfn| ours.keeps(pfn)), "the section is kept whole");
    theirs.failed("makedumpfile Failed");
}

/// Neither does it survive one corrupt entry of mem_section.
pub fn one_section() {
    let mut kernel = kernel(V6_1);
    let table = kernel.symbols["section table"];
    let mut tables = kernel.tables.clone();
    tables.map(&mut kernel.memory, kernel.place.vmemmap + 0x1_0000 * 64, 0xc0_0000, PAGE);
    kernel.tables = tables;
    kernel.put(table + 2 * 32, &(kernel.place.vmemmap | 7).to_le_bytes());
    kernel.put(table + 32, &0x0000_1234_0000_0003u64.to_le_bytes());
    let mut core = kernel.core();
    core.loads.push((0x1000_0000, 0x1000_1000, kernel.place.direct + 0x1000_0000));
    let [ours, theirs] = both("section", &core, 31);
    assert_eq!(ours.code, Some(0), "{}", ours.said);
    right(&ours, &kernel, 31, &[]);
    theirs.failed("Could not validate mem_section");
}

/// Since 6.15 bit 5 of section_mem_map is a flag (SECTION_IS_VMEMMAP_PREINIT); upstream takes it for an address.
pub fn sixth_flag() {
    let mut kernel = kernel(V6_1);
    let table = kernel.symbols["section table"];
    kernel.put(table + 32, &(kernel.place.vmemmap | 0x27).to_le_bytes());
    let [ours, theirs] = both("flag", &kernel.core(), 31);
    assert_eq!(ours.code, Some(0), "{}", ours.said);
    right(&ours, &kernel, 31, &[]);
    assert!(
        Kernel::pfns().all(|pfn| theirs.keeps(pfn)),
        "it reads struct pages from 32 bytes further on, and drops nothing"
    );
}

/// Since 6.12 the low 24 bits of a page type are its owner's: upstream compares them.
pub fn owners_bits() {
    let kernel = kernel(V6_12);
    let [ours, theirs] = both("owner", &kernel.core(), 31);
    right(&ours, &kernel, 31, &[]);
    let (slab, offline) = (START + 261, START + 263);
    assert!(kernel.use_of(slab) == Use::SlabLikeAnon && kernel.use_of(offline) == Use::Offline);
    assert!(!theirs.keeps(slab), "kernel memory was lost");
    assert!(theirs.keeps(offline), "memory that is not there was kept");
}

/// Flags beyond the 32nd.
pub fn high_flags() {
    let mut kernel = kernel(V6_1);
    kernel.info = kernel.info.replace("NUMBER(PG_hwpoison)=23", "NUMBER(PG_hwpoison)=40");
    let poisoned = START + 262;
    let flags = kernel.struct_page(poisoned);
    kernel.memory.write_u64(flags, 1 << 40);
    let [ours, theirs] = both("high", &kernel.core(), 31);
    right(&ours, &kernel, 31, &[]);
    assert!(theirs.keeps(poisoned), "broken memory was read");
}

/// Broken memory inside a huge page that is kept.
pub fn broken_memory() {
    let mut kernel = kernel(V6_1);
    let inside = START + 272 + 5;
    let flags = kernel.struct_page(inside);
    kernel.memory.write_u64(flags, POISON);
    let [ours, theirs] = both("broken", &kernel.core(), 7);
    right(&ours, &kernel, 7, &[(inside, false)]);
    assert!(theirs.keeps(inside), "broken memory was read");
}

/// A kernel that calls itself by no number.
pub fn release() {
    let mut kernel = kernel(V6_1);
    let names = kernel.symbols["init_uts_ns"];
    kernel.put(names + 130, b"next-synthetic\0");
    kernel.info = kernel.info.replace("OSRELEASE=6.1.0-synthetic", "OSRELEASE=next-synthetic");
    let [ours, theirs] = both("release", &kernel.core(), 31);
    assert_eq!(ours.code, Some(0), "{}", ours.said);
    right(&ours, &kernel, 31, &[]);
    theirs.failed("Can't get the kernel version");
}

/// Memory that ends inside a page.
pub fn partial_page() {
    let kernel = kernel(V6_1);
    let mut core = kernel.core();
    core.loads.push((0x900_0000, 0x900_0800, kernel.place.direct + 0x900_0000));
    core.memory.write(0x900_0000, b"here");
    let [ours, theirs] = both("partial", &core, 1);
    assert!(ours.keeps(0x9000));
    assert!(!theirs.keeps(0x9000), "half a page of memory was lost");
}

/// No VMCOREINFO at all.
pub fn no_vmcoreinfo() {
    let mut core = kernel(V6_1).core();
    core.notes = note("CORE", 1, &[0; 336]);
    let [ours, theirs] = both("note", &core, 31);
    assert_eq!(ours.code, Some(8), "{}", ours.said);
    assert!(Kernel::pfns().all(|pfn| ours.keeps(pfn)));
    theirs.failed("doesn't contain vmcoreinfo");
}
