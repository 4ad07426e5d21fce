//! What distributions ship, read by our parsers: the ELF file in each kernel, Xen, and readelf as judge of both.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use kdumpbox::image::elf::{Elf, Load, Machine};
use kdumpbox::image::multiboot::{Relocatable, Version};
use kdumpbox::image::{self, BzImage, Kernel as Image, Type, decompress};
use kdumpbox::mem::Bytes;

use crate::SUITES;
use crate::lab::{Kernel, fetch, run, workdir};

/// Suites and their Xen.
const XENS: [(&str, &str); 3] = [("bullseye", "4.14"), ("bookworm", "4.17"), ("trixie", "4.20")];

fn read(path: &Path) -> Vec<u8> {
    fs::read(path).unwrap_or_else(|e| panic!("read {}: {e}", path.display()))
}

fn xen(suite: &str, version: &str) -> PathBuf {
    fetch(&["tree", suite, &format!("xen-hypervisor-{version}-amd64")]).join(format!("boot/xen-{version}-amd64.gz"))
}

/// Physical and virtual address, bytes in memory and in the file of each load that has any, as readelf prints them.
fn readelf(file: &Path) -> (u64, Vec<[u64; 4]>) {
    let output = run(Command::new("readelf").args(["-hlW"]).arg(file).env("LC_ALL", "C"));
    let text = String::from_utf8(output.stdout).expect("text");
    let hex = |word: &str| u64::from_str_radix(word.trim_start_matches("0x"), 16).expect("a number");
    let entry = text.lines().find_map(|l| l.trim().strip_prefix("Entry point address:")).expect("an entry point");
    let words = text.lines().map(|l| l.split_whitespace().collect::<Vec<_>>()).filter(|w| w.first() == Some(&"LOAD"));
    let mut loads: Vec<[u64; 4]> = words.map(|w| [hex(w[3]), hex(w[2]), hex(w[5]), hex(w[4])]).collect();
    loads.retain(|l| l[2] > 0);
    loads.sort_unstable();
    (hex(entry.trim()), loads)
}

fn ours(loads: &[Load]) -> Vec<[u64; 4]> {
    loads.iter().map(|l| [l.phys, l.virt, l.len, l.data.len() as u64]).collect()
}

#[test]
fn the_elf_file_in_every_kernel_is_read_as_readelf_reads_it() {
    let dir = workdir("oracle-images-vmlinux");
    for suite in SUITES {
        let image = image::sniff(read(&Kernel::of(suite).vmlinuz()), None).expect(suite);
        assert!(!image.was_packed && image.embedded.is_none());
        let Image::BzImage(image) = image.kernel else { panic!("{suite}: {}", image.kernel.describe()) };
        // The kernel's build appends relocations to the ELF file, and the size to the compressed bytes.
        let vmlinux = decompress::unwrap(&image.payload(), image::MAX_UNPACKED).expect(suite).expect("compressed");
        let file = dir.join(suite);
        fs::write(&file, &vmlinux).expect("written");
        let elf = Elf::parse(&Bytes::from(vmlinux.clone())).expect(suite).expect("an ELF file");
        let (entry, loads) = readelf(&file);
        assert_eq!((ours(&elf.loads), elf.entry, elf.machine), (loads, entry, Machine::X86_64), "{suite}");
        assert!(elf.is_linux(), "{suite}");
        let sniffed = image::sniff(vmlinux, None).expect(suite);
        assert!(matches!(sniffed.kernel, Image::Elf(_)), "{suite}: {}", sniffed.kernel.describe());
    }
}

#[test]
fn every_xen_is_multiboot2_and_may_be_moved_by_2_mib() {
    let dir = workdir("oracle-images-xen");
    for (suite, version) in XENS {
        let file = read(&xen(suite, version));
        let found = image::sniff(file.clone(), None).expect(version);
        assert!(found.was_packed && found.embedded.is_none(), "{version}");
        let elf = dir.join(version);
        fs::write(&elf, &*found.bytes).expect("written");
        let (entry, loads) = readelf(&elf);
        let Image::Multiboot(kernel) = found.kernel else { panic!("{version}: {}", found.kernel.describe()) };
        let anywhere = Relocatable { min: 2 << 20, end: 4 << 30, align: 2 << 20 };
        assert_eq!((kernel.version, kernel.relocatable), (Version::Two, Some(anywhere)), "{version}");
        assert_eq!((ours(&kernel.loads), kernel.entry), (loads.clone(), entry), "{version}");
        assert!(kernel.wants_framebuffer, "{version}");

        for (kind, fits) in [
            (Type::Multiboot2, true),
            (Type::Multiboot, true),
            (Type::Elf32, true),
            (Type::Elf64, false),
            (Type::BzImage, false),
            (Type::BzImage64, false),
            (Type::Uki, false),
        ] {
            match image::sniff(file.clone(), Some(kind)) {
                Ok(found) => match found.kernel {
                    Image::Multiboot(kernel) => assert_eq!(ours(&kernel.loads), loads, "{version} as {kind:?}"),
                    Image::Elf(elf) => {
                        assert_eq!((ours(&elf.loads), elf.is_linux()), (loads.clone(), false), "{version} as {kind:?}");
                    }
                    Image::BzImage(_) => panic!("{version} is no bzImage"),
                },
                Err(error) => {
                    let expected = format!("wrong file type '{}': the file is a multiboot2 kernel", kind.name());
                    assert!(!fits && error.to_string().contains(&expected), "{version} as {kind:?}: {error}");
                }
            }
        }
    }
}

#[test]
fn an_efi_stub_kernel_is_a_bzimage_and_xens_efi_program_none() {
    for suite in SUITES {
        let file = read(&Kernel::of(suite).vmlinuz());
        assert!(file.starts_with(b"MZ") && BzImage::parse(&Bytes::from(file.clone())).expect(suite).is_some());
        let error = image::sniff(file, Some(Type::Uki)).expect_err("no UKI").to_string();
        assert!(error.contains("wrong file type 'uki': the file is a bzImage"), "{suite}: {error}");
    }
    for (suite, version) in XENS {
        let error =
            image::sniff(read(&xen(suite, version).with_extension("efi")), None).expect_err("no kernel").to_string();
        assert!(error.contains("an EFI program with a multiboot2 header"), "{version}: {error}");
    }
}
