//! Kernel files of every kind, good and broken, read by `image::sniff`; the files are written by the tests' own writers.
//!
//! `case_NN` and `trap_x` are the acceptance cases and upstream's traps of the reference for `kexec`.

#[path = "support/bzimage.rs"]
#[allow(dead_code, reason = "each test target uses its part")]
mod bzimage;
#[path = "support/elf.rs"]
mod elf;
#[path = "support/multiboot.rs"]
mod multiboot;
#[path = "support/uki.rs"]
mod uki;

use bzimage::BzImage;
use elf::{ElfFile, Load};
use kdumpbox::error::Kind;
use kdumpbox::image::elf::Machine;
use kdumpbox::image::multiboot::{Multiboot, Relocatable, Version};
use kdumpbox::image::{self, Kernel, Sniffed, Type};
use multiboot::{header_1, header_2, tag, xen_2};
use proptest::prelude::*;

fn read(file: &[u8]) -> Sniffed {
    image::sniff(file.to_vec(), None).unwrap_or_else(|e| panic!("{e}"))
}

fn refused(file: &[u8], wanted: Option<Type>) -> String {
    let error = image::sniff(file.to_vec(), wanted).expect_err("refused");
    assert_eq!((error.kind(), error.kind().kexec_code()), (Kind::Invalid, 255), "{error}");
    error.to_string()
}

fn poke(file: &[u8], at: usize, bytes: &[u8]) -> Vec<u8> {
    let mut file = file.to_vec();
    file[at..at + bytes.len()].copy_from_slice(bytes);
    file
}

fn gzip(data: &[u8]) -> Vec<u8> {
    let mut file = vec![0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 255];
    file.extend(miniz_oxide::deflate::compress_to_vec(data, 6));
    file.extend(libdeflater::crc32(data).to_le_bytes());
    file.extend((data.len() as u32).to_le_bytes());
    file
}

/// A program of two loads, the upper one first in the file, with a banner if it is to be a Linux.
fn program(text: &[u8]) -> ElfFile {
    ElfFile::default().load(Load::at(0x100_0000, 0x5000, &[0x90; 0x1000])).load(Load {
        vaddr: 0xffff_ffff_8000_0000,
        paddr: 0x20_0000,
        memsz: 0x2000,
        data: text.to_vec(),
    })
}

fn vmlinux() -> Vec<u8> {
    program(b"Linux version 6.1.0-9-amd64 (builder@example) #1 SMP").write()
}

/// Xen's file in small: ELF32, the headers of both versions.
fn xen() -> ElfFile {
    let mut text = vec![0x90; 0x18];
    text.extend(header_1(3, &[]));
    text.resize(text.len().next_multiple_of(8), 0xc2);
    // Of 32-bit headers with one load the text begins at 84.
    text.extend([0xc2; 4]);
    text.extend(xen_2());
    ElfFile::i386().load(Load::at(0x20_0000, 0x60_0000, &text))
}

fn elf_of(file: &[u8]) -> image::Elf {
    match read(file).kernel {
        Kernel::Elf(elf) => *elf,
        other => panic!("{}", other.describe()),
    }
}

fn multiboot_of(file: &[u8]) -> Multiboot {
    match read(file).kernel {
        Kernel::Multiboot(kernel) => *kernel,
        other => panic!("{}", other.describe()),
    }
}

#[test]
fn an_elf_program_is_read_in_the_order_of_its_addresses() {
    let elf = elf_of(&program(b"any").write());
    let loads: Vec<_> = elf.loads.iter().map(|l| (l.phys, l.virt, l.len, l.data.len())).collect();
    assert_eq!(loads, [(0x20_0000, 0xffff_ffff_8000_0000, 0x2000, 3), (0x100_0000, 0x100_0000, 0x5000, 0x1000)]);
    assert_eq!((elf.entry, elf.machine, elf.is_linux()), (0x100_0000, Machine::X86_64, false));
    assert_eq!((elf.extent().start(), elf.extent().end()), (0x20_0000, 0x100_5000));
    let elf = elf_of(&ElfFile::i386().load(Load::at(0x10_0000, 0x1000, b"code")).write());
    assert_eq!((elf.entry, elf.machine), (0x10_0000, Machine::I386));
}

#[test]
fn an_entry_point_becomes_physical() {
    for (entry, physical) in [
        (0x20_0010, 0x20_0010),             // in a load's physical memory already
        (0xffff_ffff_8000_0010, 0x20_0010), // in its virtual memory
        (0x100_4fff, 0x100_4fff),           // in what is zeroed
    ] {
        let elf = elf_of(&ElfFile { entry, ..program(b"any") }.write());
        assert_eq!(elf.entry, physical, "{entry:#x}");
    }
    let outside = refused(&ElfFile { entry: 0x100_5000, ..program(b"any") }.write(), None);
    assert!(outside.contains("entry point 0x1005000 lies in none of its 2 loads"), "{outside}");
}

#[test]
fn loads_without_memory_or_without_bytes_are_no_trouble() {
    // Old kernels link per-CPU data at virtual address 0: the entry point is not taken to be in there.
    let percpu = Load { vaddr: 0, paddr: 0x300_0000, memsz: 0x200_0000, data: b"percpu".to_vec() };
    let elf = elf_of(
        &program(b"any").load(percpu).load(Load::at(0x100_0000, 0, b"")).load(Load::at(0x600_0000, 1, b"")).write(),
    );
    assert_eq!((elf.entry, elf.loads.len(), elf.loads[3].data.len()), (0x100_0000, 4, 0));
    // Nothing is read for a load without bytes, so its offset may be anything.
    let nowhere = ElfFile::default().load(Load::at(0x10_0000, 0x1000, b""));
    elf_of(&poke(&nowhere.write(), nowhere.phdr(0) + 8, &[0xff; 8]));
}

#[test]
fn broken_elf_files_name_the_value_and_the_rule() {
    let good = program(b"any");
    let (file, phdr) = (good.write(), good.phdr(0));
    let two = |paddr, memsz| program(b"any").load(Load { vaddr: 0, paddr, memsz, data: Vec::new() }).write();
    for (file, text) in [
        (poke(&file, 5, &[2]), "data encoding 2 is not little-endian"),
        (poke(&file, 4, &[1]), "class 1 for machine 62 cannot be loaded"),
        (poke(&file, 18, &[183]), "class 2 for machine 183 cannot be loaded"),
        (poke(&file, 16, &[1]), "an object file (ET_REL, a kernel module perhaps), e_type 1"),
        (poke(&file, 16, &[4]), "a core dump (ET_CORE), e_type 4"),
        (poke(&file, 16, &[9]), "of an unknown type, e_type 9"),
        (poke(&file, 54, &[55]), "headers of 55 bytes (e_phentsize) are not 56 bytes"),
        (poke(&file, 56, &[0xff, 0xff]), "65535 or more program headers"),
        (poke(&file, 56, &[0, 0]), "nothing to load"),
        (poke(&file, 32, &[0xff; 8]), "2 program headers at 0xffffffffffffffff (e_phoff) end behind its 0x10b3 bytes"),
        (poke(&file, 32, &[0x50, 0x10]), "(e_phoff) end behind its 0x10b3 bytes; copy it again"),
        (
            poke(&file, phdr + 40, &[0xff, 0x0f]),
            "load 0 has more bytes in the file (0x1000, p_filesz) than in memory (0xfff",
        ),
        (poke(&file, phdr + 8, &[0xff; 8]), "load 0 takes 0x1000 bytes from 0xffffffffffffffff, the file has 0x10b3"),
        (file[..file.len() - 1].to_vec(), "is truncated: load 1 takes 0x3 bytes from 0x10b0, the file has 0x10b2"),
        (
            poke(&file, phdr + 24, &[0xff; 8]),
            "load 0, 0x5000 bytes at 0xffffffffffffffff (p_paddr), ends behind the last",
        ),
        (two(0x100_4000, 0x100), "loads 0x1000000-0x1005000 and 0x1004000-0x1004100 overlap"),
        (two(0x100_0000, 0x5000), "overlap in physical memory"),
        (two(0xff_ffff, 2), "loads 0xffffff-0x1000001 and 0x1000000-0x1005000 overlap"),
        (file[..50].to_vec(), "ELF header is truncated"),
        (b"\x7fELF".to_vec(), "ELF header is truncated"),
    ] {
        let e = refused(&file, None);
        assert!(e.contains(text), "{e} lacks {text}");
    }
    let above = ElfFile::i386().load(Load::at(0xffff_f000, 0x1001, b"")).write();
    assert!(refused(&above, None).contains("0x1001 bytes at 0xfffff000 (p_paddr), ends behind the last address"));
}

#[test]
fn a_linux_is_told_by_its_banner_with_a_number() {
    assert!(elf_of(&vmlinux()).is_linux());
    for text in [&b"Linux version %s"[..], b"needs a Linux version ", b"linux version 6"] {
        assert!(!elf_of(&program(text).write()).is_linux());
    }
}

#[test]
fn xen_is_multiboot2_may_be_moved_and_wants_a_screen() {
    for file in [xen().write(), gzip(&xen().write())] {
        let kernel = multiboot_of(&file);
        assert_eq!((kernel.version, kernel.entry, kernel.wants_framebuffer), (Version::Two, 0x20_0000, true));
        assert_eq!(kernel.relocatable, Some(Relocatable { min: 0x20_0000, end: 1 << 32, align: 0x20_0000 }));
        assert_eq!(kernel.loads.iter().map(|l| (l.phys, l.len)).collect::<Vec<_>>(), [(0x20_0000, 0x60_0000)]);
    }
    let as_1 = image::sniff(xen().write(), Some(Type::Multiboot)).expect("version 1");
    let Kernel::Multiboot(kernel) = as_1.kernel else { panic!("{}", as_1.kernel.describe()) };
    assert_eq!((kernel.version, kernel.relocatable, kernel.wants_framebuffer), (Version::One, None, false));
}

/// An ELF32 program with `header` on 8 bytes in front of its code.
fn with_header(header: &[u8]) -> Vec<u8> {
    let mut file = ElfFile::i386().load(Load::at(0x10_0000, 0x1000, b"code"));
    file.front = vec![0; 4];
    file.front.extend(header);
    file.write()
}

#[test]
fn multiboot_headers_and_what_they_ask_for() {
    for (header, version, screen) in [
        (header_1(0, &[]), Version::One, false),
        (header_1(7, &[]), Version::One, true),
        (header_1(0x00f2_0003, &[]), Version::One, false), // upper bits but 16 say nothing
        (header_2(&[]), Version::Two, false),
        (header_2(&[tag(1, 0, &[1, 3, 6, 8, 14, 15, 21])]), Version::Two, false),
        (header_2(&[tag(1, 1, &[99]), tag(77, 1, &[1, 2, 3])]), Version::Two, false), // optional
        (header_2(&[tag(5, 0, &[1024, 768, 32]), tag(4, 0, &[3]), tag(8, 0, &[0])]), Version::Two, true),
    ] {
        let kernel = multiboot_of(&with_header(&header));
        assert_eq!((kernel.version, kernel.wants_framebuffer, kernel.entry), (version, screen, 0x10_0000));
    }
    let entry = multiboot_of(&with_header(&header_2(&[tag(3, 0, &[0x10_0010])])));
    assert_eq!(entry.entry, 0x10_0010);
    let tiny = multiboot_of(&with_header(&header_2(&[tag(10, 0, &[0, 0x7fff_ffff, 0, 0])])));
    assert_eq!(tiny.relocatable, Some(Relocatable { min: 0, end: 1 << 31, align: 4096 }));
}

#[test]
fn unusable_multiboot_headers_name_the_wish() {
    let good = header_2(&[tag(6, 0, &[])]);
    for (header, text) in [
        (header_1(0x13, &[]), "it requires features 0x10 (flags 0x13) that are not known"),
        (header_1(0x1_0000, &[1, 2, 3, 4, 5]), "addresses contradict each other"),
        (header_2(&[tag(1, 0, &[6, 22])]), "it requires information tag 22"),
        (header_2(&[tag(11, 0, &[])]), "it requires tag 11, which is not known"),
        (header_2(&[tag(3, 0, &[])]), "its tag 3 is too short, 0x8 bytes"),
        (header_2(&[tag(3, 0, &[0x9_0000])]), "entry point 0x90000 lies outside what is loaded"),
        (header_2(&[tag(10, 1, &[0, 0xffff_ffff, 0x3000, 0])]), "aligned to 0x3000"),
        (header_2(&[tag(10, 1, &[0x20_0000, 0x10_0000, 0x1000, 0])]), "asks for 0x200000 to 0x100000"),
        (header_2(&[tag(2, 0, &[0x10_0058, 0x10_0000, 0, 0])]), "it has addresses but no entry point"),
        (poke(&good, 20, &[7]), "its tag 6 has the size 0x7"),
        (poke(&good, 20, &[0xff; 4]), "its tag 6 has the size 0xffffffff, the header 0x10 more bytes"),
        // Length and checksum changed together.
        (poke(&poke(&good, 8, &[15]), 12, &[0x1b]), "its length 0xf is less than 16"),
        (poke(&poke(&good, 8, &[0, 0, 0x20, 0]), 12, &[0x2a, 0xaf, 0x8d, 0x17]), "ends behind the file's"),
        (poke(&poke(&good, 4, &[4]), 12, &[6]), "its architecture 4 is not i386"),
        (poke(&poke(&good, 8, &[28]), 12, &[0x0e]), "its last tag is cut off by its length"),
    ] {
        let e = refused(&with_header(&header), None);
        assert!(e.contains(text) && e.contains("at offset 0x58 cannot be used: "), "{e} lacks {text}");
    }
}

#[test]
fn a_multiboot2_header_that_cannot_be_used_leaves_version_1() {
    let broken = header_2(&[tag(99, 0, &[])]);
    let kernel = multiboot_of(&with_header(&[broken.clone(), header_1(3, &[])].concat()));
    assert_eq!(kernel.version, Version::One);
    let both_broken = refused(&with_header(&[broken, header_1(0x100, &[])].concat()), None);
    assert!(both_broken.contains("multiboot2 header") && both_broken.contains("requires tag 99"), "{both_broken}");
}

#[test]
fn headers_outside_the_searched_bytes_or_steps_are_none() {
    for (before, header, found) in [
        (8192 - 12, header_1(0, &[]), true),
        (8192 - 8, header_1(0, &[]), false),
        (4098, header_1(0, &[]), false),
        (32768 - 24, header_2(&[]), true),
        (32768, header_2(&[]), false),
        (4100, header_2(&[]), false),
        (88, poke(&header_1(0, &[]), 4, &[1]), false), // a wrong checksum
    ] {
        let mut data = vec![0; before - 84];
        data.extend(header);
        let file = ElfFile::i386().load(Load::at(0x10_0000, 0x10_0000, &data));
        let kernel = read(&file.write()).kernel;
        assert_eq!(matches!(kernel, Kernel::Multiboot(_)), found, "{before}");
    }
}

#[test]
fn a_multiboot_kernel_without_elf_goes_where_its_addresses_say() {
    // The header at offset 16; loaded from offset 8 on, so to header_addr - 8.
    let flat = |load_end: u32, bss_end: u32, entry: u32| {
        let mut file = vec![0; 16];
        file.extend(header_1(0x1_0003, &[0x10_0008, 0x10_0000, load_end, bss_end, entry]));
        file.resize(0x1008, 0x90);
        file
    };
    for (load_end, bss_end, data, len) in [
        (0, 0, 0x1000, 0x1000),
        (0x10_0800, 0, 0x800, 0x800),
        (0x10_0800, 0x10_2000, 0x800, 0x2000),
        (0, 0x10_2000, 0x1000, 0x2000),
    ] {
        let kernel = multiboot_of(&flat(load_end, bss_end, 0x10_0020));
        let load = &kernel.loads[0];
        assert_eq!((kernel.entry, load.phys, load.data.len(), load.len), (0x10_0020, 0x10_0000, data, len));
    }
    for (load_end, bss_end, entry, text) in [
        (
            0x10_1001,
            0,
            0x10_0000,
            "contradict each other or the file's 0x1008 bytes: header 0x100008, load 0x100000 to 0x101001",
        ),
        (0xf_ffff, 0, 0x10_0000, "contradict"),
        (0x10_0800, 0x10_0700, 0x10_0000, "zeroed to 0x100700"),
        (0, 0, 0x10_1000, "entry point 0x101000 lies outside"),
    ] {
        let e = refused(&flat(load_end, bss_end, entry), None);
        assert!(e.contains(text), "{e} lacks {text}");
    }
    // Version 2; all ones: from the file's first byte on.
    let mut file = header_2(&[tag(2, 0, &[0x10_0000, u32::MAX, 0, 0]), tag(3, 0, &[0x10_0000])]);
    file.resize(0x200, 0);
    let kernel = multiboot_of(&file);
    assert_eq!((kernel.version, kernel.loads[0].phys, kernel.loads[0].len), (Version::Two, 0x10_0000, 0x200));
    let lost = refused(&header_2(&[]), None);
    assert!(lost.contains("it has no addresses, and the file is no ELF executable"), "{lost}");
}

#[test]
fn the_headers_own_addresses_win_over_elf_headers_and_need_none() {
    let header = |elf: &ElfFile| {
        let mut file = elf.write();
        let at = file.len().next_multiple_of(8);
        file.resize(at, 0);
        let load = 0x20_0000;
        file.extend(header_1(1 << 16, &[load + at as u32, load, 0, 0, load]));
        file
    };
    let good = ElfFile::i386().load(Load::at(0x10_0000, 0x1000, b"code"));
    for elf in [good.clone(), ElfFile { e_type: 4, ..good }] {
        let kernel = multiboot_of(&header(&elf));
        assert_eq!((kernel.entry, kernel.loads[0].phys), (0x20_0000, 0x20_0000));
    }
}

#[test]
fn a_64_bit_elf_file_may_be_multiboot_but_not_above_4_gib() {
    let file = |paddr| {
        let mut data = header_1(0, &[]);
        data.resize(64, 0);
        ElfFile::default().load(Load { vaddr: 0xffff_8000_0000_0000, paddr, memsz: 0x1000, data }).write()
    };
    let kernel = multiboot_of(&file(0x10_0000));
    assert_eq!((kernel.version, kernel.entry), (Version::One, 0x10_0000));
    assert!(refused(&file(0x1_0000_0000), None).contains("its part 0x100000000-0x100001000 lies above 4 GiB"));
}

#[test]
fn a_linux_with_a_stray_multiboot_header_is_a_linux() {
    for header in [header_1(3, &[]), header_1(0xffff, &[]), xen_2()] {
        let mut linux = program(b"Linux version 6.1.0-9-amd64");
        linux.front = header;
        assert!(elf_of(&linux.write()).is_linux());
    }
}

#[test]
fn an_unusable_header_in_a_bzimage_does_not_matter() {
    let file = poke(&BzImage { crc: false, ..BzImage::default() }.write(), 0x1000, &header_1(0xffff, &[]));
    assert!(matches!(read(&file).kernel, Kernel::BzImage(_)));
}

#[test]
fn case_24_a_unified_kernel_image_is_its_kernel_and_what_comes_with_it() {
    let kernel = BzImage::default().write();
    let file = uki::write(&[
        (".text", b"stub"),
        (".osrel", b"ID=debian\n"),
        (".cmdline", b"root=/dev/vda  ro\nquiet\n\0\0"),
        (".uname", b"6.1.0-9-amd64\0"),
        (".initrd", b"initrd!"),
        (".ucode", b"ucode"),
        (".dtbauto", b"no tree"),
        (".linux", &kernel),
    ]);
    for (file, linux) in [(file.clone(), kernel.clone()), (gzip(&file), kernel)] {
        let found = read(&file);
        assert!(matches!(found.kernel, Kernel::BzImage(_)) && found.was_packed && *found.bytes == *linux);
        let beside = found.embedded.expect("a UKI");
        assert_eq!(beside.initrds.iter().map(|b| b.to_vec()).collect::<Vec<_>>(), [&b"ucode"[..], b"initrd!"]);
        assert_eq!(beside.command_line.as_deref(), Some("root=/dev/vda  ro quiet"));
        assert_eq!(beside.release.as_deref(), Some("6.1.0-9-amd64"));
    }
    let bare = read(&uki::write(&[(".linux", &gzip(&vmlinux()))]));
    let beside = bare.embedded.expect("a UKI");
    assert!(matches!(bare.kernel, Kernel::Elf(_)) && beside.initrds.is_empty());
    assert_eq!((beside.command_line, beside.release), (None, None));
}

#[test]
fn of_several_profiles_the_first_boots() {
    let kernel = BzImage::default().write();
    let file = uki::write(&[
        (".linux", &kernel),
        (".cmdline", b"base"),
        (".cmdline", b"a second one"),
        (".initrd", b"initrd"),
        (".profile", b"ID=main"),
        (".cmdline", b"main"),
        (".profile", b"ID=rescue"),
        (".cmdline", b"rescue"),
        (".ucode", b"not for main"),
    ]);
    let beside = read(&file).embedded.expect("a UKI");
    assert_eq!((beside.command_line.as_deref(), beside.initrds.len()), (Some("main"), 1));
    let no_profile = read(&uki::write(&[(".linux", &kernel), (".cmdline", b"base"), (".cmdline", b"more")]));
    assert_eq!(no_profile.embedded.expect("a UKI").command_line.as_deref(), Some("base"));
}

#[test]
fn the_sizes_of_a_section() {
    let kernel = BzImage::default().write();
    let file = uki::write(&[(".linux", &kernel), (".initrd", b"initrd")]);
    for (virtual_size, bytes) in [(6u32, 6), (0, 512), (513, 512), (u32::MAX, 512), (1, 1)] {
        let file = poke(&file, uki::SECTIONS + 40 + 8, &virtual_size.to_le_bytes());
        assert_eq!(read(&file).embedded.expect("a UKI").initrds[0].len(), bytes, "{virtual_size}");
    }
    // One without bytes may point anywhere.
    let empty = poke(&file, uki::SECTIONS + 40 + 16, &[0, 0, 0, 0, 0xff, 0xff, 0xff, 0xff]);
    assert!(read(&empty).embedded.expect("a UKI").initrds.is_empty());
}

#[test]
fn trap_g_broken_efi_programs_name_the_value_and_the_rule() {
    let kernel = BzImage::default().write();
    let file = uki::write(&[(".linux", &kernel), (".cmdline", b"a=1")]);
    let all = file.len();
    for (file, text) in [
        (poke(&file, 0x3c, &[0xff; 4]), format!("header offset 0xffffffff lies behind its {all:#x} bytes")),
        (poke(&file, 0x3c, &[0; 4]), "a DOS or EFI program without a Linux in it".into()),
        (file[..uki::PE + 10].to_vec(), "header at 0x80 is truncated at 0x8a".into()),
        (poke(&file, uki::PE + 4, &[0x64, 0xaa]), "for machine 0xaa64, not for x86_64 (0x8664)".into()),
        (poke(&file, uki::PE + 24, &[0x0b, 0x01]), "optional header 0x010b, not that of PE32+".into()),
        (poke(&file, uki::PE + 6, &[0xff, 0xff]), "its 65535 section headers end behind".into()),
        (poke(&file, uki::PE + 20, &[0xff, 0xff]), "is truncated: its section ".into()),
        (file[..all - 1].to_vec(), format!("its section .cmdline ends at {all:#x}, behind its {:#x} bytes", all - 1)),
        (poke(&file, uki::SECTIONS + 20, &[0xff; 4]), "its section .linux ends at 0x1000".into()),
        (poke(&file, uki::SECTIONS, b".text\0"), "a DOS or EFI program without a Linux in it".into()),
        (
            poke(&file, all - 512, b"a=\xff"),
            "section .cmdline of the unified kernel image is no UTF-8 text from its byte 2".into(),
        ),
        (uki::write(&[(".linux", &uki::write(&[(".linux", &kernel)]))]), "a unified kernel image twice over".into()),
        (uki::write(&[(".linux", b"")]), "of an unknown type".into()),
        (uki::write(&[(".linux", &kernel[..5000])]), "bzImage is truncated".into()),
    ] {
        let e = refused(&file, None);
        assert!(e.contains(&text), "{e} lacks {text}");
    }
}

#[test]
fn a_wanted_type_is_the_only_reading() {
    let bzimage = BzImage::default().write();
    let bzimage32 = BzImage { xloadflags: 0, ..BzImage::default() }.write();
    let (elf32, elf64) = (ElfFile::i386().load(Load::at(0x10_0000, 9, b"")).write(), program(b"").write());
    let uki = uki::write(&[(".linux", &bzimage)]);
    let (mb1, mb2) = (with_header(&header_1(0, &[])), with_header(&header_2(&[])));
    let files: [(&str, &[u8], &str, &[&str]); 9] = [
        ("bzImage", &bzimage, "a bzImage", &["bzImage", "bzImage64"]),
        ("32-bit bzImage", &bzimage32, "a bzImage", &["bzImage"]),
        ("vmlinux", &vmlinux(), "an uncompressed Linux (vmlinux, ELF for x86_64)", &["elf-x86_64"]),
        ("ELF32", &elf32, "an ELF executable for i386", &["elf-x86"]),
        ("ELF64", &elf64, "an ELF executable for x86_64", &["elf-x86_64"]),
        ("multiboot", &mb1, "a multiboot kernel", &["multiboot-x86", "elf-x86"]),
        ("multiboot2", &mb2, "a multiboot2 kernel", &["multiboot2-x86", "elf-x86"]),
        ("Xen", &xen().write(), "a multiboot2 kernel", &["multiboot2-x86", "multiboot-x86", "elf-x86"]),
        ("UKI", &uki, "a unified kernel image", &["uki"]),
    ];
    for (name, file, what, fits) in files {
        for kind in ["multiboot2-x86", "elf-x86_64", "multiboot-x86", "elf-x86", "bzImage64", "bzImage", "uki"] {
            let wanted: Type = kind.parse().expect(kind);
            assert_eq!(wanted.name(), kind);
            for file in [file.to_vec(), gzip(file)] {
                if fits.contains(&kind) {
                    image::sniff(file, Some(wanted)).unwrap_or_else(|e| panic!("{name} as {kind}: {e}"));
                } else {
                    let e = refused(&file, Some(wanted));
                    let text = format!("wrong file type '{kind}': the file is {what}; correct --type");
                    assert!(e.starts_with(&text), "{name}: {e}");
                }
            }
        }
    }
    let e = refused(b"#!/bin/sh\n", Some(Type::BzImage));
    assert!(e.starts_with("wrong file type 'bzImage': the file is of an unknown type (it begins with 23 21"), "{e}");
}

#[test]
fn type_names_that_are_unknown_or_not_supported_say_so() {
    for (name, text) in [
        ("beoboot-x86", "'beoboot-x86' is not supported"),
        ("nbi-x86", "'nbi-x86' is not supported"),
        ("bzimage", "'bzimage' is unknown; use multiboot2-x86, elf-x86_64, "),
        ("", "'' is unknown"),
    ] {
        let e = name.parse::<Type>().expect_err(name);
        assert!(e.to_string().contains(text) && e.kind().kexec_code() == 255, "{e}");
    }
}

#[test]
fn case_21_bad_inputs_have_a_message_each() {
    let (bzimage, elf) = (BzImage::default().write(), program(b"any"));
    let packed = gzip(&bzimage);
    let mut damaged = packed.clone();
    damaged[packed.len() / 2] ^= 0x10;
    let mut bomb = zstd::encode_all(&vec![0; 1 << 20][..], 1).expect("packed");
    bomb = bomb.repeat(1025);
    for (file, text) in [
        (Vec::new(), "the file is empty; a bzImage (vmlinuz), a vmlinux, another ELF executable"),
        (vec![0; 4096], "the file is full of zeros (it begins with 00 00"),
        (bzimage[..2000].to_vec(), "bzImage is truncated"),
        (packed[..packed.len() - 9].to_vec(), "the gzip stream is damaged or truncated"),
        (packed[..packed.len() - 3].to_vec(), "gzip stream is damaged or truncated (its trailer is missing)"),
        (damaged, "the gzip stream is damaged or truncated"),
        (poke(&elf.write(), 32, &[0xff; 8]), "(e_phoff) end behind"),
        (poke(&elf.write(), elf.phdr(0) + 40, &[1, 0]), "p_filesz"),
        (bomb, "the zstd stream unpacks to more than 1073741824 bytes"),
    ] {
        let e = refused(&file, None);
        assert!(e.contains(text), "{e} lacks {text}");
    }
}

#[test]
fn trap_h_zeros_are_no_lzma_stream() {
    for len in [13, 64, 4096] {
        assert_eq!(image::decompress::unwrap(&vec![0; len], 1 << 20).expect("no error"), None);
    }
}

#[test]
fn layers_of_compression_end() {
    let mut file = BzImage::default().write();
    for layer in 1..=4 {
        file = gzip(&file);
        if layer < 4 {
            assert!(read(&file).was_packed);
        }
    }
    assert!(refused(&file, None).contains("is wrapped 4 times"));
}

proptest! {
    #[test]
    fn damage_never_panics_and_loads_stay_disjoint(
        which in 0usize..5,
        changes in proptest::collection::vec((0usize..600, any::<u8>()), 1..6),
        cut in 0usize..6000,
    ) {
        let kernel = BzImage { code_len: 0x800, ..BzImage::default() }.write();
        let uki = uki::write(&[(".linux", &kernel), (".cmdline", b"a"), (".profile", b""), (".initrd", b"x")]);
        let files = [vmlinux(), xen().write(), with_header(&header_1(0x1_0007, &[0x10_0058, 0x10_0000, 0, 0, 0x10_0000])), uki, kernel];
        let mut file = files[which].clone();
        for (at, byte) in changes {
            let at = at % file.len();
            file[at] = byte;
        }
        file.truncate(cut.max(600));
        let loads = match image::sniff(file, None).map(|found| found.kernel) {
            Ok(Kernel::Elf(elf)) => elf.loads,
            Ok(Kernel::Multiboot(kernel)) => kernel.loads,
            Ok(Kernel::BzImage(_)) | Err(_) => return Ok(()),
        };
        prop_assert!(!loads.is_empty() && loads.iter().all(|l| l.len > 0 && l.data.len() as u64 <= l.len));
        prop_assert!(loads.windows(2).all(|pair| pair[0].range().end() <= pair[1].phys));
    }
}
