//! The program of the initramfs in a form that takes less memory while the kernel unpacks the archive: an ELF file that
//! holds it compressed, unpacks it into a memory file (`memfd_create(2)`) and starts that in its own place.
//!
//! The archive's worst moment is its end, when what is packed and what is unpacked are both there and the kernel still holds
//! what it frees before it starts init: some 10 MB on Debian's 6.1. Our code is `sys/packed.S`, assembled into this binary
//! and copied, as the purgatory is.

use zerocopy::{Immutable, IntoBytes};

use crate::error::{Error, Kind, Result};
use crate::sys;

/// The unpacker reads so many bytes behind the stream.
const SLACK: usize = 8;
/// Where the segment is mapped: where programs that are not relocatable are.
const ADDRESS: u64 = 0x40_0000;

/// The fields at the start of the text, in its order.
#[repr(C)]
#[derive(IntoBytes, Immutable)]
struct Fields {
    size: u64,
    process: u64,
}

/// ELF64's header and one program header (`elf(5)`).
#[repr(C)]
#[derive(IntoBytes, Immutable)]
struct Headers {
    ident: [u8; 16],
    kind: u16,
    machine: u16,
    version: u32,
    entry: u64,
    phoff: u64,
    shoff: u64,
    flags: u32,
    ehsize: u16,
    phentsize: u16,
    phnum: u16,
    shentsize: u16,
    shnum: u16,
    shstrndx: u16,
    segment: u32,
    segment_flags: u32,
    offset: u64,
    vaddr: u64,
    paddr: u64,
    filesz: u64,
    memsz: u64,
    align: u64,
    stack: u32,
    stack_flags: u32,
    stack_rest: [u64; 6],
}

/// A program that becomes `program` with its own arguments. With `process`, only in the process of that number: the kernel
/// starts our other names for its own requests of modules while it boots, when there is no room yet; these fail, and are made
/// again when they matter.
///
/// # Errors
/// [`Kind::System`] if it can't be compressed.
pub fn pack(program: &[u8], process: Option<u32>) -> Result<Vec<u8>> {
    let (text, entry) = sys::unpacker();
    let fields = Fields { size: size(program.len()), process: process.map_or(0, u64::from) };
    let stream = deflate(program)?;
    let bytes = size_of::<Headers>().saturating_add(text.len()).saturating_add(stream.len()).saturating_add(SLACK);
    let headers = headers(size(bytes), ADDRESS.wrapping_add(size(size_of::<Headers>().wrapping_add(entry))));
    let mut file = Vec::with_capacity(bytes);
    file.extend_from_slice(headers.as_bytes());
    file.extend_from_slice(fields.as_bytes());
    file.extend_from_slice(text.get(size_of::<Fields>()..).unwrap_or_default());
    file.extend_from_slice(&stream);
    file.resize(bytes, 0);
    Ok(file)
}

fn size(bytes: usize) -> u64 {
    u64::try_from(bytes).unwrap_or(u64::MAX)
}

fn deflate(program: &[u8]) -> Result<Vec<u8>> {
    let broken = |e: &dyn std::fmt::Debug| Error::new(Kind::System, format!("pack the program: {e:?}"));
    let level = libdeflater::CompressionLvl::best();
    let mut compressor = libdeflater::Compressor::new(level);
    let mut stream = vec![0; compressor.deflate_compress_bound(program.len())];
    let len = compressor.deflate_compress(program, &mut stream).map_err(|e| broken(&e))?;
    stream.truncate(len);
    // Nobody looks again before the crash.
    let mut again = vec![0; program.len()];
    let unpacked = libdeflater::Decompressor::new().deflate_decompress(&stream, &mut again).map_err(|e| broken(&e))?;
    if unpacked != program.len() || again != program {
        return Err(broken(&"what was packed unpacks to something else"));
    }
    Ok(stream)
}

fn headers(bytes: u64, entry: u64) -> Headers {
    const ET_EXEC: u16 = 2;
    const EM_X86_64: u16 = 62;
    const PT_LOAD: u32 = 1;
    const PT_GNU_STACK: u32 = 0x6474_e551;
    const READ: u32 = 4;
    const WRITE: u32 = 2;
    const EXECUTE: u32 = 1;
    let mut ident = [0; 16];
    for (place, byte) in ident.iter_mut().zip(*b"\x7fELF\x02\x01\x01") {
        *place = byte;
    }
    Headers {
        ident,
        kind: ET_EXEC,
        machine: EM_X86_64,
        version: 1,
        entry,
        phoff: 64,
        shoff: 0,
        flags: 0,
        ehsize: 64,
        phentsize: 56,
        phnum: 2,
        shentsize: 0,
        shnum: 0,
        shstrndx: 0,
        segment: PT_LOAD,
        segment_flags: READ | EXECUTE,
        offset: 0,
        vaddr: ADDRESS,
        paddr: ADDRESS,
        filesz: bytes,
        memsz: bytes,
        align: 4096,
        stack: PT_GNU_STACK,
        stack_flags: READ | WRITE,
        stack_rest: [0; 6],
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt as _;
    use std::path::Path;
    use std::process::Command;

    fn run(dir: &Path, program: &[u8], process: Option<u32>) -> std::process::Output {
        let [path, original] = ["packed", "original"].map(|name| dir.join(name));
        std::fs::write(&original, program).expect("written");
        std::fs::write(&path, pack(program, process).expect("packs")).expect("written");
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).expect("a program");
        let mut command = Command::new(path);
        let script = "echo \"$A $*\"; cmp /proc/$$/exe $2 && exit 3";
        command.args(["-c", script, "sh", "-x"]).arg(original).env("A", "b").output().expect("starts")
    }

    #[test]
    fn a_packed_program_becomes_the_program_itself() {
        let dir = tempfile::tempdir().expect("a directory");
        let mut noise = 1_u64;
        let noise = std::iter::repeat_with(|| {
            noise ^= noise << 13;
            noise ^= noise >> 7;
            noise ^= noise << 17;
            noise.to_le_bytes()
        });
        let noise: Vec<u8> = noise.take(20_000).flatten().collect();
        // Blocks of all three kinds: code, zeros, what no code makes smaller, and little.
        let mut program = std::fs::read("/bin/sh").expect("a shell");
        for part in [&b""[..], &[0; 100_000], &noise, b"text and text"] {
            program.extend_from_slice(part);
            let output = run(dir.path(), &program, None);
            let said = String::from_utf8_lossy(&output.stdout);
            let wanted = format!("b -x {}\n", dir.path().join("original").display());
            assert_eq!((output.status.code(), said.as_ref()), (Some(3), wanted.as_str()), "{output:?}");
        }
        let output = run(dir.path(), &program, Some(1));
        assert_eq!((output.status.code(), output.stdout.len()), (Some(1), 0), "not the first process");
    }
}
