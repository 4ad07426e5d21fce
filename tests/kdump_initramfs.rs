//! `kdump-initramfs`, `init` and `modprobe` from the command line: what is refused and how, and that an image is the same
//! wherever and whenever it is built. Real kernels boot these images in `tests/vm`.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

/// The smallest module: ELF header, `.modinfo`, section names, three section headers.
fn module(fields: &[&str]) -> Vec<u8> {
    let info: Vec<u8> = fields.iter().flat_map(|f| f.bytes().chain([0])).collect();
    let names = b"\0.modinfo\0.shstrtab\0";
    let table = (64 + info.len() + names.len()).next_multiple_of(8);
    let mut elf = b"\x7fELF\x02\x01\x01".to_vec();
    elf.resize(64, 0);
    elf[0x28..0x30].copy_from_slice(&(table as u64).to_le_bytes());
    elf[0x3a..0x40].copy_from_slice(&[64, 0, 3, 0, 2, 0]);
    elf.extend(&info);
    elf.extend(names);
    elf.resize(table + 64, 0);
    for (name, offset, size) in [(1_u32, 64, info.len()), (10, 64 + info.len(), names.len())] {
        let mut header = [0; 64];
        header[..4].copy_from_slice(&name.to_le_bytes());
        header[0x18..0x20].copy_from_slice(&(offset as u64).to_le_bytes());
        header[0x20..0x28].copy_from_slice(&(size as u64).to_le_bytes());
        elf.extend(header);
    }
    elf
}

/// A kernel's module directory below `dir`.
fn modules(dir: &Path) -> PathBuf {
    let root = dir.join("6.1.0-t");
    let magic = "vermagic=6.1.0-t SMP";
    for (path, fields) in [
        ("fs/ext4/ext4.ko", &["alias=fs-ext4", "depends=jbd2", magic][..]),
        ("fs/jbd2/jbd2.ko", &["depends=", magic]),
        ("drivers/block/virtio_blk.ko", &["alias=virtio:d00000002v*", "depends=", magic]),
        ("drivers/virtio/virtio_pci.ko", &["depends=", magic]),
        ("drivers/block/old.ko", &["depends=", "vermagic=5.10.0 SMP"]),
    ] {
        let path = root.join("kernel").join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, module(fields)).unwrap();
    }
    fs::write(root.join("modules.builtin"), "kernel/fs/fat/vfat.ko\n").unwrap();
    root
}

fn applet(name: &str, args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_kdumpbox")).arg(name).args(args).output().unwrap()
}

#[test]
fn same_input_same_bytes_whatever_the_place_the_umask_and_the_time_zone() {
    let build = |umask: &str, zone: &str, config: &str| {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("kdump.conf"), config).unwrap();
        modules(dir.path());
        // Any static ELF file will do; the product itself, with debug information, takes half a minute to compress.
        fs::write(dir.path().join("binary"), module(&[])).unwrap();
        let line = format!(
            "umask {umask}; cd {}; exec {} kdump-initramfs --module-dir 6.1.0-t --config kdump.conf --binary binary -o image",
            dir.path().display(),
            env!("CARGO_BIN_EXE_kdumpbox")
        );
        let out = Command::new("sh").args(["-c", &line]).env("TZ", zone).output().unwrap();
        assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
        fs::read(dir.path().join("image")).unwrap()
    };
    let first = build("022", "UTC", "ext4 /dev/vda\n");
    assert!(first == build("077", "Asia/Tokyo", "ext4 /dev/vda\n"), "two builds differ");
    assert!(first != build("022", "UTC", "ext4 /dev/vdb\n"), "the configuration is not in it");
}

#[test]
fn the_uncompressed_image_is_an_archive_whose_first_file_lists_the_rest() {
    let dir = tempfile::tempdir().unwrap();
    let root = modules(dir.path());
    let image = dir.path().join("image");
    let extra = dir.path().join("extra");
    fs::write(&extra, "12345").unwrap();
    let out = applet(
        "kdump-initramfs",
        &[
            "--module-dir",
            root.to_str().unwrap(),
            "--target=ext4:LABEL=dump",
            "--drivers=virtio_blk",
            "--compress=none",
            &format!("--add={}:/etc/extra", extra.display()),
            "--verbose",
            "-o",
            image.to_str().unwrap(),
        ],
    );
    assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
    let said = String::from_utf8_lossy(&out.stdout).into_owned();
    for line in ["module kernel/drivers/virtio/virtio_pci.ko", "4 modules"] {
        assert!(said.contains(line), "no '{line}' in {said}");
    }
    let bytes = fs::read(&image).unwrap();
    assert_eq!(&bytes[..6], b"070701");
    let head = String::from_utf8_lossy(&bytes[..2000]).into_owned();
    let base = "/lib/modules/6.1.0-t";
    let wanted = ["5 /sbin/modprobe", "16 /etc/kdump.conf", "5 /etc/extra\n0 /manifest.end"].map(str::to_owned);
    for line in wanted.into_iter().chain(["modules.dep", "kernel/fs/jbd2/jbd2.ko"].map(|f| format!(" {base}/{f}\n"))) {
        assert!(head.contains(&line), "no '{line}' in the manifest: {head}");
    }
}

/// By default the archive is as it is and what is in it packed: the program as one that unpacks itself, modules by zstd.
#[test]
fn the_image_is_a_plain_archive_of_packed_files() {
    let dir = tempfile::tempdir().unwrap();
    let root = modules(dir.path());
    let image = dir.path().join("image");
    let options = ["--module-dir", root.to_str().unwrap(), "--target=ext4:LABEL=dump", "-o", image.to_str().unwrap()];
    let out = applet("kdump-initramfs", &options);
    assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
    let bytes = fs::read(&image).unwrap();
    assert_eq!(&bytes[..6], b"070701");
    let head = String::from_utf8_lossy(&bytes[..2000]).into_owned();
    let size_of = |path: &str| {
        let line =
            head.lines().find(|line| line.ends_with(&format!(" {path}"))).unwrap_or_else(|| panic!("{path}: {head}"));
        line.split(' ').next().and_then(|size| size.rsplit('\0').next()?.parse::<u64>().ok()).unwrap()
    };
    let binary = fs::metadata(env!("CARGO_BIN_EXE_kdumpbox")).unwrap().len();
    assert!(size_of("/init") * 3 < binary * 2, "{} of {binary} bytes", size_of("/init"));
    let module = fs::read(root.join("kernel/fs/jbd2/jbd2.ko")).unwrap();
    let packed = zstd::bulk::compress(&module, 19).unwrap();
    assert_eq!(size_of("/lib/modules/6.1.0-t/kernel/fs/jbd2/jbd2.ko.zst"), packed.len() as u64);
    assert!(bytes.windows(packed.len()).any(|part| part == packed));
}

#[test]
fn bad_input_is_one_sentence_a_code_and_no_file() {
    let dir = tempfile::tempdir().unwrap();
    let root = modules(dir.path());
    let file = |name: &str, text: &str| {
        let path = dir.path().join(name);
        fs::write(&path, text).unwrap();
        path.display().to_string()
    };
    let (script, config) = (file("script", "#!/bin/sh\n"), file("bad.conf", "ext4 /dev/vda\nfrobnicate 1\n"));
    let empty = dir.path().join("empty");
    fs::create_dir(&empty).unwrap();
    let (root, image) = (root.display().to_string(), dir.path().join("image"));
    let config = format!("--config={config}");
    let script = format!("--binary={script}");
    let empty = format!("--module-dir={}", empty.display());
    let target = "--target=ext4:/dev/vda";
    for (args, code, text) in [
        (&[][..], 2, "no target: give --target"),
        (&["--target=/dev/vda"], 2, "--target /dev/vda: write TYPE:DEVICE"),
        (&["--target=zfs:/dev/vda"], 4, "unknown directive 'zfs'"),
        (&[target, "--compress=rar"], 2, "there is packed, zstd, gzip and none"),
        (&[&config], 4, "kdump.conf line 2: unknown directive 'frobnicate'"),
        (&["--config=/nonexistent"], 3, "read the configuration /nonexistent: No such file"),
        (&[target, "--drivers=virtio_blkk"], 3, "no kernel module 'virtio_blkk'"),
        (&[target, "--drivers=old"], 4, "is built for kernel 5.10.0, but the image is for 6.1.0-t"),
        (&[target, "--kernel-release=6.2.0"], 4, "is built for kernel 6.1.0-t, but the image is for 6.2.0"),
        (&["--target=xfs:/dev/vda"], 3, "no kernel module 'fs-xfs'"),
        (&[target, &script], 4, "is no ELF file"),
        (&[target, "--binary=/nonexistent"], 3, "read the binary /nonexistent"),
        (&[target, "--add=/nonexistent"], 3, "read /nonexistent"),
        (&[target, "--add=x:y"], 2, "the path in the image must be absolute"),
        (&[target, &empty], 3, "no kernel module below"),
    ] {
        let mut all = vec!["--module-dir", &root, "-o", image.to_str().unwrap()];
        all.extend(args.iter().copied());
        let out = applet("kdump-initramfs", &all);
        let said = String::from_utf8_lossy(&out.stderr).into_owned();
        assert!(said.contains(text), "{args:?}: {said}");
        assert_eq!((out.status.code(), said.lines().count()), (Some(code), 1), "{args:?}: {said}");
        assert!(!image.exists(), "{args:?} left a file");
    }
    let out =
        applet("kdump-initramfs", &["--module-dir", &root, target, "--compress=none", "-o", "/nonexistent/image"]);
    assert_eq!(out.status.code(), Some(3), "{}", String::from_utf8_lossy(&out.stderr));
}

#[test]
fn init_and_modprobe_do_nothing_on_a_machine_that_runs() {
    for (name, args, code, text) in [
        ("init", &[][..], 2, "not PID 1 of a crash kernel; nothing was done"),
        ("init", &["--stage=finish"], 2, "--stage is for init itself"),
        ("init", &["--frobnicate"], 2, "unrecognized option '--frobnicate'"),
        ("modprobe", &[], 1, "no module given"),
    ] {
        let out = applet(name, args);
        let said = String::from_utf8_lossy(&out.stderr).into_owned();
        assert!(said.contains(text), "{name} {args:?}: {said}");
        assert_eq!(out.status.code(), Some(code), "{name} {args:?}: {said}");
    }
}
