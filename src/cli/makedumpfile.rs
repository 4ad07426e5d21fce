//! `makedumpfile`: the options of its 1.7 in front of the engine of `kdump-save`; what they mean together is decided here,
//! what is then done in [`super::makedumpfile_run`].

use std::ffi::OsString;
use std::path::PathBuf;
use std::process::ExitCode;

use argh::{ArgsInfo, FromArgs};

use super::getopt::{self, Grammar, Outcome};
use super::makedumpfile_run::{self as run, Release};
use crate::dump::{Codec, Level};
use crate::error::{Error, Kind, Result};

/// Names that makedumpfile does not have: no abbreviation of its own may mean them.
const GRAMMAR: Grammar = Grammar {
    aliases: &[("xen_phys_start", "xen-phys-start")],
    exact: &[
        "zlib",
        "lzo",
        "snappy",
        "zstd",
        "dump-level",
        "size-limit",
        "elf",
        "flatten",
        "rearrange",
        "force",
        "vmlinux",
        "vmcoreinfo",
        "generate",
        "exclude-vmemmap",
        "exclude-domains",
        "block-order",
        "debug",
        "version",
        "xen-phys-start",
    ],
    last: &[],
};

/// makedumpfile's command line: makedumpfile [OPTIONS] VMCORE DUMPFILE; VMCORE DUMPFILE... with --split; -F VMCORE;
/// -R DUMPFILE; --reassemble PART... DUMPFILE; --dump-dmesg VMCORE LOGFILE; --mem-usage /proc/kcore; -g VMCOREINFO -x VMLINUX.
#[derive(FromArgs, ArgsInfo)]
#[argh(help_triggers("-h", "--help"))]
#[expect(dead_code, reason = "some options are taken and have no effect")]
struct Options {
    /// compress pages with zlib
    #[argh(switch, short = 'c')]
    zlib: bool,
    /// compress pages with LZO
    #[argh(switch, short = 'l')]
    lzo: bool,
    /// compress pages with snappy
    #[argh(switch, short = 'p')]
    snappy: bool,
    /// compress pages with zstd
    #[argh(switch, short = 'z')]
    zstd: bool,
    /// what to leave out, the sum of: 1 zero pages, 2 page cache, 4 page cache with private data, 8 user data, 16 free
    /// pages; L1,L2,... are tried in turn while there is no room
    #[argh(option, short = 'd', arg_name = "LEVEL", default = "Levels::default()", from_str_fn(levels))]
    dump_level: Levels,
    /// most bytes to write (K, M, G, T behind it)
    #[argh(option, short = 'L', arg_name = "SIZE", from_str_fn(size))]
    size_limit: Option<u64>,
    /// write an ELF file
    #[argh(switch, short = 'E')]
    elf: bool,
    /// write a flattened dump to the standard output
    #[argh(switch, short = 'F')]
    flatten: bool,
    /// make DUMPFILE of a flattened dump from the standard input
    #[argh(switch, short = 'R')]
    rearrange: bool,
    /// replace DUMPFILE
    #[argh(switch, short = 'f')]
    force: bool,
    /// kernel with symbols and BTF, where the dump has no VMCOREINFO
    #[argh(option, short = 'x', arg_name = "VMLINUX")]
    vmlinux: Option<PathBuf>,
    /// VMCOREINFO text, instead of the dump's
    #[argh(option, short = 'i', arg_name = "FILE")]
    vmcoreinfo: Option<PathBuf>,
    /// write such a text, from -x
    #[argh(option, short = 'g', arg_name = "FILE")]
    generate: Option<PathBuf>,
    /// leave out struct pages of pages that are left out; needs --work-dir
    #[argh(switch, short = 'e')]
    exclude_vmemmap: bool,
    /// of a crashed Xen, leave out the memory of guests
    #[argh(switch, short = 'X')]
    exclude_domains: bool,
    /// no effect
    #[argh(option, short = 'b', arg_name = "N")]
    block_order: Option<String>,
    /// print debug messages
    #[argh(switch, short = 'D')]
    debug: bool,
    /// print the version
    #[argh(switch, short = 'v')]
    version: bool,
    /// write several dump files, each with a part of the pages
    #[argh(switch)]
    split: bool,
    /// no effect: parts are made equal
    #[argh(option, arg_name = "KB")]
    splitblock_size: Option<String>,
    /// make one dump of the parts of a split one
    #[argh(switch)]
    reassemble: bool,
    /// worker threads (default: one for each CPU)
    #[argh(option, arg_name = "N")]
    num_threads: Option<i32>,
    /// no effect: there are no cycles
    #[argh(option, arg_name = "KB")]
    cyclic_buffer: Option<String>,
    /// no effect: there are no temporary files
    #[argh(option, arg_name = "DIR")]
    work_dir: Option<String>,
    /// no effect
    #[argh(switch)]
    non_mmap: bool,
    /// no effect: the dump says what is needed
    #[argh(option, arg_name = "FILE")]
    xen_syms: Option<PathBuf>,
    /// no effect: the dump says what is needed
    #[argh(option, arg_name = "FILE")]
    xen_vmcoreinfo: Option<PathBuf>,
    /// no effect: the dump says what is needed
    #[argh(option, arg_name = "ADDRESS")]
    xen_phys_start: Option<String>,
    /// what to print, the sum of: 1 progress, 2 common messages, 4 errors, 8 debug messages, 16 the report (default 7)
    #[argh(option, arg_name = "N", default = "7", from_str_fn(message_level))]
    message_level: u8,
    /// translate a virtual address
    #[argh(option, arg_name = "ADDRESS", from_str_fn(address))]
    vtop: Option<u64>,
    /// write the kernel's log
    #[argh(switch)]
    dump_dmesg: bool,
    /// of the log only what came after the last "dmesg -c"
    #[argh(switch)]
    partial_dmesg: bool,
    /// count the pages of each class, of /proc/kcore
    #[argh(switch)]
    mem_usage: bool,
    /// do everything but write the dump
    #[argh(switch)]
    dry_run: bool,
    /// print the report
    #[argh(switch)]
    show_stats: bool,
    /// check the command line, no more
    #[argh(switch)]
    check_params: bool,
    /// refused: needs DWARF
    #[argh(option, arg_name = "FILE")]
    config: Option<String>,
    /// refused: needs an interpreter of C
    #[argh(option, arg_name = "FILE")]
    eppic: Option<String>,
    /// refused: needs loadable code
    #[argh(option, arg_name = "FILE")]
    extension: Option<String>,
    /// refused: sadump is a format of firmware that is not read
    #[argh(option, arg_name = "VMCORE")]
    diskset: Option<String>,
    #[argh(positional, hidden_help)]
    files: Vec<PathBuf>,
}

/// Dump levels to try in turn; empty for 0.
pub(super) type Levels = Vec<Level>;

type Parsed<T> = std::result::Result<T, String>;

fn levels(text: &str) -> Parsed<Levels> {
    let one = |word: &str| {
        let invalid = |_| format!("Dump_level({word}) is invalid: it must be a number from 0 to 31");
        word.parse::<Level>().map_err(invalid)
    };
    text.split(',').map(one).collect()
}

fn message_level(text: &str) -> Parsed<u8> {
    let level = text.parse().ok().filter(|l| *l <= 31);
    level.ok_or_else(|| format!("Message_level({text}) is invalid: it must be a number from 0 to 31"))
}

/// A number as `strtoull` with base 0 takes it.
fn number(text: &str) -> Option<u64> {
    match text.strip_prefix("0x").or_else(|| text.strip_prefix("0X")) {
        Some(digits) => u64::from_str_radix(digits, 16).ok(),
        None if text.len() > 1 && text.starts_with('0') => u64::from_str_radix(text, 8).ok(),
        None => text.parse().ok(),
    }
}

fn address(text: &str) -> Parsed<u64> {
    number(text).ok_or_else(|| format!("'{text}' is no address"))
}

pub(super) fn size(text: &str) -> Parsed<u64> {
    // In hexadecimal, E is a digit.
    let units = if text.starts_with("0x") { "KMGTPkmgtp" } else { "KMGTPEkmgtpe" };
    let digits = text.trim_end_matches(|c: char| units.contains(c));
    let shift = match text.get(digits.len()..).unwrap_or_default() {
        "" => Some(0),
        unit if unit.len() == 1 => "kmgtpe".find(&unit.to_ascii_lowercase()).map(|i| 10 * (i as u32 + 1)),
        _ => None,
    };
    let bytes = number(digits).zip(shift).and_then(|(n, shift)| n.checked_shl(shift).filter(|b| b >> shift == n));
    bytes.filter(|b| *b != 0).ok_or_else(|| format!("Limit size({text}) is invalid: write a number, then K, M, G or T"))
}

/// What to print, and where: all but progress and errors goes to the standard output, unless the dump does.
#[derive(Clone, Copy)]
pub(super) struct Talk {
    level: u8,
    to_stderr: bool,
}

impl Talk {
    pub(super) const PROGRESS: u8 = 1;
    pub(super) const COMMON: u8 = 2;
    pub(super) const ERROR: u8 = 4;
    pub(super) const DEBUG: u8 = 8;
    pub(super) const REPORT: u8 = 16;

    /// Whether messages of this kind are wanted.
    pub(super) fn wants(self, bit: u8) -> bool {
        self.level & bit != 0
    }

    /// Prints `text` as it is.
    pub(super) fn say(self, bit: u8, text: &str) {
        use std::io::Write;
        if !self.wants(bit) {
            return;
        }
        // Nobody may be listening; the dump is what counts.
        let _ = match bit {
            Self::ERROR => writeln!(std::io::stderr(), "makedumpfile: {text}"),
            Self::PROGRESS => write!(std::io::stderr(), "{text}"),
            _ if self.to_stderr => write!(std::io::stderr(), "{text}"),
            _ => write!(std::io::stdout(), "{text}"),
        };
    }
}

/// What is to be done.
pub(super) enum Action {
    /// -g
    Generate { vmlinux: PathBuf, to: PathBuf },
    /// -R
    Rearrange(PathBuf),
    /// --reassemble
    Reassemble { parts: Vec<PathBuf>, to: PathBuf },
    /// --dump-dmesg; `None` is the standard output.
    Dmesg { core: PathBuf, to: Option<PathBuf> },
    /// --mem-usage
    MemUsage(PathBuf),
    /// A dump; without files it goes to the standard output, flattened.
    Create { core: PathBuf, to: Vec<PathBuf> },
}

/// Everything an [`Action`] is told.
pub(super) struct Job {
    pub(super) levels: Levels,
    pub(super) codec: Codec,
    pub(super) elf: bool,
    pub(super) exclude_vmemmap: bool,
    pub(super) exclude_domains: bool,
    pub(super) limit: Option<u64>,
    pub(super) threads: usize,
    pub(super) force: bool,
    pub(super) dry_run: bool,
    pub(super) partial: bool,
    pub(super) vtop: Option<u64>,
    pub(super) release: Release,
    pub(super) talk: Talk,
}

/// Runs `makedumpfile ARGS`. Exit code 0; 1 for any failure; 2 if -i or -x is of another kernel than the dump.
pub fn run(args: &[OsString]) -> ExitCode {
    let invalid = |e: &Error| {
        eprintln!("makedumpfile: {e}");
        println!("Commandline parameter is invalid.\nTry `makedumpfile --help' for more information.");
    };
    let (options, parsed) = match getopt::parse::<Options>("makedumpfile", GRAMMAR, args) {
        Ok(Outcome::Run(options, parsed)) => (options, parsed),
        Ok(Outcome::Help(text)) => {
            print!("{text}");
            return ExitCode::SUCCESS;
        }
        Err(e) => {
            invalid(&e);
            println!("\nmakedumpfile Failed.");
            return ExitCode::FAILURE;
        }
    };
    if options.version {
        println!("makedumpfile: version 1.7.9 (kdumpbox {})", env!("CARGO_PKG_VERSION"));
        println!("lzo\tenabled\nsnappy\tenabled\nzstd\tenabled\n");
        return ExitCode::SUCCESS;
    }
    let mut level = options.message_level;
    level |= if options.debug { Talk::DEBUG } else { 0 };
    level |= if options.show_stats { Talk::REPORT } else { 0 };
    let talk = Talk { level, to_stderr: options.flatten };
    let planned = plan(&options);
    if options.check_params {
        return planned.map(|_| ExitCode::SUCCESS).unwrap_or_else(|e| {
            invalid(&e);
            ExitCode::FAILURE
        });
    }
    crate::sys::ignore_file_size_signal();
    let last = parsed.given.iter().rev().find_map(|name| name.parse::<Codec>().ok());
    let done = planned.inspect_err(&invalid).and_then(|action| {
        let job = Job {
            codec: last.unwrap_or_default(),
            elf: options.elf,
            exclude_vmemmap: options.exclude_vmemmap,
            exclude_domains: options.exclude_domains,
            limit: options.size_limit,
            threads: options.num_threads.and_then(|n| usize::try_from(n).ok()).unwrap_or(0),
            force: options.force,
            dry_run: options.dry_run,
            partial: options.partial_dmesg,
            vtop: options.vtop,
            release: Release { vmlinux: options.vmlinux, vmcoreinfo: options.vmcoreinfo },
            levels: if options.dump_level.is_empty() { vec![Level::default()] } else { options.dump_level },
            talk,
        };
        run::act(&action, &job).inspect_err(|e| talk.say(Talk::ERROR, &e.to_string()))
    });
    match done {
        Ok(silent) => {
            talk.say(Talk::COMMON, if silent { "\n" } else { "\nmakedumpfile Completed.\n" });
            ExitCode::SUCCESS
        }
        Err(e) => {
            talk.say(Talk::COMMON, "\nmakedumpfile Failed.\n");
            // What a text of another kernel's is: the one failure with a code of its own.
            ExitCode::from(if e.kind() == Kind::WrongRelease { 2 } else { 1 })
        }
    }
}

/// What the options mean together, by makedumpfile's rules.
fn plan(o: &Options) -> Result<Action> {
    let usage = |message: &str| Err(Error::new(Kind::Usage, message));
    let gone = [
        (&o.config, "--config: erasing by rules needs DWARF, which is not read"),
        (&o.eppic, "--eppic: there is no interpreter of its macros"),
        (&o.extension, "--extension: a static binary loads no code"),
        (&o.diskset, "--diskset: sadump's format is not read"),
    ];
    if let Some((_, why)) = gone.iter().find(|(given, _)| given.is_some()) {
        return Err(Error::new(Kind::Usage, format!("{why}; leave the option out")));
    }
    let compressed = o.zlib || o.lzo || o.snappy || o.zstd;
    let has_info = o.vmcoreinfo.is_some() || o.xen_vmcoreinfo.is_some();
    // What makes no sense unless a dump is made of a vmcore.
    let filters = compressed
        || o.dump_level.first().is_some_and(|l| l.bits() != 0)
        || o.elf
        || has_info
        || o.flatten
        || o.exclude_domains;
    if let Some(to) = o.generate.clone() {
        if o.dry_run {
            return usage("--dry-run cannot be used with -g");
        }
        if filters || o.rearrange || !o.files.is_empty() {
            return usage("-g takes no file and no option of a dump");
        }
        return match (&o.vmlinux, &o.xen_syms) {
            (Some(vmlinux), None) => Ok(Action::Generate { vmlinux: vmlinux.clone(), to }),
            (_, Some(_)) => usage("-g --xen-syms: Xen's own notes say all that is needed; leave it out"),
            _ => usage("-g needs -x VMLINUX"),
        };
    }
    if o.rearrange {
        return match o.files.as_slice() {
            [to] if !filters && o.vmlinux.is_none() && o.xen_syms.is_none() => Ok(Action::Rearrange(to.clone())),
            _ => usage("-R takes the DUMPFILE to write, and no option of a dump"),
        };
    }
    if o.reassemble {
        if o.dry_run {
            return usage("--dry-run cannot be used with --reassemble");
        }
        return match o.files.split_last() {
            Some((to, parts)) if !parts.is_empty() && !filters && !o.split && o.vmlinux.is_none() => {
                Ok(Action::Reassemble { parts: parts.to_vec(), to: to.clone() })
            }
            _ => usage("--reassemble takes the parts, then the DUMPFILE to write, and no option of a dump"),
        };
    }
    let rules = [
        (compressed && o.elf, "-E excludes -c, -l, -p and -z: ELF holds no compressed pages"),
        (has_info && (o.vmlinux.is_some() || o.xen_syms.is_some()), "-i and -x exclude each other"),
        (o.dry_run && o.dump_dmesg, "--dry-run cannot be used with --dump-dmesg"),
        (o.flatten && o.split, "-F and --split exclude each other"),
        (o.num_threads.is_some_and(|n| n > 0) && o.split, "--num-threads cannot be used with --split"),
        (o.num_threads.is_some_and(|n| n > 0) && o.elf, "--num-threads cannot be used with -E"),
        (o.partial_dmesg && !o.dump_dmesg, "--partial-dmesg needs --dump-dmesg"),
        (o.exclude_vmemmap && o.work_dir.is_none(), "-e requires --work-dir"),
        (o.split && o.elf, "--split cannot be used with -E"),
    ];
    if let Some((_, why)) = rules.iter().find(|(broken, _)| *broken) {
        return usage(why);
    }
    let (core, to) = match (o.files.as_slice(), o.flatten, o.split) {
        ([core, to], false, false) => (core, vec![to.clone()]),
        ([core, to @ ..], false, true) if to.len() > 1 => (core, to.to_vec()),
        ([core], true, false) => (core, Vec::new()),
        ([core], ..) if o.mem_usage => (core, Vec::new()),
        _ => return usage("give VMCORE and DUMPFILE (with --split two or more, with -F none)"),
    };
    let core = core.clone();
    Ok(if o.dump_dmesg {
        Action::Dmesg { core, to: to.first().cloned() }
    } else if o.mem_usage {
        Action::MemUsage(core)
    } else {
        Action::Create { core, to }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_have_makedumpfiles_rules() {
        let bits = |text| levels(text).map(|l| l.into_iter().map(Level::bits).collect::<Vec<_>>());
        assert_eq!(bits("31"), Ok(vec![31]));
        assert_eq!(bits("31,17,1"), Ok(vec![31, 17, 1]));
        for bad in ["32", "-1", "x", "", "1,,2"] {
            assert!(levels(bad).is_err(), "{bad}");
        }
        for (text, bytes) in
            [("1", Some(1)), ("4k", Some(4096)), ("0x10M", Some(16 << 20)), ("2G", Some(2 << 30)), ("010", Some(8))]
        {
            assert_eq!(size(text).ok(), bytes, "{text}");
        }
        for bad in ["0", "", "k", "1kk", "1x", "-1", "99999999E"] {
            assert!(size(bad).is_err(), "{bad}");
        }
        assert_eq!(address("0xffffffff81000000"), Ok(0xffff_ffff_8100_0000));
        assert!(message_level("32").is_err() && message_level("31").is_ok());
    }
}
