//! The table of `crashkernel=` cases (`tests/fixtures/crashkernel/grammar.txt`), which says what its columns are.

/// One line of it.
#[derive(Debug)]
#[allow(dead_code, reason = "booting needs no more than the command line")]
pub struct Case {
    /// Whether it is booted, too.
    pub booted: bool,
    pub kernel: &'static str,
    /// Bytes.
    pub memory: u64,
    pub command_line: &'static str,
    pub reserved: &'static str,
    /// Whether the kernel complains, the position, and what is said.
    pub remark: Option<(bool, usize, &'static str)>,
}

/// All of them.
pub fn cases() -> Vec<Case> {
    let text = include_str!("../fixtures/crashkernel/grammar.txt");
    let lines = text.lines().filter(|l| !l.is_empty() && !l.starts_with('#'));
    lines.map(|line| case(line).unwrap_or_else(|| panic!("no case: '{line}'"))).collect()
}

fn case(line: &'static str) -> Option<Case> {
    let [kernel, memory, command_line, reserved, remark] = line.split('|').map(str::trim).collect::<Vec<_>>()[..]
    else {
        return None;
    };
    let shift = if memory.ends_with('M') { 20 } else { if memory.ends_with('G') { 30 } else { 40 } };
    let remark = match remark.splitn(3, ' ').collect::<Vec<_>>()[..] {
        [kind, at, text] => Some((kind == "fault", at.parse().ok()?, text)),
        _ => None,
    };
    Some(Case {
        booted: kernel.starts_with('*'),
        kernel: kernel.trim_start_matches('*'),
        memory: memory[..memory.len() - 1].parse::<u64>().ok()? << shift,
        command_line,
        reserved,
        remark,
    })
}
