//! `crashkernel-check` says that a machine is ready exactly where a panic then leaves a dump.

use std::path::{Path, PathBuf};

use crate::lab::{Kernel, SUITE, Xen, disk, say, workdir};
use crate::panic::{Panic, our_image, our_load};
use crate::relay::{Relay, said, usual_kernel};
use crate::xen_host::XEN_ARGS;

/// A machine, set up well or not.
struct Setup {
    name: &'static str,
    crashkernel: &'static str,
    load: String,
    image: PathBuf,
    target_mib: u64,
    ready: bool,
    /// What the report must contain.
    said: &'static str,
}

/// Checks, panics, and looks at the disk.
fn stage(kernel: &Kernel, setup: &Setup) -> Option<String> {
    let work = workdir(&format!("ready-{}", setup.name));
    // Through a file: on the console it would be coloured.
    let check = "/bin/kdumpbox crashkernel-check > /tmp/report; code=$?; cat /tmp/report; echo LAB-CHECK $code";
    let load = format!("{}\n{check}\ntrue", setup.load);
    let panic = Panic {
        crashkernel: setup.crashkernel,
        target_mib: setup.target_mib,
        ..Panic::new(setup.name, kernel, &work, &setup.image, &load)
    };
    let (outcome, target) = panic.run();
    let code = outcome.value("LAB-CHECK ").unwrap_or_default().to_owned();
    let saved = disk::files(&target).iter().any(|path| path.ends_with("/vmcore"));
    let ready = code == "0" || code == "2";
    say(&format!("ready-{}: exit code {code}, {}", setup.name, if saved { "a dump" } else { "no dump" }));
    let fine = ready == saved && saved == setup.ready && outcome.line(setup.said).is_some();
    (!fine).then(|| format!("{}: said {code}, saved {saved}\n{}\n{}", setup.name, outcome.tail(), outcome.console))
}

fn config(label: &str) -> String {
    format!("ext4 LABEL={label}\ncore_collector makedumpfile -c -d 31\n")
}

#[test]
fn it_says_ready_exactly_where_a_panic_leaves_a_dump() {
    let (kernel, newer) = (Kernel::of(SUITE), Kernel::of("sid"));
    let work = workdir("ready-images");
    let image = |name: &str, kernel: &Kernel, label: &str, drivers: &[&str]| {
        let dir: &Path = &work.join(name);
        std::fs::create_dir_all(dir).expect("made");
        our_image(kernel, dir, &config(label), drivers)
    };
    let few = ["--drivers", "virtio_blk"];
    let good = image("good", &kernel, "target", &few);
    let usual = Setup {
        name: "usual",
        crashkernel: "128M",
        load: our_load("-s"),
        image: good.clone(),
        target_mib: 256,
        ready: true,
        said: "verdict      a panic should leave a dump",
    };
    let setups = [
        Setup { name: "ranges-by-c", crashkernel: "384M-:112M", load: our_load("-c"), image: good.clone(), ..usual },
        Setup { name: "high", crashkernel: "112M,high", load: our_load("-s"), image: good.clone(), ..usual },
        Setup { name: "portable", image: image("portable", &kernel, "target", &[]), load: our_load("-s"), ..usual },
        Setup {
            name: "rejected",
            crashkernel: "128MB",
            load: our_load("-s"),
            image: good.clone(),
            ready: false,
            said: "unrecognized character 'B'",
            ..usual
        },
        Setup {
            name: "not-loaded",
            load: "true".into(),
            image: good.clone(),
            ready: false,
            said: "error    crash kernel none is loaded",
            ..usual
        },
        Setup {
            name: "too-little",
            crashkernel: "64M",
            load: our_load("-s"),
            image: good.clone(),
            ready: false,
            said: "error    room",
            ..usual
        },
        Setup {
            name: "no-target",
            load: our_load("-s"),
            image: image("no-target", &kernel, "nowhere", &few),
            ready: false,
            said: "ext4 LABEL=nowhere: there is no such device",
            ..usual
        },
        Setup {
            name: "full-target",
            load: our_load("-s"),
            image: good,
            target_mib: 8,
            ready: false,
            said: "error    target",
            ..usual
        },
        Setup {
            name: "other-modules",
            load: our_load("-s"),
            image: image("other", &newer, "target", &few),
            ready: false,
            said: "the crash kernel is 6.1",
            ..usual
        },
    ];
    let mut wrong: Vec<String> = setups.iter().filter_map(|setup| stage(&kernel, setup)).collect();
    wrong.extend(stage(&kernel, &usual));
    let image = image("newer", &newer, "target", &few);
    wrong.extend(stage(&newer, &Setup { name: "newer", image, load: our_load("-s"), ..usual }));
    assert!(wrong.is_empty(), "{}", wrong.join("\n\n"));
}

/// In dom0 it is Xen that is asked, for its command line, the area, and what is loaded.
#[test]
fn below_xen_the_hypervisor_is_asked() {
    for suite in ["bookworm", "trixie"] {
        let xen = Xen::of(suite);
        let script = format!(
            "check() {{ /bin/kdumpbox crashkernel-check >/tmp/r; code=$?; cat /tmp/r; echo \"LAB-first-$1 $code\"; }}
check BEFORE
kexec -p {} --append='console=ttyS0'
check BEHIND",
            usual_kernel()
        );
        let relay = Relay::new(&format!("ready-xen-{}", xen.version)).kernel(SUITE, &["xen-privcmd"]);
        let outcome = relay.leg("first", &script).machine_on(&xen.elf, XEN_ARGS).run();
        outcome.ended().expect("asked for    192 MiB at the highest free address");
        outcome
            .expect("reserved     192 MiB at 0x")
            .expect("crash kernel none is loaded")
            .expect("crash kernel loaded");
        assert_eq!(said(&outcome, "first", "BEFORE"), "1", "{}", outcome.tail());
        assert_eq!(said(&outcome, "first", "BEHIND"), "2", "{}", outcome.tail());
    }
}
