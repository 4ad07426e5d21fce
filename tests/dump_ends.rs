//! How a dump may end: killed at any time, out of space far behind 4 GiB, by any number of workers, with pages no codec
//! makes smaller.

mod support;

use std::collections::hash_map::RandomState;
use std::hash::BuildHasher;
use std::io;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Mutex;
use std::time::{Duration, Instant};

use kdumpbox::dump::{self, Codec, Level, Request};
use kdumpbox::error::{Error, Kind, Result};
use kdumpbox::target::Sink;
use kdumpbox::vmcore::{Input, Vmcore};
use support::kdump::{Kdump, Page};
use support::kernel::{Kernel, V6_12};
use support::machine::{PAGE, Phdr, ehdr};

const INCOMPLETE: u32 = 8;

fn command(args: &[&str], core: &Path, dump: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_kdumpbox"));
    command.arg("kdump-save").args(args).args([core, dump]).stdout(Stdio::null()).stderr(Stdio::null());
    command
}

#[test]
fn case_20_a_saver_killed_at_100_random_moments_leaves_a_dump_marked_incomplete() {
    let dir = tempfile::tempdir().expect("a directory");
    let [core, dump, working] = ["core", "dump", "dump-incomplete"].map(|name| dir.path().join(name));
    let kernel = Kernel::new(V6_12, 4);
    kernel.core().save(&core);
    let saver = || command(&["-q", "-f", "-d", "0", "--num-threads", "2"], &core, &dump).spawn().expect("started");
    let begin = Instant::now();
    assert!(saver().wait().expect("ended").success());
    let whole = u64::try_from(begin.elapsed().as_micros()).expect("no time at all").max(1);
    std::fs::remove_file(&dump).expect("removed");
    let mut cut = 0;
    for round in 0..100 {
        let mut saver = saver();
        std::thread::sleep(Duration::from_micros(RandomState::new().hash_one(round) % whole));
        saver.kill().expect("killed");
        let ended = saver.wait().expect("ended").success();
        if let Ok(data) = std::fs::read(&working)
            && data.len() >= 4096
        {
            cut += 1;
            assert!(!ended);
            // Its very last write takes the mark away, when everything is there and synced.
            let marked = data[424] & INCOMPLETE as u8 != 0;
            let (kept, found) = pages(data);
            assert!(marked || found == kept, "round {round}: {found} of {kept} pages, not marked");
            let opened = Vmcore::open(&working).unwrap_or_else(|e| panic!("round {round}: {e}"));
            assert_eq!(opened.incomplete().is_some(), marked, "round {round}");
        } else if dump.exists() {
            assert_eq!(Kdump::open(&dump).status & INCOMPLETE, 0, "round {round}");
            std::fs::remove_file(&dump).expect("removed");
            continue;
        }
        let _ = std::fs::remove_file(&working);
    }
    assert!(cut != 0, "all were over, or not begun, when they were killed");
}

/// Whatever of a marked dump is there, it opens, `info` says what it is, and a copy of it says so too.
#[test]
fn case_20_a_dump_that_ends_before_its_first_page_says_that_nothing_was_saved() {
    let dir = tempfile::tempdir().expect("a directory");
    let [core, dump, cut, copy] = ["core", "dump", "cut", "copy"].map(|name| dir.path().join(name));
    Kernel::new(V6_12, 4).core().save(&core);
    let run = |args: &[&str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_kdumpbox"));
        let out = command.current_dir(dir.path()).arg("kdump-save").args(args).output().expect("run");
        let said = [out.stderr, out.stdout].concat();
        (out.status.code(), String::from_utf8_lossy(&said).into_owned())
    };
    for (format, flags) in [("-q", 424usize), ("-E", 48)] {
        let _ = std::fs::remove_file(&dump);
        assert!(command(&["-q", format, "-d", "31"], &core, &dump).status().expect("run").success());
        let mut whole = std::fs::read(&dump).expect("read");
        whole[flags] |= if flags == 48 { 1 } else { INCOMPLETE as u8 };
        let word = |at: usize| u32::from_le_bytes(whole[at..at + 4].try_into().expect("4 bytes")) as usize;
        let bitmaps = if flags == 48 { 4096 } else { 4096 * (1 + word(432) + word(436)) };
        let lens = [464, 600, 4096, 4096 + 50, 8192, bitmaps / 2, bitmaps - 1, bitmaps];
        for len in lens.into_iter().filter(|len| *len <= bitmaps) {
            let mut bytes = whole[..len].to_vec();
            if len == bitmaps && flags == 424 {
                // As the writer has it: its bitmaps are holes yet.
                bytes[4096 * (1 + word(432))..].fill(0);
            }
            std::fs::write(&cut, bytes).expect("written");
            let context = format!("{format}, {len} of {bitmaps} bytes");
            let opened = Vmcore::open(&cut).unwrap_or_else(|e| panic!("{context}: {e}"));
            let why = opened.incomplete().unwrap_or_else(|| panic!("{context}: complete"));
            let (code, said) = run(&["info", "cut"]);
            assert_eq!(code, Some(9), "{context}: {said}");
            assert!(said.contains("complete: no\n") && said.contains(&format!("reason: {why}\n")), "{context}: {said}");
            assert!(flags == 48 || why.contains("before it had saved a page"), "{context}: {why}");
            let (code, said) = run(&["-f", "-d", "31", "cut", "copy"]);
            assert!(code == Some(9) && said.contains(&why), "{context}: {code:?} {said}");
            let (kept, found) = pages(std::fs::read(&copy).expect("read"));
            assert!(found == 0 && (kept == 0 || flags == 48), "{context}: {found} of {kept}");
            assert!(Vmcore::open(&copy).expect("a dump").incomplete().is_some(), "{context}");
        }
    }
    // Without the mark it is a copy that was cut, of a dump that may have had pages.
    let mut bytes = std::fs::read(&dump).expect("read");
    command(&["-q", "-f"], &core, &dump).status().expect("run");
    bytes.splice(.., std::fs::read(&dump).expect("read")[..8192].iter().copied());
    std::fs::write(&cut, bytes).expect("written");
    let (code, said) = run(&["-f", "cut", "copy"]);
    assert!(code == Some(4) && said.contains("inside its bitmaps"), "{code:?} {said}");
}

#[test]
fn case_20_a_saver_asked_to_end_leaves_a_dump_marked_incomplete() {
    let dir = tempfile::tempdir().expect("a directory");
    let [core, dump, working] = ["core", "dump", "dump-incomplete"].map(|name| dir.path().join(name));
    Kernel::new(V6_12, 4).core().save(&core);
    for signal in ["-TERM", "-INT", "-HUP"] {
        let mut saver =
            command(&["-q", "-f", "-c", "-d", "0", "--num-threads", "1"], &core, &dump).spawn().expect("started");
        while std::fs::metadata(&working).map_or(0, |m| m.len()) < 1 << 16 && saver.try_wait().expect("known").is_none()
        {
            std::thread::sleep(Duration::from_millis(1));
        }
        Command::new("kill").arg(signal).arg(saver.id().to_string()).status().expect("sent");
        if saver.wait().expect("ended").success() || dump.exists() {
            std::fs::remove_file(&dump).expect("it was faster");
            continue;
        }
        let data = std::fs::read(&working).expect("what was written stays");
        assert!(data[424] & INCOMPLETE as u8 != 0 && !dump.exists(), "{signal}");
        std::fs::remove_file(&working).expect("removed");
    }
}

/// Whoever reads a stream may stop: the saver says so by its exit code, and what was read makes a marked dump.
#[test]
fn case_15_a_pipe_closed_early_is_a_failure_and_what_came_through_is_not_lost() {
    let dir = tempfile::tempdir().expect("a directory");
    let path = |name: &str| dir.path().join(name);
    let kernel = Kernel::new(V6_12, 4);
    kernel.core().save(&path("core"));
    for len in [0usize, 4096, 100_000, 1 << 23] {
        let mut saver = Command::new(env!("CARGO_BIN_EXE_kdumpbox"));
        saver.args(["kdump-save", "-q", "-F", "-d", "0"]).arg(path("core"));
        let mut saver = saver.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("started");
        let mut got = vec![0; len];
        let mut pipe = saver.stdout.take().expect("a pipe");
        io::Read::read_exact(&mut pipe, &mut got).expect("read");
        drop(pipe);
        let ended = saver.wait_with_output().expect("ended");
        let said = String::from_utf8_lossy(&ended.stderr).into_owned();
        assert_eq!(ended.status.code(), Some(1), "{len}: {said}");
        assert!(said.contains("Broken pipe"), "{said}");
        if len < 1 << 23 {
            continue;
        }
        std::fs::write(path("stream"), got).expect("written");
        let mut command = Command::new(env!("CARGO_BIN_EXE_kdumpbox"));
        let salvaged = command.args(["kdump-save", "unflatten", "--salvage"]).args([path("stream"), path("dump")]);
        assert_eq!(salvaged.stderr(Stdio::null()).status().expect("ran").code(), Some(9));
        let (kept, found) = pages(std::fs::read(path("dump")).expect("read"));
        assert!(found > 100 && found < kept, "{found} of {kept}");
        let dump = Kdump::open(&path("dump"));
        assert_eq!(dump.status & INCOMPLETE, INCOMPLETE);
    }
}

/// How many pages a dump should have, and how many it has; what is behind its end was not written.
fn pages(mut data: Vec<u8>) -> (usize, usize) {
    let word = |at: usize| u32::from_le_bytes(data[at..at + 4].try_into().expect("4 bytes")) as usize;
    let bitmaps = 4096 * (1 + word(432));
    let end = bitmaps + 4096 * word(436);
    let size = data.len().max(end + 24 * 32 * 4096);
    data.resize(size, 0);
    let dump = Kdump::parse(data);
    let kept = dump.kept();
    // A write that is killed ends where a page of the file does, be it inside a descriptor: then it has no size.
    let whole = |i: usize| dump.bytes()[end + 24 * i + 8..][..4] != [0; 4];
    let found =
        kept.iter().enumerate().filter(|(i, pfn)| whole(*i) && matches!(dump.by_index(*i, **pfn), Page::Data(_)));
    (kept.len(), found.count())
}

/// Memory made up as it is read: each page begins with its number.
struct Endless {
    head: Vec<u8>,
    size: u64,
}

impl Input for Endless {
    fn size(&self) -> u64 {
        self.size
    }

    fn read_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<usize> {
        let len = buf.len().min(self.size.saturating_sub(offset) as usize);
        let buf = &mut buf[..len];
        buf.fill(0);
        if offset < PAGE {
            let head = &self.head[offset as usize..][..len.min(self.head.len() - offset as usize)];
            buf[..head.len()].copy_from_slice(head);
        } else if offset.is_multiple_of(PAGE) {
            for (page, pfn) in buf.chunks_mut(PAGE as usize).zip(offset / PAGE - 1..) {
                let number = (pfn | 1 << 40).to_le_bytes();
                let n = page.len().min(8);
                page[..n].copy_from_slice(&number[..n]);
            }
        }
        Ok(len)
    }
}

/// A target with room for `limit` bytes. It keeps what is below [`LOW`], and the first bytes of each page behind 4 GiB.
struct Far {
    limit: u64,
    low: Mutex<Vec<u8>>,
    far: Mutex<std::collections::BTreeMap<u64, [u8; 8]>>,
}

/// More than headers, bitmaps and descriptors take.
const LOW: u64 = 64 << 20;

impl Sink for Far {
    fn write_at(&self, offset: u64, data: &[u8]) -> Result<()> {
        let end = offset + data.len() as u64;
        if end > self.limit {
            return Err(Error::io(&io::Error::from_raw_os_error(28), "write to the far sink"));
        }
        if end <= LOW {
            let mut low = self.low.lock().expect("lock");
            let size = low.len().max(end as usize);
            low.resize(size, 0);
            low[offset as usize..end as usize].copy_from_slice(data);
        } else if end > 1 << 32 {
            let mut far = self.far.lock().expect("lock");
            far.extend((offset..end).step_by(4096).map(|at| {
                let from = (at - offset) as usize;
                (at, data[from..from + 8].try_into().expect("8 bytes"))
            }));
        }
        Ok(())
    }

    fn sync(&self) -> Result<()> {
        Ok(())
    }

    fn finish(&mut self) -> Result<()> {
        Ok(())
    }
}

#[test]
fn case_16_space_that_ends_behind_4_gib_leaves_the_mark_and_right_offsets() {
    let memory = (4 << 30) + (64 << 20);
    let mut head = ehdr(64, 1);
    head.extend(Phdr { kind: 1, offset: PAGE, vaddr: 0, paddr: 0, filesz: memory, memsz: memory }.bytes());
    let core = Vmcore::from_input(Box::new(Endless { head, size: PAGE + memory })).expect("a vmcore");
    for limit in [(4 << 30) + (40 << 20), u64::MAX] {
        let sink = Far { limit, low: Mutex::default(), far: Mutex::default() };
        let request = Request { level: Level::default(), codec: Codec::None, threads: 2, ..Request::default() };
        let ended = dump::save(&core, &request, &sink, &|_| {});
        let full = limit != u64::MAX;
        assert_eq!(ended.err().map(|e| e.kind()), full.then_some(Kind::NoSpace));
        let low = sink.low.into_inner().expect("lock");
        let far = sink.far.into_inner().expect("lock");
        let dump = Kdump::parse(low);
        assert_eq!(dump.status & INCOMPLETE != 0, full);
        let word = |at: usize| u64::from_le_bytes(dump.bytes()[at..at + 8].try_into().expect("8 bytes"));
        let bytes = dump.bytes();
        let blocks = [432, 436].map(|at| u32::from_le_bytes(bytes[at..at + 4].try_into().expect("4 bytes")) as usize);
        let descriptors = 4096 * (1 + blocks[0] + blocks[1]);
        let mut behind = 0;
        for pfn in 0..memory / PAGE {
            let at = descriptors + pfn as usize * 24;
            let offset = if at + 8 <= bytes.len() { word(at) } else { 0 };
            if offset > 1 << 32 {
                behind += 1;
                assert_eq!(far.get(&offset), Some(&(pfn | 1 << 40).to_le_bytes()), "page {pfn:#x} at {offset:#x}");
            }
            assert!(full || offset != 0, "page {pfn:#x}");
        }
        assert!(behind > 1000, "{behind}");
    }
}

#[test]
fn case_23_any_number_of_workers_makes_the_same_dump() {
    let dir = tempfile::tempdir().expect("a directory");
    let [core, dump] = ["core", "dump"].map(|name| dir.path().join(name));
    let mut kernel = Kernel::new(V6_12, 4);
    // A page no codec makes smaller.
    let mut state = 0x9e37_79b9_7f4a_7c15u64;
    let noise = (0..512).flat_map(|_| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()
    });
    kernel.memory.set_page(0x1200, noise.collect());
    kernel.core().save(&core);
    for threads in ["1", "2", "3", "7", "32"] {
        let args = ["-q", "-f", "-d", "31", "-c", "--num-threads", threads];
        assert!(command(&args, &core, &dump).status().expect("runs").success(), "{threads}");
        let saved = Kdump::open(&dump);
        assert_eq!(saved.status & INCOMPLETE, 0);
        for pfn in Kernel::pfns() {
            let kept = !kernel.use_of(pfn).droppable(31);
            let page = saved.page(pfn);
            assert!(
                page == if kept { Page::Data(kernel.memory.page(pfn)) } else { Page::Excluded },
                "{threads} {pfn:#x}"
            );
        }
        let (_, size, flags) = saved.descriptor(0x1200);
        assert_eq!((size, flags), (4096, 0), "{threads}: a page that does not shrink is stored");
    }
}
