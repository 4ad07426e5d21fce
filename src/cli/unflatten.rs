//! `kdump-save unflatten`: the dump that a flattened stream stands for, and with `--salvage` what a cut stream holds.

use std::ffi::OsString;
use std::fs::File;
use std::io::Read;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::process::ExitCode;

use argh::{ArgsInfo, FromArgs};
use zerocopy::FromBytes;

use super::getopt::{self, Grammar, Outcome};
use crate::abi::diskdump::{DUMP_DH_COMPRESSED_INCOMPLETE, DiskDumpHeader, PageDesc, SIGNATURE};
use crate::error::{Context, Error, Kind, Result, SAVED_INCOMPLETE};
use crate::target::Sink;
use crate::target::file::FileSink;
use crate::target::flat;

/// Where bitmaps end at most: those of 8 PiB of memory.
const MAX_BITMAPS: u64 = 1 << 39;

/// Makes a dump of a flattened stream: kdump-save unflatten [OPTIONS] [STREAM] DUMPFILE.
///
/// STREAM is what 'kdump-save -F' or 'makedumpfile -F' wrote; without it, or by '-', the standard input is read.
#[derive(FromArgs, ArgsInfo)]
#[argh(help_triggers("-h", "--help"))]
struct Options {
    /// of a stream that ends early, keep what came, marked incomplete (exit code 9)
    #[argh(switch)]
    salvage: bool,
    /// replace DUMPFILE if it exists
    #[argh(switch, short = 'f')]
    force: bool,
    #[argh(positional, hidden_help)]
    files: Vec<String>,
}

/// Runs `kdump-save unflatten ARGS`.
pub(super) fn run(args: &[OsString]) -> ExitCode {
    let done = match getopt::parse::<Options>("kdump-save unflatten", Grammar::default(), args) {
        Ok(Outcome::Run(options, _)) => try_run(&options),
        Ok(Outcome::Help(text)) => {
            print!("{text}");
            return ExitCode::SUCCESS;
        }
        Err(e) => Err(e),
    };
    ExitCode::from(done.unwrap_or_else(|e| {
        eprintln!("kdump-save: {e}");
        e.kind().save_code()
    }))
}

fn try_run(options: &Options) -> Result<u8> {
    let (stream, output) = match options.files.as_slice() {
        [output] => ("-", output),
        [stream, output] => (stream.as_str(), output),
        _ => {
            return Err(Error::new(Kind::Usage, "give the STREAM to read, if it is a file, and the DUMPFILE to write"));
        }
    };
    let mut stream: Box<dyn Read> = match stream {
        "-" => Box::new(std::io::stdin().lock()),
        path => Box::new(File::open(path).context(|| format!("open the stream {path}"))?),
    };
    let mut sink = FileSink::create(Path::new(output), options.force)?;
    let end = flat::rearrange(&mut *stream, &sink);
    let Some(reason) = end.inspect_err(|_| sink.discard())? else {
        sink.finish()?;
        return Ok(0);
    };
    if !options.salvage {
        // A pipe can't be read twice: what came of it stays.
        let left = sink.working_path();
        let text = format!("{reason}; what came is {}; --salvage makes a dump of it", left.display());
        return Err(Error::new(Kind::Invalid, text));
    }
    salvage(&mut sink)?;
    eprintln!("kdump-save: incomplete: {reason}");
    Ok(SAVED_INCOMPLETE)
}

/// Finishes a dump whose stream was cut, marked incomplete. One of which nothing can be read is removed.
pub(super) fn salvage(sink: &mut FileSink) -> Result<()> {
    sink.sync()?;
    mark(&sink.working_path()).inspect_err(|_| sink.discard())?;
    sink.finish()
}

/// Marks a dump incomplete and makes it as long as its readers expect it: pages whose descriptors never came have none.
fn mark(path: &Path) -> Result<()> {
    let name = || format!("mark {}", path.display());
    let file = File::options().read(true).write(true).open(path).context(name)?;
    let mut head = [0; size_of::<DiskDumpHeader>()];
    let got = read_at(&file, 0, &mut head);
    if got >= 52 && head.starts_with(b"\x7fELF") {
        head[48] |= 1; // e_flags
        return file.write_all_at(&head[48..49], 48).context(name);
    }
    let header = DiskDumpHeader::read_from_bytes(&head).ok().filter(|h| got == head.len() && h.signature == SIGNATURE);
    let Some(header) = header else {
        return Err(Error::new(Kind::Invalid, "the stream ends before the dump's header: nothing of it can be read"));
    };
    let block = u64::from(header.block_size.get());
    let bitmaps = (1 + u64::from(header.sub_hdr_size.get())) * block;
    let half = u64::from(header.bitmap_blocks.get()) / 2 * block;
    if !matches!(block, 4096 | 16384 | 65536) || bitmaps + half > MAX_BITMAPS {
        let rule = format!("its header names blocks of {block} bytes and bitmaps of {half}: it is broken");
        return Err(Error::new(Kind::Invalid, rule));
    }
    let mut kept = 0;
    let mut buffer = vec![0; 1 << 16];
    for at in (0..half).step_by(buffer.len()) {
        buffer.fill(0);
        let len = (half - at).min(buffer.len() as u64) as usize;
        read_at(&file, bitmaps + half + at, &mut buffer[..len]);
        kept += buffer.iter().map(|byte| u64::from(byte.count_ones())).sum::<u64>();
    }
    let end = bitmaps + 2 * half + kept * size_of::<PageDesc>() as u64;
    let len = file.metadata().context(name)?.len();
    file.set_len(len.max(end)).context(name)?;
    drop_halves(&file, bitmaps + 2 * half..end, block, len).context(name)?;
    let status = header.status.get() | DUMP_DH_COMPRESSED_INCOMPLETE;
    file.write_all_at(&status.to_le_bytes(), std::mem::offset_of!(DiskDumpHeader, status) as u64).context(name)
}

/// Makes descriptors of pages that did not come, or that were cut themselves, those of missing pages. `len` bytes came.
fn drop_halves(file: &File, descriptors: std::ops::Range<u64>, block: u64, len: u64) -> std::io::Result<()> {
    const SIZE: usize = size_of::<PageDesc>();
    let mut buffer = vec![0; 4096 * SIZE];
    for at in descriptors.clone().step_by(buffer.len()) {
        buffer.fill(0);
        let here = (descriptors.end - at).min(buffer.len() as u64) as usize;
        read_at(file, at, &mut buffer[..here]);
        for (i, bytes) in buffer[..here].chunks_exact(SIZE).enumerate() {
            let Ok(page) = PageDesc::read_from_bytes(bytes) else { continue };
            let (offset, size) = (page.offset.get(), u64::from(page.size.get()));
            // Its flags come last: with them, all of it came.
            let whole = (1..=block).contains(&size) && (page.flags.get() != 0 || size == block);
            let inside = offset.checked_add(size).is_some_and(|end| end <= len);
            if bytes.iter().any(|b| *b != 0) && !(whole && inside) {
                file.write_all_at(&[0; SIZE], at + (i * SIZE) as u64)?;
            }
        }
    }
    Ok(())
}

/// As many bytes as there are.
fn read_at(file: &File, at: u64, buf: &mut [u8]) -> usize {
    let mut got = 0;
    while let Ok(n @ 1..) = file.read_at(&mut buf[got..], at + got as u64) {
        got += n;
    }
    got
}
