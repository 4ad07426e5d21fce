//! `kdump-save` on a crashed Xen that never was: dom0's log and pages through the p2m list, guests by the frame table in
//! both layouts of its bits, the console ring, and what is broken in each.

mod support;

use std::collections::BTreeMap;
use std::path::Path;
use std::process::{Command, Output};

use proptest::prelude::*;
use support::kdump::{Kdump, Page};
use support::kernel::{Kernel, V6_1, V6_12};
use support::log::{Record, RingShape};
use support::machine::PAGE;
use support::room::Case;
use support::xen::{Frame, GUESTS, RING, States, XEN, Xen, frame, machine};

impl Case {
    fn run(&self, args: &[&str], output: Option<&Path>) -> Output {
        let mut command = Command::new(env!("CARGO_BIN_EXE_kdumpbox"));
        command.arg("kdump-save").args(args).arg(self.path("core")).args(output).output().expect("run kdump-save")
    }

    /// Saves with `args` and expects `code`.
    fn save(&self, args: &[&str], code: i32) -> (Kdump, String) {
        let out = self.run(&[args, &["-f"]].concat(), Some(&self.path("dump")));
        let said = String::from_utf8_lossy(&out.stderr).into_owned();
        assert_eq!(out.status.code(), Some(code), "{args:?}: {said}");
        (Kdump::open(&self.path("dump")), said)
    }
}

fn xen(states: States) -> Xen {
    match states {
        States::Old => Xen::new(Kernel::new(V6_1, 4), states, 14, ".5"),
        States::New => Xen::new(Kernel::new(V6_1, 4), states, 17, ".7"),
        States::Scrub => Xen::new(Kernel::new(V6_1, 4), states, 22, ".0"),
    }
}

/// Whether a frame of the guests' memory goes with `-X`.
fn goes(what: Frame) -> bool {
    matches!(what, Frame::Guest | Frame::Free | Frame::Dirty | Frame::Offlined | Frame::Broken)
}

/// Every page of the dump is what memory holds, and exactly those expected are kept; with no level all of dom0's.
fn check(dump: &Kdump, xen: &Xen, context: &str, level: impl Into<Option<u8>>, guest: impl Fn(Frame) -> bool) {
    let index: BTreeMap<u64, usize> = dump.kept().into_iter().enumerate().map(|(i, pfn)| (pfn, i)).collect();
    let expect = |mfn: u64, keep: bool, what: &str| {
        assert!(dump.is_ram(mfn), "{context}: {mfn:#x} is memory");
        match index.get(&mfn).map_or(Page::Excluded, |i| dump.by_index(*i, mfn)) {
            Page::Data(data) => {
                assert!(keep, "{context}: {mfn:#x} is kept, {what}");
                assert!(data == xen.memory.page(mfn), "{context}: {mfn:#x} has other bytes than memory");
            }
            other => assert!(!keep && other == Page::Excluded, "{context}: {mfn:#x} is missing, {what}"),
        }
    };
    let level = level.into();
    for pfn in Kernel::pfns() {
        let what = xen.kernel.use_of(pfn);
        expect(machine(pfn), !level.is_some_and(|level| what.droppable(level)), &format!("dom0's {pfn:#x}, {what:?}"));
    }
    for n in 0..(GUESTS.1 - GUESTS.0) / PAGE {
        expect(GUESTS.0 / PAGE + n, guest(frame(n)), &format!("{:?}", frame(n)));
    }
    for mfn in XEN.0 / PAGE..XEN.1 / PAGE {
        expect(mfn, true, "Xen's own");
    }
}

#[test]
fn case_29_every_level_with_and_without_guests_in_all_layouts() {
    for states in [States::Old, States::New, States::Scrub] {
        let xen = xen(states);
        let case = Case::new(&xen.core());
        for level in [0u8, 1, 8, 16, 31] {
            let (dump, said) = case.save(&["-d", &level.to_string()], 0);
            assert_eq!((dump.status, dump.level), (0, i32::from(level)));
            assert!(
                said.contains("changeset a1b2c3, compiled a1b2c3, not tainted, control registers of 2 CPUs"),
                "{said}"
            );
            check(&dump, &xen, &format!("{states:?} level {level}"), level, |_| true);
            let (dump, said) = case.save(&["-X", "-d", &level.to_string()], 0);
            check(&dump, &xen, &format!("{states:?} level {level} -X"), level, |f| !goes(f));
            assert!(said.contains("of guests 512"), "{said}");
        }
    }
}

#[test]
fn case_29_the_note_and_header_are_carried_over() {
    let mut xen = xen(States::New);
    xen.tainted = 0b1_0001;
    let (dump, said) = Case::new(&xen.core()).save(&["-d1"], 0);
    assert!(said.contains("Xen 4.17.7, ") && said.contains("tainted IC (0x11)"), "{said}");
    let bytes = dump.bytes();
    let [note_at, note_len, info_at, info_len] = dump.notes().map(|n| n as usize);
    assert_eq!(bytes[note_at..note_at + note_len], xen.core().notes);
    assert_eq!(&bytes[info_at..info_at + info_len], xen.kernel.info.as_bytes(), "dom0's, not Xen's");
    assert_eq!((bytes[460], dump.max_mapnr), (2, XEN.1 / PAGE));
    assert!(bytes[142..].starts_with(b"6.1.0-synthetic\0"), "dom0's release");
}

#[test]
fn case_29_a_dom0_without_vmcoreinfo_is_saved_whole_and_the_reason_said() {
    let mut xen = xen(States::New);
    xen.with_dom0 = false;
    let case = Case::new(&xen.core());
    let (dump, said) = case.save(&["-d31"], 8);
    assert!(said.contains("no VMCOREINFO note of dom0's Linux"), "{said}");
    check(&dump, &xen, "plain", None, |_| true);
    // Guests can be told all the same.
    let (dump, _) = case.save(&["-d31", "-X"], 8);
    check(&dump, &xen, "plain -X", None, |f| !goes(f));
    case.save(&["-d1", "-X"], 0);
}

#[test]
fn case_29_the_log_of_dom0_is_read_through_its_p2m_list() {
    let mut kernel = Kernel::new(V6_12, 4);
    let records: Vec<Record> = (0..12).map(|i| Record::new(i * 1_000_000, &format!("dom0 says {i}"))).collect();
    support::log::ring(&mut kernel, RingShape::default(), &records);
    let mut xen = Xen::new(kernel, States::New, 20, ".0");
    let out = Case::new(&xen.core()).run(&["--dump-dmesg"], None);
    let text = String::from_utf8_lossy(&out.stdout);
    let error = String::from_utf8_lossy(&out.stderr);
    assert!(out.status.success() && text.trim_end().ends_with("dom0 says 11"), "{text}{error}");
    for root in [0, 1 << 50, XEN.1 / PAGE] {
        xen.frame_list_list = root;
        let case = Case::new(&xen.core());
        assert_ne!(case.run(&["--dump-dmesg"], None).status.code(), Some(0), "{root:#x}");
        let (dump, said) = case.save(&["-d31"], 8);
        assert!(said.contains("dom0_pfn_to_mfn_frame_list_list"), "{root:#x}: {said}");
        check(&dump, &xen, "no p2m list", None, |_| true);
    }
}

#[test]
fn case_29_what_cannot_be_proven_a_guests_is_kept_and_said() {
    type Change = fn(&mut Xen);
    let cases: [(&str, Change, &str); 7] = [
        ("no owner's offset", |x| x.info = x.info.replace("OFFSET(page_info._domain)=24\n", ""), "page_info._domain"),
        ("frame table elsewhere", |x| x.set_image(0x8008, 0x1234), "the frame table lacks"),
        ("frames are compressed", |x| x.set_image(0x8008, 0xffff_82e0_0000_0000 + 0x60_0000), "compress"),
        ("owners are not where they should be", |x| x.info = x.info.replace("_domain)=24", "_domain)=16"), "owner"),
        ("the domains go round", |x| x.link_guest(0xffff_8300_3080_0000), "hold dom0 once"),
        ("a domain is nowhere", |x| x.link_guest(0xdead_beef_0000), "list of domains"),
        ("a domain outside the heap", |x| x.link_outside_the_heap(), "not in Xen's heap"),
    ];
    for (name, change, reason) in cases {
        let mut xen = xen(States::New);
        change(&mut xen);
        let (dump, said) = Case::new(&xen.core()).save(&["-X"], 8);
        assert!(said.contains("guests' memory is kept") && said.contains(reason), "{name}: {said}");
        check(&dump, &xen, name, 0, |_| true);
    }
}

#[test]
fn case_29_compressed_frame_numbers_keep_every_page_of_every_guest() {
    // Far above all other memory lie 512 frames of a guest. Xen counts without the hole: their entries of the frame
    // table are right behind the others.
    let mut xen = xen(States::Scrub);
    let (high, guest) = ((1u64 << 34) / PAGE, (XEN.0 + 0x80_0000) / PAGE + 1);
    for n in 0..512 {
        xen.set_frame(XEN.1 / PAGE + n, 1 << 63 | 1, guest);
    }
    let mut core = xen.core();
    core.loads.push((high * PAGE, (high + 512) * PAGE, 0));
    for n in 0..512 {
        core.memory.write((high + n) * PAGE, &(n | 1 << 50).to_le_bytes());
    }
    let case = Case::new(&core);
    for (level, droppable) in [("0", 0), ("31", 31)] {
        let (dump, said) = case.save(&["-X", "-d", level], 8);
        assert!(said.contains("guests' memory is kept") && said.contains("compress"), "{said}");
        check(&dump, &xen, "compressed", droppable, |_| true);
        let kept = dump.kept();
        for n in 0..512 {
            let index = kept.len() - 512 + n as usize;
            assert!(dump.by_index(index, high + n) == Page::Data(core.memory.page(high + n)), "{n}");
        }
    }
}

#[test]
fn case_29_page_states_that_do_not_fit_the_version_free_nothing_but_guests() {
    // A 4.17 whose frames look like a 4.14's.
    let xen = Xen::new(Kernel::new(V6_1, 4), States::Old, 17, ".7");
    let (dump, said) = Case::new(&xen.core()).save(&["-X"], 8);
    assert!(said.contains("does not fit the version; free frames are kept"), "{said}");
    check(&dump, &xen, "misfit", 0, |f| f != Frame::Guest && f != Frame::Dirty);
    // A 4.14 that a distribution patched: the frames tell.
    let xen = Xen::new(Kernel::new(V6_1, 4), States::New, 14, ".3");
    let (dump, _) = Case::new(&xen.core()).save(&["-X"], 0);
    check(&dump, &xen, "patched", 0, |f| !goes(f));
}

/// Found by fuzzing: the saver looked at each page frame of the hole below.
#[test]
fn memory_that_a_header_puts_terabytes_away_is_saved_at_once() {
    let case = Case::new(&xen(States::New).core());
    let mut core = std::fs::read(case.path("core")).expect("read");
    // The first segment's physical address, its sixth byte: 16 TiB.
    core[64 + 56 + 24 + 5] = 0x10;
    std::fs::write(case.path("core"), core).expect("written");
    let out = case.run(&["-d31", "-X", "--dry-run"], Some(&case.path("dump")));
    let said = String::from_utf8_lossy(&out.stderr).into_owned();
    assert_eq!(out.status.code(), Some(8), "{said}");
    assert!(said.contains("level 31 fell to 1") && said.contains("16128 pages: kept 42"), "{said}");
}

#[test]
fn without_a_xen_the_option_changes_nothing() {
    let kernel = Kernel::new(V6_1, 4);
    let case = Case::new(&kernel.core());
    let (plain, _) = case.save(&["-d31"], 0);
    let kept = plain.kept();
    let (dump, said) = case.save(&["-d31", "-X"], 0);
    assert_eq!(dump.kept(), kept);
    assert!(said.contains("there was no Xen"), "{said}");
    let out = case.run(&["--dump-xen-console"], None);
    assert_eq!(out.status.code(), Some(3), "{}", String::from_utf8_lossy(&out.stderr));
}

#[test]
fn case_29_the_console_ring_comes_out_oldest_line_first() {
    let lines = |n: u64| (0..n).map(|i| format!("(XEN) line {i} of the hypervisor\n")).collect::<String>();
    for n in [3, 400, 2000] {
        let mut xen = xen(States::New);
        let all = lines(n);
        xen.print(&all);
        let case = Case::new(&xen.core());
        let out = case.run(&["--dump-xen-console"], None);
        let text = String::from_utf8_lossy(&out.stdout).into_owned();
        let want = &all[all.len().saturating_sub(RING as usize)..];
        assert_eq!((out.status.code(), text.as_str()), (Some(0), want), "{n} lines");
        let file = case.path("xen-console.txt");
        assert!(case.run(&["--dump-xen-console"], Some(&file)).status.success());
        assert_eq!(std::fs::read_to_string(file).expect("written"), want);
    }
    let out = Case::new(&xen(States::New).core()).run(&["--dump-xen-console"], None);
    assert_eq!(out.status.code(), Some(3), "an empty ring is none");
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 12, ..ProptestConfig::default() })]

    #[test]
    fn notes_and_structures_of_any_bytes_do_no_harm(
        notes in proptest::collection::vec((0usize..6000, any::<u8>()), 0..6),
        words in proptest::collection::vec((0u64..0x1_0000, any::<u64>()), 0..30),
        lists in proptest::collection::vec((0u64..0x3000, any::<u64>()), 0..4),
    ) {
        let mut xen = xen(States::New);
        xen.print("(XEN) a line\n");
        for (at, word) in words {
            xen.set_image(at & !7, word);
        }
        for (at, word) in lists {
            xen.set_image(0x180_0000 + (at & !7), word);
        }
        let mut core = xen.core();
        for (at, byte) in notes {
            if let Some(b) = core.notes.get_mut(at) {
                *b = byte;
            }
        }
        let case = Case::new(&core);
        let code = case.run(&["-d31", "-X", "-f"], Some(&case.path("dump"))).status.code();
        prop_assert!(matches!(code, Some(0 | 8 | 9)), "{code:?}");
        for option in ["--dump-xen-console", "--dump-dmesg"] {
            let code = case.run(&[option], None).status.code();
            prop_assert!(matches!(code, Some(0 | 3 | 4)), "{option}: {code:?}");
        }
    }
}
