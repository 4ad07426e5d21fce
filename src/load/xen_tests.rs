//! The hypercalls as Xen sees them, on a model of its slots and its toggle bit.

use std::cell::RefCell;
use std::rc::Rc;

use super::*;

/// What was asked: command, argument, array behind it, data behind that.
type Asked = (u64, Vec<u8>, Vec<u8>, Vec<Vec<u8>>);

/// `kexec_swap_images` and `kexec_status` of Xen, per type: two slots and a bit.
#[derive(Default)]
struct Model {
    asked: Vec<Asked>,
    slots: [[bool; 2]; 2],
    bits: [usize; 2],
    cpus: Vec<Result<(u64, u64), Errno>>,
    crash: (u64, u64),
    fail: Option<(u64, Errno)>,
}

#[derive(Clone, Default)]
struct Recorder(Rc<RefCell<Model>>);

impl Model {
    fn swap(&mut self, kind: usize, new: bool) {
        let old = self.bits[kind];
        self.slots[kind][1 - old] |= new;
        self.slots[kind][old] = false;
        self.bits[kind] = 1 - old;
    }

    /// What `KEXEC_CMD_kexec` would find.
    fn holds(&self, slot: Slot) -> bool {
        let kind = usize::from(kind(slot));
        self.slots[kind][self.bits[kind]]
    }
}

impl Hypercall for Recorder {
    fn call(&self, op: u64, cmd: u64, argument: &mut [u8], behind: Option<Behind<'_>>) -> Result<u64, Errno> {
        let mut model = self.0.borrow_mut();
        let given = argument.to_vec();
        let (array, data) = match &behind {
            Some(b) => (b.array.to_vec(), b.data.iter().map(|(at, bytes)| [&[*at as u8], *bytes].concat()).collect()),
            None => (Vec::new(), Vec::new()),
        };
        model.asked.push((cmd, given, array, data));
        if let Some((_, errno)) = model.fail.filter(|(failing, _)| *failing == cmd) {
            return Err(errno);
        }
        let kind = usize::from(argument[0]);
        match (op, cmd) {
            (12, 10) => {
                let entries: [(u64, u64, u32); 4] =
                    [(0, 0x9_fc00, 1), (0xf_0000, 0x1_0000, 2), (0x10_0000, 0x3ff0_0000, 1), (0x4000_0000, 0x1000, 3)];
                let bytes: Vec<u8> = entries
                    .iter()
                    .flat_map(|(a, s, t)| [&a.to_le_bytes()[..], &s.to_le_bytes(), &t.to_le_bytes()].concat())
                    .collect();
                behind.expect("an array").array[..bytes.len()].copy_from_slice(&bytes);
                argument[0] = 4;
                argument[1] = 0;
            }
            (37, 3) => {
                let nr = usize::from(argument[4]) | usize::from(argument[5]) << 8;
                let (start, size) = match kind {
                    0 => model.crash,
                    2 => *model.cpus.get(nr).unwrap_or(&Err(Errno::RANGE)).as_ref().map_err(|e| *e)?,
                    6 => (0x5fd7_c540, 0x1000),
                    _ => return Err(Errno::INVAL),
                };
                argument[8..16].copy_from_slice(&size.to_le_bytes());
                argument[16..24].copy_from_slice(&start.to_le_bytes());
            }
            (37, 4) => model.swap(kind, true),
            (37, 5) => model.swap(kind, false),
            (37, 6) => return Ok(model.bits[kind] as u64),
            (37, 0) if !model.holds(Slot::Next) => return Err(Errno::NOENT),
            (37, 0) => {}
            _ => return Err(Errno::OPNOTSUPP),
        }
        Ok(0)
    }
}

fn xen(host: &Host) -> (Xen, Recorder) {
    let recorder = Recorder::default();
    recorder.0.borrow_mut().crash = (0x2e5e_1000, 0xc00_0000);
    (Xen::on(host, Box::new(recorder.clone())), recorder)
}

fn nowhere() -> Host {
    Host::new("/nonexistent")
}

fn segment(name: &'static str, start: u64, end: u64, data: &[u8]) -> Segment {
    Segment { name, data: data.to_vec().into(), range: Range::new(start, end).expect("ordered") }
}

fn image() -> Image {
    let segments =
        vec![segment("kernel", 0x20_0000, 0x40_0000, b"kernel"), segment("purgatory", 0x40_0000, 0x40_3000, b"check")];
    Image { entry: 0x40_0010, segments, ..Image::default() }
}

fn commands(recorder: &Recorder) -> Vec<u64> {
    recorder.0.borrow().asked.iter().map(|a| a.0).collect()
}

#[test]
fn every_byte_of_a_load() {
    let (mut xen, recorder) = xen(&nowhere());
    xen.load(Slot::Crash, &image()).expect("loaded");
    assert_eq!(commands(&recorder), [6, 4], "status first, no unload where it is 0");
    let (_, argument, array, data) = recorder.0.borrow().asked[1].clone();
    let mut expected = vec![1, 0, 62, 0, 3, 0, 0, 0];
    expected.extend(0u64.to_le_bytes());
    expected.extend(0x40_0010u64.to_le_bytes());
    assert_eq!(argument, expected);
    let words: Vec<u64> = array.chunks(8).map(|w| u64::from_le_bytes(w.try_into().expect("eight"))).collect();
    let expected = [[0, 0, 0, 0x10_0000], [0, 6, 0x20_0000, 0x20_0000], [0, 5, 0x40_0000, 0x3000]];
    assert_eq!(words, expected.concat());
    assert_eq!(data, [b"\x20kernel".to_vec(), b"\x40check".to_vec()], "addresses go to the handles of these two");
}

#[test]
fn status_is_true_after_whatever_happened() {
    // l, u: ours; L, U: another tool's, which never asks.
    for history in
        ["l", "ll", "lll", "lu", "lul", "u", "uu", "ul", "LLl", "LLu", "Ul", "Uu", "ULl", "lLl", "lUu", "lUl", "LuLLul"]
    {
        for slot in [Slot::Next, Slot::Crash] {
            let (mut xen, recorder) = xen(&nowhere());
            for step in history.chars() {
                match step {
                    'l' => xen.load(slot, &image()).expect("loaded"),
                    'u' => xen.unload(slot).expect("unloaded"),
                    other => recorder.0.borrow_mut().swap(usize::from(kind(slot)), other == 'L'),
                }
            }
            let expected = history.ends_with('l');
            assert_eq!(recorder.0.borrow().holds(slot), expected, "{history}");
            assert_eq!(xen.loaded(slot).expect("told"), Some(expected), "{history}");
            let other = if slot == Slot::Next { Slot::Crash } else { Slot::Next };
            assert!(!recorder.0.borrow().holds(other), "{history}");
        }
    }
}

#[test]
fn a_reload_unloads_once_and_only_where_something_is() {
    let (mut xen, recorder) = xen(&nowhere());
    xen.load(Slot::Next, &image()).expect("loaded");
    xen.load(Slot::Next, &image()).expect("loaded again");
    assert_eq!(commands(&recorder), [6, 4, 6, 5, 4]);
}

#[test]
fn a_xen_that_tells_no_status_is_loaded_all_the_same() {
    let (mut xen, recorder) = xen(&nowhere());
    recorder.0.borrow_mut().fail = Some((6, Errno::OPNOTSUPP));
    xen.load(Slot::Next, &image()).expect("loaded");
    xen.unload(Slot::Next).expect("unloaded");
    assert_eq!(commands(&recorder), [6, 4, 6, 5]);
    assert_eq!(xen.loaded(Slot::Next).expect("not told"), None);
    assert_eq!(xen.exec().expect_err("nothing there").kind(), Kind::NotLoaded);
    assert_eq!(recorder.0.borrow().asked.last().expect("asked").1, [0, 0, 0, 0]);
}

#[test]
fn a_crash_kernels_machine_is_xens() {
    let dir = tempfile::tempdir().expect("a directory");
    std::fs::create_dir_all(dir.path().join("sys/kernel")).expect("made");
    std::fs::write(dir.path().join("sys/kernel/vmcoreinfo"), "24df4000 1024\n").expect("written");
    let (xen, recorder) = xen(&Host::new(dir.path()));
    recorder.0.borrow_mut().cpus =
        vec![Ok((0x5fda_c700, 0x1f4)), Err(Errno::INVAL), Ok((0, 0)), Ok((0x5fdb_f080, 0x194))];
    let machine = xen.machine(Slot::Crash).expect("read");
    let notes: Vec<(u64, u64)> = machine.cpu_notes.iter().map(|n| (n.cpu, n.range.start())).collect();
    assert_eq!(notes, [(0, 0x5fda_c700), (3, 0x5fdb_f080)], "holes lose nobody");
    assert_eq!(machine.xen_vmcoreinfo.map(|r| r.start()), Some(0x5fd7_c540));
    assert_eq!(machine.vmcoreinfo.map(|r| (r.start(), r.len())), Some((0x24df_4000, 0x1024)));
    assert_eq!(machine.crash_area().map(|r| r.to_string()).as_deref(), Some("0x2e5e1000-0x3a5e1000"));
    let map: Vec<String> = machine.map.iter().map(|(r, t)| format!("{r} {t}")).collect();
    let expected =
        ["0x0-0x9fc00 RAM", "0xf0000-0x100000 reserved", "0x100000-0x40000000 RAM", "0x40000000-0x40001000 ACPI"];
    assert_eq!(map, expected);
    assert!(!machine.upwards && machine.efi.is_none());
}

#[test]
fn where_acpi_is_comes_from_whoever_knows() {
    let dir = tempfile::tempdir().expect("a directory");
    let (xen, _) = xen(&Host::new(dir.path()));
    let write = |name: &str, text: &str| {
        let path = dir.path().join(name);
        std::fs::create_dir_all(path.parent().expect("has a parent")).expect("made");
        std::fs::write(path, text).expect("written");
    };
    let found = || xen.machine(Slot::Next).map(|m| (m.rsdp(), m.bios)).expect("read");
    assert_eq!(found(), (None, true), "a BIOS: Xen looks for itself");
    write("proc/cmdline", "root=/dev/vda1 acpi_rsdp=0x3f77e014 ro\n");
    assert_eq!(found(), (Some(0x3f77_e014), false), "as dom0 was told by a kexec before");
    write("sys/firmware/efi/systab", "ACPI20=0x3f99e014\nACPI=0x3f99e000\n");
    assert_eq!(found(), (Some(0x3f99_e014), false));
}

#[test]
fn without_a_reservation_xens_command_line_is_named() {
    let (xen, recorder) = xen(&nowhere());
    recorder.0.borrow_mut().crash = (0, 0);
    let e = xen.machine(Slot::Crash).expect_err("refused");
    assert_eq!((e.kind(), e.to_string().contains("Xen's own command line")), (Kind::NoReservation, true));
    let machine = xen.machine(Slot::Next).expect("a next kernel needs none");
    assert!(inside_crash_area(&machine).is_none() && machine.upwards);
    assert!(unsafe_place(&machine).contains("crashkernel=SIZE"));
}

#[test]
fn the_reserved_area_is_all_a_next_kernel_gets() {
    let (xen, _) = xen(&nowhere());
    let machine = xen.machine(Slot::Next).expect("read");
    let inside = inside_crash_area(&machine).expect("there is one");
    assert_eq!(inside.system_ram.iter().map(|r| r.to_string()).collect::<Vec<_>>(), ["0x2e5e1000-0x3a5e1000"]);
    assert!(inside.crash.is_empty() && inside.map == machine.map);
    assert!(unsafe_place(&machine).contains("does not fit the 192 MiB"));
}

#[test]
fn each_errno_has_its_cause() {
    for (cmd, errno, text) in [
        (6, Errno::NOSYS, "built without kexec"),
        (6, Errno::PERM, "XSM"),
        (4, Errno::NOMEM, "enough free memory"),
        (4, Errno::ADDRNOTAVAIL, "outside the memory"),
        (4, Errno::BUSY, "just now"),
        (4, Errno::OPNOTSUPP, "older than 4.4"),
        (4, Errno::INVAL, "Invalid argument"),
    ] {
        let (mut xen, recorder) = xen(&nowhere());
        recorder.0.borrow_mut().fail = Some((cmd, errno));
        let e = xen.load(Slot::Next, &image()).expect_err("refused");
        assert!(e.to_string().contains(text), "{e} lacks {text}");
        assert_eq!(e.kind(), Kind::System, "{e}");
    }
}

#[test]
fn without_a_device_its_module_is_named() {
    let dir = tempfile::tempdir().expect("a directory");
    let e = Xen::open(&Host::new(dir.path())).err().expect("refused");
    assert!(e.to_string().contains("modprobe xen-privcmd"), "{e}");
}

#[test]
fn low_memory_is_mapped_around_what_lies_there() {
    let mut image = image();
    image.segments.push(segment("bios data", 0, 0x1000, b"bda"));
    image.segments.push(segment("ebda", 0x9_7000, 0x9_8000, b"e"));
    image.segments.push(segment("backup", 0x50_0000, 0x5a_0000, b""));
    image.segments.push(segment("bss", 0x60_0000, 0x60_1000, b""));
    let all: Vec<String> =
        segments(&image).expect("few").iter().map(|s| format!("{} {} {}", s.name, s.range, s.data.len())).collect();
    let expected = [
        "bios data 0x0-0x1000 3",
        "mapped 0x1000-0x97000 0",
        "ebda 0x97000-0x98000 1",
        "mapped 0x98000-0x100000 0",
        "kernel 0x200000-0x400000 6",
        "purgatory 0x400000-0x403000 5",
        "backup 0x500000-0x5a0000 0",
        "bss 0x600000-0x601000 1",
    ];
    assert_eq!(all, expected);
}

#[test]
fn neighbours_are_joined_where_there_are_too_many() {
    let page = |i: u64| segment("module", 0x100_0000 + i * 0x1000, 0x100_1000 + i * 0x1000, &[i as u8 + 1; 3]);
    let mut image = image();
    image.segments.extend((0..13).map(page));
    let all = segments(&image).expect("joined");
    assert_eq!(all.len(), XEN_SEGMENTS);
    let joined = all.iter().find(|s| s.range.start() == 0x100_0000).expect("there");
    assert_eq!((joined.range.len(), joined.data.len()), (0x2000, 0x1003));
    assert_eq!((joined.data[2], joined.data[3], joined.data[0x1000]), (1, 0, 2));
    image.segments =
        (0..16).map(|i| segment("apart", 0x100_0000 + i * 0x2000, 0x100_1000 + i * 0x2000, b"x")).collect();
    assert!(segments(&image).expect_err("refused").to_string().contains("17 segments"));
}
