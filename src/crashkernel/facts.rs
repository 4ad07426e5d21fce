//! What a machine, running or recorded, shows of its crash kernel.
//!
//! A recording is a tree of `/proc`, `/sys`, `/etc` and `/boot`, or an unpacked sosreport: that is such a tree, with what
//! commands printed below `sos_commands/`.

use std::path::Path;

use super::syntax::{ARCHES, Arch, Rules};
use crate::error::{Kind, Result};
use crate::host::iomem::Iomem;
use crate::host::xen::{Domain, domain};
use crate::host::{Host, state};
use crate::load::xen::Xen;
use crate::load::{Backend, Slot};
use crate::mem::{Range, Ranges};

/// The machine below `root`; one directory with a machine in it is gone into, as archives have it.
pub fn host(root: &str) -> Host {
    let has_proc = |path: &Path| path.join("proc").is_dir() || path.join("sos_commands").is_dir();
    let path = Path::new(root);
    let mut inside = std::fs::read_dir(path).into_iter().flatten().flatten().map(|e| e.path()).filter(|p| has_proc(p));
    match (has_proc(path), inside.next(), inside.next()) {
        (false, Some(only), None) => Host::new(only),
        _ => Host::new(root),
    }
}

/// What was gathered.
pub struct Facts {
    /// Where it is from.
    pub host: Host,
    /// The kernel's role on Xen; none off Xen.
    pub domain: Option<Domain>,
    /// The command line that counts: Xen's where Xen holds the crash kernel. None where it is not known.
    pub command_line: Option<String>,
    /// The machine, for the grammar; memory is 0 where it is not known.
    pub rules: Rules,
    /// Where the crash kernel's memory is; none where that is shown to root only.
    pub areas: Option<Ranges>,
    /// Bytes of it; none if the kernel tells nothing.
    pub size: Option<u64>,
    /// Whether a crash kernel is loaded; none if that is not known.
    pub loaded: Option<bool>,
    /// The kernel's log, as far as it is at hand.
    pub log: String,
    /// Why Xen could not be asked.
    pub xen_error: Option<String>,
}

impl Facts {
    /// Whether Xen is the one that reserves memory and takes the crash kernel.
    pub fn below_xen(&self) -> bool {
        matches!(self.domain, Some(Domain::Dom0Pv | Domain::Dom0Other))
    }

    /// Reads the machine.
    ///
    /// # Errors
    /// State files that are there but can't be read or understood.
    pub fn gather(host: &Host) -> Result<Self> {
        let domain = domain(host)?;
        let size = state::crash_size(host)?;
        let iomem = iomem(host, "proc/iomem")?;
        let mut facts = Self {
            host: host.clone(),
            domain,
            command_line: host.text("proc/cmdline")?,
            rules: rules(host, size.unwrap_or(0)),
            areas: iomem.map(|i| i.crash()),
            size,
            loaded: state::loaded(host, true)?,
            log: log(host),
            xen_error: None,
        };
        // ia64's list of machine memory, which Xen's area was in.
        let machine = iomem_machine(host)?;
        if facts.below_xen() {
            facts.xen(machine);
        } else if let Some(areas) = machine {
            facts.areas = Some(areas);
        }
        Ok(facts)
    }

    fn xen(&mut self, machine: Option<Ranges>) {
        // An old dom0 shows the area in its own list, ia64 in that of machine memory, both with addresses of the machine.
        let shown = machine.or_else(|| self.areas.take()).filter(|a| !a.is_empty());
        self.size = shown.as_ref().map(Ranges::total);
        self.areas = shown;
        self.loaded = None;
        self.command_line = None;
        self.rules.ram = 0;
        if self.host.is_live() {
            if self.domain == Some(Domain::Dom0Pv)
                && let Err(e) = self.ask_xen()
            {
                self.xen_error = Some(e.to_string());
            }
            return;
        }
        let info = recorded(&self.host, &["sos_commands/xen/xl_info", "xl_info"]);
        let value = |key: &str| {
            let line = info.lines().find(|l| l.starts_with(key))?;
            line.split_once(':').map(|(_, value)| value.trim().to_owned())
        };
        self.command_line = value("xen_commandline");
        self.rules.ram = value("total_memory").and_then(|m| m.parse::<u64>().ok()).map_or(0, |mib| mib << 20);
        self.log = recorded(&self.host, &["sos_commands/xen/xl_dmesg", "xl_dmesg"]);
        let told = self.log.lines().filter_map(|l| l.split_once("Kdump: ")).map(|(_, told)| told).next_back();
        if let Some(told) = told.filter(|_| self.size.is_none()) {
            let area = kdump_line(told);
            self.size = Some(area.map_or(0, |a| a.len()));
            self.areas = area.map(|a| Ranges::from_iter([a]));
        } else if !self.log.is_empty() && self.size.is_none() {
            self.size = Some(0);
        }
    }

    fn ask_xen(&mut self) -> Result<()> {
        let xen = Xen::open(&self.host)?;
        let area = xen.crash_area()?;
        self.size = Some(area.map_or(0, |a| a.len()));
        self.areas = area.map(|a| Ranges::from_iter([a]));
        self.loaded = xen.loaded(Slot::Crash)?;
        // What its security policy keeps back reads so.
        self.command_line = xen.command_line().ok().filter(|line| line != "<denied>");
        self.rules.ram = xen.ram()?;
        Ok(())
    }

    /// A number below `/proc/sys`, or as `sysctl -a` printed it.
    pub fn sysctl(&self, name: &str) -> Option<u64> {
        let path = format!("proc/sys/{}", name.replace('.', "/"));
        if let Ok(Some(value)) = self.host.number(&path) {
            return Some(value);
        }
        let all = recorded(&self.host, &["sos_commands/kernel/sysctl_-a"]);
        let line = all.lines().find_map(|l| l.strip_prefix(name)?.trim_start().strip_prefix('='));
        line.and_then(|value| value.trim().parse().ok())
    }

    /// The release of the running kernel.
    pub fn release(&self) -> String {
        release(&self.host)
    }
}

/// `128MB (131072kB) at 0x10000000`, as Xen's log has it behind `Kdump:`.
fn kdump_line(text: &str) -> Option<Range> {
    let (size, at) = text.split_once("kB) at 0x")?;
    let kib: u64 = size.split_once('(')?.1.parse().ok()?;
    let at = at.split(|c: char| !c.is_ascii_hexdigit()).next()?;
    Range::with_len(u64::from_str_radix(at, 16).ok()?, kib.checked_mul(1024)?)
}

/// The first of these files that has text.
pub fn recorded(host: &Host, names: &[&str]) -> String {
    let texts = names.iter().filter_map(|name| host.read(name).ok().flatten());
    let mut texts = texts.map(|bytes| String::from_utf8_lossy(&bytes).into_owned());
    texts.find(|t| !t.is_empty()).unwrap_or_default()
}

/// The map; none if there is none, or only zeros are shown.
fn iomem(host: &Host, name: &str) -> Result<Option<Iomem>> {
    let Some(text) = host.text(name)? else { return Ok(None) };
    match Iomem::parse(&text) {
        Ok(iomem) => Ok(Some(iomem)),
        Err(e) if e.kind() == Kind::Denied => Ok(None),
        Err(e) => Err(e),
    }
}

fn iomem_machine(host: &Host) -> Result<Option<Ranges>> {
    Ok(iomem(host, "proc/iomem_machine")?.map(|i| i.crash()))
}

/// The release of the running kernel; empty if it is not known.
pub fn release(host: &Host) -> String {
    let told = recorded(host, &["proc/sys/kernel/osrelease"]);
    if !told.is_empty() {
        return told.trim().to_owned();
    }
    let uname = recorded(host, &["uname", "sos_commands/kernel/uname_-a", "proc/version"]);
    uname.split_whitespace().nth(2).unwrap_or_default().to_owned()
}

/// The rules of the machine's kernel. `reserved` is what its count of memory leaves out.
pub fn rules(host: &Host, reserved: u64) -> Rules {
    let ram = iomem(host, "proc/iomem").ok().flatten().map(|i| i.system_ram()).filter(|r| r.total() > 0);
    // Without privilege the map is hidden; what is managed comes close enough for the ranges' 128 MiB steps.
    let managed = || state::total_pages(host).map_or(0, |p| p.saturating_mul(4096).saturating_add(reserved));
    let mut rules = Rules::new(ram.as_ref().map_or_else(managed, Ranges::total));
    if let Some(ram) = ram {
        let low = ram.iter().filter_map(|r| Range::new(r.start(), r.end().min(4 << 30)));
        rules.ram_low = low.fold(0_u64, |sum, r| sum.saturating_add(r.len()));
    }
    rules.arch = arch(host);
    rules.of_release(&release(host))
}

/// By what only its `/proc/cpuinfo` has.
fn arch(host: &Host) -> Arch {
    let text = recorded(host, &["proc/cpuinfo"]);
    let signs = [
        ("CPU implementer", "aarch64"),
        ("hart\t", "riscv64"),
        ("CPU Family\t\t: Loongson", "loongarch64"),
        ("POWER", "ppc64le"),
        ("IBM/S390", "s390x"),
        ("IA-64", "ia64"),
    ];
    let name = signs.iter().find(|(sign, _)| text.contains(sign)).map_or("x86_64", |(_, name)| *name);
    let [x86_64, ..] = ARCHES;
    ARCHES.into_iter().find(|a| a.name == name).unwrap_or(x86_64)
}

/// The kernel's log: of a recording the text of `dmesg`, live what the ring still holds.
fn log(host: &Host) -> String {
    use std::io::Read;
    use std::os::unix::fs::OpenOptionsExt;
    if !host.is_live() {
        return recorded(host, &["sos_commands/kernel/dmesg", "sos_commands/kernel/dmesg_-T", "var/log/dmesg"]);
    }
    let flags = i32::try_from(rustix::fs::OFlags::NONBLOCK.bits()).unwrap_or(0);
    let Ok(mut file) = std::fs::File::options().read(true).custom_flags(flags).open("/dev/kmsg") else {
        return String::new();
    };
    let (mut text, mut record) = (String::new(), vec![0; 8192]);
    // A record a read; bounded, since the kernel writes on meanwhile.
    for _ in 0..100_000 {
        match file.read(&mut record) {
            Ok(0) => break,
            Ok(n) => text.push_str(&String::from_utf8_lossy(record.get(..n).unwrap_or_default())),
            // Records that were overwritten before they were read.
            Err(e) if e.kind() == std::io::ErrorKind::BrokenPipe => {}
            Err(_) => break,
        }
    }
    text
}
