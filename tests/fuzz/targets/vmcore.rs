//! A synthetic vmcore, of Linux or of Xen, or a dump of one, plain or flattened, with bytes changed anywhere: its log and
//! Xen's console are read and a dump of it written, to nowhere.
#![no_main]

#[path = "../../support/mod.rs"]
mod support;

use std::io;
use std::sync::OnceLock;

use kdumpbox::dump::{self, Codec, Level, Request};
use kdumpbox::target::Nowhere;
use kdumpbox::vmcore::{Input, Vmcore, conring, printk};
use support::kernel::{Kernel, V6_1, V6_12};
use support::log::{Record, RingShape};
use support::machine::Core;
use support::saved::Saved;
use support::xen::{States, Xen};

/// The file with some bytes replaced.
struct Changed {
    base: &'static [u8],
    changes: Vec<(u64, u8)>,
}

impl Input for Changed {
    fn size(&self) -> u64 {
        self.base.len() as u64
    }

    fn read_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<usize> {
        let rest = self.base.get(offset as usize..).unwrap_or_default();
        let len = rest.len().min(buf.len());
        buf[..len].copy_from_slice(&rest[..len]);
        for (at, byte) in &self.changes {
            if let Some(place) = at.checked_sub(offset).and_then(|i| buf[..len].get_mut(i as usize)) {
                *place = *byte;
            }
        }
        Ok(len)
    }
}

fn bytes(core: &Core) -> Vec<u8> {
    let dir = tempfile::tempdir().expect("a directory");
    core.save(&dir.path().join("core"));
    std::fs::read(dir.path().join("core")).expect("read")
}

fn linux() -> &'static [u8] {
    static BASE: OnceLock<Vec<u8>> = OnceLock::new();
    BASE.get_or_init(|| {
        let mut kernel = Kernel::new(V6_12, 4);
        support::log::ring(&mut kernel, RingShape::default(), &[Record::new(1, "one"), Record::new(2, "two")]);
        bytes(&kernel.core())
    })
}

/// A dump that keeps the first megabytes, every page packed.
fn dump() -> &'static [u8] {
    static BASE: OnceLock<Vec<u8>> = OnceLock::new();
    BASE.get_or_init(|| {
        let kernel = Kernel::new(V6_12, 4);
        let pages = Kernel::pfns().filter(|pfn| *pfn < 0xa00 && !kernel.use_of(*pfn).droppable(31));
        let saved = Saved {
            version: 6,
            codec: support::saved::ZLIB,
            max_mapnr: 0x8800,
            ram: support::kernel::RAM.iter().map(|(start, end)| start / 4096..end / 4096).collect(),
            pages: pages.map(|pfn| (pfn, Some(kernel.memory.page(pfn)))).collect(),
            notes: kernel.core().notes,
            ..Saved::default()
        };
        saved.write()
    })
}

fn stream() -> &'static [u8] {
    static BASE: OnceLock<Vec<u8>> = OnceLock::new();
    BASE.get_or_init(|| support::saved::flatten(dump(), 65536))
}

fn xen() -> &'static [u8] {
    static BASE: OnceLock<Vec<u8>> = OnceLock::new();
    BASE.get_or_init(|| {
        let mut xen = Xen::new(Kernel::new(V6_1, 4), States::New, 17, ".7");
        xen.print("(XEN) a line\n(XEN) another\n");
        bytes(&xen.core())
    })
}

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    // The first byte chooses the base. Five bytes a change: where (the first half of the numbers lie in the headers),
    // and what.
    let Some((choice, data)) = data.split_first() else { return };
    let base = [linux, xen, dump, stream][usize::from(choice % 4)]();
    let changes = data.chunks_exact(5).map(|c| {
        let at = u64::from(u32::from_le_bytes([c[0], c[1], c[2], c[3]]));
        (if at & 1 == 0 { at / 2 % 8192 } else { at / 2 % base.len() as u64 }, c[4])
    });
    let input = Changed { base, changes: changes.collect() };
    let Ok(core) = Vmcore::from_input(Box::new(input)) else { return };
    let _ = core.incomplete();
    let _ = printk::dmesg(&core, &mut io::sink());
    let _ = conring::text(&core);
    let level = Level::new(31).expect("a level");
    let request = Request {
        level,
        codec: Codec::None,
        threads: 1,
        exclude_guests: true,
        exclude_struct_pages: true,
        ..Request::default()
    };
    let _ = dump::save(&core, &request, &Nowhere, &|_| ());
});
