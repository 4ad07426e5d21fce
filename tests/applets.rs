//! The binary under each of its names.

use std::path::Path;
use std::process::{Command, Output};

const BINARY: &str = env!("CARGO_BIN_EXE_kdumpbox");

fn run(program: &Path, args: &[&str]) -> Output {
    Command::new(program).args(args).output().unwrap_or_else(|e| panic!("run {}: {e}", program.display()))
}

fn stdout(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned()
}

fn applets() -> Vec<String> {
    stdout(&run(Path::new(BINARY), &["--list"])).lines().map(str::to_owned).collect()
}

#[test]
fn the_list_names_what_the_crash_kernel_and_its_users_call() {
    let applets = applets();
    for name in ["kexec", "kdump-save", "crashkernel-check", "init", "modprobe"] {
        assert!(applets.iter().any(|a| a == name), "{name} is not among {applets:?}");
    }
}

#[test]
fn every_applet_has_help_and_version_by_link_and_by_argument() {
    let dir = tempfile::tempdir().expect("a directory");
    let installed = run(Path::new(BINARY), &["--install", &dir.path().to_string_lossy()]);
    assert!(installed.status.success(), "{installed:?}");
    for applet in applets() {
        let link = dir.path().join(&applet);
        assert!(link.is_symlink(), "{applet} was not installed");
        for option in ["--help", "--version"] {
            let by_link = run(&link, &[option]);
            let by_argument = run(Path::new(BINARY), &[&applet, option]);
            assert!(by_link.status.success(), "{applet} {option}: {by_link:?}");
            assert!(stdout(&by_link).len() > 8, "{applet} {option} prints nothing");
            assert_eq!(stdout(&by_link), stdout(&by_argument), "{applet} {option}");
        }
        assert!(stdout(&run(&link, &["--help"])).contains(&applet), "{applet}'s help does not name it");
        assert!(stdout(&run(&link, &["--version"])).contains(env!("CARGO_PKG_VERSION")), "{applet}");
    }
}

#[test]
fn installing_again_replaces_links_but_no_other_file() {
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().to_string_lossy().into_owned();
    for _ in 0..2 {
        assert!(run(Path::new(BINARY), &["--install", &path]).status.success());
    }
    let file = dir.path().join("kexec");
    std::fs::remove_file(&file).expect("a link");
    std::fs::write(&file, "mine").expect("a file");
    let refused = run(Path::new(BINARY), &["--install", &path]);
    assert_eq!(refused.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&refused.stderr).contains("kexec: File exists"), "{refused:?}");
    assert_eq!(std::fs::read(&file).expect("still there"), b"mine");
}

#[test]
fn an_unknown_applet_or_option_is_one_sentence_and_exit_code_1() {
    for (args, sentence) in [
        (&["frobnicate"][..], "kdumpbox: there is no applet 'frobnicate'; 'kdumpbox --list' names them\n"),
        (&[], "kdumpbox: no applet given; 'kdumpbox --list' names them\n"),
        (&["--frobnicate"], "kdumpbox: unrecognized option '--frobnicate'\n"),
    ] {
        let output = run(Path::new(BINARY), args);
        assert_eq!(output.status.code(), Some(1), "{args:?}");
        assert_eq!(String::from_utf8_lossy(&output.stderr), sentence);
    }
}
