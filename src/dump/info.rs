//! What a saved dump or a vmcore is, for people and for programs: whatever state it is in.

use std::fmt::Write as _;
use std::io::Write;
use std::path::Path;

use super::filter::classes;
use super::{diskdump, workers};
use crate::abi::diskdump::NewUtsname;
use crate::error::{Error, Kind, Result};
use crate::mem::PAGE_SIZE;
use crate::vmcore::calendar::utc;
use crate::vmcore::headers::Headers;
use crate::vmcore::kdump::{CODECS, Header, Kdump};
use crate::vmcore::printk::{self, json_string};
use crate::vmcore::{FileInput, Notes, Vmcore, VmcoreInfo, conring};

/// What is known of one thing.
enum Value {
    Text(String),
    Number(u64),
    Flag(bool),
    Texts(Vec<String>),
    Counts(Vec<(&'static str, u64)>),
}

/// What is known of a dump. What is not known has no place in it.
#[derive(Default)]
pub struct Info {
    fields: Vec<(&'static str, Value)>,
    /// Whether all that was to be in the dump is in it.
    pub complete: bool,
}

impl Info {
    /// Describes one file, or the parts of one split dump.
    ///
    /// # Errors
    /// [`Kind::Open`] when a file can't be opened, [`Kind::Invalid`] when it does not begin like a vmcore. One that is
    /// truncated is described as far as it goes.
    pub fn of(paths: &[&Path]) -> Result<Self> {
        let mut info = Self::default();
        let names: Vec<String> = paths.iter().map(|p| p.display().to_string()).collect();
        match names.as_slice() {
            [one] => info.text("file", one.clone()),
            _ => info.put("files", Value::Texts(names)),
        }
        match (Vmcore::open_all(paths), paths) {
            (Ok(core), _) => info.vmcore(&core),
            (Err(e), [path]) if e.kind() == Kind::Invalid => {
                let found = Headers::read(Box::new(FileInput::open(path)?)).ok_or_else(|| e.clone())?;
                info.headers(&found, &e);
            }
            (Err(e), _) => return Err(e),
        }
        Ok(info)
    }

    fn put(&mut self, key: &'static str, value: Value) {
        self.fields.push((key, value));
    }

    fn text(&mut self, key: &'static str, text: impl Into<String>) {
        self.put(key, Value::Text(text.into()));
    }

    fn number(&mut self, key: &'static str, value: u64) {
        self.put(key, Value::Number(value));
    }

    fn format(&mut self, flattened: bool, dump: Option<&Header>, compressed: bool) {
        self.text("format", if compressed { "kdump-compressed" } else { "ELF core" });
        if let Some(header) = dump {
            self.number("version", u64::from(header.version.unsigned_abs()));
        }
        self.put("flattened", Value::Flag(flattened));
    }

    /// The crashed kernel: `names` where they are better than what `notes` say.
    fn kernel(&mut self, notes: &Notes, names: Option<&NewUtsname>, header: Option<&Header>) {
        let info = notes.vmcoreinfo.as_ref();
        let value = |key| info.and_then(|i: &VmcoreInfo| i.get(key)).map(str::to_owned);
        let name = |field: fn(&NewUtsname) -> &[u8; 65]| {
            let bytes = field(names?).split(|b| *b == 0).next().unwrap_or_default();
            Some(String::from_utf8_lossy(bytes).into_owned()).filter(|t| !t.is_empty())
        };
        let known = [
            ("kernel", value("OSRELEASE").or_else(|| name(|n| &n.release))),
            ("build", name(|n| &n.version)),
            ("build_id", value("BUILD-ID")),
            ("host", name(|n| &n.nodename)),
            ("crashed", value("CRASHTIME").and_then(|t| t.parse().ok()).map(|t| utc(t, '-', ':', "Z"))),
            (
                "saved",
                header.and_then(|h| u64::try_from(h.time).ok()).filter(|t| *t != 0).map(|t| utc(t, '-', ':', "Z")),
            ),
        ];
        for (key, text) in known {
            if let Some(text) = text {
                self.text(key, text);
            }
        }
        let cpus = header.map_or(0, |h| h.cpus).max(notes.cpus);
        self.number("cpus", u64::from(cpus));
    }

    fn filtered(&mut self, header: &Header) {
        self.number("level", u64::from(header.level));
        self.text("codec", header.codec());
        if header.lacks_struct_pages() {
            self.put("struct_pages_left_out", Value::Flag(true));
        }
        if header.eraseinfo.is_some() {
            self.put("erased", Value::Flag(true));
        }
    }

    fn end(&mut self, why: Option<String>) {
        self.complete = why.is_none();
        self.put("complete", Value::Flag(self.complete));
        if let Some(why) = why {
            self.text("reason", why);
        }
    }

    /// A file whose rest is missing.
    fn headers(&mut self, found: &Headers, why: &Error) {
        self.format(found.flattened, found.dump.as_ref(), found.compressed);
        self.kernel(&found.notes, found.dump.as_ref().map(|h| &h.names), found.dump.as_ref());
        if let Some(header) = &found.dump {
            self.filtered(header);
        }
        self.number("file_bytes", found.size);
        self.end(Some(why.to_string()));
    }

    fn vmcore(&mut self, core: &Vmcore) {
        let dump = core.dump();
        let header = dump.map(|d| &d.header);
        self.format(core.flattened(), header, dump.is_some());
        if let Some(dump) = dump.filter(|d| d.header.split) {
            let of = |pfns: &std::ops::Range<u64>| {
                format!("{:#x}-{:#x} of {:#x}", pfns.start, pfns.end, dump.header.max_mapnr)
            };
            self.put("split_pfns", Value::Texts(dump.parts().map(of).collect()));
        }
        let read;
        let names = match header {
            Some(header) => &header.names,
            None => {
                read = diskdump::utsname(core);
                &read
            }
        };
        self.kernel(core.notes(), Some(names), header);
        let mut panic = Panic::default();
        if printk::dmesg(core, &mut panic).is_ok()
            && let Some(line) = panic.line()
        {
            self.text("panic", line);
        }
        if let Some(xen) = core.xen() {
            self.text("xen", xen.describe(&core.reader()));
            let console = conring::text(core).unwrap_or_default();
            let console = String::from_utf8_lossy(&console).into_owned();
            if let Some(line) = console.lines().skip_while(|l| !l.contains("Panic on CPU")).nth(1) {
                self.text("xen_panic", line.trim_start_matches("(XEN) "));
            }
        }
        if let Some(header) = header {
            self.filtered(header);
        }
        self.pages(core, dump);
        // Of one part of a split dump the others are no part of it.
        let part = dump.filter(|d| d.header.split && !d.gaps().is_empty());
        self.end(match part {
            Some(dump) if dump.pages().unwritten == 0 && !dump.header.incomplete() && core.fault().is_none() => None,
            _ => core.incomplete(),
        });
    }

    fn pages(&mut self, core: &Vmcore, dump: Option<&Kdump>) {
        let filtered = classes(core, workers::count(0));
        let memory = filtered.ram.count();
        self.number("file_bytes", core.size());
        self.number("memory_bytes", memory.saturating_mul(PAGE_SIZE));
        let mut counts = vec![("memory", memory)];
        if let Some(dump) = dump {
            let (pages, described) = (dump.pages(), dump.described().count());
            self.number("page_data_bytes", pages.bytes);
            let own = pages.packed.iter().sum();
            let left_out = memory.saturating_sub(described);
            let missing = dump.missing();
            counts.extend([("kept", own), ("zero", pages.zero), ("left_out", left_out), ("missing", missing)]);
            let packed = CODECS.iter().zip(pages.packed).filter(|(_, n)| *n != 0);
            self.put("packed", Value::Counts(packed.map(|((_, name), n)| (*name, n)).collect()));
        } else {
            counts.extend([("left_out", core.left_out() / PAGE_SIZE), ("missing", core.missing().div_ceil(PAGE_SIZE))]);
        }
        self.put("pages", Value::Counts(counts));
        // Struct pages that can't be read say nothing of their pages.
        if filtered.degraded.is_empty() {
            let d = &filtered.dropped;
            self.put(
                "classes",
                Value::Counts(vec![
                    ("cache", d.cache),
                    ("cache_private", d.cache_private),
                    ("user", d.user),
                    ("free", d.free),
                    ("hwpoison", d.hwpoison),
                    ("offline", d.offline),
                    ("kernel", memory.saturating_sub(d.total())),
                ]),
            );
        }
    }

    /// A `key: value` a line.
    pub fn lines(&self) -> String {
        let mut out = String::new();
        for (key, value) in &self.fields {
            let key = key.replace('_', " ");
            let _ = match value {
                // A kernel's text must not forge a line.
                Value::Text(text) => writeln!(out, "{key}: {}", text.replace(['\n', '\r'], " ")),
                Value::Number(n) => writeln!(out, "{key}: {n}"),
                Value::Flag(flag) => writeln!(out, "{key}: {}", if *flag { "yes" } else { "no" }),
                Value::Texts(texts) => writeln!(out, "{key}: {}", texts.join(", ")),
                Value::Counts(counts) => {
                    let one = |(name, n): &(&str, u64)| format!("{} {n}", name.replace('_', " "));
                    writeln!(out, "{key}: {}", counts.iter().map(one).collect::<Vec<_>>().join(", "))
                }
            };
        }
        out
    }

    /// A JSON object, on one line.
    pub fn json(&self) -> String {
        let join = |parts: Vec<String>, open: char, close: char| format!("{open}{}{close}", parts.join(","));
        let one = |(key, value): &(&str, Value)| {
            let value = match value {
                Value::Text(text) => json_string(text),
                Value::Number(n) => n.to_string(),
                Value::Flag(flag) => flag.to_string(),
                Value::Texts(texts) => join(texts.iter().map(|t| json_string(t)).collect(), '[', ']'),
                Value::Counts(counts) => {
                    join(counts.iter().map(|(name, n)| format!("\"{name}\":{n}")).collect(), '{', '}')
                }
            };
            format!("\"{key}\":{value}")
        };
        join(self.fields.iter().map(one).collect(), '{', '}')
    }
}

/// What kernels say when they end, the surest first.
const LAST_WORDS: [&[&str]; 3] = [
    &["Kernel panic - not syncing"],
    &["BUG: ", "kernel BUG at ", "general protection fault", "divide error", "Unable to handle kernel"],
    &["Oops: ", "sysrq: Trigger a crash", "SysRq : Trigger a crash"],
];

/// Finds the line of a log that says why the kernel ended.
#[derive(Default)]
struct Panic {
    found: [Option<String>; LAST_WORDS.len()],
}

impl Panic {
    fn line(self) -> Option<String> {
        self.found.into_iter().flatten().next()
    }
}

impl Write for Panic {
    /// Takes a record: the log is written a record at a time.
    fn write(&mut self, record: &[u8]) -> std::io::Result<usize> {
        let text = String::from_utf8_lossy(record);
        for (found, words) in self.found.iter_mut().zip(LAST_WORDS) {
            if let Some(at) = words.iter().filter_map(|word| text.find(word)).min() {
                *found = text.get(at..).and_then(|t| t.lines().next()).map(str::to_owned);
            }
        }
        Ok(record.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}
