//! How findings are shown: a line each for people, coloured on a terminal, and JSON for programs.

use std::fmt::Write;

use super::syntax::{Remark, Verdict};
use crate::vmcore::printk::json_string;

/// How bad a finding is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Severity {
    /// As it should be.
    Fine,
    /// A dump may still be lost.
    Warning,
    /// No dump will be taken.
    Error,
}

impl Severity {
    /// The word for it, and the colour (ECMA-48 SGR).
    fn shown(self) -> (&'static str, u8) {
        match self {
            Self::Fine => ("ok", 32),
            Self::Warning => ("warning", 33),
            Self::Error => ("error", 31),
        }
    }

    /// The exit code of a report whose worst finding this is.
    pub const fn code(self) -> u8 {
        match self {
            Self::Fine => 0,
            Self::Warning => 2,
            Self::Error => 1,
        }
    }
}

/// One thing looked at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// What was looked at, in a word.
    pub topic: &'static str,
    /// How bad it is.
    pub severity: Severity,
    /// What was found.
    pub text: String,
    /// What to do; empty if nothing.
    pub remedy: String,
}

/// The worst of all.
pub fn worst(findings: &[Finding]) -> Severity {
    findings.iter().map(|f| f.severity).max().unwrap_or(Severity::Fine)
}

/// Findings for people, and the verdict as the last line.
pub fn human(findings: &[Finding], colour: bool) -> String {
    let mut text = String::new();
    let mut line = |severity: Severity, topic: &str, sentence: &str, remedy: &str| {
        let (word, sgr) = severity.shown();
        let (on, off) = if colour { (format!("\x1b[{sgr}m"), "\x1b[0m") } else { (String::new(), "") };
        let _ = writeln!(text, "{on}{word:<8}{off} {topic:<12} {sentence}");
        if !remedy.is_empty() {
            let _ = writeln!(text, "{:<22}-> {remedy}", "");
        }
    };
    for f in findings {
        line(f.severity, f.topic, &f.text, &f.remedy);
    }
    let worst = worst(findings);
    let sentence = match worst {
        Severity::Fine => "ready: a panic will leave a dump",
        Severity::Warning => "a panic should leave a dump, but see the warnings",
        Severity::Error => "not ready: a panic will leave no dump",
    };
    line(worst, "verdict", sentence, "");
    text
}

/// A JSON object in the making.
#[derive(Default)]
pub struct Object(String);

impl Object {
    /// Adds a value that is JSON already.
    pub fn raw(mut self, key: &str, value: &str) -> Self {
        let comma = if self.0.is_empty() { "" } else { ", " };
        let _ = write!(self.0, "{comma}\"{key}\": {value}");
        self
    }

    /// Adds a text.
    pub fn text(self, key: &str, value: &str) -> Self {
        self.raw(key, &json_string(value))
    }

    /// Adds a number, null if there is none.
    pub fn number(self, key: &str, value: Option<u64>) -> Self {
        self.raw(key, &value.map_or_else(|| "null".into(), |n| n.to_string()))
    }

    /// Adds a truth value.
    pub fn truth(self, key: &str, value: bool) -> Self {
        self.raw(key, if value { "true" } else { "false" })
    }

    /// The text of it.
    pub fn finish(self) -> String {
        format!("{{{}}}", self.0)
    }
}

/// A JSON array, an element a line.
pub fn array(items: impl Iterator<Item = String>) -> String {
    let items: Vec<String> = items.collect();
    if items.is_empty() { "[]".into() } else { format!("[\n  {}\n]", items.join(",\n  ")) }
}

/// Findings for programs.
pub fn findings(all: &[Finding]) -> String {
    array(all.iter().map(|f| {
        let object = Object::default().text("topic", f.topic).text("severity", f.severity.shown().0);
        object.text("text", &f.text).text("remedy", &f.remedy).finish()
    }))
}

/// What a command line asks for, for programs. `high` is what of it lies above 4 GiB.
pub fn verdict(verdict: &Verdict) -> String {
    let r = &verdict.reservation;
    let first = verdict.remarks.first();
    let object = Object::default().truth("valid", verdict.valid() && verdict.asked).number("size", Some(r.size));
    let object = object.number("offset", r.offset).number("high", Some(if r.above { r.size } else { 0 }));
    let object = object.number("low", Some(r.low)).number("cma", Some(r.cma)).number("below", r.below);
    let object = object.truth("xen", r.xen);
    let reason = match first {
        Some(remark) => json_string(&remark.reason),
        None if !verdict.asked => json_string("there is no crashkernel="),
        None => "null".into(),
    };
    object.raw("reason", &reason).number("position", first.and_then(|r| u64::try_from(r.position).ok())).finish()
}

/// What is reserved, in words.
pub fn describe(verdict: &Verdict) -> String {
    let r = &verdict.reservation;
    if r.size == 0 {
        return "nothing".into();
    }
    let mut text = mib(r.size);
    match (r.offset, r.below) {
        (Some(at), _) => {
            let _ = write!(text, " at {at:#x}, or nothing if that is not free");
        }
        (None, Some(limit)) => {
            let _ = write!(text, " at the highest free address below {limit:#x}");
        }
        (None, None) if r.xen => text.push_str(" at the highest free address"),
        (None, None) if r.above => text.push_str(" above 4 GiB"),
        (None, None) if r.high => text.push_str(" below 4 GiB, as there is not enough memory above"),
        (None, None) => text.push_str(" below 4 GiB if there is room, else above"),
    }
    for (size, place) in [(r.low, "below 4 GiB"), (r.cma, "of CMA, which movable pages use meanwhile")] {
        if size > 0 {
            let _ = write!(text, " and {} {place}", mib(size));
        }
    }
    text
}

/// The word of the command line a remark is about, a mark below the place, and the reason.
pub fn mark(command_line: &str, remark: &Remark) -> String {
    let (before, behind) = command_line.split_at_checked(remark.position).unwrap_or((command_line, ""));
    let start = before.rsplit(' ').next().unwrap_or_default();
    let end = behind.split(' ').next().unwrap_or_default();
    format!("  {start}{end}\n  {:>width$} {}\n", "^", remark.reason, width = start.chars().count().saturating_add(1))
}

/// Bytes in the unit that shows them best: exactly, or MiB rounded up.
pub fn mib(bytes: u64) -> String {
    match bytes {
        0 => "0 MiB".into(),
        _ if bytes.is_multiple_of(1 << 30) => format!("{} GiB", bytes >> 30),
        _ if bytes.is_multiple_of(1 << 20) => format!("{} MiB", bytes >> 20),
        _ if bytes < 1 << 20 => format!("{bytes} bytes"),
        _ => format!("{} MiB", bytes.div_ceil(1 << 20)),
    }
}
