//! What to save, where, and what comes after: `/etc/kdump.conf` in the grammar of Fedora's kdump-utils (a subset), then
//! `kdump.NAME=VALUE` words of the kernel command line, which win.
//!
//! A crash kernel has nobody to ask: whatever can't be understood is a warning that names the line and the word, and
//! the rest counts. The last of a directive given twice wins.

use std::time::Duration;

use super::actions::Action;

/// A codec for pages, by the option of `makedumpfile` that asks for it.
pub use crate::dump::Codec;

/// How the target's block device is named.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Device {
    /// A path below `/dev`.
    Path(String),
    /// The file system's UUID, in lower case.
    Uuid(String),
    /// The file system's label.
    Label(String),
}

impl std::fmt::Display for Device {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Device::Path(path) => f.write_str(path),
            Device::Uuid(uuid) => write!(f, "UUID={uuid}"),
            Device::Label(label) => write!(f, "LABEL={label}"),
        }
    }
}

/// A file system on a block device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    /// The name `mount` takes: `ext4`, `xfs`.
    pub fs: String,
    /// Where it is.
    pub device: Device,
}

/// Everything a capture is told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// Where dumps go; without one nothing can be saved.
    pub target: Option<Target>,
    /// Directory in the target's file system.
    pub path: String,
    /// Dump level, 0..=31.
    pub level: u8,
    /// Codec for pages.
    pub codec: Codec,
    /// Whether a crashed Xen's guests are left out.
    pub exclude_guests: bool,
    /// What follows a saved dump.
    pub final_action: Action,
    /// What follows a failure.
    pub failure_action: Action,
    /// How long to wait for the target's device.
    pub device_timeout: Duration,
    /// How long the saver may make no progress.
    pub stall_timeout: Duration,
    /// Whether debug lines are logged.
    pub debug: bool,
    /// What could not be understood, one sentence each.
    pub warnings: Vec<String>,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            target: None,
            path: "/var/crash".into(),
            level: 31,
            codec: Codec::Zstd,
            exclude_guests: false,
            final_action: Action::Reboot,
            failure_action: Action::Reboot,
            device_timeout: Duration::from_secs(30),
            stall_timeout: Duration::from_secs(180),
            debug: false,
            warnings: Vec::new(),
        }
    }
}

/// File systems that can be a directive of `kdump.conf`.
const FILE_SYSTEMS: [&str; 7] = ["ext2", "ext3", "ext4", "xfs", "btrfs", "vfat", "minix"];

/// Directives of Fedora's grammar that concern the first kernel or a later version of this program; no warning is due.
const PASSED_OVER: [&str; 4] = ["auto_reset_crashkernel", "force_rebuild", "force_no_rebuild", "dracut_args"];

impl Config {
    /// Reads `kdump.conf` and then the kernel command line.
    pub fn parse(file: &str, cmdline: &str) -> Self {
        let mut config = Self::default();
        for (number, line) in (1_usize..).zip(file.lines()) {
            let line = line.split('#').next().unwrap_or_default().trim();
            if let Some((name, value)) = line.split_once(char::is_whitespace) {
                let value = unquote(value.trim());
                if let Err(why) = config.directive(name, value) {
                    config.warnings.push(format!("kdump.conf line {number}: {why}"));
                }
            } else if !line.is_empty() {
                config
                    .warnings
                    .push(format!("kdump.conf line {number}: '{line}' has no value; the line is passed over"));
            }
        }
        for word in cmdline.split_whitespace().filter_map(|w| w.strip_prefix("kdump.")) {
            let (name, value) = word.split_once('=').unwrap_or((word, ""));
            if let Err(why) = config.parameter(name, unquote(value)) {
                config.warnings.push(format!("kernel command line, kdump.{name}: {why}"));
            }
        }
        config
    }

    fn directive(&mut self, name: &str, value: &str) -> Result<(), String> {
        match name {
            fs if FILE_SYSTEMS.contains(&fs) => self.target = Some(Target { fs: fs.into(), device: device(value)? }),
            "path" => self.path = absolute(value)?,
            "core_collector" => self.core_collector(value)?,
            "final_action" => self.final_action = action(value)?,
            "failure_action" | "default" => self.failure_action = action(value)?,
            "device_timeout" => self.device_timeout = seconds(value)?,
            "stall_timeout" => self.stall_timeout = seconds(value)?,
            name if PASSED_OVER.contains(&name) => {}
            name => return Err(format!("unknown directive '{name}'; the line is passed over")),
        }
        Ok(())
    }

    fn parameter(&mut self, name: &str, value: &str) -> Result<(), String> {
        match name {
            "target" => {
                let rule = || format!("'{value}' is no target; write TYPE:DEVICE, as in ext4:/dev/vda1");
                let (fs, name) = value.split_once(':').filter(|(fs, _)| FILE_SYSTEMS.contains(fs)).ok_or_else(rule)?;
                self.target = Some(Target { fs: fs.into(), device: device(name)? });
            }
            "debug" => self.debug = true,
            "level" => self.level = level(value)?,
            "codec" => self.codec = codec(value)?,
            "path" | "final_action" | "failure_action" | "device_timeout" | "stall_timeout" => {
                self.directive(name, value)?;
            }
            _ => return Err("there is no such parameter; it is passed over".into()),
        }
        Ok(())
    }

    /// `makedumpfile [-c|-z|-l|-p] [-d LEVEL] [-X] …`: these count, the rest is ours to decide.
    fn core_collector(&mut self, line: &str) -> Result<(), String> {
        let mut words = line.split_whitespace();
        let program = words.next().unwrap_or_default();
        if program.rsplit('/').next() != Some("makedumpfile") {
            return Err(format!("collector '{program}' is not makedumpfile; the dump is saved by kdump-save instead"));
        }
        let mut complaint = Ok(());
        self.codec = Codec::None;
        self.level = 0;
        self.exclude_guests = false;
        while let Some(word) = words.next() {
            let attached = word.strip_prefix("-d").filter(|v| !v.is_empty() && !word.starts_with("--"));
            let result = match word {
                "-c" => codec("zlib").map(|c| self.codec = c),
                "-z" => codec("zstd").map(|c| self.codec = c),
                "-l" => codec("lzo").map(|c| self.codec = c),
                "-p" => codec("snappy").map(|c| self.codec = c),
                "-X" => {
                    self.exclude_guests = true;
                    Ok(())
                }
                "-d" => level(words.next().unwrap_or_default()).map(|l| self.level = l),
                "--message-level" => {
                    words.next();
                    Ok(())
                }
                _ => match attached {
                    Some(value) => level(value).map(|l| self.level = l),
                    None if word == "-F" || word.starts_with("--message-level=") => Ok(()),
                    None => Err(format!("makedumpfile option '{word}' is passed over")),
                },
            };
            complaint = complaint.and(result);
        }
        complaint
    }
}

fn unquote(value: &str) -> &str {
    value.strip_prefix('"').and_then(|v| v.strip_suffix('"')).unwrap_or(value)
}

fn device(name: &str) -> Result<Device, String> {
    if let Some(uuid) = name.strip_prefix("UUID=") {
        Ok(Device::Uuid(unquote(uuid).to_ascii_lowercase()))
    } else if let Some(label) = name.strip_prefix("LABEL=") {
        Ok(Device::Label(unquote(label).into()))
    } else if name.starts_with("/dev/") {
        Ok(Device::Path(name.into()))
    } else {
        Err(format!("'{name}' is no device; write /dev/NAME, UUID=… or LABEL=…"))
    }
}

fn absolute(path: &str) -> Result<String, String> {
    let steps: Vec<&str> = path.split('/').filter(|s| !s.is_empty() && *s != ".").collect();
    if path.is_empty() || steps.contains(&"..") {
        return Err(format!("'{path}' is no directory inside the target; the default stays"));
    }
    Ok(format!("/{}", steps.join("/")))
}

fn action(word: &str) -> Result<Action, String> {
    Action::parse(word).ok_or_else(|| format!("'{word}' is no action; write reboot, poweroff or halt"))
}

fn seconds(word: &str) -> Result<Duration, String> {
    // A day at most: a timer that never fires is no timer.
    match word.parse::<u32>() {
        Ok(seconds @ 1..=86_400) => Ok(Duration::from_secs(seconds.into())),
        _ => Err(format!("'{word}' is no number of seconds between 1 and 86400")),
    }
}

fn level(word: &str) -> Result<u8, String> {
    let level = word.parse().ok().filter(|l| *l <= 31);
    level.ok_or_else(|| format!("'{word}' is no dump level between 0 and 31"))
}

fn codec(word: &str) -> Result<Codec, String> {
    word.parse().map_err(|e: crate::error::Error| e.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fedoras_file_is_understood() {
        let file = "# crash dumps\next4 UUID=\"ABCD-12\" # root\npath var//crash/\ncore_collector makedumpfile -z --message-level 7 -X -d 17\n\
                    final_action poweroff\nfailure_action halt\nauto_reset_crashkernel yes\n";
        let config = Config::parse(file, "BOOT_IMAGE=/vmlinuz quiet");
        let target = Target { fs: "ext4".into(), device: Device::Uuid("abcd-12".into()) };
        assert_eq!(config.target, Some(target));
        assert_eq!((config.path.as_str(), config.level, config.codec), ("/var/crash", 17, Codec::Zstd));
        assert!(config.exclude_guests, "-X");
        assert_eq!((config.final_action, config.failure_action), (Action::Poweroff, Action::Halt));
        assert_eq!(config.warnings, [""; 0]);
    }

    #[test]
    fn the_command_line_wins() {
        let cmdline = "kdump.target=xfs:LABEL=dump kdump.path=/d kdump.level=1 kdump.codec=zlib kdump.device_timeout=5 \
                       kdump.failure_action=poweroff";
        let config = Config::parse("ext4 /dev/vda\ncore_collector makedumpfile -c -d31\n", cmdline);
        assert_eq!(config.target.map(|t| format!("{} {}", t.fs, t.device)).as_deref(), Some("xfs LABEL=dump"));
        assert_eq!((config.path.as_str(), config.level, config.codec), ("/d", 1, Codec::Zlib));
        assert_eq!((config.device_timeout.as_secs(), config.failure_action), (5, Action::Poweroff));
        assert_eq!(config.warnings, [""; 0]);
    }

    #[test]
    fn what_is_not_understood_is_named_and_the_rest_counts() {
        let cases = [
            ("frobnicate yes", "", "kdump.conf line 1: unknown directive 'frobnicate'; the line is passed over"),
            ("\0\u{1}garbage", "", "kdump.conf line 1: '\0\u{1}garbage' has no value; the line is passed over"),
            ("path ../../etc", "", "'../../etc' is no directory inside the target"),
            ("ext4 sda1", "", "'sda1' is no device"),
            ("core_collector scp", "", "collector 'scp' is not makedumpfile"),
            ("final_action shell", "", "'shell' is no action"),
            ("", "kdump.level=32", "kernel command line, kdump.level: '32' is no dump level between 0 and 31"),
            ("", "kdump.target=nfs:x", "'nfs:x' is no target"),
            ("", "kdump.colour=red", "kdump.colour: there is no such parameter"),
            ("", "kdump.device_timeout=0", "'0' is no number of seconds"),
        ];
        for (file, cmdline, warning) in cases {
            let config = Config::parse(&format!("{file}\nfailure_action halt\n"), cmdline);
            assert_eq!(config.warnings.len(), 1, "{file}{cmdline}: {:?}", config.warnings);
            assert!(config.warnings[0].contains(warning), "{:?}", config.warnings);
            assert_eq!((config.failure_action, config.path.as_str()), (Action::Halt, "/var/crash"));
        }
    }

    #[test]
    fn a_collector_line_says_all_of_it() {
        let config = Config::parse("core_collector /usr/sbin/makedumpfile\n", "");
        assert_eq!((config.level, config.codec), (0, Codec::None), "makedumpfile's own defaults");
        assert_eq!(Config::parse("", "").level, 31, "ours without a line");
    }
}
