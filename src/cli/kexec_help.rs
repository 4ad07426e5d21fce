//! What `kexec --help` prints: argh's own table of options, in groups, 80 columns wide.

use argh::{ArgsInfo, FlagInfo, FlagInfoKind};

use super::kexec_options::{GROUPS, Options};

/// What a usage error prints on stdout: scripts that read kexec-tools' usage there find its first line.
pub(super) const USAGE: &str = "Usage: kexec [OPTION]... [KERNEL]\nTry 'kexec --help' for the options.\n";

const WIDTH: usize = 80;
const COLUMN: usize = 30;

/// The text of `--help`.
pub(super) fn text() -> String {
    let info = Options::get_args_info();
    let mut out =
        String::from("Usage: kexec [OPTION]... [KERNEL]\n\nLoads and starts kernels, hypervisors and crash kernels.\n");
    out.push_str(info.description);
    out.push('\n');
    for (heading, names) in GROUPS {
        out.push_str(&format!("\n{heading}:\n"));
        for name in names.split(' ') {
            if let Some(flag) = info.flags.iter().find(|f| f.long.trim_start_matches('-') == name) {
                entry(&mut out, flag);
            }
        }
    }
    out.push_str(
        "\nLong options may be cut to a unique beginning. Options may follow KERNEL.\n\
         Exit codes: 1 usage, or a file can't be opened; 253 no kexec_file_load; 254 no\n\
         memory reserved; 255 everything else. Of --status: 1 loaded, 0 not.\n",
    );
    out
}

fn entry(out: &mut String, flag: &FlagInfo<'_>) {
    let short = flag.short.or((flag.long == "--help").then_some('h'));
    let short = short.map_or_else(|| "    ".to_owned(), |c| format!("-{c}, "));
    let value = match flag.kind {
        FlagInfoKind::Option { arg_name } => format!(" {arg_name}"),
        FlagInfoKind::Switch => String::new(),
    };
    let mut line = format!("  {short}{}{value}", flag.long);
    if line.len() + 2 > COLUMN {
        out.push_str(&line);
        out.push('\n');
        line.clear();
    }
    line.push_str(&" ".repeat(COLUMN - 1 - line.len()));
    for word in flag.description.split(' ') {
        if line.len() + 1 + word.len() > WIDTH {
            out.push_str(&line);
            out.push('\n');
            line = " ".repeat(COLUMN - 1);
        }
        line.push(' ');
        line.push_str(word);
    }
    out.push_str(&line);
    out.push('\n');
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_option_is_in_exactly_one_group() {
        let mut grouped: Vec<&str> = GROUPS.iter().flat_map(|(_, names)| names.split(' ')).collect();
        let info = Options::get_args_info();
        let mut options: Vec<&str> = info.flags.iter().map(|f| f.long.trim_start_matches('-')).collect();
        grouped.sort_unstable();
        options.sort_unstable();
        assert_eq!(grouped, options);
    }

    #[test]
    fn help_fits_80_columns_and_names_every_option_once() {
        let text = text();
        for line in text.lines() {
            assert!(line.len() <= WIDTH && line.trim_end() == line, "'{line}'");
        }
        for flag in Options::get_args_info().flags {
            let head = |line: &&str| line.get(6..).and_then(|l| l.split(' ').next()) == Some(flag.long);
            let heads = text.lines().filter(head);
            assert_eq!(heads.count(), 1, "{}", flag.long);
        }
    }
}
