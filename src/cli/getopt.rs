//! GNU `getopt_long` habits in front of argh.
//!
//! argh takes `--opt value` and `-o value` only. Scripts also write `--opt=value`, `-o31`, `-lsd`, unique prefixes,
//! aliases, options behind operands, `--`, and an option twice (the last wins). [`normalize`] rewrites an argument
//! list into what argh takes, driven by argh's own `ArgsInfo`, so that there is one table of options.

use std::ffi::OsString;

use argh::{ArgsInfo, FlagInfo, FlagInfoKind, FromArgs, Optionality};

use crate::error::{Error, Kind, Result};

/// What an applet adds to the options its argh structure declares.
#[derive(Clone, Copy, Debug, Default)]
pub struct Grammar {
    /// Other spellings of a long option (without dashes): `("ramdisk", "initrd")`.
    pub aliases: &'static [(&'static str, &'static str)],
    /// Long options that a prefix never selects, so that new options break no old abbreviation.
    pub exact: &'static [&'static str],
    /// Options that end the reading: nothing behind them is looked at, as where they are acted on when met.
    pub last: &'static [&'static str],
}

/// A rewritten command line.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Parsed {
    /// Options in argh's spelling, then `--`, then the operands.
    pub args: Vec<String>,
    /// Every option by its canonical long name, as given, left to right: the modes of `kexec` depend on the order.
    pub given: Vec<String>,
    /// Options given more than once although only the last counts.
    pub overridden: Vec<String>,
}

/// A parsed applet, or what to print instead of running it.
pub enum Outcome<T> {
    /// The options, and how they were spelt.
    Run(T, Parsed),
    /// `--help`: text for stdout.
    Help(String),
}

/// Parses `args` (without the applet's name) for the applet `name`.
///
/// # Errors
/// [`Kind::Usage`] with one sentence that names the option.
pub fn parse<T: FromArgs + ArgsInfo>(name: &str, grammar: Grammar, args: &[OsString]) -> Result<Outcome<T>> {
    let parsed = normalize(T::get_args_info().flags, grammar, args)?;
    let borrowed: Vec<&str> = parsed.args.iter().map(String::as_str).collect();
    match T::from_args(&[name], &borrowed) {
        Ok(options) => Ok(Outcome::Run(options, parsed)),
        Err(early) if early.status.is_ok() => Ok(Outcome::Help(early.output)),
        Err(early) => Err(usage(early.output.split_whitespace().collect::<Vec<_>>().join(" "))),
    }
}

fn usage(message: impl Into<String>) -> Error {
    Error::new(Kind::Usage, message)
}

#[derive(Clone, PartialEq, Eq)]
struct Opt {
    long: String,
    takes_value: bool,
    repeats: bool,
}

struct Table {
    longs: Vec<(String, Opt, bool)>,
    shorts: Vec<(char, Opt)>,
}

impl Table {
    fn new(flags: &[FlagInfo<'_>], grammar: Grammar) -> Self {
        let mut table = Table { longs: Vec::new(), shorts: Vec::new() };
        let help = Opt { long: "help".into(), takes_value: false, repeats: false };
        table.shorts.push(('h', help.clone()));
        table.longs.push(("help".into(), help, true));
        for flag in flags {
            let long = flag.long.trim_start_matches('-').to_owned();
            if long == "help" {
                continue;
            }
            let opt = Opt {
                long: long.clone(),
                takes_value: matches!(flag.kind, FlagInfoKind::Option { .. }),
                repeats: flag.optionality == Optionality::Repeating,
            };
            table.shorts.extend(flag.short.map(|c| (c, opt.clone())));
            let prefixable = !grammar.exact.contains(&long.as_str());
            table.longs.push((long, opt, prefixable));
        }
        for (alias, target) in grammar.aliases {
            if let Some(opt) = table.exact(target) {
                table.longs.push(((*alias).into(), opt, !grammar.exact.contains(alias)));
            }
        }
        table
    }

    fn exact(&self, name: &str) -> Option<Opt> {
        self.longs.iter().find(|(n, ..)| n == name).map(|(_, o, _)| o.clone())
    }

    /// The option and its full spelling.
    fn long(&self, name: &str) -> Result<(String, Opt)> {
        if let Some(opt) = self.exact(name) {
            return Ok((name.to_owned(), opt));
        }
        let hits: Vec<_> = self.longs.iter().filter(|(n, _, prefixable)| *prefixable && n.starts_with(name)).collect();
        match hits.as_slice() {
            [] => Err(usage(format!("unrecognized option '--{name}'"))),
            [(spelt, first, _), rest @ ..] if rest.iter().all(|(_, o, _)| o == first) => {
                Ok((spelt.clone(), first.clone()))
            }
            _ => {
                let names: Vec<String> = hits.iter().map(|(n, ..)| format!("'--{n}'")).collect();
                Err(usage(format!("option '--{name}' is ambiguous; possibilities: {}", names.join(" "))))
            }
        }
    }

    fn short(&self, letter: char) -> Result<Opt> {
        let hit = self.shorts.iter().find(|(c, _)| *c == letter).map(|(_, o)| o.clone());
        hit.ok_or_else(|| usage(format!("invalid option -- '{letter}'")))
    }
}

/// Rewrites `args`; see the module.
///
/// # Errors
/// [`Kind::Usage`] for an unknown or ambiguous option, a missing or unexpected value, or an argument that is not UTF-8.
pub fn normalize(flags: &[FlagInfo<'_>], grammar: Grammar, args: &[OsString]) -> Result<Parsed> {
    let table = Table::new(flags, grammar);
    let mut words = Vec::with_capacity(args.len());
    for arg in args {
        words.push(arg.to_str().ok_or_else(|| usage(format!("argument {arg:?} is not valid UTF-8")))?);
    }
    let mut options: Vec<(Opt, Option<String>)> = Vec::new();
    let mut operands: Vec<String> = Vec::new();
    let mut words = words.into_iter();
    'words: while let Some(word) = words.next() {
        if word == "--" {
            operands.extend(words.by_ref().map(str::to_owned));
        } else if let Some(long) = word.strip_prefix("--") {
            let (name, attached) = match long.split_once('=') {
                Some((name, value)) => (name, Some(value.to_owned())),
                None => (long, None),
            };
            let (spelt, opt) = table.long(name)?;
            let value = match (opt.takes_value, attached) {
                (true, Some(value)) => Some(value),
                (true, None) => Some(
                    words.next().ok_or_else(|| usage(format!("option '--{spelt}' requires an argument")))?.to_owned(),
                ),
                (false, Some(_)) => return Err(usage(format!("option '--{spelt}' doesn't allow an argument"))),
                (false, None) => None,
            };
            let last = grammar.last.contains(&opt.long.as_str());
            options.push((opt, value));
            if last {
                break 'words;
            }
        } else if let Some(cluster) = word.strip_prefix('-').filter(|c| !c.is_empty()) {
            let mut letters = cluster.chars();
            while let Some(letter) = letters.next() {
                let opt = table.short(letter)?;
                let value = if opt.takes_value {
                    let attached = letters.as_str();
                    letters = "".chars();
                    match attached {
                        "" => Some(
                            words
                                .next()
                                .ok_or_else(|| usage(format!("option requires an argument -- '{letter}'")))?
                                .to_owned(),
                        ),
                        value => Some(value.to_owned()),
                    }
                } else {
                    None
                };
                let last = grammar.last.contains(&opt.long.as_str());
                options.push((opt, value));
                if last {
                    break 'words;
                }
            }
        } else {
            operands.push(word.to_owned());
        }
    }
    Ok(assemble(&options, operands))
}

fn assemble(options: &[(Opt, Option<String>)], operands: Vec<String>) -> Parsed {
    let mut parsed = Parsed::default();
    for (i, (opt, value)) in options.iter().enumerate() {
        parsed.given.push(opt.long.clone());
        let repeated_later = options.iter().skip(i.saturating_add(1)).any(|(o, _)| o.long == opt.long);
        if repeated_later && !opt.repeats {
            if value.is_some() && !parsed.overridden.contains(&opt.long) {
                parsed.overridden.push(opt.long.clone());
            }
            continue;
        }
        parsed.args.push(format!("--{}", opt.long));
        parsed.args.extend(value.clone());
    }
    parsed.args.push("--".into());
    parsed.args.extend(operands);
    parsed
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The tests' applet.
    #[derive(FromArgs, ArgsInfo, Debug, PartialEq)]
    #[argh(help_triggers("-h", "--help"))]
    struct Applet {
        /// load
        #[argh(switch, short = 'l')]
        load: bool,
        /// load a crash kernel
        #[argh(switch, short = 'p')]
        load_panic: bool,
        /// debug
        #[argh(switch, short = 'd')]
        debug: bool,
        /// entry
        #[argh(switch)]
        entry: bool,
        /// entry in 32 bits
        #[argh(switch)]
        entry_32bit: bool,
        /// type
        #[argh(option, short = 't')]
        r#type: Option<String>,
        /// text
        #[argh(option)]
        command_line: Option<String>,
        /// modules
        #[argh(option)]
        module: Vec<String>,
        /// not by prefix
        #[argh(switch)]
        dry_run: bool,
        /// version
        #[argh(switch, short = 'v')]
        version: bool,
        /// operands
        #[argh(positional)]
        kernel: Vec<String>,
    }

    const GRAMMAR: Grammar =
        Grammar { aliases: &[("append", "command-line")], exact: &["dry-run"], last: &["help", "version"] };

    fn run(args: &[&str]) -> Result<(Applet, Parsed)> {
        let args: Vec<OsString> = args.iter().map(OsString::from).collect();
        match parse::<Applet>("kexec", GRAMMAR, &args)? {
            Outcome::Run(applet, parsed) => Ok((applet, parsed)),
            Outcome::Help(text) => Err(Error::new(Kind::System, text)),
        }
    }

    fn ok(args: &[&str]) -> Applet {
        run(args).expect("parses").0
    }

    fn message(args: &[&str]) -> String {
        run(args).expect_err("must fail").to_string()
    }

    #[test]
    fn every_spelling_of_a_value() {
        for args in [
            &["-t", "elf", "k"][..],
            &["-telf", "k"],
            &["--type=elf", "k"],
            &["--type", "elf", "k"],
            &["--ty=elf", "k"],
            &["k", "-ldtelf"],
        ] {
            let applet = ok(args);
            assert_eq!((applet.r#type.as_deref(), applet.kernel), (Some("elf"), vec!["k".to_owned()]), "{args:?}");
        }
        assert_eq!(ok(&["--append=a=b", "k"]).command_line.as_deref(), Some("a=b"));
        assert_eq!(ok(&["--append=", "k"]).command_line.as_deref(), Some(""));
        assert_eq!(ok(&["--append", "--load", "k"]).command_line.as_deref(), Some("--load"));
    }

    #[test]
    fn clusters_operands_anywhere_and_the_double_dash() {
        let applet = ok(&["a", "-ld", "b", "--", "-p", "--load-panic"]);
        assert!(applet.load && applet.debug && !applet.load_panic);
        assert_eq!(applet.kernel, ["a", "b", "-p", "--load-panic"]);
        assert_eq!(ok(&["-", "-l"]).kernel, ["-"]);
    }

    #[test]
    fn prefixes_are_unique_or_refused_with_the_candidates() {
        assert!(ok(&["--de"]).debug);
        assert!(ok(&["--entry"]).entry, "an exact name beats a prefix");
        assert_eq!(message(&["--l"]), "option '--l' is ambiguous; possibilities: '--load' '--load-panic'");
        assert_eq!(message(&["--dry"]), "unrecognized option '--dry'");
        assert!(ok(&["--dry-run"]).dry_run);
    }

    #[test]
    fn the_last_of_an_option_wins_and_is_reported() {
        let (applet, parsed) = run(&["--command-line=x", "-l", "--append=y", "-l"]).expect("parses");
        assert_eq!(applet.command_line.as_deref(), Some("y"));
        assert_eq!(parsed.overridden, ["command-line"]);
        assert_eq!(parsed.given, ["command-line", "load", "command-line", "load"]);
        assert_eq!(ok(&["--module=a", "--module", "b"]).module, ["a", "b"]);
    }

    #[test]
    fn errors_name_the_option() {
        assert_eq!(message(&["--frobnicate"]), "unrecognized option '--frobnicate'");
        assert_eq!(message(&["-lQ"]), "invalid option -- 'Q'");
        assert_eq!(message(&["--type"]), "option '--type' requires an argument");
        assert_eq!(message(&["--app"]), "option '--append' requires an argument");
        assert_eq!(message(&["-?"]), "invalid option -- '?'");
        assert_eq!(message(&["-lt"]), "option requires an argument -- 't'");
        assert_eq!(message(&["--load=1"]), "option '--load' doesn't allow an argument");
    }

    #[test]
    fn help_is_no_error_and_the_word_help_is_an_operand() {
        for args in [&["-h"][..], &["--help"], &["-lh"], &["--he"]] {
            assert!(message(args).contains("--load-panic"), "{args:?}");
        }
        assert_eq!(ok(&["help"]).kernel, ["help"]);
    }

    #[test]
    fn what_is_acted_on_when_met_ends_the_reading() {
        for args in [&["-v", "-Q"][..], &["-lvQ"], &["--version", "--frobnicate", "--type"]] {
            assert!(ok(args).version, "{args:?}");
        }
        assert_eq!(message(&["-Q", "-v"]), "invalid option -- 'Q'");
    }
}
