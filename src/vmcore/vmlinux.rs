//! What a kernel's file says about it: its release, and the text of VMCOREINFO as far as symbols (.symtab) and types
//! (.BTF, Documentation/bpf/btf.rst) tell it. DWARF is not read.

use std::fmt::Write;
use std::path::Path;

use super::btf::{c_str, types};
use super::elf::read_full;
use super::input::{FileInput, Input};
use super::le::{index, u16_at, u32_at, u64_at};
use crate::error::{Context, Error, Kind, Result};

/// Largest section that is read: symbols and types of kernels have a tenth of it.
const MAX_SECTION: u64 = 256 << 20;

/// Symbols whose address goes into the text, where the kernel has them.
const SYMBOLS: &str = "init_uts_ns swapper_pg_dir init_top_pgt init_level4_pgt _stext mem_section node_data \
    node_online_map node_states vmap_area_list prb printk_rb_static clear_seq log_buf log_buf_len log_first_idx \
    log_next_idx clear_idx log_end logged_chars kallsyms_names kallsyms_num_syms kallsyms_token_table \
    kallsyms_token_index kallsyms_offsets kallsyms_relative_base";
/// A kernel's file.
struct Elf {
    input: FileInput,
    sections: Vec<u8>,
    names: Vec<u8>,
}

fn invalid(message: impl Into<String>) -> Error {
    Error::new(Kind::Invalid, message)
}

impl Elf {
    fn open(path: &Path) -> Result<Self> {
        let input = FileInput::open(path)?;
        let mut elf = Self { input, sections: Vec::new(), names: Vec::new() };
        elf.headers().context(|| format!("kernel {}", path.display()))?;
        Ok(elf)
    }

    fn bytes(&self, what: &str, at: u64, len: u64) -> Result<Vec<u8>> {
        let there = self.input.size().saturating_sub(at);
        if len > MAX_SECTION.min(there) {
            return Err(invalid(format!("{what} has {len:#x} bytes at {at:#x}, more than the file or 256 MiB")));
        }
        let mut bytes = vec![0; index(len)];
        let got = read_full(&self.input, at, &mut bytes).map_err(|e| Error::io(&e, format!("read {what}")))?;
        if got == bytes.len() { Ok(bytes) } else { Err(invalid(format!("the file ends inside {what}"))) }
    }

    fn headers(&mut self) -> Result<()> {
        let ehdr = self.bytes("the ELF header", 0, 64)?;
        if !ehdr.starts_with(b"\x7fELF\x02\x01") || u16_at(&ehdr, 58) != Some(64) {
            return Err(invalid("it is no ELF64 file with sections; give an uncompressed vmlinux"));
        }
        let (at, count) = (u64_at(&ehdr, 40).unwrap_or(0), u64::from(u16_at(&ehdr, 60).unwrap_or(0)));
        self.sections = self.bytes("its section headers", at, count.saturating_mul(64))?;
        let names = usize::from(u16_at(&ehdr, 62).unwrap_or(0)).saturating_mul(64);
        let (at, len) =
            (u64_at(&self.sections, names.saturating_add(24)), u64_at(&self.sections, names.saturating_add(32)));
        self.names = self.bytes("its section names", at.unwrap_or(0), len.unwrap_or(0))?;
        Ok(())
    }

    /// The bytes of a section; `None` if there is none of that name.
    fn section(&self, name: &str) -> Result<Option<Vec<u8>>> {
        let header = self
            .sections
            .chunks_exact(64)
            .find(|h| u32_at(h, 0).is_some_and(|at| c_str(&self.names, at) == name.as_bytes()));
        let Some(header) = header else { return Ok(None) };
        let (at, len) = (u64_at(header, 24).unwrap_or(0), u64_at(header, 32).unwrap_or(0));
        self.bytes(name, at, len).map(Some)
    }

    /// `len` bytes at a virtual address, from the section that holds it.
    fn at(&self, va: u64, len: u64) -> Option<Vec<u8>> {
        self.sections.chunks_exact(64).find_map(|h| {
            let (start, offset, size) = (u64_at(h, 16)?, u64_at(h, 24)?, u64_at(h, 32)?);
            let skip = va.checked_sub(start).filter(|s| start != 0 && s.saturating_add(len) <= size)?;
            self.bytes("a symbol", offset.checked_add(skip)?, len).ok()
        })
    }

    /// Addresses of the symbols that `wanted` names, in its order.
    fn symbols(&self, wanted: &str) -> Result<Vec<(String, u64)>> {
        let (table, names) = (self.section(".symtab")?, self.section(".strtab")?);
        let (Some(table), Some(names)) = (table, names) else {
            return Err(Error::new(Kind::Missing, "it has no .symtab: it is stripped; give the vmlinux with symbols"));
        };
        let address = |name: &str| {
            table.chunks_exact(24).find_map(|s| {
                let found = c_str(&names, u32_at(s, 0)?) == name.as_bytes() && u16_at(s, 6)? != 0;
                if found { u64_at(s, 8) } else { None }
            })
        };
        Ok(wanted.split_whitespace().filter_map(|name| Some((name.to_owned(), address(name)?))).collect())
    }
}

/// The release of the kernel in `path`, from its banner.
///
/// # Errors
/// When it can't be read, has no symbols, or no banner.
pub fn release(path: &Path) -> Result<String> {
    release_of(&Elf::open(path)?).context(|| format!("kernel {}", path.display()))
}

fn release_of(elf: &Elf) -> Result<String> {
    let banner = elf.symbols("linux_banner")?.first().and_then(|(_, va)| elf.at(*va, 128));
    let text = banner.map(|b| String::from_utf8_lossy(c_str(&b, 0)).into_owned()).unwrap_or_default();
    let release = text.strip_prefix("Linux version ").and_then(|t| t.split(' ').next());
    release.map(str::to_owned).ok_or_else(|| invalid("its symbol linux_banner leads to no \"Linux version\""))
}

/// VMCOREINFO of the kernel in `path`, as it would be at the addresses it is linked for.
///
/// # Errors
/// As [`release`]; and when it has no BTF.
pub fn vmcoreinfo(path: &Path) -> Result<String> {
    let elf = Elf::open(path)?;
    let make = || -> Result<String> {
        let mut text = format!("OSRELEASE={}\nPAGESIZE=4096\n", release_of(&elf)?);
        for (name, va) in elf.symbols(SYMBOLS)? {
            let _ = writeln!(text, "SYMBOL({name})={va:x}");
        }
        let rule = "it has no .BTF section: the kernel was built without CONFIG_DEBUG_INFO_BTF";
        let btf = elf.section(".BTF")?.ok_or_else(|| Error::new(Kind::Missing, rule))?;
        text.push_str(&types(&btf)?);
        Ok(text)
    };
    make().context(|| format!("kernel {}", path.display()))
}
