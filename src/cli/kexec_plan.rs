//! What `kexec --dry-run` prints.

use std::fmt::Write;

use crate::boot::linux::Plan;
use crate::load::Slot;
use crate::load::linux::Syscall;

/// A slot's name for people.
pub fn slot_name(slot: Slot) -> &'static str {
    match slot {
        Slot::Next => "next kernel",
        Slot::Crash => "crash kernel",
    }
}

/// A load as it would be done.
pub struct Shown<'a> {
    /// The kernel's path.
    pub kernel: &'a str,
    /// The initrds' paths.
    pub initrds: &'a [String],
    /// The command line as asked for.
    pub command_line: &'a str,
    /// What it is loaded as.
    pub slot: Slot,
    /// By which system call; none where Xen takes it.
    pub syscall: Option<Syscall>,
    /// Our placement; none if the kernel places.
    pub plan: Option<&'a Plan>,
}

impl Shown<'_> {
    fn syscall_name(&self) -> &'static str {
        match self.syscall {
            Some(Syscall::Auto) => "kexec_file_load, else kexec_load",
            Some(Syscall::File) => "kexec_file_load",
            Some(Syscall::Segments) => "kexec_load",
            None => "Xen's hypercall",
        }
    }

    /// For people.
    pub fn human(&self) -> String {
        let mut text = String::new();
        let _ = writeln!(text, "load         {} by {}", slot_name(self.slot), self.syscall_name());
        let _ = writeln!(text, "kernel       {}", self.kernel);
        for initrd in self.initrds {
            let _ = writeln!(text, "initrd       {initrd}");
        }
        match self.plan {
            Some(plan) => text.push_str(&human(plan)),
            None => {
                let _ = writeln!(text, "command line {}", self.command_line);
            }
        }
        text
    }

    /// For programs: one object, addresses and sizes as decimal numbers.
    pub fn json(&self) -> String {
        let initrds: Vec<String> = self.initrds.iter().map(|i| quoted(i)).collect();
        let mut fields = vec![
            ("slot", quoted(if self.slot == Slot::Crash { "crash" } else { "next" })),
            ("syscall", quoted(self.syscall_name())),
            ("kernel", quoted(self.kernel)),
            ("initrd", format!("[{}]", initrds.join(", "))),
        ];
        fields.extend(match self.plan {
            None => vec![("command_line", quoted(self.command_line))],
            Some(plan) => vec![
                ("command_line", quoted(&plan.command_line)),
                ("modules", list(plan.modules.iter().map(|m| quoted(m)))),
                ("entry", plan.image.entry.to_string()),
                (
                    "segments",
                    list(plan.image.segments.iter().map(|s| {
                        format!(
                            "{{\"name\": {}, \"start\": {}, \"size\": {}, \"bytes\": {}}}",
                            quoted(s.name),
                            s.range.start(),
                            s.range.len(),
                            s.data.len()
                        )
                    })),
                ),
                (
                    "memory_map",
                    list(plan.map.iter().map(|(r, t)| {
                        format!(
                            "{{\"start\": {}, \"size\": {}, \"type\": {}}}",
                            r.start(),
                            r.len(),
                            quoted(&t.to_string())
                        )
                    })),
                ),
            ],
        });
        let lines: Vec<String> = fields.iter().map(|(name, value)| format!("  {}: {value}", quoted(name))).collect();
        format!("{{\n{}\n}}\n", lines.join(",\n"))
    }
}

fn list(items: impl Iterator<Item = String>) -> String {
    let items: Vec<String> = items.map(|i| format!("    {i}")).collect();
    if items.is_empty() {
        return "[]".into();
    }
    format!("[\n{}\n  ]", items.join(",\n"))
}

fn quoted(text: &str) -> String {
    let mut out = String::from('"');
    for c in text.chars() {
        match c {
            '"' | '\\' => out.extend(['\\', c]),
            c if c < ' ' => {
                let _ = write!(out, "\\u{:04x}", u32::from(c));
            }
            c => out.push(c),
        }
    }
    out.push('"');
    out
}

/// Placement, entry point and memory map, aligned.
pub fn human(plan: &Plan) -> String {
    let mut text = String::new();
    let _ = writeln!(text, "command line {}", plan.command_line);
    let _ = writeln!(text, "entry        {:#x}", plan.image.entry);
    for module in &plan.modules {
        let _ = writeln!(text, "module       {module}");
    }
    for s in &plan.image.segments {
        let range = s.range.to_string();
        let _ =
            writeln!(text, "segment      {:<12} {range:<25} {:#x} of {:#x} bytes", s.name, s.data.len(), s.range.len());
    }
    for (range, kind) in plan.map.iter() {
        let _ = writeln!(text, "memory       {:<12} {range}", kind.to_string());
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn json_escapes_what_it_must() {
        assert_eq!(quoted("a\"b\\c\n"), "\"a\\\"b\\\\c\\u000a\"");
    }
}
